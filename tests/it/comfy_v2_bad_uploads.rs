//! What Comfy API v2 is sent as files by mistake or in bad faith, and how it is read by those who ask for odd pieces or never
//! read.

use reqwest::Method;
use reqwest::header::RANGE;
use reqwest::multipart::{Form, Part};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::comfy_v2_bad_input::{all_is_well, long, posted, refused};
use crate::support::comfy_v2::{submitted, upload};
use crate::support::comfyui::Client;
use crate::support::{Worker, slow, text};

#[tokio::test]
async fn uploads_that_are_none() {
    let worker = Worker::beside_shared(&[]).await;
    // Until then, graphs are taken that nobody can judge.
    worker.ready().await;
    let client = Client::new(&worker.url);
    let zeros = format!("blake3:{}", "0".repeat(64));
    let long = long();
    let part = || Part::bytes(b"some bytes".to_vec()).file_name("some.txt");
    let form = || {
        Form::new()
            .text("content_type", "text/plain")
            .text("file_path", "some.txt")
    };
    let at = |path: &str| {
        Form::new()
            .text("content_type", "text/plain")
            .text("file_path", path.to_owned())
            .part("file", part())
    };
    for (what, form, statuses) in [
        ("no file", form(), &[400, 422][..]),
        (
            "two files",
            form().part("file", part()).part("file", part()),
            &[400, 422],
        ),
        (
            "another hash",
            form().text("expected_hash", zeros).part("file", part()),
            &[409],
        ),
        (
            "no hash",
            form().text("expected_hash", "nope").part("file", part()),
            &[400, 409, 422],
        ),
        (
            "a long hash",
            form().text("expected_hash", long.clone()).part("file", part()),
            &[400, 409, 422],
        ),
        ("a path up", at("../some.txt"), &[400, 403, 422]),
        ("a path up inside", at("input/../../some.txt"), &[400, 403, 422]),
        ("a path of the machine", at("/etc/passwd"), &[400, 403, 422]),
        ("another root", at("models/checkpoints/x.safetensors"), &[400, 403, 422]),
        ("a path with a zero", at("a\u{0}b"), &[400, 403, 422]),
        ("a long path", at(&long), &[400, 403, 422]),
        ("no path", at(""), &[200, 201, 400, 422]),
        (
            "a short life",
            form().text("expires_in", "5").part("file", part()),
            &[200, 201, 400, 422],
        ),
        (
            "no number",
            form().text("expires_in", "soon").part("file", part()),
            &[200, 201, 400, 422],
        ),
    ] {
        let said = client
            .said(client.request(Method::POST, "/api/v2/assets").multipart(form))
            .await;
        if said.status < 300 && statuses.contains(&said.status) {
            let id = text(&said.body, "id");
            let said = client
                .said(client.request(Method::DELETE, &format!("/api/v2/assets/{id}")))
                .await;
            assert_eq!(said.status, 204, "{what}");
        } else {
            refused(&said, what, statuses);
        }
    }
    for (kind, body) in [
        ("multipart/form-data", "x"),
        ("multipart/form-data; boundary=b", ""),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nno end",
        ),
        ("multipart/form-data; boundary=b", "no parts at all"),
        ("text/plain", "x"),
        ("application/octet-stream", "x"),
    ] {
        let request = client
            .request(Method::POST, "/api/v2/assets")
            .header("content-type", kind);
        refused(
            &client.said(request.body(body)).await,
            &format!("{kind} {body}"),
            &[400, 415, 422],
        );
    }
    for body in [
        json!({"hash": 7}),
        json!({"hash": null}),
        json!({"hash": "nope"}),
        json!({"hash": long}),
        json!({"hash": format!("blake3:{}", "0".repeat(64)), "file_path": "../x"}),
        json!({"hash": format!("blake3:{}", "0".repeat(64)), "file_path": 7}),
        json!({"hash": format!("blake3:{}", "0".repeat(64)), "tags": "x"}),
    ] {
        let said = posted(&client, "/api/v2/assets/from-hash", &body.to_string()).await;
        let short: String = body.to_string().chars().take(60).collect();
        refused(&said, &short, &[400, 404, 422]);
    }
    let said = posted(
        &client,
        "/api/v2/assets/from-hash",
        &json!({"hash": format!("blake3:{}", "0".repeat(64))}).to_string(),
    )
    .await;
    assert_eq!(refused(&said, "unknown bytes", &[404]).0, "blob_not_found");
    // Nothing of that is there.
    let hash = format!("blake3:{}", blake3::hash(b"some bytes").to_hex());
    let said = client
        .said(client.request(Method::HEAD, &format!("/api/v2/assets/by-hash/{hash}")))
        .await;
    assert_eq!(said.status, 404);
}

