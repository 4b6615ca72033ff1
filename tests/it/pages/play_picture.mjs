// /play: a picture by prompt, followed to its end; two more at once; the list of the last jobs, and again after a reload.

import { browse, keep, looks } from "./browser.mjs";
import { fill, follow, listed, open, picture, send, stage } from "./play.mjs";

await browse(async ({ plan: { url, kept }, profile }) => {
  const page = await open(await profile(), url);
  const wrong = await looks(page, "empty");

  await fill(page, "a yellow circle on a blue background", { seed: 77, side: 1024 });
  const id = await send(page);
  const followed = await follow(page, id);
  const made = await picture(page, id);
  const facts = await stage(page, id).locator("dl").innerText();
  wrong.push(...(await looks(page, "finished")));

  if (kept) await keep(page, kept);

  // Two at once, the second by keyboard while the first runs.
  await fill(page, "a red circle", { seed: 78 });
  const second = await send(page);
  await fill(page, "a green square", { seed: 79 });
  const third = await send(page, () => page.keyboard.press("Control+Enter"));
  wrong.push(...(await looks(page, "running")));
  const both = [];
  for (const job of [second, third]) {
    await listed(page, job).click();
    await follow(page, job);
    both.push(await picture(page, job));
  }

  await page.reload();
  await listed(page, id).click();
  const later = await picture(page, id);
  const title = await listed(page, id).locator(".title").innerText();
  // The form is as it was for that job, and gives the same picture.
  await stage(page, id).getByRole("button", { name: "Again with this seed" }).click();
  const again = await send(page);
  await follow(page, again);
  const same = await picture(page, again);
  return { wrong, id, followed, made, facts, both, later, title, same };
});
