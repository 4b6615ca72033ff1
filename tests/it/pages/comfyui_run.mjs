// The Qwen template in ComfyUI's own page: opened from the dialog, queued, followed to its picture, and found in the list of
// jobs. Gives what was seen of it, and the same page's complaints where ComfyUI itself serves it.

import { browse, keep, until } from "./browser.mjs";
import { fill, jobs, loaded, node, open, openTemplate, ready, run, watch, watched } from "./comfyui.mjs";

/** The picture's name, as the template has it. */
const FILE = /^Qwen-Image_\d+_\.png$/;

await browse(async ({ plan: { url, comfyUrl, kept }, profile, complaints }) => {
  const direct = await profile();
  await open(direct, comfyUrl);
  const theirs = complaints.splice(0).map((complaint) => complaint.replaceAll(comfyUrl, url));
  await direct.close();

  const context = await profile();
  const page = await open(context, url);
  const atStart = complaints.splice(0);
  const template = await openTemplate(page, "qwen-image", "image_qwen_image");
  const [graph, save] = ["76", "60"];
  await node(page, graph).waitFor();
  for (const field of ["width", "height"]) await fill(page, graph, field, 768);
  await node(page, graph).locator("textarea").first().fill("a red circle on the left on a yellow background");
  // Eight steps.
  await node(page, graph).getByRole("switch").click();

  await watch(page, graph);
  const id = await run(page);
  const [picture] = await until("the picture", () => loaded(node(page, save).locator("img")));
  const { percents, preview } = await watched(page);
  const list = await jobs(page);
  await list.getByText(FILE).first().waitFor();
  const [thumbnail] = await until("its picture in the list", () => loaded(list.locator("img")));
  if (kept) {
    // Closed, and the two nodes large.
    await page.getByTestId("queue-overlay-toggle").click();
    await page.evaluate(([graph, save]) => app.canvas.selectItems([graph, save].map((id) => app.graph.getNodeById(id))), [graph, save]);
    await page.keyboard.press(".");
    await page.evaluate(() => app.canvas.deselectAll());
    await keep(page, kept);
  }

  // What was made is there for one who comes later.
  await page.reload();
  await ready(page);
  const later = await (await jobs(page)).getByText(FILE).first().innerText();
  return { theirs, atStart, template, id, percents, preview, picture, thumbnail, later };
});
