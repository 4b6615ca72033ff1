//! What ComfyUI's own API is sent by mistake or in bad faith: a clear answer each, and nobody else notices.

use futures_util::SinkExt as _;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::comfyui::{Client, Said, empty};
use crate::support::{PATIENCE, Worker, slow, text};

/// A prompt of somebody else, heard to its end: nothing was disturbed.
async fn all_is_well(worker: &Worker, seed: u32) {
    let client = Client::new(&worker.url);
    let name = format!("bystander-{seed}");
    let (mut socket, _) = client.socket(&name).await;
    let id = client.prompt(&empty(seed, "bad/well"), &name).await;
    socket.over(&id).await;
    assert_eq!(client.entry(&id).await["status"]["status_str"], "success");
    socket.close().await;
}

#[tokio::test]
async fn a_huge_frame_ends_its_connection_alone() {
    let worker = Worker::beside_shared(&[]).await;
    let client = Client::new(&worker.url);
    let (mut other, _) = client.socket("other").await;
    for frame in [
        Message::binary(vec![7; 100 << 20]),
        Message::text("x".repeat(100 << 20)),
    ] {
        let (mut socket, _) = client.socket("huge").await;
        // Whether it is taken to its end or refused before: it is not answered, and the connection is over.
        let _ = socket.stream.send(frame).await;
        while socket.next().await.is_some() {}
    }
    // Small ones that say nothing are passed over.
    for message in [
        json!(null),
        json!([]),
        json!({"type": 7}),
        json!({"type": "feature_flags", "data": "x"}),
    ] {
        other.send(&message).await;
    }
    let id = client.prompt(&empty(760_000, "bad/frame"), "other").await;
    other.over(&id).await;
    all_is_well(&worker, 760_001).await;
}

#[tokio::test]
async fn a_client_that_never_reads_holds_up_nobody() {
    let worker = Worker::beside_shared(&[]).await;
    let client = Client::new(&worker.url);
    let (mute, _) = client.socket("mute").await;
    let (mut reading, _) = client.socket("reading").await;
    // With a moment between them, so that ComfyUI has time for the other tests that share it.
    let mut graph = slow(3_000, 1, 760_100);
    graph["1"]["inputs"]["preview"] = json!(true);
    let id = client.prompt(&graph, "mute").await;
    let next = client.prompt(&empty(760_101, "bad/mute"), "reading").await;
    reading.over(&next).await;
    // What is left of it may be collected still.
    assert_eq!(client.ended(&id).await["status"]["status_str"], "success");
    all_is_well(&worker, 760_102).await;
    drop(mute);
}

#[tokio::test]
async fn two_thousand_connects_at_once() {
    let worker = Worker::beside_shared(&[]).await;
    let client = Client::new(&worker.url);
    let id = client.prompt(&slow(20, 20, 760_200), "steady").await;
    let opened = async |number: u32| client.try_socket(&format!("?clientId=crowd-{number}")).await.is_ok();
    for round in 0..10 {
        let all = join_all((0..200).map(|number| opened(round * 200 + number))).await;
        assert!(all.iter().any(|is_open| *is_open), "round {round}");
    }
    assert_eq!(client.ended(&id).await["status"]["status_str"], "success");
    all_is_well(&worker, 760_201).await;
}

/// Sends a head as it is; gives the status and the body.
async fn raw(worker: &Worker, method: &str, path: &str, headers: &str) -> (u16, String) {
    let address = worker.url.trim_start_matches("http://");
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    // It may be refused before it is read.
    let _ = connection.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await;
    let _ = read.expect("an end in time");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), answer)
}

#[tokio::test]
async fn paths_and_heads_that_are_none() {
    let worker = Worker::beside_shared(&[]).await;
    let client = Client::new(&worker.url);
    let id = client.prompt(&slow(100_000, 20, 760_300), "own").await;
    let job = worker.accept(slow(1, 1, 760_301)).await;
    client.runs(&id).await;
    // Other spellings of what ends prompts: from another address, none of them may end anything.
    for path in [
        "/interrupt/",
        "//interrupt",
        "/api//interrupt",
        "/./interrupt",
        "/x/../interrupt",
        "/api/../interrupt",
        "/%69nterrupt",
        "/api/%69nterrupt",
        "/api%2Finterrupt",
        "/%2Finterrupt",
        "/assets/..%2F..%2Finterrupt",
        "/interrupt%00",
        "/interrupt%2F..%2Finterrupt",
        "/;/interrupt",
        "/INTERRUPT",
    ] {
        for method in ["POST", "GET", "PUT"] {
            let address = worker.url.trim_start_matches("http://").to_owned();
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind("127.0.0.3:0".parse().expect("an address")).expect("ours");
            let mut stream = socket
                .connect(address.parse().expect("an address"))
                .await
                .expect("open");
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.expect("it reads");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(!answer.starts_with("HTTP/1.1 5"), "{method} {path}: {answer}");
        }
    }
    assert_eq!(client.queue().await.0, std::slice::from_ref(&id), "it runs on");
    assert_eq!(worker.status(&job).await, "IN_QUEUE");
    for path in [
        "/%00",
        "/view%00?filename=x",
        "/..",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    ] {
        let (status, answer) = raw(&worker, "GET", path, "").await;
        assert!((300..500).contains(&status), "{path}: {answer}");
        assert!(!answer.contains("root:"), "{path}");
    }
    // A bomb of headers: one that is too long, and too many.
    let long = format!("x-long: {}\r\n", "a".repeat(2 << 20));
    let many: Vec<String> = (0..20_000).map(|number| format!("x-{number}: a\r\n")).collect();
    let many = many.concat();
    for bomb in [long, many] {
        let (status, answer) = raw(&worker, "GET", "/queue", &bomb).await;
        assert!(
            status == 0 || (400..500).contains(&status),
            "{}",
            &answer[..answer.len().min(300)]
        );
    }
    client.post("/interrupt", &json!({ "prompt_id": id })).await.ok();
    worker.end(&job).await.completed();
    all_is_well(&worker, 760_302).await;
}

