//! ComfyUI's own API among others: what one client does leaves all others alone.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::comfyui::{Client, empty};
use crate::support::{Worker, slow, text, until};

/// How far a job of RunPod's is.
async fn step(worker: &Worker, id: &str) -> u64 {
    let status = worker.ask(&format!("/status/{id}")).await.body;
    status["progress"]["step"].as_u64().unwrap_or_default()
}

async fn goes_on(worker: &Worker, id: &str) {
    let now = step(worker, id).await;
    until("the job goes on", async || step(worker, id).await > now + 1).await;
    assert_eq!(worker.status(id).await, "IN_PROGRESS");
}

#[tokio::test]
async fn interrupt_clear_and_delete_reach_nobody_elses_jobs() {
    let worker = Worker::beside_shared(&[]).await;
    let (ann, ben) = (Client::new(&worker.url), Client::new(&worker.url).from([127, 0, 0, 2]));
    let runpod = worker.accept(slow(100_000, 20, 710_000)).await;
    let waiting = worker.accept(slow(1, 1, 710_001)).await;
    worker.has_a_job_running().await;
    let bens = ben.prompt(&empty(710_002, "owners/ben"), "ben").await;
    let first = ann.prompt(&empty(710_003, "owners/ann"), "ann").await;
    let second = ann.prompt(&empty(710_004, "owners/ann"), "ann").await;

    // A job of another API is not seen, not interrupted, not deleted and not cancelled, by its id or without.
    let (running, pending) = ann.queue().await;
    assert_eq!(running, Vec::<String>::new());
    assert_eq!(pending, [bens.clone(), first.clone(), second.clone()]);
    assert_eq!(ann.entry(&runpod).await, Value::Null);
    assert_eq!(ann.get(&format!("/api/jobs/{runpod}")).await.status, 404);
    for (path, body) in [
        ("/interrupt", json!({})),
        ("/interrupt", json!({ "prompt_id": runpod })),
        ("/interrupt", json!({ "prompt_id": bens })),
        ("/queue", json!({"delete": [runpod, waiting]})),
        ("/history", json!({"delete": [runpod], "clear": true})),
        ("/api/jobs/cancel", json!({"job_ids": [runpod, waiting]})),
        (&format!("/api/jobs/{runpod}/cancel"), json!({})),
    ] {
        let said = ann.post(path, &body).await;
        assert_eq!(said.status, 200, "{path} {body}: {:#}", said.body);
        assert_ne!(said.body["cancelled"], true, "{path} {body}");
    }
    goes_on(&worker, &runpod).await;
    assert_eq!(worker.status(&waiting).await, "IN_QUEUE");
    assert_eq!(ann.queue().await.1, [bens.clone(), first.clone(), second.clone()]);

    // One that names another client's id acts on that client's alone.
    ann.post("/queue", &json!({"delete": [second], "client_id": "ben"}))
        .await
        .ok();
    assert_eq!(ann.queue().await.1.len(), 3);
    // Clear is for one's own.
    ann.post("/queue", &json!({"clear": true})).await.ok();
    assert_eq!(ann.queue().await.1, std::slice::from_ref(&bens));
    assert_eq!(worker.status(&waiting).await, "IN_QUEUE");
    assert_eq!(
        ann.entry(&first).await,
        Value::Null,
        "what is deleted leaves no history"
    );

    worker.send(Method::POST, &format!("/cancel/{runpod}"), "").await;
    worker.end(&waiting).await.completed();
    assert_eq!(ben.ended(&bens).await["status"]["status_str"], "success");
    let anns = ann.prompt(&empty(710_005, "owners/ann"), "ann").await;
    ann.ended(&anns).await;

    // Nobody's bare interrupt ends what somebody else runs.
    let bens_second = ben.prompt(&slow(100_000, 20, 710_006), "ben").await;
    ben.runs(&bens_second).await;
    let (mut socket, _) = ben.socket("ben").await;
    ann.post("/interrupt", &json!({})).await.ok();
    ann.post("/interrupt", &json!({"prompt_id": bens_second, "client_id": "ann"}))
        .await
        .ok();
    for _ in 0..2 {
        socket.until(|message| message["type"] == "progress").await;
    }
    ben.post("/interrupt", &json!({})).await.ok();
    let entry = ben.ended(&bens_second).await;
    assert!(
        entry["status"]["messages"]
            .to_string()
            .contains("execution_interrupted"),
        "{entry:#}"
    );

    // Neither does a cleared history take others' with it.
    ann.post("/history", &json!({"clear": true})).await.ok();
    let history = ann.get("/history").await.ok();
    let mut left: Vec<&String> = history.as_object().expect("an object").keys().collect();
    let mut expected = [&bens, &bens_second];
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(worker.status(&waiting).await, "COMPLETED");
}

#[tokio::test]
async fn what_is_under_another_key_is_as_if_it_were_not_there() {
    let worker = Worker::beside_shared(&[("API_KEY", "first-key, second-key")]).await;
    let nobody = Client::new(&worker.url);
    let (first, second) = (nobody.with_key("first-key"), nobody.with_key("second-key"));
    let refused = nobody.try_socket("?clientId=a").await.expect_err("refused").to_string();
    assert!(refused.contains("401"), "{refused}");
    // The same client id, chosen by both.
    let (mut theirs, _) = second.socket("a").await;
    let (mut own, _) = first.socket("a").await;
    let id = first.prompt(&slow(4, 20, 720_000), "a").await;
    own.over(&id).await;
    let entry = first.ended(&id).await;
    assert_eq!(entry["status"]["status_str"], "success");
    assert_eq!(second.entry(&id).await, Value::Null);
    assert_eq!(second.get("/history").await.ok(), json!({}));
    assert_eq!(second.get(&format!("/api/jobs/{id}")).await.status, 404);
    assert_eq!(second.get("/api/jobs").await.ok()["jobs"], json!([]));
    second.post("/history", &json!({"delete": [id]})).await.ok();
    assert_eq!(first.entry(&id).await["status"]["status_str"], "success");

    let running = first.prompt(&slow(100_000, 20, 720_001), "a").await;
    first.runs(&running).await;
    assert_eq!(second.queue().await, (Vec::new(), Vec::new()));
    for (path, body) in [
        ("/interrupt", json!({})),
        ("/interrupt", json!({"prompt_id": running, "client_id": "a"})),
        ("/queue", json!({"clear": true, "delete": [running]})),
        ("/api/jobs/cancel", json!({"job_ids": [running]})),
    ] {
        second.post(path, &body).await.ok();
    }
    for _ in 0..2 {
        own.until(|message| message["type"] == "progress").await;
    }
    // An id that another key's prompt has is not taken over.
    let taken = second
        .post(
            "/prompt",
            &json!({"prompt": empty(720_002, "owners/taken"), "prompt_id": id}),
        )
        .await;
    assert_eq!(taken.status, 400, "{:#}", taken.body);
    assert!(text(&taken.body["error"], "message").len() > 10, "{:#}", taken.body);
    let cancelled = first
        .post(&format!("/api/jobs/{running}/cancel"), &json!({}))
        .await
        .ok();
    assert_eq!(cancelled["cancelled"], true);
    own.over(&running).await;
    // All that the other one heard is how long the queue is.
    let own_one = second.prompt(&empty(720_003, "owners/last"), "a").await;
    let heard = theirs.over(&own_one).await;
    for message in heard {
        let is_own = message["data"]["prompt_id"] == own_one.as_str();
        assert!(is_own || message["type"] == "status", "{message:#}");
    }
}
