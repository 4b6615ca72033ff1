//! Models that the worker has from its start.

use super::{REPO, SLOW, decode, hub, vars, worker};
use crate::support::binary::Served;
use crate::support::model_hub::{Access, Content, Fault, Host, Link, Rule};
use crate::support::until;

use serde_json::json;

#[tokio::test]
async fn the_models_of_the_set_are_fetched_while_comfyui_starts_and_then_used() {
    let (hub, vae) = hub().await;
    // Slow enough that ComfyUI is ready first, on a busy machine too.
    hub.link(Link {
        connection: Some(SLOW / 2),
        ..Link::default()
    });
    let worker = worker(&hub, &[("MODEL_SET", "start")]).await;
    until("ComfyUI is ready and the model is on its way", async || {
        let health = worker.ask("/health").await.body;
        health["comfyui"]["state"] == "ready" && health["models"]["download"]["bytes"].as_u64() > Some(0)
    })
    .await;
    let health = worker.ask("/health").await.body;
    assert_eq!(health["models"]["state"], "downloading", "{health:#}");
    assert_eq!(health["models"]["download"]["file"], "vae/start.safetensors");
    assert_eq!(health["models"]["download"]["total_bytes"], vae.size());
    assert_eq!(health["workers"]["initializing"], 1);
    assert_eq!(worker.get("/ping").await.status(), 204);

    hub.link(Link::default());
    worker.ready().await;
    let health = worker.ask("/health").await.body;
    assert_eq!(
        health["models"],
        json!({"state": "ready", "wanted": 1, "present": 1}),
        "{health:#}"
    );
    let answer = worker
        .run(json!({"workflow": decode("start.safetensors", 64)}))
        .await
        .completed();
    assert_eq!(answer.images().len(), 1);
    let data = worker.data.as_ref().expect("a folder of its own").path();
    let file = data.join("base/models/vae/start.safetensors");
    assert_eq!(vae.differs(&file), None);
}

#[tokio::test]
async fn a_model_that_cannot_be_had_is_told_and_the_others_come() {
    let (hub, _) = hub().await;
    hub.restrict("owner/gated", Access::Gated);
    let worker = worker(&hub, &[("MODEL_SET", "gated,start")]).await;
    until("both models are settled", async || {
        worker.ask("/health").await.body["models"]["state"] != "downloading"
    })
    .await;
    let health = worker.ask("/health").await.body;
    assert_eq!(health["models"]["state"], "failed", "{health:#}");
    assert_eq!(health["models"]["present"], 1);
    let failed = &health["models"]["failed"][0];
    assert_eq!(failed["file"], "vae/gated.safetensors");
    let error = failed["error"].as_str().expect("a text");
    assert!(
        error.starts_with("Failed to load model: vae/gated.safetensors"),
        "{error}"
    );
    assert!(error.contains("/owner/gated") && error.contains("HF_TOKEN"), "{error}");
    until("ComfyUI is ready", async || {
        worker.ask("/health").await.body["comfyui"]["state"] == "ready"
    })
    .await;
    let ping = worker.get("/ping").await;
    assert_eq!(ping.status(), 503);
    // A worker that is not taken out all the same runs what it can.
    worker
        .run(json!({"workflow": decode("start.safetensors", 64)}))
        .await
        .completed();
}

#[tokio::test]
async fn what_came_before_a_kill_is_kept() {
    let (hub, _) = hub().await;
    let model = Content::safetensors(7, 4_000_000);
    hub.push(REPO, "main", [("start.safetensors", &model)]);
    let half = model.size() / 2;
    hub.fault(Rule::on(Host::Cdn, Fault::Stall(half)).times(1));
    let (data, vars) = vars(&hub, &[("MODEL_SET", "start")]);
    let first = Served::start(&vars).await;
    until("half of the model is there", async || {
        let health = first.ask("/health").await.body;
        health["models"]["download"]["bytes"].as_u64() >= Some(half)
    })
    .await;
    first.kill().await;
    let sent = hub.sent();
    let second = Served::start(&vars).await;
    until("the model is there", async || {
        second.ask("/health").await.body["models"]["state"] == "ready"
    })
    .await;
    let again = hub.sent() - sent;
    assert!(again < model.size(), "{again} of {} bytes came twice", model.size());
    let file = data.path().join("base/models/vae/start.safetensors");
    assert_eq!(model.differs(&file), None);
    second.kill().await;
}
