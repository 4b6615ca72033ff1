//! `API_KEY`: who is served and who is not. ComfyUI is not needed for that.

use serde_json::{Value, json};

use crate::support::Worker;

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

async fn get(worker: &Worker, path: &str, authorization: Option<&str>) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut request = client.get(format!("{}{path}", worker.url));
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn a_key_is_asked_for_everywhere_but_at_ping() {
    let worker = Worker::attached(NOWHERE, &[("API_KEY", "first-key, second-key")]).await;
    for path in ["/health", "/view?filename=x.png", "/no-such-route"] {
        for wrong in [None, Some("Bearer third-key"), Some("Bearer first-key, second-key")] {
            let answer = get(&worker, path, wrong).await;
            assert_eq!(answer.status(), 401, "{path} {wrong:?}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            assert_eq!(answer.headers()["content-type"], "application/json");
            let body: Value = answer.json().await.expect("JSON");
            let error = body["error"].as_str().expect("an error");
            assert!(error.contains("Authorization: Bearer KEY"), "{error}");
        }
        for right in ["Bearer first-key", "second-key"] {
            assert_ne!(get(&worker, path, Some(right)).await.status(), 401, "{path} {right}");
        }
    }
    assert_ne!(get(&worker, "/ping", None).await.status(), 401);
    // A body is not even read.
    let answer = worker.run(json!({"prompt": "a cat"})).await;
    assert_eq!(answer.status, 401, "{:#}", answer.body);
}

#[tokio::test]
async fn without_api_key_everybody_is_served() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    assert_eq!(get(&worker, "/health", None).await.status(), 200);
}
