// What the scripts of ComfyUI's own page share.

import { until } from "./browser.mjs";

/**
 * A page of ComfyUI's, as one finds it who knows it: no tour at the start, nodes as elements of the page (`Nodes 2.0`), so
 * that what they show can be looked for.
 */
export async function open(context, url) {
  const kept = await context.request.post(`${url}/api/settings`, {
    data: { "Comfy.TutorialCompleted": true, "Comfy.VueNodes.Enabled": true, "Comfy.Minimap.Visible": false },
  });
  if (!kept.ok()) throw new Error(`settings: ${kept.status()} ${await kept.text()}`);
  const page = await context.newPage();
  await page.goto(url);
  await ready(page);
  return page;
}

/** Waits until the page has drawn itself. */
export async function ready(page) {
  await page.getByTestId("queue-button").waitFor();
  // The graph is there after the node definitions.
  await page.locator("[data-node-id]").first().waitFor({ state: "attached" });
}

/** A node, as it is shown. */
export const node = (page, id) => page.locator(`[data-node-id="${id}"]`);

/** Opens one of the templates from the page's own dialog; gives the picture that it is shown with. */
export async function openTemplate(page, words, name) {
  await page.getByRole("button", { name: "Templates" }).first().click();
  const dialog = page.getByRole("dialog").filter({ has: page.getByTestId("template-workflows-content") });
  await dialog.getByText("All Templates", { exact: true }).first().click();
  await dialog.getByPlaceholder("Search").fill(words);
  const entry = dialog.getByTestId(`template-workflow-${name}`);
  // The entries come anew as the words are typed.
  const [picture] = await until("the template's picture", () => loaded(entry.locator("img")));
  await entry.click();
  await dialog.waitFor({ state: "detached" });
  return picture;
}

/** Opens a graph in API format. */
export async function openGraph(page, graph, name) {
  await page.evaluate(([graph, name]) => app.loadApiJson(graph, name), [graph, name]);
  await node(page, Object.keys(graph)[0]).waitFor();
}

/** Fills one field of a node. */
export async function fill(page, id, field, value) {
  const input = node(page, id).getByTestId("node-widget").filter({ hasText: new RegExp(`^${field}`) }).locator("input");
  await input.fill(String(value));
  await input.press("Enter");
}

/** Presses Run; gives the id of the prompt. */
export async function run(page) {
  const sent = page.waitForResponse((answer) => new URL(answer.url()).pathname === "/api/prompt" && answer.request().method() === "POST");
  await page.getByTestId("queue-button").click();
  const answer = await sent;
  if (!answer.ok()) throw new Error(`/api/prompt: ${answer.status()} ${await answer.text()}`);
  return (await answer.json()).prompt_id;
}

/**
 * Notes from now on what a node shows: how much of it is done, in percent, as the bar in its head has it, and the address of its
 * first picture. It looks at each change, however short: the steps of a small model take a moment.
 */
export const watch = (page, id) =>
  page.evaluate((id) => {
    const shown = { percents: [] };
    const node = document.querySelector(`[data-node-id="${id}"]`);
    new MutationObserver(() => {
      const bar = node.querySelector('.bg-primary-500[style*="width"]');
      if (bar) shown.percents.push(parseFloat(bar.style.width));
      shown.preview ??= node.querySelector("img")?.src;
    }).observe(node, { subtree: true, childList: true, attributes: true });
    window.shown = shown;
  }, id);

/** What has been noted. */
export const watched = (page) => page.evaluate(() => window.shown);

/** How much of a node is done by its bar now; nothing: it has no bar. */
export const percent = (page, id) =>
  page.evaluate((id) => {
    const bar = document.querySelector(`[data-node-id="${id}"] .bg-primary-500[style*="width"]`);
    return bar ? parseFloat(bar.style.width) : undefined;
  }, id);


/** The pictures among these that have loaded: how wide they are, and their addresses; nothing: there is none. */
export async function loaded(images) {
  const found = await images.evaluateAll((images) =>
    images
      .filter((image) => image.complete && image.naturalWidth > 0)
      .map((image) => ({ wide: image.naturalWidth, src: image.src })),
  );
  return found.length > 0 && found;
}

/** Opens the list of all jobs. */
export async function jobs(page) {
  const list = page.getByTestId("queue-progress-overlay");
  if (!(await list.isVisible())) await page.getByTestId("queue-overlay-toggle").click();
  await list.waitFor();
  const all = list.getByRole("button", { name: "View all jobs" });
  // What lies over it for a moment, while the list grows, would take a click of the mouse.
  if (await all.isVisible()) await all.evaluate((button) => button.click());
  await list.getByText("Completed", { exact: true }).first().waitFor();
  return list;
}
