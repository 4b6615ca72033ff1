//! Web pages in browsers: which may use the API, and what is refused of the others. ComfyUI is not needed for that.

use reqwest::{Method, Response};
use serde_json::Value;

use crate::support::Worker;

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";
const NAMED: &str = "https://app.example.com";
const STRANGER: &str = "https://stranger.example.com";

async fn ask(worker: &Worker, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.request(method, format!("{}{path}", worker.url));
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.expect("an answer")
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    let value = answer.headers().get(name)?;
    Some(value.to_str().expect("a text"))
}

async fn worker() -> Worker {
    Worker::attached(NOWHERE, &[("CORS_ORIGINS", NAMED), ("API_KEY", "a-key")]).await
}

#[tokio::test]
async fn a_page_that_may_is_told_so_before_it_asks() {
    let worker = worker().await;
    for origin in [NAMED, "http://localhost:3000", "http://127.0.0.1:5173"] {
        // Without a key, as browsers ask.
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        for path in ["/v1/images/generations", "/gradio_api/queue/join", "/run"] {
            let answer = ask(&worker, Method::OPTIONS, path, &asked).await;
            assert_eq!(answer.status(), 200, "{origin} {path}");
            assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin));
            assert_eq!(header(&answer, "access-control-allow-methods"), Some("POST"));
            let allowed = header(&answer, "access-control-allow-headers").expect("the headers");
            assert!(
                allowed.contains("authorization") && allowed.contains("content-type"),
                "{allowed}"
            );
        }
        // Errors may be read too, with the id that a person would tell us.
        let answer = ask(&worker, Method::GET, "/config", &[("origin", origin)]).await;
        assert_eq!(answer.status(), 401);
        assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin));
        assert_eq!(header(&answer, "access-control-allow-credentials"), Some("true"));
        let exposed = header(&answer, "access-control-expose-headers").expect("the headers");
        assert!(exposed.contains("x-request-id"), "{exposed}");
    }
}

#[tokio::test]
async fn where_every_page_may_none_brings_what_the_browser_keeps() {
    let worker = Worker::attached(NOWHERE, &[("CORS_ORIGINS", "*")]).await;
    let answer = ask(&worker, Method::GET, "/config", &[("origin", STRANGER)]).await;
    assert_eq!(header(&answer, "access-control-allow-origin"), Some(STRANGER));
    assert_eq!(header(&answer, "access-control-allow-credentials"), None);
    let unknown = ask(&worker, Method::GET, "/v1/model/a", &[]).await;
    let told = unknown.text().await.expect("a text");
    assert!(told.contains("/v1/models/{model}"), "{told}");
}

#[tokio::test]
async fn a_page_that_may_not_is_told_nothing_and_cannot_change_anything() {
    let worker = worker().await;
    let from = |origin| [("origin", origin), ("authorization", "Bearer a-key")];
    let answer = ask(&worker, Method::GET, "/config", &from(STRANGER)).await;
    // It may have been put into a page as a picture is; the browser keeps what it holds.
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "access-control-allow-origin"), None);

    let crossing = |origin| {
        [
            ("origin", origin),
            ("authorization", "Bearer a-key"),
            ("sec-fetch-site", "cross-site"),
        ]
    };
    // Under a name of ours that the browser does not trust it says nothing of where the page is.
    let answer = ask(&worker, Method::POST, "/purge-queue", &from(STRANGER)).await;
    assert_eq!(answer.status(), 403);
    for (path, pointer) in [
        ("/purge-queue", "/error"),
        ("/v1/images/generations", "/error/message"),
        ("/api/v1/qwen/generate", "/msg"),
        ("/edit/edit-image", "/detail"),
        ("/gradio_api/queue/join", "/detail"),
    ] {
        for origin in [STRANGER, "null"] {
            let answer = ask(&worker, Method::POST, path, &crossing(origin)).await;
            assert_eq!(answer.status(), 403, "{path} {origin}");
            let body: Value = answer.json().await.expect("JSON");
            let message = body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            assert!(
                message.contains(origin) && message.contains("CORS_ORIGINS"),
                "{path}: {body:#}"
            );
        }
        let answer = ask(&worker, Method::POST, path, &crossing(NAMED)).await;
        assert_ne!(answer.status(), 403, "{path}");
    }
    // Programs say nothing of where they are.
    let answer = ask(
        &worker,
        Method::POST,
        "/purge-queue",
        &[("authorization", "Bearer a-key")],
    )
    .await;
    assert_eq!(answer.status(), 200);
}

/// The name of such a page's host leads to this machine, so that the browser takes the worker for the page's own server,
/// and sends nothing else that would tell it.
#[tokio::test]
async fn a_page_whose_name_was_led_here_gets_nothing() {
    let worker = Worker::attached(NOWHERE, &[("PUBLIC_URL", "https://gpu.example.com")]).await;
    for (method, path) in [
        (Method::GET, "/requests"),
        (Method::GET, "/view?filename=a.png"),
        (Method::POST, "/purge-queue"),
        (Method::GET, "/edit/jobs"),
    ] {
        let answer = ask(&worker, method.clone(), path, &[("host", "stranger.example.com:8188")]).await;
        assert_eq!(answer.status(), 403, "{path}");
        let told = answer.text().await.expect("a text");
        assert!(
            told.contains("stranger.example.com") && told.contains("PUBLIC_URL"),
            "{told}"
        );
        for known in ["localhost:8188", "127.0.0.1", "gpu.example.com", "gpu-box:8188"] {
            let answer = ask(&worker, method.clone(), path, &[("host", known)]).await;
            assert_ne!(answer.status(), 403, "{path} {known}");
        }
    }
    // A page has no key.
    let worker = self::worker().await;
    let answer = ask(&worker, Method::GET, "/ping", &[("host", "gpu.example.com")]).await;
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn addresses_that_are_no_text_are_unknown_ones() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    for path in [
        "/v1/models/%ff",
        "/files/%ff/0/x.png",
        "/status/%ff",
        "/edit/status/%ff",
    ] {
        let answer = ask(&worker, Method::GET, path, &[]).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(header(&answer, "content-type"), Some("application/json"), "{path}");
    }
    let answer = ask(&worker, Method::GET, "/view?filename=a&filename=b", &[]).await;
    assert_eq!(answer.status(), 400);
    let body: Value = answer.json().await.expect("JSON");
    let error = body["error"].as_str().unwrap_or_default();
    assert!(error.contains("filename"), "{body:#}");
}
