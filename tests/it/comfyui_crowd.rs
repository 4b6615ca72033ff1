//! Many clients of ComfyUI's own API at once, among other dialects' jobs, and with processes that are killed under them.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::binary::Served;
use crate::support::comfyui::{Client, is_over};
use crate::support::{Worker, fresh_data, shared, slow, until};
use crate::together::quick_templates;

const CLIENTS: u32 = 20;
const EACH: u32 = 3;

/// A graph of a few steps; no two give the same file.
fn steps(seed: u32) -> Value {
    let mut graph = slow(3, 5, seed);
    graph["2"]["inputs"]["filename_prefix"] = json!(format!("crowd/{seed}"));
    graph
}

/// What a client hears of one prompt, in ComfyUI's order.
#[track_caller]
fn assert_in_order(heard: &[Value], id: &str) {
    let kinds: Vec<&str> = heard
        .iter()
        .filter(|message| message["data"]["prompt_id"] == id)
        .filter_map(|message| message["type"].as_str())
        .collect();
    assert_eq!(kinds[..2], ["execution_start", "execution_cached"], "{kinds:?}");
    assert_eq!(
        kinds[kinds.len() - 2..],
        ["execution_success", "executing"],
        "{kinds:?}"
    );
    for kind in ["executing", "progress_state", "progress", "executed"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    for once in ["execution_start", "execution_cached", "execution_success", "executed"] {
        assert_eq!(kinds.iter().filter(|kind| **kind == once).count(), 1, "{kinds:?}");
    }
    // The length of the queue is told between the success and the last word.
    let success = heard
        .iter()
        .position(|message| message["type"] == "execution_success" && message["data"]["prompt_id"] == id)
        .expect("a success");
    let after: Vec<&str> = heard[success..]
        .iter()
        .filter_map(|message| message["type"].as_str())
        .collect();
    let last = heard[success..]
        .iter()
        .position(|message| is_over(message) && message["data"]["prompt_id"] == id)
        .expect("an end");
    assert!(after[..last].contains(&"status"), "{after:?}");
}

#[tokio::test]
async fn twenty_clients_hear_of_their_own_prompts_alone() {
    let (shared, templates) = (shared().await, quick_templates());
    let folder = templates.path().display().to_string();
    let worker = Worker::attached(&shared.comfy_url().await, &[("WORKFLOWS_DIR", &folder)]).await;
    let one = async |number: u32| {
        let client = Client::new(&worker.url);
        let name = format!("client-{number}");
        let (mut socket, first) = client.socket(&name).await;
        assert_eq!(first["data"]["sid"], name, "{first:#}");
        let mut ids = Vec::new();
        for at in 0..EACH {
            ids.push(client.prompt(&steps(730_000 + number * EACH + at), &name).await);
        }
        let mut heard = Vec::new();
        for id in &ids {
            heard.extend(socket.over(id).await);
            // From the end on its history is there.
            let entry = client.entry(id).await;
            assert_eq!(entry["status"]["status_str"], "success", "{entry:#}");
            assert_eq!(
                entry["outputs"]["2"]["images"].as_array().map(Vec::len),
                Some(1),
                "{entry:#}"
            );
        }
        for message in &heard {
            let id = message["data"]["prompt_id"].as_str();
            let is_own = id.is_some_and(|id| ids.iter().any(|own| own == id));
            assert!(
                is_own || message["type"] == "status" || message["binary"] == 1,
                "{message:#}"
            );
        }
        for id in &ids {
            assert_in_order(&heard, id);
        }
        socket.close().await;
    };
    let others = async |number: u32| {
        if number.is_multiple_of(2) {
            let id = worker.accept(steps(731_000 + number)).await;
            worker.end(&id).await.completed();
        } else {
            let body = json!({"model": "Qwen/Qwen-Image", "prompt": "a harbour", "seed": 732_000 + number, "size": "64x64",
                "quality": "high", "steps": 1, "response_format": "b64_json"});
            let answer = worker
                .send(Method::POST, "/v1/images/generations", body.to_string())
                .await;
            assert_eq!(answer.status, 200, "{:#}", answer.body);
        }
    };
    tokio::join!(join_all((0..CLIENTS).map(one)), join_all((0..10).map(others)));
    let health = worker.ask("/health").await.body;
    assert_eq!(health["jobs"]["completed"], CLIENTS * EACH + 10, "{health:#}");
}

/// Hears what a websocket tells until it is closed.
async fn heard_until_closed(client: Client, name: String) -> Vec<Value> {
    let Ok(mut socket) = client.try_socket(&format!("?clientId={name}")).await else {
        return Vec::new();
    };
    let mut heard = Vec::new();
    while let Some(message) = socket.next().await {
        heard.push(message);
    }
    heard
}

#[tokio::test]
async fn every_prompt_ends_once_whoever_is_killed() {
    drop(shared().await);
    let (_data, mut vars) = fresh_data();
    vars.insert("JOB_RETRIES".to_owned(), "5".to_owned());
    let names: Vec<String> = (0..CLIENTS).map(|number| format!("client-{number}")).collect();
    let mut worker = Served::start(&vars).await;
    let mut pid = worker.comfy_pid().await;
    let (mut ids, mut heard, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let client = Client::new(&worker.url);
    for at in 0..CLIENTS * EACH {
        let name = &names[(at % CLIENTS) as usize];
        ids.push(client.prompt(&steps(740_000 + at), name).await);
        if at % 6 == 0 {
            let body = json!({"input": {"workflow": steps(741_000 + at)}});
            others.push(worker.accept(body).await);
        }
    }
    // ComfyUI first, then the worker with it, then nobody.
    for due in [10, 25, ids.len()] {
        let client = Client::new(&worker.url);
        let listening = names
            .iter()
            .map(|name| tokio::spawn(heard_until_closed(client.clone(), name.clone())));
        let listening: Vec<_> = listening.collect();
        until("so many are over", async || {
            let history = client.get("/history").await.ok();
            history.as_object().map_or(0, serde_json::Map::len) >= due
        })
        .await;
        match due {
            10 => kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs"),
            25 => {
                worker.kill().await;
                worker = Served::start(&vars).await;
                pid = worker.comfy_pid().await;
            }
            _ => {
                until("all others are over", async || worker.unfinished().await == 0).await;
                worker.kill().await;
                worker = Served::start(&vars).await;
            }
        }
        if due == 10 {
            // They go on to listen; the next round has its own.
            listening.iter().for_each(tokio::task::JoinHandle::abort);
            continue;
        }
        for told in join_all(listening).await {
            heard.extend(told.expect("a listener"));
        }
    }
    // After the last start, and without ComfyUI's word.
    let client = Client::new(&worker.url);
    let history = client.get("/history").await.ok();
    assert_eq!(history.as_object().map(serde_json::Map::len), Some(ids.len()));
    let mut files = BTreeSet::new();
    for id in &ids {
        let entry = &history[id];
        assert_eq!(entry["status"]["status_str"], "success", "{id}: {entry:#}");
        let image = &entry["outputs"]["2"]["images"][0];
        files.insert(image.to_string());
        let ends = heard
            .iter()
            .filter(|message| is_over(message) && message["data"]["prompt_id"] == id.as_str());
        assert!(ends.count() <= 1, "{id} ended twice");
    }
    assert_eq!(files.len(), ids.len(), "each has a file of its own");
    for id in &others {
        assert_eq!(worker.status(id).await, "COMPLETED");
    }
    assert_eq!(client.queue().await, (Vec::new(), Vec::new()));
    worker.kill().await;
}
