//! Prompts of ComfyUI's own API outlive the worker, and show no keys: what ComfyUI itself lacks.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::durability::attached;
use crate::support::binary::{Served, binary, said_after};
use crate::support::comfyui::{Client, empty};
use crate::support::{Worker, shared, slow, text};

const ORG_KEY: &str = "comfyui-the-key-of-comfy-org";
const ORG_TOKEN: &str = "the-token-of-comfy-org";

fn with_secrets(client_id: &str) -> Value {
    json!({"client_id": client_id, "extra_data": {
        "extra_pnginfo": {"workflow": {"id": "the-workflow-of-the-page"}},
        "api_key_comfy_org": ORG_KEY, "auth_token_comfy_org": ORG_TOKEN, "preview_method": "none",
    }})
}

#[tokio::test]
async fn prompts_that_wait_or_run_when_the_worker_is_killed_are_in_the_history_then() {
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let vars = attached(data.path(), &shared.comfy_url().await, &[]);
    let worker = Served::start(&vars).await;
    let client = Client::new(&worker.url);
    let done = client
        .prompt_with(&empty(750_000, "durable/done"), &with_secrets("a"))
        .await;
    let before = client.ended(&done).await;
    let own = uuid::Uuid::new_v4().to_string();
    let running = client.prompt(&slow(150, 20, 750_001), "a").await;
    let mut more = with_secrets("b");
    more["prompt_id"] = json!(own);
    let waiting = client.prompt_with(&slow(2, 5, 750_002), &more).await;
    let front = client
        .prompt_with(&slow(2, 5, 750_003), &json!({"client_id": "b", "front": true}))
        .await;
    assert_eq!(waiting, own);
    client.runs(&running).await;
    let numbers = client.get("/queue").await.ok();
    worker.kill().await;

    let worker = Served::start(&vars).await;
    let client = Client::new(&worker.url);
    assert_eq!(client.entry(&done).await, before, "what was over is as it was");
    let (mut socket, _) = client.socket("b").await;
    socket.over(&waiting).await;
    for id in [&running, &waiting, &front] {
        let entry = client.ended(id).await;
        assert_eq!(entry["status"]["status_str"], "success", "{entry:#}");
        assert_eq!(entry["outputs"]["2"]["images"].as_array().map(Vec::len), Some(1));
        assert_eq!(entry["prompt"][1], id.as_str());
        let queued = numbers["queue_running"]
            .as_array()
            .into_iter()
            .chain(numbers["queue_pending"].as_array());
        let queued = queued.flatten().find(|prompt| prompt[1] == id.as_str());
        assert_eq!(queued.map(|prompt| &prompt[0]), Some(&entry["prompt"][0]), "its number");
    }
    // A restart is no end of the history; a delete is.
    client.post("/history", &json!({"delete": [waiting]})).await.ok();
    worker.kill().await;
    let worker = Served::start(&vars).await;
    let client = Client::new(&worker.url);
    assert_eq!(client.entry(&waiting).await, Value::Null);
    assert_eq!(client.entry(&front).await["status"]["completed"], true);
    worker.kill().await;
}

#[tokio::test]
async fn the_pages_workflow_is_in_the_pictures_of_this_api_alone() {
    let worker = Worker::beside_shared(&[]).await;
    let client = Client::new(&worker.url);
    let id = client
        .prompt_with(&empty(751_000, "durable/meta"), &with_secrets("a"))
        .await;
    let entry = client.ended(&id).await;
    let image = &entry["outputs"]["2"]["images"][0];
    let view = format!(
        "/view?filename={}&subfolder=durable&type=output",
        text(image, "filename")
    );
    let picture = worker.get(&view).await.bytes().await.expect("a picture");
    let holds = |picture: &[u8], word: &str| picture.windows(word.len()).any(|part| part == word.as_bytes());
    assert!(holds(&picture, "the-workflow-of-the-page") && holds(&picture, "EmptyImage"));
    assert!(!holds(&picture, ORG_KEY) && !holds(&picture, ORG_TOKEN));
    let job = worker.accept(empty(751_001, "durable/plain")).await;
    let end = worker.end(&job).await.completed();
    let picture = worker.first_image(&end).await;
    assert!(!holds(&picture, "EmptyImage"));
}

#[tokio::test]
async fn keys_for_api_nodes_are_shown_nowhere() {
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let mut vars = attached(data.path(), &shared.comfy_url().await, &[("LOG_LEVEL", "trace")]);
    vars.insert("EDIT_PORT".to_owned(), "none".to_owned());
    let mut worker = binary(&vars).arg("serve").spawn().expect("the binary runs");
    let mut lines = BufReader::new(worker.stderr.take().expect("piped")).lines();
    let mut log = String::new();
    let url = said_after("listening on ", &mut lines, &mut log).await;
    let log = Arc::new(Mutex::new(log));
    let kept_log = Arc::clone(&log);
    let read = tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            kept_log.lock().expect("a log").push_str(&line);
        }
    });
    let client = Client::new(&url);
    let (mut socket, _) = client.socket("a").await;
    let running = client
        .prompt_with(&slow(100_000, 20, 752_000), &with_secrets("a"))
        .await;
    let waiting = client
        .prompt_with(&empty(752_001, "durable/key"), &with_secrets("a"))
        .await;
    client.runs(&running).await;
    let mut said = Vec::new();
    for path in ["/queue", "/api/queue", "/api/jobs", "/prompt"] {
        said.push(client.get(path).await.ok().to_string());
    }
    for id in [&running, &waiting] {
        said.push(client.get(&format!("/api/jobs/{id}")).await.ok().to_string());
    }
    client.post("/interrupt", &json!({ "prompt_id": running })).await.ok();
    for id in [&running, &waiting] {
        said.push(json!(socket.over(id).await).to_string());
        client.ended(id).await;
        said.push(client.get(&format!("/api/jobs/{id}")).await.ok().to_string());
    }
    said.push(client.get("/history").await.ok().to_string());
    // One that is refused says so without them.
    let mut body = with_secrets("a");
    body["prompt"] = json!({"1": {"class_type": "NoSuchNode", "inputs": {}}});
    let refused = client.post("/prompt", &body).await;
    assert_eq!(refused.status, 400, "{:#}", refused.body);
    said.push(refused.body.to_string());
    worker.kill().await.expect("it runs");
    read.await.expect("its log");
    said.push(log.lock().expect("a log").clone());
    for text in &said {
        assert!(!text.contains(ORG_KEY) && !text.contains(ORG_TOKEN), "{text}");
    }
    // The rest of what was sent is told.
    assert!(said[0].contains("the-workflow-of-the-page"), "{}", said[0]);
}
