// What one brings to ComfyUI's own page and leaves there: a picture that is dropped on a node, a saved workflow, a setting,
// and a node pack's own script, route and event. Gives what was seen of it.

import { browse, drop, until } from "./browser.mjs";
import { loaded, node, open, openGraph, ready, run } from "./comfyui.mjs";

await browse(async ({ plan: { url, graph, png, name }, profile, complaints }) => {
  const context = await profile();
  const page = await open(context, url);
  const pack = {
    greeting: await page.locator("#pack-greeting").textContent(),
    event: await page.locator("#pack-event").first().textContent(),
  };

  await openGraph(page, graph, name);
  complaints.splice(0);
  await drop(node(page, "1"), `${name}.png`, "image/png", png);
  const [uploaded] = await until("the picture in the node", async () => {
    const shown = (await loaded(node(page, "1").locator("img"))) || [];
    return shown.some(({ src }) => src.includes(`filename=${name}`)) && shown;
  });
  await run(page);
  const [shown] = await until("the picture of the prompt", () => loaded(node(page, "2").locator("img")));

  await page.keyboard.press("Control+s");
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("textbox").fill(name);
  const saved = page.waitForResponse((answer) => answer.request().method() === "POST" && answer.url().includes("/userdata/"));
  await dialog.getByRole("button", { name: "Confirm" }).click();
  const { address, status } = await saved.then((answer) => ({ address: answer.url(), status: answer.status() }));
  await page.evaluate(() => app.extensionManager.setting.set("Comfy.Graph.CanvasInfo", false));

  // Another browser of the same person's.
  const later = await open(await profile(), url);
  await later.getByRole("button", { name: /^Workflows/ }).first().click();
  await later.getByTestId("workflows-sidebar").getByText(name, { exact: false }).first().click();
  await node(later, "1").waitFor();
  const [again] = await until("its picture again", () => loaded(node(later, "1").locator("img")));
  const setting = await later.evaluate(() => app.extensionManager.setting.get("Comfy.Graph.CanvasInfo"));
  return { pack, uploaded, shown, address, status, again, setting };
});
