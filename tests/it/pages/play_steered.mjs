// /play: the fields of templates that go by a control picture, and of those that make layers.

import { browse, drop, looks } from "./browser.mjs";
import { fill, follow, open, part, picture, send } from "./play.mjs";

/** Sends the form; gives what went out as `input`, and the picture. */
async function made(page) {
  const asked = page.waitForRequest((request) => new URL(request.url()).pathname === "/run");
  const id = await send(page);
  const { input } = (await asked).postDataJSON();
  await follow(page, id);
  return { input, picture: await picture(page, id) };
}

await browse(async ({ plan: { url, png }, profile }) => {
  const context = await profile();
  const page = await open(context, url);
  await drop(page.locator("body"), "house.png", "image/png", png);
  await part(page, "image").waitFor();
  const choose = (name) => page.getByLabel("Template", { exact: true }).selectOption(name);
  await choose("z-image-turbo-controlnet");
  await fill(page, "a house of glass", { side: 128, seed: 7 });
  const kinds = page.getByLabel("What is drawn from the picture");
  const offered = await kinds.locator("option").allInnerTexts();
  await kinds.selectOption("ready");
  await page.getByLabel("Strength of the control picture").fill("0.5");
  const wrong = await looks(page, "with a control picture");
  const steered = await made(page);

  await choose("qwen-image-layered");
  await page.locator("summary").click();
  await page.getByLabel("Layers", { exact: true }).fill("1");
  await page.getByLabel("Steps", { exact: true }).fill("1");
  const layered = await made(page);

  await choose("qwen-image-2.1");
  const newer = await part(page, "too-old").innerText();
  return { wrong, offered, steered, layered, newer };
});
