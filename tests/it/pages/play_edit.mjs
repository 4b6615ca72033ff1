// /play: a picture is dropped and changed, and another one where a mask is painted over it.

import { browse, drop, looks } from "./browser.mjs";
import { fill, follow, open, part, picture, send } from "./play.mjs";

await browse(async ({ plan: { url, png }, profile }) => {
  const context = await profile();
  const page = await open(context, url);
  await drop(page.locator("body"), "fox.png", "image/png", png);
  await part(page, "image").waitFor();
  const template = await page.getByLabel("Template", { exact: true }).inputValue();
  const wrong = await looks(page, "with a picture");
  await fill(page, "make the fox white", { seed: 7 });
  const edit = await send(page);
  await follow(page, edit);
  const edited = await picture(page, edit);

  await page.getByRole("button", { name: "Paint a mask" }).click();
  const canvas = part(page, "mask-canvas");
  await canvas.waitFor();
  const { x, y, width, height } = await canvas.boundingBox();
  await page.mouse.move(x + width / 4, y + height / 2);
  await page.mouse.down();
  await page.mouse.move(x + width / 2, y + height / 2, { steps: 4 });
  await page.mouse.up();
  wrong.push(...(await looks(page, "with the mask's dialog")));
  await page.getByRole("button", { name: "Use this mask" }).click();
  await page.getByRole("button", { name: "Change the mask" }).waitFor();
  const asked = page.waitForRequest((request) => new URL(request.url()).pathname === "/run");
  const inpaint = await send(page);
  const { mask } = (await asked).postDataJSON().input;
  await follow(page, inpaint);
  const inpainted = [await picture(page, inpaint)];
  await page.getByLabel("Seed", { exact: true }).fill("8");
  const another = await send(page);
  await follow(page, another);
  inpainted.push(await picture(page, another));
  return { wrong, template, edited, mask, inpainted };
});
