// ComfyUI's own page, and /play, where a key is asked for: the way in, a prompt and its picture, and the way out.

import { browse, looks, until } from "./browser.mjs";
import { loaded, node, open, openGraph, run } from "./comfyui.mjs";
import * as play from "./play.mjs";

await browse(async ({ plan: { url, key, graph }, profile, complaints }) => {
  const context = await profile();
  const page = await context.newPage();
  const where = () => new URL(page.url()).pathname;
  const logIn = async (key) => {
    await page.getByLabel("Key").fill(key);
    await page.getByRole("button", { name: "Log in" }).click();
  };

  // The tour of a first visit begins with an empty graph, which the next page would find again.
  const headers = { Authorization: `Bearer ${key}` };
  const kept = await context.request.post(`${url}/api/settings`, { headers, data: { "Comfy.TutorialCompleted": true } });
  if (!kept.ok()) throw new Error(`settings: ${kept.status()} ${await kept.text()}`);
  await page.goto(`${url}/`);
  const ledTo = where();
  const wrong = await looks(page, "the login");
  await logIn("none of the keys");
  const refused = await page.getByRole("alert").innerText();
  wrong.push(...(await looks(page, "the login, refused")));
  // The browser itself calls an answer that refuses an error.
  complaints.splice(0);
  await logIn(key);
  await page.getByTestId("queue-button").waitFor();
  // A page that is closed before it has its graph leaves an empty one for the next.
  await page.waitForFunction(() => globalThis.app?.graph?.nodes?.length > 0);
  const inAt = where();
  const cookies = (await context.cookies()).map(({ name, httpOnly, sameSite, value }) => ({ name, httpOnly, sameSite, isTheKey: value.includes(key) }));
  await page.close();

  const inside = await open(context, url);
  const atStart = complaints.splice(0);
  await openGraph(inside, graph, "behind-a-key");
  const id = await run(inside);
  const [shown] = await until("the picture of the prompt", () => loaded(node(inside, "2").locator("img")));

  const people = await play.open(context, url);
  await play.fill(people, "a fox behind a key", { seed: 84 });
  const job = await play.send(people);
  const { percents } = await play.follow(people, job);
  const made = await play.picture(people, job);
  await people.getByRole("button", { name: "Log out" }).click();
  await people.getByLabel("Key").waitFor();
  const after = (await context.request.get(`${url}/api/object_info`)).status();
  const later = complaints.splice(0);
  return { ledTo, refused, inAt, cookies, wrong, atStart, id, shown, percents, made, after, later };
});
