//! Models that jobs ask for.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::json;

use super::{SLOW, decode, hub, worker};
use crate::support::model_hub::{Access, Content, Host, Link, ModelHub};
use crate::support::{Worker, text, until};

/// A Hub whose models take half a minute.
async fn slow_hub() -> (ModelHub, Content) {
    let (hub, vae) = hub().await;
    hub.link(Link {
        connection: Some(SLOW),
        ..Link::default()
    });
    (hub, vae)
}

fn model(worker: &Worker, name: &str) -> PathBuf {
    let data = worker.data.as_ref().expect("a folder of its own").path();
    data.join("base/models/vae").join(name)
}

#[tokio::test]
async fn a_job_waits_for_the_model_that_it_names_and_then_runs() {
    let (hub, vae) = slow_hub().await;
    let worker = worker(&hub, &[("MODEL_SET", "none")]).await;
    worker.ready().await;
    assert_eq!(hub.requests().len(), 0, "nothing is fetched that nobody asked for");

    let waits = worker.accept(decode("later.safetensors", 64)).await;
    let mut progress = json!(null);
    until("the job waits for its model", async || {
        progress = worker.ask(&format!("/status/{waits}")).await.body["progress"].take();
        progress["download"]["bytes"].as_u64() > Some(0)
    })
    .await;
    assert_eq!(text(&progress, "stage"), "downloading");
    assert_eq!(text(&progress["download"], "file"), "vae/later.safetensors");
    assert_eq!(progress["download"]["total_bytes"], vae.size());
    assert!(progress["download"]["percent"].as_u64() < Some(100), "{progress}");

    // The next job needs nothing, and does not wait.
    let quick = worker.accept(crate::support::slow(1, 1, 77_001)).await;
    worker.end(&quick).await.completed();
    assert_eq!(worker.status(&waits).await, "IN_QUEUE");

    // A second one that names the model waits for the same download.
    let too = worker.accept(decode("later.safetensors", 128)).await;
    hub.link(Link::default());
    worker.end(&waits).await.completed();
    worker.end(&too).await.completed();
    // What the cutting of a slow range leaves on the wire may come twice; the file is asked for once.
    assert_eq!(hub.count(Host::Hub, "HEAD"), 1);
    assert_eq!(vae.differs(&model(&worker, "later.safetensors")), None);
}

#[tokio::test]
async fn a_model_that_cannot_be_had_fails_its_job_and_no_other() {
    let (hub, _) = hub().await;
    hub.restrict("owner/gated", Access::Gated);
    let worker = worker(&hub, &[("MODEL_SET", "none")]).await;
    let gated = worker.run(json!({"workflow": decode("gated.safetensors", 64)})).await;
    assert_eq!(gated.status, 400, "{:#}", gated.body);
    let error = gated.error();
    assert!(
        error.starts_with("Failed to load model: vae/gated.safetensors"),
        "{error}"
    );
    assert!(error.contains("licence") && error.contains("HF_TOKEN"), "{error}");

    // One that no manifest knows fails without a look at the Hub, also beside one that is known.
    hub.forget();
    let mut graph = decode("later.safetensors", 64);
    graph["5"] = json!({"class_type": "VAELoader", "inputs": {"vae_name": "latre.safetensors"}});
    graph["6"] = json!({"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["5", 0]}});
    graph["7"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}});
    let unknown = worker.run(json!({ "workflow": graph })).await;
    assert_eq!(unknown.status, 400, "{:#}", unknown.body);
    let error = unknown.error();
    assert!(error.contains("models/vae") && error.contains("MODELS"), "{error}");
    assert_eq!(hub.requests().len(), 0);

    worker
        .run(json!({"workflow": decode("later.safetensors", 64)}))
        .await
        .completed();
}

