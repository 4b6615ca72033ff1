//! The Gradio dialect through the clients of Gradio Spaces. The scripts in `clients/` use them as their users do; the
//! tests look at what they saw.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qwen_image_worker::job::JobState;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::clients::{node, python};
use crate::support::{Worker, http, shared, text, until};

const PYTHON: &str = "gradio_client==2.7.2";
const PYTHON_1: &str = "gradio_client==1.14.0";
const NPM: &str = "@gradio/client@2.7.0";
const KEY: &str = "0123456789abcdef";
/// Ratios that are quick to make, and one that takes a while.
const SIZES: &str = "\n[sizes]\n\"1:1\" = [64, 64]\n\"16:9\" = [256, 144]\n";

/// A folder of templates in which `/infer` makes small pictures.
pub(crate) fn small_sizes() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let bindings = concat!(include_str!("../../workflows/qwen-image.bindings.toml"), "\n");
    std::fs::write(
        folder.path().join("qwen-image.bindings.toml"),
        format!("{bindings}{SIZES}"),
    )
    .expect("a file");
    folder
}

/// A worker with keys and one with a quota, on the shared ComfyUI, and what a script is to know.
struct Stage {
    worker: Worker,
    plan: Value,
    _limited: Worker,
    _templates: TempDir,
}

/// `seed` is the first of a hundred that no other test has, so that nothing comes from ComfyUI's cache.
async fn stage(seed: u32) -> Stage {
    let templates = small_sizes();
    let folder = templates.path().display().to_string();
    let worker = Worker::beside_shared(&[("API_KEY", KEY), ("WORKFLOWS_DIR", &folder)]).await;
    let more = [("GRADIO_GPU_QUOTA_S", "1"), ("WORKFLOWS_DIR", folder.as_str())];
    let limited = Worker::attached(&worker.comfy_url().await, &more).await;
    let plan = json!({"url": worker.url, "key": KEY, "limited": limited.url, "seed": seed});
    Stage {
        worker,
        plan,
        _limited: limited,
        _templates: templates,
    }
}

impl Stage {
    /// The picture that `/runsync` makes of the same.
    async fn by_runsync(&self, prompt: &str, ratio: &str, steps: u32) -> Vec<u8> {
        let input = json!({
            "template": "qwen-image", "prompt": prompt, "seed": 42, "aspect_ratio": ratio, "cfg": 4, "steps": steps,
            "return_images_as": "base64",
        });
        let response = http()
            .post(format!("{}/runsync", self.worker.url))
            .bearer_auth(KEY)
            .json(&json!({ "input": input }))
            .send()
            .await
            .expect("an answer");
        let answer: Value = response.json().await.expect("JSON");
        let data = text(&answer["output"]["images"][0], "data");
        STANDARD
            .decode(data)
            .unwrap_or_else(|_| panic!("no picture: {answer:#}"))
    }

    /// What every client must have seen.
    async fn assert_seen(&self, seen: &Value) {
        let parameters = seen["api"]["named_endpoints"]["/infer"]["parameters"].as_array();
        assert_eq!(parameters.expect("parameters").len(), 7, "{seen:#}");

        let expected = self.by_runsync("a red lighthouse", "1:1", 2).await;
        for way in ["by_name", "by_position"] {
            assert_eq!(picture(&seen[way]), expected, "{way}");
            assert_eq!(seen[way][1], 42, "{way}");
        }
        let prompt = "a red lighthouse, Ultra HD, 4K, cinematic composition.";
        assert_eq!(picture(&seen["enhanced"]), self.by_runsync(prompt, "16:9", 1).await);

        let steps = seen["progress"].as_array().expect("progress");
        assert!(!steps.is_empty(), "{seen:#}");
        for step in steps {
            assert_eq!(
                [&step[1], &step[2], &step[3]],
                [&json!(40), &json!("steps"), &json!("denoising")]
            );
        }
        assert!(steps.iter().map(|step| step[0].as_u64()).is_sorted(), "{steps:?}");
        assert_eq!(seen["submitted"][1], self.plan["seed"], "{seen:#}");
        assert_eq!(seen["several"], json!([1, 2, 3]), "each gets its own");
        let cancelled = self.worker.app.queue.list(Some(JobState::Cancelled), None, 10).await;
        assert_eq!(cancelled.expect("a list").len(), 1, "it is off");
        assert_eq!(seen["after_cancel"], 1);

        let said = |name: &str| text(&seen[name], "message").to_owned();
        assert!(
            said("wrong_ratio").contains("aspect_ratio: \"5:4\" is none of 1:1, 16:9"),
            "{seen:#}"
        );
        assert!(said("wrong_steps").contains("num_inference_steps: must be a whole number from 1 to 100"));
        assert_eq!(text(&seen["quota"], "title"), "ZeroGPU quota exceeded", "{seen:#}");
        assert!(said("quota").starts_with("You have exceeded your GPU quota (1s requested vs. 0s left)."));
    }
}

