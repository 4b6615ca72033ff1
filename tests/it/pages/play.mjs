// What the scripts of /play share.

import { until } from "./browser.mjs";

/** The page with its form. */
export async function open(context, url) {
  const page = await context.newPage();
  await page.goto(`${url}/play`);
  await page.getByLabel("Prompt", { exact: true }).waitFor();
  return page;
}

/** Fills in a prompt, and a size that demo weights make soon. */
export async function fill(page, prompt, { side = 256, seed } = {}) {
  await page.getByLabel("Prompt", { exact: true }).fill(prompt);
  await page.getByRole("radio", { name: "Own" }).check();
  for (const name of ["Width", "Height"]) await page.getByLabel(name, { exact: true }).fill(String(side));
  if (seed !== undefined) await page.getByLabel("Seed", { exact: true }).fill(String(seed));
}

/** Sends what the form holds by the page's button, or by what `press` does; gives the job's id. */
export async function send(page, press = () => page.locator("button[type=submit]").click()) {
  const sent = page.waitForResponse((answer) => new URL(answer.url()).pathname === "/run");
  await press();
  const answer = await sent;
  const body = await answer.json();
  if (!answer.ok()) throw new Error(`/run: ${answer.status()} ${JSON.stringify(body)}`);
  await stage(page, body.id).waitFor();
  return body.id;
}

/** A part of the page, by the name that it has for tests. */
export const part = (within, name) => within.locator(`[data-test=${name}]`);
/** The large view of a job. */
export const stage = (page, id) => page.locator(`[data-test=stage-of][data-job="${id}"]`);
/** The job in the list of the last ones. */
export const listed = (page, id) => part(page, "history").locator(`[data-job="${id}"]`);

/** Waits for a job's picture in the large view; gives how large it is, and its address. */
export async function picture(page, id) {
  const shown = part(stage(page, id), "picture");
  await shown.waitFor();
  return shown.evaluate(async (image) => {
    await image.decode();
    return { wide: image.naturalWidth, high: image.naturalHeight, src: image.src };
  });
}

/** Waits until a job has this status. */
export const is = (page, id, status) => page.locator(`[data-test=stage-of][data-job="${id}"][data-status="${status}"]`).waitFor();

/** Follows a job to its picture; gives the percents that were seen, and whether there was a preview. */
export async function follow(page, id) {
  const [percents, steps] = [new Set(), new Set()];
  let preview = 0;
  await until("the picture", async () => {
    const seen = await stage(page, id).evaluate((stage) => ({
      percent: stage.querySelector("progress")?.getAttribute("value"),
      details: stage.querySelector("[data-test=details]")?.textContent,
      preview: stage.querySelector("[data-test=preview]")?.naturalWidth ?? 0,
      status: stage.dataset.status,
    }));
    if (seen.percent) percents.add(Number(seen.percent));
    if (seen.details) steps.add(seen.details);
    preview ||= seen.preview;
    if (["FAILED", "TIMED_OUT", "CANCELLED", "GONE"].includes(seen.status)) throw new Error(await stage(page, id).innerText());
    return seen.status === "COMPLETED";
  });
  return { percents: [...percents], steps: [...steps], preview };
}
