//! `API_KEY`: who is served and who is not. ComfyUI is not needed for that.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Worker, http};

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

async fn get(worker: &Worker, path: &str, authorization: Option<&str>) -> reqwest::Response {
    let mut request = http().get(format!("{}{path}", worker.url));
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

/// Reads to the end of an answer that ends with these bytes, or with the connection.
async fn answer(connection: &mut TcpStream, end: &[u8]) -> String {
    let mut said = Vec::new();
    while !said.ends_with(end) {
        let mut piece = [0; 4096];
        match connection.read(&mut piece).await.expect("it goes on") {
            0 => break,
            length => said.extend_from_slice(&piece[..length]),
        }
    }
    String::from_utf8(said).expect("UTF-8")
}

/// A refusal needs nothing of the body. A client that is still sending it would see a broken connection in its place, or
/// with its next request.
#[tokio::test]
async fn who_is_refused_may_send_to_the_end_and_ask_again() {
    let worker = Worker::attached(NOWHERE, &[("API_KEY", "first-key")]).await;
    let address = worker.url.trim_start_matches("http://");
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    let body = vec![b' '; 3_000_000];
    let head = format!(
        "POST /v1/images/edits HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.expect("it reads");
    // The head is read before the body comes.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    connection.write_all(&body).await.expect("it reads on");
    let refused = answer(&mut connection, b"}}").await;
    assert!(
        refused.starts_with("HTTP/1.1 401") && !refused.contains("connection: close"),
        "{refused}"
    );
    let ask = format!("GET /ping HTTP/1.1\r\nhost: {address}\r\n\r\n");
    connection.write_all(ask.as_bytes()).await.expect("it is kept");
    let next = answer(&mut connection, b"\r\n\r\n").await;
    assert!(next.starts_with("HTTP/1.1 204"), "{next}");

    // One that asks first sends nothing at all.
    let head = head.replace("content-length", "expect: 100-continue\r\ncontent-length");
    connection.write_all(head.as_bytes()).await.expect("it reads");
    let refused = answer(&mut connection, b"}}").await;
    assert!(
        refused.starts_with("HTTP/1.1 401") && refused.contains("connection: close"),
        "{refused}"
    );
}