fn picture(data: &Value) -> Vec<u8> {
    let uri = data[0].as_str().unwrap_or_default();
    let text = uri.strip_prefix("data:image/png;base64,");
    STANDARD
        .decode(text.unwrap_or_else(|| panic!("no picture: {data}")))
        .expect("base64")
}

#[tokio::test]
async fn the_python_client() {
    let stage = stage(6_000).await;
    let seen = python(PYTHON, include_str!("clients/gradio_client.py"), &stage.plan).await;
    stage.assert_seen(&seen).await;
    assert_python(&seen, &stage.plan);
}

#[tokio::test]
async fn the_python_client_before() {
    let stage = stage(6_100).await;
    let seen = python(PYTHON_1, include_str!("clients/gradio_client.py"), &stage.plan).await;
    stage.assert_seen(&seen).await;
    assert_python(&seen, &stage.plan);
}

#[track_caller]
fn assert_python(seen: &Value, plan: &Value) {
    assert_eq!(seen["wrong_ratio"]["raised"], "AppError", "{seen:#}");
    assert_eq!(seen["quota"]["raised"], "AppError", "{seen:#}");
    assert_eq!(seen["refused"], json!(vec!["AppError"; 6]), "{seen:#}");
    assert_eq!(seen["beside_refused"], plan["seed"], "{seen:#}");
    assert!(seen["any_seed"].as_u64().is_some_and(|seed| seed < 1 << 31), "{seen:#}");
    // The client itself knows better, from what it was told of `/infer`.
    assert_eq!(seen["unknown_name"]["raised"], "TypeError", "{seen:#}");
    assert_eq!(seen["no_prompt"]["raised"], "TypeError", "{seen:#}");
    // How the event ended, or, where a step of it takes longer than the client waits, that it was cancelled.
    let cancelled = (text(&seen["cancelled"], "raised"), text(&seen["cancelled"], "message"));
    let ends = [("CancelledError", ""), ("AppError", "The job was cancelled")];
    assert!(ends.contains(&cancelled), "{seen:#}");
    assert_eq!(seen["no_key"], "AuthenticationError", "{seen:#}");
}

#[tokio::test]
async fn the_npm_client() {
    let stage = stage(6_200).await;
    let seen = node(NPM, include_str!("clients/gradio_client.mjs"), &stage.plan).await;
    stage.assert_seen(&seen).await;
    assert_eq!(seen["wrong_ratio"]["endpoint"], "/infer", "{seen:#}");
    let stages = seen["stages"].as_array().expect("stages");
    assert_eq!(
        (stages.first(), stages.last()),
        (Some(&json!("pending")), Some(&json!("complete"))),
        "{seen:#}"
    );
    assert_eq!(
        seen["cancelled"],
        json!({"stage": "error", "title": "Cancelled", "message": "The job was cancelled"})
    );
    assert_eq!(seen["no_prompt"]["raised"], true, "{seen:#}");
    assert_eq!(seen["no_key"]["raised"], true, "{seen:#}");
}

/// What an event stream said, to its end.
async fn streamed(worker: &Worker, path: &str) -> String {
    let response = worker.get(path).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    response.text().await.expect("a stream")
}

