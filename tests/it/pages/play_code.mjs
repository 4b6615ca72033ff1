// /play: what the form holds as a program, for each API in each language.

import { browse, looks } from "./browser.mjs";
import { fill, open, part } from "./play.mjs";

await browse(async ({ plan: { url }, profile }) => {
  const page = await open(await profile(), url);
  await fill(page, "a fox's \"den\" $HOME `id`", { seed: 83 });
  await page.getByLabel("Template", { exact: true }).selectOption("qwen-image");
  await page.getByText("More", { exact: true }).click();
  await page.getByLabel("Steps", { exact: true }).fill("2");
  await page.getByRole("button", { name: "As code" }).click();
  const dialog = page.getByRole("dialog");
  const wrong = await looks(page, "with the dialog of programs");
  const programs = {};
  for (const api of ["RunPod", "OpenAI", "Gradio"]) {
    await dialog.getByRole("radio", { name: api }).check();
    for (const language of ["curl", "Python", "JavaScript"]) {
      await dialog.getByRole("radio", { name: language }).check();
      await dialog.getByRole("region", { name: `${language} for the ${api} API` }).waitFor();
      programs[`${api} ${language}`] = await part(dialog, "code").innerText();
    }
  }
  return { wrong, programs };
});
