// Two prompts of ComfyUI's own page, one running and one waiting: a second tab sees them, and the page's own buttons cancel
// them. Gives the prompts' ids and what the second tab's list said.

import { browse, until } from "./browser.mjs";
import { fill, jobs, open, openGraph, percent, ready, run } from "./comfyui.mjs";

await browse(async ({ plan: { url, graph }, profile, complaints }) => {
  const context = await profile();
  const page = await open(context, url);
  await openGraph(page, graph, "slow");
  const running = await run(page);
  await until("progress on the node", () => percent(page, "1"));
  await fill(page, "1", "steps", 5_000);
  const waiting = await run(page);

  const second = await context.newPage();
  await second.goto(url);
  await ready(second);
  const list = await jobs(second);
  const rows = () => list.locator("[data-job-id]").evaluateAll((rows) => rows.map((row) => [row.dataset.jobId, row.innerText]));
  await until("both in the second tab", async () => (await rows()).length >= 2);
  const [seen, active] = [await rows(), await second.getByTestId("queue-overlay-toggle").innerText()];

  // The one that waits is struck from the list in the second tab, the running one where it was started.
  complaints.splice(0);
  await list.getByRole("button", { name: "Clear queued" }).click();
  await until("one is left", async () => /^1 active/.test(await second.getByTestId("queue-overlay-toggle").innerText()));
  await page.bringToFront();
  await page.getByRole("button", { name: "Cancel current run" }).click();
  await until("none is left", async () => /^0 active/.test(await page.getByTestId("queue-overlay-toggle").innerText()));
  await until("none is left in the second tab", async () => /^0 active/.test(await second.getByTestId("queue-overlay-toggle").innerText()));
  return { running, waiting, seen, active, after: await rows(), bar: (await percent(page, "1")) ?? null };
});