#[tokio::test]
async fn ranges_of_an_asset() {
    let worker = Worker::beside_shared(&[]).await;
    // Until then, graphs are taken that nobody can judge.
    worker.ready().await;
    let client = Client::new(&worker.url);
    let content: Vec<u8> = (0..100).collect();
    let asset = upload(&client, "numbers.bin", content.clone()).await;
    let path = format!("/api/v2/assets/{}/content", text(&asset, "id"));
    for (range, status, start, end) in [
        ("bytes=0-7", 206, 0, 8),
        ("bytes=90-", 206, 90, 100),
        ("bytes=-10", 206, 90, 100),
        ("bytes=50-9999", 206, 50, 100),
        ("bytes=99-99", 206, 99, 100),
        ("bytes=-9999", 206, 0, 100),
        // What is no range is passed over.
        ("bytes=7-2", 200, 0, 100),
        ("bytes=x", 200, 0, 100),
        ("lines=0-1", 200, 0, 100),
        ("bytes=99999999999999999999999-", 200, 0, 100),
    ] {
        let answer = client.request(Method::GET, &path).header(RANGE, range).send().await;
        let answer = answer.expect("an answer");
        let lenient = status == 200 && answer.status() == 416;
        assert!(answer.status() == status || lenient, "{range}: {}", answer.status());
        if !lenient {
            if status == 206 {
                let told = format!("bytes {start}-{}/100", end - 1);
                assert_eq!(answer.headers()["content-range"], told.as_str(), "{range}");
            }
            assert_eq!(answer.bytes().await.expect("bytes"), &content[start..end], "{range}");
        }
    }
    for range in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
        let answer = client.request(Method::GET, &path).header(RANGE, range).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 416, "{range}");
        assert_eq!(answer.headers()["content-range"], "bytes */100", "{range}");
    }
    let answer = client
        .request(Method::GET, &path)
        .header(RANGE, "bytes=0-1,5-6")
        .send()
        .await;
    assert!([200, 206, 416].contains(&answer.expect("an answer").status().as_u16()));
}

/// Opens a stream of events by hand, of which nothing is read.
async fn mute(worker: &Worker, id: &str) -> TcpStream {
    let address = worker.url.trim_start_matches("http://");
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    let head = format!("GET /api/v2/jobs/{id}/events HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n");
    connection.write_all(head.as_bytes()).await.expect("it reads");
    connection
}

#[tokio::test]
async fn clients_that_never_read_hold_up_nobody() {
    let worker = Worker::beside_shared(&[]).await;
    // Until then, graphs are taken that nobody can judge.
    worker.ready().await;
    let client = Client::new(&worker.url);
    let job = submitted(&client, &slow(2_000, 1, 843_000)).await;
    let id = text(&job, "id");
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(mute(&worker, id).await);
    }
    // One that is gone at once.
    drop(mute(&worker, id).await);
    let heard = client
        .request(Method::GET, &format!("/api/v2/jobs/{id}/events"))
        .send()
        .await;
    let heard = heard.expect("a stream");
    let kind = heard.headers()["content-type"].to_str().expect("a text");
    assert!(kind.starts_with("text/event-stream"), "{kind}");
    let heard = heard.text().await.expect("all of it");
    assert!(
        heard.trim_end().ends_with("\"succeeded\"}") || heard.contains("\"status\":\"succeeded\""),
        "{heard}"
    );
    assert!(heard.contains("event: preview") && heard.contains("event: output"));
    all_is_well(&client, 843_001).await;
    drop(held);
}