#[tokio::test]
async fn files_of_other_folders() {
    let worker = Worker::beside_shared(&[]).await;
    for query in [
        "filename=../../../../etc/passwd",
        "filename=..%2F..%2F..%2Fetc%2Fpasswd",
        "filename=/etc/passwd",
        "filename=passwd&subfolder=/etc",
        "filename=passwd&subfolder=../../../../../../etc",
        "filename=passwd&subfolder=..%2F..%2F..%2F..%2F..%2Fetc&type=temp",
        "filename=worker_test_nodes.py&subfolder=../custom_nodes",
        "filename=x.png&type=weird",
        "filename=x.png%00.png",
        "filename=",
        "subfolder=x",
        "",
    ] {
        for path in ["/view", "/api/view"] {
            let answer = worker.get(&format!("{path}?{query}")).await;
            let status = answer.status().as_u16();
            let body = answer.text().await.expect("a text");
            assert!((400..500).contains(&status), "{path} {query}: {status} {body}");
            assert!(
                !body.contains("root:") && !body.contains("NODE_CLASS_MAPPINGS"),
                "{path} {query}"
            );
        }
    }
}

/// What is said to a person of what was wrong.
#[track_caller]
fn told(said: &Said) -> &str {
    assert_eq!(said.status, 400, "{:#}", said.body);
    assert!(said.body["node_errors"].is_object(), "{:#}", said.body);
    text(&said.body["error"], "message")
}

#[tokio::test]
async fn a_workflow_as_the_page_keeps_it_is_judged_as_its_graph_is() {
    let worker = Worker::beside_shared(&[]).await;
    // Before, it is taken in unchecked.
    worker.ready().await;
    let client = Client::new(&worker.url);
    let page = json!({"last_node_id": 1, "last_link_id": 0, "version": 0.4, "links": [], "groups": [],
        "nodes": [{"id": 1, "type": "SaveImage", "pos": [0, 0], "inputs": [], "widgets_values": ["x"]}]});
    let said = client.post("/prompt", &json!({ "prompt": page })).await;
    assert_eq!(said.status, 400);
    let errors = &said.body["node_errors"]["1"]["errors"];
    assert_eq!(errors[0]["type"], "required_input_missing", "{:#}", said.body);
    let said = client.post("/prompt", &page).await;
    assert!(told(&said).len() > 10, "{:#}", said.body);
}

#[tokio::test]
async fn bodies_and_queries_that_are_none() {
    let worker = Worker::beside_shared(&[]).await;
    let client = Client::new(&worker.url);
    let deep = "[".repeat(100_000);
    let bodies = [
        "",
        "{",
        "null",
        "7",
        "\"x\"",
        "[]",
        "[[]]",
        "{\"prompt\": []}",
        "{\"prompt\": {\"1\": \"x\"}}",
        "{\"delete\": 7}",
        "{\"delete\": [7, {}, null]}",
        "{\"clear\": \"yes\"}",
        "{\"prompt_id\": {}}",
        "{\"client_id\": []}",
        "{\"job_ids\": {}}",
        "{\"number\": \"x\", \"prompt\": {}}",
        "{\"extra_data\": 7, \"prompt\": {}}",
        "\u{0}",
        "{\"a\": 1e999}",
        &deep,
    ];
    for path in [
        "/prompt",
        "/queue",
        "/history",
        "/interrupt",
        "/free",
        "/api/prompt",
        "/api/queue",
        "/api/history",
        "/api/interrupt",
        "/api/free",
        "/api/jobs/cancel",
        "/api/jobs/x/cancel",
        "/upload/image",
        "/api/upload/mask",
    ] {
        for body in bodies {
            let short: String = body.chars().take(40).collect();
            let request = client.request(Method::POST, path).body(body.to_owned());
            let said = client.said(request).await;
            // What ComfyUI itself says of an upload is passed on.
            let is_passed_on = path.contains("/upload/") || path.ends_with("/free");
            assert!(
                said.status < 500 || is_passed_on,
                "{path} {short}: {} {:#}",
                said.status,
                said.body
            );
            if said.status >= 400 && !is_passed_on {
                let error = &said.body["error"];
                let message = error["message"].as_str().or(error.as_str()).unwrap_or_default();
                assert!(message.len() > 5, "{path} {short}: {:#}", said.body);
            }
        }
    }
    for path in [
        "/history?max_items=x",
        "/history?max_items=-1&offset=-7",
        "/history?offset=99999999999999999999",
        "/history/%00",
        "/history/..%2Fqueue",
        "/api/jobs?limit=-1&offset=x&status=,",
        "/api/jobs/%F0%9F%A6%8A",
        "/ws?clientId=%00",
        "/ws",
    ] {
        let said = client.get(path).await;
        assert!(said.status < 500, "{path}: {:#}", said.body);
    }
    let long = "x".repeat(10_000);
    for query in [
        format!("?clientId={long}"),
        "?clientId=%FF%00".to_owned(),
        "?clientId=".to_owned(),
    ] {
        if let Ok(mut socket) = client.try_socket(&query).await {
            let first = socket.next().await.expect("its first message");
            assert_eq!(text(&first, "type"), "status");
        }
    }
    assert_eq!(client.queue().await, (Vec::new(), Vec::new()));
    assert_eq!(client.get("/history").await.ok(), Value::Object(serde_json::Map::new()));
    all_is_well(&worker, 760_400).await;
}