#[tokio::test]
async fn a_job_that_is_called_off_ends_its_download_and_the_next_goes_on_with_it() {
    let (hub, vae) = slow_hub().await;
    let worker = worker(&hub, &[("MODEL_SET", "none")]).await;
    worker.ready().await;
    let id = worker.accept(decode("later.safetensors", 64)).await;
    until("the model is on its way", async || hub.sent() > 0).await;
    let cancelled = worker.send(Method::POST, &format!("/cancel/{id}"), "").await;
    assert_eq!(text(&cancelled.body, "status"), "CANCELLED");
    until("nothing is fetched any longer", async || {
        worker.ask("/health").await.body["models"].get("download").is_none()
    })
    .await;
    hub.link(Link::default());
    worker
        .run(json!({"workflow": decode("later.safetensors", 64)}))
        .await
        .completed();
    // What was on the wire may have been lost.
    assert!(hub.sent() < vae.size() * 2, "{} of {}", hub.sent(), vae.size());
    assert_eq!(vae.differs(&model(&worker, "later.safetensors")), None);
}

#[tokio::test]
async fn models_that_jobs_asked_for_make_room_for_others() {
    let (hub, vae) = hub().await;
    // Room for one of them.
    let limit = format!("{}", vae.size() as f64 * 1.5 / 1e9);
    let worker = worker(&hub, &[("MODEL_SET", "start"), ("MODEL_CACHE_GB", &limit)]).await;
    for name in ["start.safetensors", "later.safetensors", "other.safetensors"] {
        worker.run(json!({"workflow": decode(name, 64)})).await.completed();
    }
    assert!(!model(&worker, "later.safetensors").exists());
    assert!(model(&worker, "other.safetensors").exists());
    assert!(
        model(&worker, "start.safetensors").exists(),
        "what is wanted from the start stays"
    );
    worker
        .run(json!({"workflow": decode("later.safetensors", 128)}))
        .await
        .completed();
    assert!(!model(&worker, "other.safetensors").exists());
    assert_eq!(hub.count(Host::Cdn, "GET"), 4);
}

/// As by `models rm`, or by hand: nobody tells the worker, for which ComfyUI's loader has it still.
#[tokio::test]
async fn a_model_that_was_removed_meanwhile_is_fetched_again() {
    let (hub, vae) = hub().await;
    let worker = worker(&hub, &[("MODEL_SET", "none")]).await;
    for side in [64, 128] {
        worker
            .run(json!({"workflow": decode("later.safetensors", side)}))
            .await
            .completed();
        let model = model(&worker, "later.safetensors");
        assert_eq!(vae.differs(&model), None);
        std::fs::remove_file(model).expect("it is there");
    }
    // Where it is not to be had any more, that is said, once it was looked for.
    hub.restrict(super::REPO, Access::Gated);
    let gone = worker.run(json!({"workflow": decode("later.safetensors", 192)})).await;
    assert_eq!(gone.status, 400, "{:#}", gone.body);
    assert!(gone.error().contains("licence"), "{}", gone.error());
}

#[tokio::test]
async fn a_job_has_the_models_it_asked_for_also_where_they_are_over_the_limit() {
    let (hub, vae) = hub().await;
    let limit = format!("{}", vae.size() as f64 * 0.5 / 1e9);
    let worker = worker(&hub, &[("MODEL_SET", "none"), ("MODEL_CACHE_GB", &limit)]).await;
    for (name, side) in [
        ("later.safetensors", 64),
        ("other.safetensors", 64),
        ("later.safetensors", 128),
    ] {
        worker.run(json!({"workflow": decode(name, side)})).await.completed();
    }
    assert!(!model(&worker, "other.safetensors").exists());
}

#[tokio::test]
async fn nothing_is_fetched_for_jobs_where_that_is_switched_off() {
    let (hub, _) = hub().await;
    let worker = worker(&hub, &[("MODEL_SET", "none"), ("MODEL_ON_DEMAND", "false")]).await;
    let answer = worker.run(json!({"workflow": decode("later.safetensors", 64)})).await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    assert!(
        answer.error().contains("split_files/later.safetensors"),
        "{}",
        answer.error()
    );
    assert_eq!(hub.requests().len(), 0);
}
