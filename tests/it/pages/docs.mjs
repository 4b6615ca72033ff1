// Opens the page of the routes, and sends an example from it: one that takes nothing and one with a body. Gives what the
// page shows, what it asked for, and what the examples brought.

import { browse } from "./browser.mjs";

await browse(async ({ plan: { url }, profile }) => {
  const page = await (await profile()).newPage();
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));

  const send = async (tag, method, path) => {
    await page.goto(`${url}/docs#tag/${tag}/${method}${path}`);
    await page.reload();
    await page.locator("button", { hasText: `(${method.toLowerCase()} ${path})` }).first().click();
    const [answer] = await Promise.all([
      page.waitForResponse((answer) => answer.url() === url + path),
      page.getByRole("button", { name: /^Send/ }).first().click(),
    ]);
    return { status: answer.status(), sent: answer.request().postDataJSON(), brought: await answer.json() };
  };
  const models = await send("openai", "GET", "/v1/models");
  const run = await send("runpod", "POST", "/run");
  await page.goto(`${url}/docs`);
  await page.reload();
  await page.getByText("Run one job and answer with its result").first().waitFor();
  const shown = await page.innerText("body");
  const code = await page.locator("code").allInnerTexts();
  return { shown, code, asked, models, run };
});