fn messages(stream: &str) -> Vec<Value> {
    let lines = stream.strip_suffix("\n\n").expect("whole events").split("\n\n");
    lines
        .map(|line| serde_json::from_str(line.strip_prefix("data: ").expect("data alone")).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn curl() {
    let templates = small_sizes();
    let folder = templates.path().display().to_string();
    let worker = Worker::beside_shared(&[("WORKFLOWS_DIR", &folder)]).await;
    let values = json!({"data": ["a hut", 3, false, "1:1", 4, 1, false]});
    let called = worker
        .send(Method::POST, "/gradio_api/call/infer", values.to_string())
        .await;
    let by_name = json!({"prompt": "a hut", "seed": 3, "randomize_seed": false, "aspect_ratio": "1:1", "num_inference_steps": 1, "prompt_enhance": false});
    let named = worker
        .send(Method::POST, "/gradio_api/call/v2/infer", by_name.to_string())
        .await;
    let mut ends = Vec::new();
    for answer in [&called, &named] {
        assert_eq!(answer.status, 200, "{}", answer.body);
        let path = format!("/gradio_api/call/infer/{}", text(&answer.body, "event_id"));
        let end = streamed(&worker, &path).await;
        // A slow machine says before that it is still at work.
        let (_, data) = end.split_once("event: complete\ndata: ").expect("an end");
        ends.push(serde_json::from_str::<Value>(data).expect("JSON"));
        assert_eq!(worker.get(&path).await.status(), 404, "told once");
    }
    assert_eq!(picture(&ends[0]), picture(&ends[1]));

    // The id is the job's: other routes know it.
    assert_eq!(worker.status(text(&called.body, "event_id")).await, "COMPLETED");

    let refused = worker
        .send(Method::POST, "/gradio_api/call/infer", r#"{"data": [""]}"#)
        .await;
    let path = format!("/gradio_api/call/infer/{}", text(&refused.body, "event_id"));
    let end = streamed(&worker, &path).await;
    assert!(
        end.starts_with("event: error\ndata: {\"error\":\"Invalid request: prompt: is empty"),
        "{end}"
    );

    let unknown = streamed(&worker, "/gradio_api/queue/data?session_hash=nobody").await;
    assert_eq!(messages(&unknown)[0]["session_not_found"], true);
    for path in ["/gradio_api/cancel", "/gradio_api/reset"] {
        let body = r#"{"fn_index": 0, "session_hash": "nobody", "event_id": "none"}"#;
        let answer = worker.send(Method::POST, path, body).await;
        assert_eq!((answer.status, answer.body), (200, json!({"success": true})), "{path}");
    }
    for (method, path, body, status) in [
        (Method::POST, "/gradio_api/queue/join", "{", 422),
        (Method::POST, "/gradio_api/queue/join", r#"{"nonsense": 1}"#, 422),
        (
            Method::POST,
            "/gradio_api/queue/join",
            r#"{"data": [], "fn_index": 9, "session_hash": "s"}"#,
            404,
        ),
        (Method::POST, "/gradio_api/call/nope", r#"{"data": []}"#, 404),
        (Method::GET, "/gradio_api/queue/join", "", 405),
        (Method::GET, "/gradio_api/call/infer/none", "", 404),
    ] {
        let answer = worker.send(method, path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        assert!(!answer.body["detail"].is_null(), "{}", answer.body);
    }
}

/// Takes an event in that does not end by itself; gives its id.
async fn endless(worker: &Worker, session: &str, seed: u32) -> String {
    let body = json!({"data": ["a wall", seed, false, "16:9", 4, 100, false], "fn_index": 0, "session_hash": session});
    let answer = worker
        .send(Method::POST, "/gradio_api/queue/join", body.to_string())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    text(&answer.body, "event_id").to_owned()
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_jobs_and_no_other() {
    let templates = small_sizes();
    let folder = templates.path().display().to_string();
    let worker = Worker::beside_shared(&[("WORKFLOWS_DIR", &folder)]).await;
    let (first, second) = (endless(&worker, "one", 1).await, endless(&worker, "one", 2).await);
    let other = endless(&worker, "two", 3).await;
    let stream = worker.get("/gradio_api/queue/data?session_hash=one").await;
    assert_eq!(stream.status(), 200);
    drop(stream);
    for id in [first, second] {
        until("the job is cancelled", async || worker.status(&id).await == "CANCELLED").await;
    }
    let body = json!({"event_id": other, "session_hash": "two", "fn_index": 0});
    assert!(["IN_QUEUE", "IN_PROGRESS"].contains(&&*worker.status(&other).await));
    worker.send(Method::POST, "/gradio_api/cancel", body.to_string()).await;
    let said = messages(&streamed(&worker, "/gradio_api/queue/data?session_hash=two").await);
    let [.., end, close] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(
        (text(end, "msg"), text(&end["output"], "title")),
        ("process_completed", "Cancelled")
    );
    assert_eq!(close["msg"], "close_stream");
}

/// npm's client brings no key with a cancel.
#[tokio::test]
async fn only_a_cancel_needs_no_key() {
    let worker = Worker::beside_shared(&[("API_KEY", KEY)]).await;
    for (method, path, status) in [
        (Method::POST, "/gradio_api/cancel", 200),
        (Method::POST, "/gradio_api/reset", 200),
        (Method::GET, "/config", 401),
        (Method::POST, "/gradio_api/queue/join", 401),
        (Method::GET, "/gradio_api/queue/data", 401),
        (Method::GET, "/gradio_api/nothing", 401),
    ] {
        let answer = worker.send(method, path, r#"{"event_id": "none"}"#).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.body["detail"].is_string(), status == 401, "{path}");
    }
}

#[tokio::test]
async fn the_heartbeat_says_that_it_is_alive() {
    let worker = shared().await;
    let mut stream = worker.get("/gradio_api/heartbeat/any").await;
    assert_eq!(stream.chunk().await.expect("a piece").expect("one"), "data: ALIVE\n\n");
}
