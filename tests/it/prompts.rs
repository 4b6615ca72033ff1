//! Jobs of ComfyUI's own API on the real ComfyUI, below its routes: what their clients hear, ComfyUI's entries, and the
//! workflow in what they save.

use std::sync::atomic::{AtomicU32, Ordering};

use qwen_image_worker::comfy::{Ear, Frame, Listener};
use qwen_image_worker::job::{Delivery, Dialect, JobId, JobRequest, JobState, JobView, Policy, PromptOwner, Work};
use qwen_image_worker::workflow::Graph;
use serde_json::{Map, Value, json};

use crate::support::{PATIENCE, Worker, graph, shared, slow};

/// Seeds of this file, each for one prompt.
fn seed() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(717_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn who(client_id: &str) -> Listener {
    Listener {
        key: None,
        client_id: client_id.to_owned(),
    }
}

async fn submit(worker: &Worker, client_id: &str, graph: &Value) -> JobId {
    let queue = &worker.app.queue;
    let extra_data =
        json!({"extra_pnginfo": {"workflow": {"nodes": ["of the page"]}}, "auth_token_comfy_org": "secret"});
    let Value::Object(extra_data) = extra_data else {
        unreachable!()
    };
    let request = JobRequest {
        work: Work::Workflow(Graph::parse(graph).expect("a graph")),
        images: Vec::new(),
        delivery: Delivery::default(),
        org_api_key: None,
        extra_data,
        warnings: Vec::new(),
    };
    let policy = Policy {
        dialect: Dialect::Comfyui,
        prompt: Some(Box::new(PromptOwner {
            client_id: Some(client_id.to_owned()),
            number: 5,
            ..PromptOwner::default()
        })),
        ..Policy::default()
    };
    let id = JobId::parse(&uuid::Uuid::new_v4().to_string()).expect("an id");
    let place = queue.permit().expect("a place");
    queue.submit_as(id, place, request, policy).await.expect("a job")
}

/// What was heard of a prompt until it is over: the kinds of messages. Each that names a prompt names this one.
async fn heard(ear: &mut Ear, id: &JobId) -> Vec<String> {
    let mut kinds = Vec::new();
    let mut is_over = false;
    while !is_over {
        let frame = tokio::time::timeout(PATIENCE, ear.next()).await.expect("an end");
        match frame.expect("it keeps up") {
            Frame::Text(text) => {
                let message: Value = serde_json::from_str(&text).expect("JSON");
                if let Some(prompt_id) = message["data"]["prompt_id"].as_str() {
                    assert_eq!(prompt_id, id.as_str(), "{text}");
                }
                is_over = message["type"] == "executing" && message["data"]["node"].is_null();
                // How many jobs there are is told of all of them.
                if message["type"] != "status" {
                    kinds.push(message["type"].as_str().expect("a type").to_owned());
                }
            }
            Frame::Binary(bytes) => {
                assert_eq!(bytes[..4], [0, 0, 0, 4]);
                let length = u32::from_be_bytes(bytes[4..8].try_into().expect("a length")) as usize;
                let metadata: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
                assert_eq!(metadata["prompt_id"], id.as_str());
                kinds.push("preview".to_owned());
            }
        }
    }
    kinds
}

fn entry(view: &JobView) -> Value {
    serde_json::from_str(view.entry.as_deref().expect("an entry")).expect("JSON")
}

fn last_message(entry: &Value) -> Value {
    let messages = entry["status"]["messages"].as_array().expect("messages");
    messages.last().expect("a message").clone()
}

#[tokio::test]
async fn a_client_hears_of_its_prompt_and_the_entry_is_there_with_the_end() {
    let worker = shared().await;
    let mut ear = worker.app.comfy.relay().listen(who("hears"));
    let id = submit(&worker, "hears", &slow(3, 50, seed())).await;
    let view = worker.app.queue.wait(id.as_str()).await.expect("an end");
    assert_eq!(view.state, JobState::Completed, "{:?}", view.result);
    let kinds = heard(&mut ear, &id).await;
    assert_eq!(kinds[..2], ["execution_start", "execution_cached"]);
    let count = |kind: &str| kinds.iter().filter(|heard| *heard == kind).count();
    assert_eq!(
        (count("progress"), count("preview"), count("executing")),
        (3, 3, 3),
        "{kinds:?}"
    );
    assert!(count("progress_state") > 3 && count("executed") == 1, "{kinds:?}");
    assert_eq!(kinds[kinds.len() - 2..], ["execution_success", "executing"]);

    let entry = entry(&view);
    assert_eq!(entry["prompt"][0], 5);
    assert_eq!(entry["prompt"][1], id.as_str());
    let shown = entry["prompt"][3].as_object().expect("an object");
    let keys: Vec<_> = shown.keys().map(String::as_str).collect();
    assert!(!view.entry.as_deref().is_some_and(|entry| entry.contains("secret")));
    assert!(
        keys.contains(&"extra_pnginfo") && !keys.contains(&"qwen_image_worker"),
        "{keys:?}"
    );
    assert_eq!(shown["client_id"], "hears");
    assert_eq!(last_message(&entry)[0], "execution_success");
    assert_eq!(last_message(&entry)[1]["prompt_id"], id.as_str());

    // The page finds its workflow in the picture; those of others have none.
    let file = &entry["outputs"]["2"]["images"][0];
    let path = |file: &Value| {
        let part = |key: &str| file[key].as_str().expect("a text").to_owned();
        worker.output().join(part("subfolder")).join(part("filename"))
    };
    let picture = std::fs::read(path(file)).expect("a picture");
    let has = |picture: &[u8], text: &str| picture.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has(&picture, "of the page") && has(&picture, "SlowProgress"));
    assert!(!has(&picture, "secret"));
    let answer = worker.run(json!({"workflow": slow(1, 1, seed())})).await.completed();
    assert!(!has(&worker.first_image(&answer).await, "SlowProgress"));
}

