//! What Comfy API v2 is sent by mistake or in bad faith: an error in its own words each, and nobody else notices.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::comfy_v2::{ended, loads, reference, submit, submitted};
use crate::support::comfyui::{Client, Said, empty};
use crate::support::{Worker, graph, text};

/// What must not come back whole.
pub(crate) fn long() -> String {
    "lang".repeat(2_500)
}

/// An error as this API tells it, with one of these statuses; gives its code and its message.
#[track_caller]
pub(crate) fn refused(said: &Said, what: &str, statuses: &[u16]) -> (String, String) {
    let error = &said.body["error"];
    assert!(
        statuses.contains(&said.status),
        "{what}: {} {:#}",
        said.status,
        said.body
    );
    let (code, message) = (text(error, "code"), text(error, "message"));
    assert!(!code.is_empty() && message.len() > 10, "{what}: {:#}", said.body);
    assert!(
        error
            .get("details")
            .is_some_and(|details| details.is_null() || details.is_object()),
        "{what}: {error:#}"
    );
    let answer = said.body.to_string();
    assert!(
        !answer.contains(&"lang".repeat(100)) && answer.len() < 8_000,
        "{what}: {answer}"
    );
    (code.to_owned(), message.to_owned())
}

pub(crate) async fn posted(client: &Client, path: &str, body: &str) -> Said {
    let request = client
        .request(Method::POST, path)
        .header("content-type", "application/json");
    client.said(request.body(body.to_owned())).await
}

/// A job of somebody else, to its end: nothing was disturbed.
pub(crate) async fn all_is_well(client: &Client, seed: u32) {
    let job = submitted(client, &empty(seed, "v2-bad/well")).await;
    let end = ended(client, text(&job, "id")).await;
    assert_eq!(text(&end, "status"), "succeeded", "{end:#}");
}

