//! What a killed worker leaves: jobs that their owners can ask for go on, the others end.

use reqwest::Method;
use serde_json::{Value, json};

use crate::durability::{attached, job};
use crate::gradio::small_sizes;
use crate::support::binary::Served;
use crate::support::{http, shared, text, until};

/// Prompts that nothing else has, to be found in what ComfyUI tells.
const OPENAI: &str = "a lamp that OpenAI's client asked for and left";
const GRADIO: &str = "a lamp that Gradio's client asked for and left";

/// Whether ComfyUI knows the prompt, as `/queue` or `/history` tells it.
async fn knows(comfy_url: &str, path: &str, prompt: &str) -> bool {
    let answer = http()
        .get(format!("{comfy_url}{path}"))
        .send()
        .await
        .expect("an answer");
    answer.text().await.expect("a text").contains(prompt)
}

/// Sends a request; gives the id in the answer, which is at the pointer.
async fn post(worker: &Served, path: &str, body: Value, pointer: &str) -> String {
    let answer = worker.send(Method::POST, path, body.to_string()).await;
    let id = answer.body.pointer(pointer).and_then(Value::as_str);
    id.unwrap_or_else(|| panic!("{path}: {:#}", answer.body)).to_owned()
}

#[tokio::test]
async fn after_a_kill_only_jobs_that_can_be_asked_for_run() {
    let (shared, templates) = (shared().await, small_sizes());
    let (comfy_url, data) = (shared.comfy_url().await, tempfile::tempdir().expect("a folder"));
    let folder = templates.path().display().to_string();
    let vars = attached(data.path(), &comfy_url, &[("WORKFLOWS_DIR", &folder)]);

    let worker = Served::start(&vars).await;
    let first = worker.accept(job("left", 5_000, 0)).await;
    until("the first one runs", async || {
        worker.status(&first).await == "IN_PROGRESS"
    })
    .await;
    // This one waits in ComfyUI's own queue, which outlives the worker.
    let body = json!({"prompt": OPENAI, "size": "64x64", "quality": "low", "seed": 1});
    let request = http().post(format!("{}/v1/images/generations", worker.url));
    let request = tokio::spawn(request.body(body.to_string()).send());
    until("ComfyUI has it", async || knows(&comfy_url, "queue", OPENAI).await).await;
    let body = json!({"data": [GRADIO, 1, false, "1:1", 4, 1, false]});
    let event = post(&worker, "/gradio_api/call/infer", body, "/event_id").await;
    let body = json!({"prompt": "a lamp", "image_size": "square_hd", "num_inference_steps": 1, "seed": 1});
    let task = post(&worker, "/api/v1/qwen/generate", body, "/data/taskId").await;
    until("all are taken in", async || worker.unfinished().await == 4).await;
    worker.kill().await;
    request.await.expect("it is sent").expect_err("the worker was killed");

    let worker = Served::start(&vars).await;
    let listed = worker.ask("/requests?status=CANCELLED").await.body["requests"].clone();
    let cancelled = listed.as_array().expect("a list");
    assert_eq!(cancelled.len(), 2, "{listed:#}");
    assert!(cancelled.iter().any(|job| text(job, "id") == event), "{listed:#}");
    until("ComfyUI has it no more", async || {
        !knows(&comfy_url, "queue", OPENAI).await
    })
    .await;
    until("the first one goes on", async || {
        worker.status(&first).await == "IN_PROGRESS"
    })
    .await;
    worker
        .send(Method::POST, &format!("/cancel/{first}"), String::new())
        .await;
    let path = format!("/api/v1/qwen/record-info?taskId={task}");
    let mut record = Value::Null;
    until("KIE's task is over", async || {
        record = worker.ask(&path).await.body;
        record["data"]["successFlag"] != 0
    })
    .await;
    assert_eq!(record["data"]["successFlag"], 1, "{record:#}");
    for prompt in [OPENAI, GRADIO] {
        assert!(!knows(&comfy_url, "history", prompt).await, "{prompt}: it ran");
    }
}
