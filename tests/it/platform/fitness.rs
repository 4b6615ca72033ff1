//! What a worker looks at before it takes its first job.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Endpoint, endless, lasting, quick};
use crate::support::deployed::Deployed;
use crate::support::graph;
use crate::support::platform::{Call, Platform, Route};

/// Waits for the end of a worker that cannot work; gives the ping that says so.
pub(super) async fn last_word(platform: &Platform, worker: &mut Deployed) -> Call {
    assert_eq!(worker.exit_code().await, Some(1), "{}", worker.log());
    let mut unhealthy: Vec<Call> = platform.calls(Route::Ping);
    unhealthy.retain(|ping| ping.head.query("status") == "unhealthy");
    assert_eq!(unhealthy.len(), 1, "{unhealthy:#?}\n{}", worker.log());
    assert!(platform.calls(Route::Take).is_empty());
    platform.settled();
    unhealthy.remove(0)
}

fn warm_up(endpoint: &Endpoint, content: &Value) -> String {
    let file = endpoint.data.path().join("warm-up.json");
    std::fs::write(&file, content.to_string()).expect("a file");
    file.display().to_string()
}

#[tokio::test]
async fn the_warm_up_is_over_before_the_first_job_is_taken() {
    let endpoint = Endpoint::start().await;
    let file = warm_up(&endpoint, &json!({"input": lasting(50, 7_601)}));
    endpoint.platform.queue("first", &quick(7_602));
    let worker = endpoint.worker(&[("WARMUP_WORKFLOW", &file)]);
    endpoint.at_comfyui(7_601).await;
    assert!(endpoint.platform.calls(Route::Take).is_empty());
    endpoint.one_picture(&endpoint.platform.result("first").await);
    assert!(worker.log().contains("warmed up"), "{}", worker.log());
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_worker_that_is_stopped_while_it_warms_up_leaves_no_job() {
    let endpoint = Endpoint::start().await;
    let file = warm_up(&endpoint, &json!({"input": endless(7_606)}));
    let mut worker = endpoint.worker(&[("WARMUP_WORKFLOW", &file)]);
    endpoint.at_comfyui(7_606).await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.exit_code().await, Some(0), "{}", worker.log());
    endpoint.platform.queue("first", &quick(7_607));
    let worker = endpoint.worker(&[]);
    endpoint.one_picture(&endpoint.platform.result("first").await);
    assert!(!worker.log().contains("7606"), "{}", worker.log());
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_warm_up_that_fails_is_told_and_ends_the_worker() {
    let endpoint = Endpoint::start().await;
    let file = warm_up(&endpoint, &graph("Raise", json!({"message": "no heat"})));
    let mut worker = endpoint.worker(&[("WARMUP_WORKFLOW", &file)]);
    let said = last_word(&endpoint.platform, &mut worker).await;
    assert_eq!(said.head.query("check"), "warmup");
    assert!(said.head.query("reason").contains("warm-up.json"), "{said:?}");
    assert!(worker.log().contains("no heat"), "{}", worker.log());
}

#[tokio::test]
async fn models_that_must_be_there_are_looked_for() {
    let endpoint = Endpoint::start().await;
    let there = "vae/qwen_image_vae.safetensors";
    endpoint.platform.queue("job", &quick(7_603));
    let worker = endpoint.worker(&[("REQUIRED_MODELS", there)]);
    endpoint.one_picture(&endpoint.platform.result("job").await);
    worker.kill().await;

    let platform = Platform::start().await;
    let data = tempfile::tempdir().expect("a folder");
    let missing = format!("{there},vae/qwen_image_vea.safetensors,attics/x.safetensors");
    let vars = [
        ("COMFYUI_URL", endpoint.comfy_url.as_str()),
        ("REQUIRED_MODELS", &missing),
    ];
    let mut worker = Deployed::start(&platform, data.path(), &vars);
    let said = last_word(&platform, &mut worker).await;
    assert_eq!(said.head.query("check"), "models");
    let reason = said.head.query("reason");
    assert!(
        reason.contains("vae/qwen_image_vea.safetensors (there is qwen_image_vae.safetensors)"),
        "{reason}"
    );
    assert!(reason.contains("ComfyUI has no folder `attics`"), "{reason}");
}
