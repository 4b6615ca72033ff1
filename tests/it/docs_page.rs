//! The page of the routes, as a browser shows it.

use serde_json::{Value, json};

use crate::support::clients::node;
use crate::support::{Worker, text};

/// A browser, and what steers it.
const BROWSER: &str = "playwright-core@1.65.1 @sparticuz/chromium@153.0.0";

/// Opens the page, and sends an example from it: one that takes nothing and one with a body. Gives what the page shows, what
/// it asked for, and what the examples brought.
const OPEN: &str = r#"
import fs from "node:fs";
import { chromium } from "playwright-core";
const { url } = JSON.parse(fs.readFileSync(0, "utf8"));
const ours = process.env.PATH.split(":").map((folder) => `${folder}/chromium`).find(fs.existsSync);
// It brings the libraries that it needs to one place alone.
if (!ours) process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x";
const executablePath = ours ?? (await (await import("@sparticuz/chromium")).default.executablePath());
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage();
const [asked, complaints] = [[], []];
page.on("request", (request) => asked.push(request.url()));
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(String(error)));

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
await browser.close();
console.log(JSON.stringify({ shown, code, asked, complaints, models, run }));
"#;

#[tokio::test]
async fn the_page_shows_the_routes_sends_examples_and_asks_nobody_else() {
    let worker = Worker::attached("http://127.0.0.1:9", &[]).await;
    let seen = node(BROWSER, OPEN, &json!({"url": worker.url})).await;
    let shown = text(&seen, "shown");
    let document = worker.ask("/openapi.json").await.body;
    for path in document["paths"].as_object().expect("paths").keys() {
        let in_first_group = path.starts_with("/v2/") || path == "/run" || path == "/health";
        assert!(!in_first_group || shown.contains(path), "{path}: {shown}");
    }
    // Marks are shown as what they mean.
    assert!(!shown.contains('`'), "{shown}");
    let code = seen["code"].as_array().expect("a list");
    assert!(code.contains(&json!("?wait=")), "{code:?}");

    let asked = seen["asked"].as_array().expect("a list");
    for url in asked.iter().filter_map(Value::as_str) {
        assert!(url.starts_with(&worker.url) || url.starts_with("data:"), "{url}");
    }
    // Nor has the policy kept it from asking.
    let complaints = seen["complaints"].as_array().expect("a list").iter();
    let complaints: Vec<_> = complaints.filter_map(Value::as_str).collect();
    assert!(complaints.is_empty(), "{complaints:?}");

    assert_eq!(seen["models"]["status"], 200, "{}", seen["models"]);
    assert_eq!(seen["models"]["brought"]["object"], "list");
    // It works as it is.
    assert_eq!(seen["run"]["status"], 200, "{}", seen["run"]);
    assert!(seen["run"]["sent"]["input"]["prompt"].is_string(), "{}", seen["run"]);
    assert_eq!(seen["run"]["brought"]["status"], "IN_QUEUE");
}

#[tokio::test]
async fn the_pages_script_is_kept_by_browsers() {
    let worker = Worker::attached("http://127.0.0.1:9", &[("API_KEY", "a-key")]).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let script = || client.get(format!("{}/docs/scalar.js", worker.url));
    let answer = script().send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let etag = answer.headers()["etag"].clone();
    assert!(answer.bytes().await.expect("a script").len() < 2_000_000);
    let again = script().header("if-none-match", etag).send().await.expect("an answer");
    assert_eq!(again.status(), 304);
}