#[tokio::test]
async fn errors_and_interrupts_have_comfyuis_entries_too() {
    let worker = shared().await;
    let id = submit(&worker, "fails", &graph("Raise", json!({"message": "boom"}))).await;
    let view = worker.app.queue.wait(id.as_str()).await.expect("an end");
    assert_eq!(view.state, JobState::Failed);
    assert_eq!(last_message(&entry(&view))[0], "execution_error");

    let mut ear = worker.app.comfy.relay().listen(who("interrupts"));
    let id = submit(&worker, "interrupts", &slow(2_000, 20, seed())).await;
    while let Some(frame) = ear.next().await {
        if matches!(frame, Frame::Binary(_)) {
            break;
        }
    }
    let queue = &worker.app.queue;
    assert!(!queue.cancel_waiting(&id).await.expect("an answer"));
    assert!(queue.interrupt(&id));
    let view = queue.wait(id.as_str()).await.expect("an end");
    assert_eq!(view.state, JobState::Cancelled);
    let message = last_message(&entry(&view));
    assert_eq!(
        (&message[0], &message[1]["node_id"]),
        (&json!("execution_interrupted"), &json!("1"))
    );
    assert_eq!(message[1]["prompt_id"], id.as_str());
    let kinds = heard(&mut ear, &id).await;
    assert_eq!(kinds[kinds.len() - 2..], ["execution_interrupted", "executing"]);
}

#[tokio::test]
async fn a_graph_is_checked_before_its_job_is_taken_in() {
    let worker = shared().await;
    let check = async |graph: Value| {
        let graph = Graph::parse(&graph).expect("a graph");
        // On a busy machine ComfyUI may need longer than the check waits.
        for _ in 0..20 {
            if let Some(checked) = worker.app.executor.check_now(&graph).await {
                return checked;
            }
        }
        panic!("it is never checked");
    };
    check(slow(1, 1, seed())).await.expect("a good graph");
    let wrong = graph("SlowProgress", json!({"ms_per_step": 1, "preview": true, "seed": 1}));
    let error = check(wrong).await.expect_err("steps are missing");
    assert!(error.full_text().contains("steps"), "{error:?}");
    let absent = graph("NoSuchClass", Value::Object(Map::new()));
    let error = check(absent).await.expect_err("the class is not there");
    assert!(error.full_text().contains("NoSuchClass"), "{error:?}");
}
