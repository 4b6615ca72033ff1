//! Connections and bodies that hold what others need. ComfyUI is not needed for that.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::binary::{binary, said_after};
use crate::support::{PATIENCE, Worker, http, text, until};

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

fn address(url: &str) -> &str {
    url.trim_start_matches("http://")
}

/// Begins requests, none of which ends: nothing, half a head, half a body.
async fn half_open(url: &str, count: usize, said: &str) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut connection = TcpStream::connect(address(url)).await.expect("a connection");
        connection.write_all(said.as_bytes()).await.expect("it reads");
        open.push(connection);
    }
    open
}

/// The resident memory of a process, in MiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a size") / 1024
}

#[tokio::test]
async fn a_worker_with_few_descriptors_answers_beside_more_silent_connections_than_it_has() {
    let data = tempfile::tempdir().expect("a folder");
    let vars = [
        ("DATA_DIR", data.path().display().to_string()),
        ("COMFYUI_URL", NOWHERE.to_owned()),
        ("PORT", "0".to_owned()),
        ("PORT_HEALTH", "0".to_owned()),
        ("EDIT_PORT", "0".to_owned()),
    ];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let usual = binary(&vars);
    let mut command = Command::new("bash");
    command.args(["-c", r#"ulimit -n 256; exec "$0" serve"#]);
    command.arg(usual.as_std().get_program());
    for (name, value) in usual.as_std().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut worker = command.spawn().expect("a process");
    let mut lines = BufReader::new(worker.stderr.take().expect("piped")).lines();
    let mut log = String::new();
    let health = said_after("health check is at ", &mut lines, &mut log).await;
    let edit = said_after("Edit Plus API is at ", &mut lines, &mut log).await;
    let main = said_after("listening on ", &mut lines, &mut log).await;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

    let head = "GET /health HTTP/1.1\r\nhost: a\r\nx-";
    let mut open = half_open(&main, 300, head).await;
    open.extend(half_open(&edit, 100, "").await);
    // On a port of its own at once, elsewhere when the silent ones were ended.
    assert!(http().get(health).send().await.is_ok());
    assert!(http().get(format!("{main}/ping")).send().await.is_ok());
    assert!(http().get(format!("{edit}/jobs")).send().await.is_ok());
    // Each of them is ended.
    for mut connection in open {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await;
        // A reset is an end too.
        let _ = read.expect("it ends in time");
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

#[tokio::test]
async fn requests_whose_bodies_do_not_come_take_no_place_in_the_queue() {
    let worker = Worker::attached(NOWHERE, &[("QUEUE_LIMIT", "2")]).await;
    for path in [
        "/run",
        "/runsync",
        "/edit/edit-image",
        "/v1/images/generations",
        "/api/v1/qwen/generate",
        "/gradio_api/call/infer",
        "/gradio_api/queue/join",
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{{\"");
        let slow = half_open(&worker.url, 10, &head).await;
        // It needs a place, and then says what is wrong with it.
        for _ in 0..5 {
            let answer = http().post(format!("{}{path}", worker.url)).body("{}").send().await;
            let answer = answer.expect("an answer");
            let status = answer.status().as_u16();
            let said = answer.text().await.expect("a text");
            assert!((400..429).contains(&status), "{path} {status}: {said}");
        }
        drop(slow);
    }
}

#[tokio::test]
async fn a_request_of_small_values_takes_little_memory_and_gives_it_back() {
    let data = tempfile::tempdir().expect("a folder");
    let vars = [
        ("DATA_DIR", data.path().display().to_string()),
        ("COMFYUI_URL", NOWHERE.to_owned()),
        ("PORT", "0".to_owned()),
        ("EDIT_PORT", "none".to_owned()),
    ];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut worker = binary(&vars).arg("serve").spawn().expect("the binary runs");
    let pid = worker.id().expect("it runs");
    let mut lines = BufReader::new(worker.stderr.take().expect("piped")).lines();
    let url = said_after("listening on ", &mut lines, &mut String::new()).await;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let graph = |objects: usize| {
        let objects = vec![r#"{"":0}"#; objects].join(",");
        format!(r#"{{"input": {{"workflow": {{"1": {{"class_type": "X", "inputs": {{"a": [{objects}]}}}}}}}}}}"#)
    };
    let ask = async |body: String| {
        let answer = http()
            .post(format!("{url}/run"))
            .body(body)
            .send()
            .await
            .expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let before = resident(pid);
    let (status, said) = ask(graph(1_200_000)).await;
    assert_eq!(status, 413, "{said}");
    let error = text(&said, "error");
    assert!(error.contains("JSON values") && error.len() < 300, "{error}");
    let growth = resident(pid).saturating_sub(before);
    assert!(growth < 64, "{growth} MiB");
    // Just within the limit: it was some hundred MiB, and is given back.
    for _ in 0..3 {
        let (status, said) = ask(graph(66_000)).await;
        assert_eq!(status, 200, "{said}");
    }
    let mut growth = 0;
    until("the memory is given back", async || {
        // Something has to happen for it.
        assert!(http().get(format!("{url}/ping")).send().await.is_ok());
        growth = resident(pid).saturating_sub(before);
        tokio::time::sleep(Duration::from_millis(100)).await;
        growth < 100
    })
    .await;
    let (status, _) = ask(json!({"input": {}}).to_string()).await;
    assert_eq!(status, 400);
}
