//! Models that a worker on the platform has fetched before it takes its first job.

use super::fitness::last_word;
use super::{Endpoint, quick};
use crate::support::model_hub::{Access, Content, Link, ModelHub};
use crate::support::until;

const MODELS: &str = "loras/mine.safetensors=hf://owner/models/mine.safetensors";

/// A Hub with one small model.
async fn hub() -> (ModelHub, Content) {
    let (hub, model) = (ModelHub::start().await, Content::safetensors(1, 200_000));
    hub.push("owner/models", "main", [("mine.safetensors", &model)]);
    (hub, model)
}

#[tokio::test]
async fn the_first_job_is_taken_when_the_models_are_there() {
    let endpoint = Endpoint::start().await;
    let (hub, model) = hub().await;
    hub.link(Link {
        connection: Some(10_000),
        ..Link::default()
    });
    let folder = endpoint.data.path().join("models");
    let worker = endpoint.worker(&[
        ("MODELS", MODELS),
        ("MODEL_DIR", &folder.display().to_string()),
        ("HF_ENDPOINT", hub.url.as_str()),
        // It will take longer, and that is said in time.
        ("RUNPOD_INIT_TIMEOUT", "2"),
    ]);
    endpoint.platform.queue("job", &quick(7_701));
    until("the worker warns that the models take too long", async || {
        worker.log().contains("RUNPOD_INIT_TIMEOUT")
    })
    .await;
    assert!(
        endpoint.platform.calls(super::Route::Take).is_empty(),
        "{}",
        worker.log()
    );
    hub.link(Link::default());
    endpoint.one_picture(&endpoint.platform.result("job").await);
    assert_eq!(model.differs(&folder.join("loras/mine.safetensors")), None);
    let log = worker.log();
    assert!(log.contains("model loras/mine.safetensors"), "{log}");
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_worker_whose_models_cannot_be_had_says_so_and_ends() {
    let endpoint = Endpoint::start().await;
    let (hub, _) = hub().await;
    hub.restrict("owner/models", Access::Gated);
    let folder = endpoint.data.path().join("models").display().to_string();
    let vars = [
        ("MODELS", MODELS),
        ("MODEL_DIR", &folder),
        ("HF_ENDPOINT", hub.url.as_str()),
    ];
    let mut worker = endpoint.worker(&vars);
    let said = last_word(&endpoint.platform, &mut worker).await;
    assert_eq!(said.head.query("check"), "models");
    let reason = said.head.query("reason");
    assert!(
        reason.starts_with("Failed to load model: loras/mine.safetensors") && reason.contains("HF_TOKEN"),
        "{reason}"
    );
}