#[tokio::test]
async fn bodies_that_are_none() {
    let worker = Worker::beside_shared(&[]).await;
    // Until then, graphs are taken that nobody can judge.
    worker.ready().await;
    let client = Client::new(&worker.url);
    let deep = "[".repeat(1 << 20);
    let deep_graph = format!("{{\"workflow\": {}{}}}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    for body in [
        "",
        "{",
        "null",
        "7",
        "\"\"",
        "\"x\"",
        "[]",
        "[{}]",
        "\u{0}",
        "{}",
        "{\"a\": 1e999}",
        "\u{feff}{}",
        &deep,
        &deep_graph,
    ] {
        let short: String = body.chars().take(40).collect();
        for path in ["/api/v2/jobs", "/api/v2/assets/from-hash"] {
            let said = posted(&client, path, body).await;
            let (code, _) = refused(&said, &format!("{path} {short}"), &[400, 413]);
            let expected = ["invalid_request", "payload_too_large"];
            assert!(expected.contains(&code.as_str()), "{path} {short}: {code}");
        }
        refused(
            &posted(&client, "/api/v2/assets", body).await,
            &format!("an upload of {short}"),
            &[400, 415],
        );
    }
    for workflow in [
        json!(null),
        json!(7),
        json!("x"),
        json!([]),
        json!({"1": 7}),
        json!({"1": null}),
        json!({"1": {}}),
        json!({"1": {"class_type": 7, "inputs": {}}}),
        json!({"1": {"class_type": "EmptyImage", "inputs": []}}),
        json!({"1": {"class_type": long(), "inputs": {}}}),
        json!({(long()): {"class_type": "EmptyImage", "inputs": {}}}),
        json!({"1": {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": "x"}}}),
        json!({"1": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}}),
        json!({
            "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
            "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        }),
    ] {
        let said = submit(&client, &json!({ "workflow": workflow }), None).await;
        let short: String = workflow.to_string().chars().take(80).collect();
        let (code, _) = refused(&said, &short, &[400, 422]);
        assert!(
            ["invalid_request", "invalid_workflow"].contains(&code.as_str()),
            "{short}: {code}"
        );
    }
    // References that are none, wherever they stand.
    for info in [
        json!(null),
        json!({}),
        json!([]),
        json!({"id": 7}),
        json!({"id": ""}),
        json!({"id": "x"}),
        json!({"id": long()}),
        json!({"id": "../../etc/passwd"}),
        json!({"hash": "blake3:00"}),
        json!({"id": null, "file_path": "/etc/passwd"}),
    ] {
        let value = json!({"__type": "core/ASSET", "info": info});
        let deep = json!({"1": {"class_type": "PreviewAny", "inputs": {"source": {"list": [[value.clone()]]}}}});
        for graph in [loads(&value, "v2-bad/none"), deep] {
            let said = submit(&client, &json!({ "workflow": graph }), None).await;
            let (code, _) = refused(&said, &info.to_string(), &[422]);
            assert_eq!(code, "missing_asset", "{info}");
        }
    }
    all_is_well(&client, 840_000).await;
}

#[tokio::test]
async fn fields_and_headers_that_are_not_taken() {
    let worker = Worker::beside_shared(&[]).await;
    // Until then, graphs are taken that nobody can judge.
    worker.ready().await;
    let client = Client::new(&worker.url);
    let workflow = empty(841_000, "v2-bad/fields");
    for (name, value) in [
        ("webhook_url", json!("https://example.org/hook")),
        ("inputs", json!({"a": 1})),
        ("extra_data", json!({"extra_pnginfo": {}})),
        ("extra_data", json!({"api_key_comfy_org": 7})),
        ("extra_data", json!({(long()): "x"})),
        ("extra_data", json!("x")),
        ("extra_data", json!([])),
    ] {
        let mut body = json!({ "workflow": workflow });
        body[name] = value;
        let said = submit(&client, &body, None).await;
        let short: String = body[name].to_string().chars().take(60).collect();
        let (code, message) = refused(&said, &format!("{name} {short}"), &[400]);
        assert_eq!(code, "invalid_request", "{name}");
        assert!(message.contains(name), "{name}: {message}");
    }
    let many: serde_json::Map<_, _> = (0..17).map(|number| (format!("k{number}"), json!("v"))).collect();
    for metadata in [
        Value::Object(many),
        json!("x"),
        json!([]),
        json!(7),
        json!({"a": 1}),
        json!({"a": null}),
        json!({"a": {"b": "c"}}),
        json!({"a": "b\u{0}c"}),
        json!({"a": "\u{202e}x"}),
        json!({"": "x"}),
        json!({"a\nb": "x"}),
        json!({"a": long()}),
        json!({(long()): "a"}),
    ] {
        let said = submit(&client, &json!({"workflow": workflow, "metadata": metadata}), None).await;
        let short: String = metadata.to_string().chars().take(60).collect();
        let (code, _) = refused(&said, &short, &[422]);
        assert_eq!(code, "metadata_invalid", "{short}");
    }
    for key in [String::new(), long(), "x".repeat(256)] {
        let said = submit(&client, &json!({ "workflow": workflow }), Some(&key)).await;
        let (code, message) = refused(&said, &format!("a key of {} letters", key.len()), &[400]);
        assert_eq!(code, "invalid_request");
        assert!(message.contains("Idempotency-Key"), "{message}");
    }
    // None of these has become a job.
    assert_eq!(client.get("/api/v2/jobs").await.ok()["jobs"], json!([]));
    all_is_well(&client, 841_001).await;
}

#[tokio::test]
async fn lists_that_cannot_be_given() {
    let worker = Worker::beside_shared(&[]).await;
    // Until then, graphs are taken that nobody can judge.
    worker.ready().await;
    let client = Client::new(&worker.url);
    all_is_well(&client, 842_000).await;
    let long = long();
    for (query, code) in [
        ("limit=0".to_owned(), "invalid_request"),
        ("limit=-1".to_owned(), "invalid_request"),
        ("limit=x".to_owned(), "invalid_request"),
        ("limit=".to_owned(), "invalid_request"),
        ("limit=99999999999999999999999".to_owned(), "invalid_request"),
        (format!("limit={long}"), "invalid_request"),
        ("status=nope".to_owned(), "invalid_request"),
        (format!("status={long}"), "invalid_request"),
        ("status=queued,nope".to_owned(), "invalid_request"),
        ("cursor=x".to_owned(), "invalid_cursor"),
        ("cursor=%00".to_owned(), "invalid_cursor"),
        ("cursor=%F0%9F%A6%8A".to_owned(), "invalid_cursor"),
        (format!("cursor={long}"), "invalid_cursor"),
        (
            "metadata%5Ba%5D=1&metadata%5Bb%5D=1&metadata%5Bc%5D=1&metadata%5Bd%5D=1".to_owned(),
            "invalid_metadata_filter",
        ),
        (
            "metadata%5Ba%5D=1&metadata%5Ba%5D=2".to_owned(),
            "invalid_metadata_filter",
        ),
        ("metadata%5B%5D=1".to_owned(), "invalid_metadata_filter"),
        ("metadata=1".to_owned(), "invalid_metadata_filter"),
        ("metadata%5Ba=1".to_owned(), "invalid_metadata_filter"),
    ] {
        let short: String = query.chars().take(60).collect();
        let said = client.get(&format!("/api/v2/jobs?{query}")).await;
        assert_eq!(refused(&said, &short, &[400]).0, code, "{short}");
    }
}

#[tokio::test]
async fn ids_and_methods_that_are_none() {
    let worker = Worker::beside_shared(&[]).await;
    // Until then, graphs are taken that nobody can judge.
    worker.ready().await;
    let client = Client::new(&worker.url);
    let long = long();
    for id in [
        "x",
        "%00",
        "..%2F..%2Fetc%2Fpasswd",
        "%F0%9F%A6%8A",
        "00000000-0000-0000-0000-000000000000",
        "%27%20OR%201=1",
        &long,
    ] {
        let short: String = id.chars().take(60).collect();
        for (method, path) in [
            (Method::GET, format!("jobs/{id}")),
            (Method::GET, format!("jobs/{id}/events")),
            (Method::GET, format!("jobs/{id}/workflow")),
            (Method::POST, format!("jobs/{id}/cancel")),
            (Method::GET, format!("assets/{id}")),
            (Method::DELETE, format!("assets/{id}")),
            (Method::GET, format!("assets/{id}/content")),
        ] {
            let said = client
                .said(client.request(method.clone(), &format!("/api/v2/{path}")))
                .await;
            let (code, _) = refused(&said, &format!("{method} {short}"), &[400, 404]);
            // No path of any route has a control character.
            let expected = if id == "%00" { "invalid_request" } else { "not_found" };
            assert_eq!(code, expected, "{method} {short}");
        }
        for path in [
            format!("jobs/{id}"),
            format!("assets/{id}"),
            format!("assets/{id}/content"),
        ] {
            let said = client
                .said(client.request(Method::HEAD, &format!("/api/v2/{path}")))
                .await;
            assert!((400..500).contains(&said.status), "HEAD {short}: {}", said.status);
        }
        for hash in [
            id.to_owned(),
            format!("blake3:{id}"),
            format!("blake3%3A{id}"),
            "blake3:".to_owned(),
            format!("BLAKE3:{}", "0".repeat(64)),
        ] {
            let said = client
                .said(client.request(Method::HEAD, &format!("/api/v2/assets/by-hash/{hash}")))
                .await;
            assert!([400, 404].contains(&said.status), "HEAD {short}: {}", said.status);
        }
    }
    let some = "7f3d2c1b-9a8e-4d6f-b012-3c4d5e6f7a8b";
    for (method, path) in [
        (Method::PUT, "jobs".to_owned()),
        (Method::DELETE, format!("jobs/{some}")),
        (Method::GET, format!("jobs/{some}/cancel")),
        (Method::GET, "assets/from-hash/x/y".to_owned()),
        (Method::PATCH, format!("assets/{some}")),
        (Method::GET, format!("jobs/{some}/nope")),
    ] {
        let said = client
            .said(client.request(method.clone(), &format!("/api/v2/{path}")))
            .await;
        refused(&said, &format!("{method} {path}"), &[404, 405]);
    }
}

#[tokio::test]
async fn a_key_is_free_again_after_every_refusal() {
    let worker = Worker::beside_shared(&[]).await;
    // Until then, graphs are taken that nobody can judge.
    worker.ready().await;
    let client = Client::new(&worker.url);
    // From then on it knows classes at once.
    all_is_well(&client, 844_002).await;
    let key = uuid::Uuid::new_v4().to_string();
    let unknown = loads(&reference(&uuid::Uuid::new_v4().to_string()), "v2-bad/unknown");
    for body in [
        json!([]),
        json!({"workflow": graph("NoSuchNode", json!({}))}),
        json!({"workflow": {"nodes": [], "links": []}}),
        json!({ "workflow": unknown }),
        json!({"workflow": empty(844_000, "v2-bad/key"), "metadata": {"a": 1}}),
        json!({"workflow": empty(844_000, "v2-bad/key"), "webhook_url": "x"}),
    ] {
        refused(
            &submit(&client, &body, Some(&key)).await,
            &body.to_string(),
            &[400, 422],
        );
    }
    let body = json!({"workflow": empty(844_001, "v2-bad/key")});
    assert_eq!(submit(&client, &body, Some(&key)).await.status, 201);
    let again = submit(&client, &body, Some(&key)).await;
    assert_eq!(refused(&again, "the key again", &[422]).0, "idempotency_key_reuse");
    // Another key of as many letters is another key.
    let said = submit(&client, &body, Some(&uuid::Uuid::new_v4().to_string())).await;
    assert_eq!(said.status, 201, "{:#}", said.body);
}
