// What the scripts of pages share: a browser, what its pages complain of, and waiting for what is seen.

import fs from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

/** The longest that anything may take before it counts as missing. Generous: the cores are shared. */
const PATIENCE_MS = 120_000;

/** Where there is no graphics card, drawing as if there were one takes several times as long. */
const ARGS = ["--no-sandbox", "--disable-gpu"];

const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Debian's Chromium, or else one that npm brought. */
async function executablePath() {
  const ours = process.env.PATH.split(":").map((folder) => `${folder}/chromium`).find(fs.existsSync);
  if (ours) return ours;
  // It brings the libraries that it needs to one place alone.
  process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x";
  return (await import("@sparticuz/chromium")).default.executablePath();
}

/**
 * Runs `steps` with a browser and the plan from standard input, and prints what they give as JSON, with `complaints`: what
 * the pages' consoles called errors, the scripts' own errors, and answers that are errors. Where a step fails, it says what
 * each page showed by then, and leaves a picture of it.
 */
export async function browse(steps) {
  const plan = JSON.parse(fs.readFileSync(0, "utf8"));
  const browser = await chromium.launch({ executablePath: await executablePath(), args: ARGS });
  const [complaints, pages] = [[], []];

  /** A browser profile of its own: its cookies and what it stores are nobody else's. */
  const profile = async (options = {}) => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options });
    context.setDefaultTimeout(PATIENCE_MS);
    context.on("page", (page) => {
      pages.push(page);
      listen(page, complaints);
    });
    return context;
  };

  let failed = true;
  try {
    const seen = await steps({ plan, profile, complaints });
    console.log(JSON.stringify({ ...seen, complaints }));
    failed = false;
  } catch (error) {
    console.error(error.stack, "\ncomplaints:", complaints);
    for (const [number, page] of pages.entries()) await lastSight(page, `${plan.pictures}-${number}.png`);
  } finally {
    await browser.close();
  }
  process.exit(failed ? 1 : 0);
}

function listen(page, complaints) {
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(`${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => complaints.push(error.stack ?? String(error)));
  page.on("response", (answer) => {
    if (answer.status() >= 400) complaints.push(`${answer.status()} ${answer.request().method()} ${answer.url()}`);
  });
}

/** What a page showed when a step failed. */
async function lastSight(page, file) {
  try {
    console.error(`\n${page.url()} showed (${file}):\n${(await page.innerText("body")).slice(0, 4_000)}`);
    await page.screenshot({ path: file });
  } catch (error) {
    console.error(`\n${page.url()}: ${error.message}`);
  }
}

/** Waits until `condition`, asked again and again, gives something; gives that. */
export async function until(what, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const met = await condition();
    if (met) return met;
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** What axe finds wrong with a page as it stands, in short. */
async function violations(page) {
  // Not by a script tag: the page's policy would not let it in.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run());
  return found.violations.map(({ id, help, nodes }) => ({ id, help, at: nodes.map(({ html, failureSummary }) => [html.slice(0, 200), failureSummary]) }));
}

/** Whether a page can be scrolled sideways. */
const scrollsSideways = (page) =>
  page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);

/** Looks at the page as it stands, on a screen and on a phone, light and dark; gives what is wrong with it. */
export async function looks(page, state) {
  const wrong = [];
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    for (const width of [1280, 360]) {
      await page.setViewportSize({ width, height: 800 });
      const where = `${state}, ${colorScheme}, ${width} px`;
      if (await scrollsSideways(page)) wrong.push(`${where}: it scrolls sideways`);
      for (const found of await violations(page)) wrong.push(`${where}: ${JSON.stringify(found)}`);
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 800 });
  return wrong;
}

/** Keeps what a page shows as a WebP, for the documentation. */
export async function keep(page, file) {
  await page.evaluate(() => {
    for (const element of document.querySelectorAll("*")) if (element.scrollTop > 0) element.scrollTop = 0;
  });
  const png = (await page.screenshot()).toString("base64");
  const canvas = await page.context().newPage();
  const webp = await canvas.evaluate(async (png) => {
    const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
    const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL("image/webp", 0.8).split(",")[1];
  }, png);
  await canvas.close();
  fs.writeFileSync(file, Buffer.from(webp, "base64"));
}

/** Drops a file on what `target` finds, as a person does it. */
export async function drop(target, name, type, base64) {
  const data = await target.page().evaluateHandle(([name, type, base64]) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type }));
    return data;
  }, [name, type, base64]);
  for (const event of ["dragenter", "dragover", "drop"]) await target.dispatchEvent(event, { dataTransfer: data });
}
