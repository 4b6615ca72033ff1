//! The page of the routes, as a browser shows it.

use serde_json::{Value, json};

use crate::support::browser::{browse, complaints};
use crate::support::{Worker, text};

#[tokio::test]
async fn the_page_shows_the_routes_sends_examples_and_asks_nobody_else() {
    let worker = Worker::attached("http://127.0.0.1:9", &[]).await;
    let script = include_str!("pages/docs.mjs");
    let seen = browse("docs", script, json!({"url": worker.url})).await;
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
    assert_eq!(complaints(&seen), <[&str; 0]>::default());

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
