// /play: a job is cancelled, what is wrong stands beside its field, and all of it by the keyboard alone.

import { browse, looks, until } from "./browser.mjs";
import { fill, follow, is, open, part, picture, send, stage } from "./play.mjs";

await browse(async ({ plan: { url }, profile, complaints }) => {
  const page = await open(await profile(), url);
  await fill(page, "a fox that is never seen", { side: 1024 });
  const cancelled = await send(page);
  await stage(page, cancelled).getByRole("button", { name: "Cancel" }).click();
  await is(page, cancelled, "CANCELLED");
  const said = await part(stage(page, cancelled), "failure").innerText();
  const wrong = await looks(page, "cancelled");

  // The browser itself calls an answer that refuses an error.
  await fill(page, "a fox", { seed: "many" });
  await page.locator("button[type=submit]").click();
  const field = page.getByLabel("Seed", { exact: true });
  await page.locator("#seed-problem").waitFor();
  const refused = {
    text: await page.locator("#seed-problem").innerText(),
    described: await field.getAttribute("aria-describedby"),
    invalid: await field.getAttribute("aria-invalid"),
    focused: await field.evaluate((field) => document.activeElement === field),
  };
  wrong.push(...(await looks(page, "refused")));
  complaints.splice(0);
  await page.reload();

  // From the top of the page, by Tab, arrows, Space and Enter alone.
  const tabTo = async (what, target) => {
    for (let pressed = 0; pressed < 60; pressed += 1) {
      if (await target.evaluate((element) => document.activeElement === element).catch(() => false)) return;
      await page.keyboard.press("Tab");
    }
    throw new Error(`no Tab leads to ${what}`);
  };
  const write = async (text) => {
    await page.keyboard.press("Control+a");
    await page.keyboard.type(text);
  };
  await tabTo("the prompt", page.getByLabel("Prompt", { exact: true }));
  await write("a fox by keyboard");
  for (const name of ["Width", "Height"]) {
    await tabTo(name, page.getByLabel(name, { exact: true }));
    await write("256");
  }
  await tabTo("the seed", page.getByLabel("Seed", { exact: true }));
  await write("81");
  const button = page.locator("button[type=submit]");
  await tabTo("the button", button);
  const id = await send(page, () => page.keyboard.press("Enter"));
  await follow(page, id);
  const made = await picture(page, id);
  const heard = await until("the end is said aloud", async () => (await part(page, "said").textContent()).trim());
  return { wrong, said, refused, made, heard };
});
