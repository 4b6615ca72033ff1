//! Jobs that are cancelled, by their owner or by the clock, and what becomes of those beside them.

use std::io::Read as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Worker, alone, fresh_data, graph, http, shared, slow, text, until};

/// ComfyUI's own words about one prompt, or about its queue.
async fn comfyui(worker: &Worker, path: &str) -> Value {
    let url = format!("{}{path}", worker.comfy_url().await);
    let answer = http().get(&url).send().await.expect("an answer");
    // What other tests left in its history is as Python writes it.
    let text = answer.text().await.expect("a text").replace("NaN", "null");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

/// The prompts that ComfyUI runs, and those that wait there.
async fn prompts(worker: &Worker) -> (Vec<String>, Vec<String>) {
    let queue = comfyui(worker, "queue").await;
    let ids = |list: &Value| {
        let prompts = list.as_array().into_iter().flatten();
        prompts
            .filter_map(|prompt| prompt[1].as_str().map(str::to_owned))
            .collect()
    };
    (ids(&queue["queue_running"]), ids(&queue["queue_pending"]))
}

async fn comfyui_is_idle(worker: &Worker) {
    until("ComfyUI is idle", async || {
        prompts(worker).await == (Vec::new(), Vec::new())
    })
    .await;
}

/// Waits until a job has done some steps.
async fn is_under_way(worker: &Worker, id: &str) {
    until("the job is under way", async || {
        let status = worker.ask(&format!("/status/{id}")).await;
        status.body["progress"]["step"].as_u64() > Some(1)
    })
    .await;
}

async fn runs(worker: &Worker, id: &str) {
    until("the job runs", async || worker.status(id).await == "IN_PROGRESS").await;
}

async fn cancel(worker: &Worker, id: &str) -> String {
    let answer = worker.send(Method::POST, &format!("/cancel/{id}"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    text(&answer.body, "status").to_owned()
}

/// Takes in a job with something beside its input.
async fn accept_with(worker: &Worker, workflow: Value, beside: Value) -> String {
    let mut body = json!({"input": {"workflow": workflow}});
    for (name, value) in beside.as_object().expect("an object") {
        body[name] = value.clone();
    }
    let answer = worker.send(Method::POST, "/run", body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    text(&answer.body, "id").to_owned()
}

/// The brightness of the picture, which the test nodes take from the seed.
async fn brightness(worker: &Worker, answer: &Answer) -> u8 {
    let png = worker.first_image(answer).await;
    let (mut at, mut packed) = (8, Vec::new());
    while let Some(length) = png.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        if &png[at + 4..at + 8] == b"IDAT" {
            packed.extend_from_slice(&png[at + 8..at + 8 + length]);
        }
        at += length + 12;
    }
    // The filter of the first row, then the first pixel, which no filter changes.
    let mut first = [0; 2];
    let mut pixels = flate2::read::ZlibDecoder::new(packed.as_slice());
    pixels.read_exact(&mut first).expect("a picture");
    first[1]
}

#[tokio::test]
async fn a_queued_job_is_gone_at_once_and_never_runs() {
    let worker = alone().await;
    comfyui_is_idle(&worker).await;
    let before = comfyui(&worker, "history")
        .await
        .as_object()
        .map_or(0, serde_json::Map::len);
    let mut jobs = Vec::new();
    for seed in 0..4 {
        jobs.push(worker.accept(slow(20, 50, 7_000 + seed)).await);
    }
    let last = jobs.pop().expect("a job");
    assert_eq!(
        worker.ask(&format!("/status/{last}")).await.body["position"]
            .as_u64()
            .map(|at| at > 1),
        Some(true)
    );
    assert_eq!(cancel(&worker, &last).await, "CANCELLED");
    for (job, seed) in jobs.iter().zip(7_000_u32..) {
        let end = worker.end(job).await.completed();
        assert_eq!(u32::from(brightness(&worker, &end).await), seed % 256);
    }
    assert_eq!(worker.status(&last).await, "CANCELLED");
    let after = comfyui(&worker, "history")
        .await
        .as_object()
        .map_or(0, serde_json::Map::len);
    assert_eq!(after - before, 3, "ComfyUI has never seen it");
}

#[tokio::test]
async fn a_running_job_is_interrupted_and_the_next_one_is_untouched() {
    let worker = alone().await;
    comfyui_is_idle(&worker).await;
    let first = worker.accept(slow(100_000, 20, 7_010)).await;
    let second = worker.accept(slow(5, 20, 7_011)).await;
    is_under_way(&worker, &first).await;
    let mut running = Vec::new();
    until("the second waits in ComfyUI", async || {
        let (runs, waiting) = prompts(&worker).await;
        running = runs;
        waiting.len() == 1
    })
    .await;
    assert_eq!(cancel(&worker, &first).await, "CANCELLED");
    let end = worker.end(&second).await.completed();
    assert_eq!(u32::from(brightness(&worker, &end).await), 7_011 % 256);
    comfyui_is_idle(&worker).await;
    let history = comfyui(&worker, &format!("history/{}", running[0])).await;
    let messages = history[&running[0]]["status"]["messages"].to_string();
    assert!(messages.contains("execution_interrupted"), "{messages}");
    let view = worker.app.queue.view(&first).await.expect("a job");
    assert!(view.progress.percent < 100, "{view:?}");
}

#[tokio::test]
async fn a_job_that_waits_in_comfyui_is_taken_out_and_the_running_one_goes_on() {
    let worker = alone().await;
    comfyui_is_idle(&worker).await;
    let first = worker.accept(slow(300, 30, 7_020)).await;
    let second = worker.accept(slow(100, 30, 7_021)).await;
    until("the second waits in ComfyUI", async || {
        prompts(&worker).await.1.len() == 1
    })
    .await;
    assert_eq!(worker.status(&second).await, "IN_QUEUE");
    let both = tokio::join!(cancel(&worker, &second), cancel(&worker, &second));
    assert_eq!(both, ("CANCELLED".to_owned(), "CANCELLED".to_owned()));
    until("ComfyUI has it no more", async || prompts(&worker).await.1.is_empty()).await;
    let end = worker.end(&first).await.completed();
    assert_eq!(u32::from(brightness(&worker, &end).await), 7_020 % 256);
    assert_eq!(worker.status(&second).await, "CANCELLED");
}

#[tokio::test]
async fn a_cancel_whose_client_goes_away_is_carried_out() {
    let worker = shared().await;
    let id = worker.accept(slow(100_000, 20, 7_030)).await;
    let impatient = tokio::select! {
        biased;
        _ = worker.app.queue.cancel(&id) => false,
        () = std::future::ready(()) => true,
    };
    assert!(impatient, "the test is to go away in the middle");
    assert_eq!(text(&worker.end(&id).await.body, "status"), "CANCELLED");
}

#[tokio::test]
async fn a_job_that_is_retried_while_it_is_still_called_off_runs_again() {
    let worker = shared().await;
    // The node looks at no interrupt, so the first execution goes on for a while.
    let id = worker
        .accept(graph("SlowSilent", json!({"ms": 3000, "seed": 7_040})))
        .await;
    runs(&worker, &id).await;
    assert_eq!(cancel(&worker, &id).await, "CANCELLED");
    let answer = worker.send(Method::POST, &format!("/retry/{id}"), "").await;
    assert_eq!((answer.status, text(&answer.body, "status")), (200, "IN_QUEUE"));
    let again = worker.send(Method::POST, &format!("/retry/{id}"), "").await;
    assert_eq!(again.status, 409, "{}", again.body);
    let end = worker.end(&id).await.completed();
    assert_eq!(u32::from(brightness(&worker, &end).await), 7_040 % 256);
}

#[tokio::test]
async fn a_node_that_ignores_interrupts_costs_comfyui_a_new_start() {
    let (_data, mut vars) = fresh_data();
    vars.insert("CANCEL_GRACE_S".to_owned(), "1".to_owned());
    // What waits in a ComfyUI that is ended has not had its attempt.
    vars.insert("JOB_RETRIES".to_owned(), "0".to_owned());
    let worker = Worker::start(vars).await;
    worker.ready().await;
    let pid = worker.comfy_pid().await;
    let first = worker
        .accept(graph("SlowSilent", json!({"ms": 3_600_000, "seed": 1})))
        .await;
    let second = worker.accept(slow(5, 20, 7_051)).await;
    runs(&worker, &first).await;
    until("the second waits in ComfyUI", async || {
        prompts(&worker).await.1.len() == 1
    })
    .await;
    assert_eq!(cancel(&worker, &first).await, "CANCELLED");
    let end = worker.end(&second).await.completed();
    assert_eq!(u32::from(brightness(&worker, &end).await), 7_051 % 256);
    assert_ne!(worker.comfy_pid().await, pid);
    worker.app.comfy.stop().await;
}

#[tokio::test]
async fn a_comfyui_that_is_stopped_in_the_middle_is_started_anew() {
    let (_data, mut vars) = fresh_data();
    vars.insert("STALL_TIMEOUT_S".to_owned(), "10".to_owned());
    let worker = Worker::start(vars).await;
    worker.ready().await;
    let pid = worker.comfy_pid().await;
    let id = worker.accept(slow(60, 50, 7_060)).await;
    is_under_way(&worker, &id).await;
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it is there");
    let end = worker.end(&id).await.completed();
    assert_eq!(u32::from(brightness(&worker, &end).await), 7_060 % 256);
    assert_ne!(worker.comfy_pid().await, pid);
    worker.app.comfy.stop().await;
}

#[tokio::test]
async fn the_clock_ends_jobs_that_run_and_jobs_that_wait() {
    let worker = alone().await;
    let first = accept_with(
        &worker,
        slow(100_000, 20, 7_070),
        json!({"policy": {"executionTimeout": 13_000}}),
    )
    .await;
    let second = accept_with(&worker, slow(1, 1, 7_071), json!({"policy": {"ttl": 10_000}})).await;
    let third = worker.accept(slow(1, 1, 7_072)).await;
    let end = worker.end(&second).await;
    assert_eq!(text(&end.body, "status"), "TIMED_OUT", "{}", end.body);
    assert!(
        end.error().contains("within 10 s") && end.error().contains("policy.ttl"),
        "{}",
        end.error()
    );
    let end = worker.end(&first).await;
    assert_eq!(text(&end.body, "status"), "TIMED_OUT", "{}", end.body);
    assert!(
        end.error().contains("13 s") && end.error().contains("executionTimeout"),
        "{}",
        end.error()
    );
    let end = worker.end(&third).await.completed();
    assert_eq!(u32::from(brightness(&worker, &end).await), 7_072 % 256);
    comfyui_is_idle(&worker).await;
}

#[tokio::test]
async fn higher_priority_is_sooner_and_purging_leaves_the_running_job() {
    let worker = Worker::beside_shared(&[("PREFETCH_JOBS", "0")]).await;
    // One runs and one is prepared; the order of the others is still open.
    let first = worker.accept(slow(200, 50, 7_080)).await;
    let second = worker.accept(slow(1, 1, 7_081)).await;
    runs(&worker, &first).await;
    let low = accept_with(&worker, slow(1, 1, 7_082), json!({"policy": {"lowPriority": true}})).await;
    let usual = worker.accept(slow(1, 1, 7_083)).await;
    let high = accept_with(&worker, slow(1, 1, 7_084), json!({"priority": 5})).await;
    assert_eq!(worker.status(&first).await, "IN_PROGRESS", "or the order says nothing");
    let position = async |id: &str| worker.ask(&format!("/status/{id}")).await.body["position"].as_u64();
    assert_eq!((position(&high).await, position(&low).await), (Some(2), Some(4)));
    let mut begun = Vec::new();
    for id in [&first, &second, &high, &usual, &low] {
        worker.end(id).await.completed();
        let view = worker.app.queue.view(id).await.expect("a job");
        begun.push(view.created + view.delay);
    }
    assert!(begun.is_sorted(), "{begun:?}");

    let first = worker.accept(slow(200, 50, 7_085)).await;
    runs(&worker, &first).await;
    let mut waiting = Vec::new();
    for seed in 0..3 {
        waiting.push(worker.accept(slow(1, 1, 7_086 + seed)).await);
    }
    let purged = worker.send(Method::POST, "/purge-queue", "").await;
    assert_eq!(purged.body, json!({"removed": 3, "status": "completed"}));
    for id in &waiting {
        assert_eq!(worker.status(id).await, "CANCELLED");
    }
    let listed = worker.ask("/requests?status=CANCELLED").await;
    assert_eq!(
        listed.body["requests"].as_array().map(Vec::len),
        Some(3),
        "{}",
        listed.body
    );
    worker.end(&first).await.completed();
    let purged = worker.send(Method::POST, "/purge-queue", "").await;
    assert_eq!(purged.body["removed"], 0);
}

#[tokio::test]
async fn jobs_that_wait_in_comfyui_when_the_worker_stops_are_kept_and_taken_out() {
    let worker = alone().await;
    comfyui_is_idle(&worker).await;
    // It shares the ComfyUI, which stays.
    let leaving = Worker::attached(&worker.comfy_url().await, &[]).await;
    let first = leaving.accept(slow(200, 50, 7_090)).await;
    // Told to end before its first word, it would go back to the queue too.
    runs(&leaving, &first).await;
    let second = leaving.accept(slow(1, 1, 7_091)).await;
    until("the second waits in ComfyUI", async || {
        prompts(&worker).await.1.len() == 1
    })
    .await;
    let queue = leaving.app.queue.clone();
    let ((), waited) = tokio::join!(queue.drain(), queue.wait(&second));
    let error = waited.expect_err("it does not run here");
    assert!(
        error.full_text().contains(&format!("/status/{second}")),
        "{}",
        error.full_text()
    );
    leaving.end(&first).await.completed();
    assert_eq!(leaving.status(&second).await, "IN_QUEUE");
    assert_eq!(prompts(&worker).await, (Vec::new(), Vec::new()));
    let refused = leaving
        .send(
            Method::POST,
            "/run",
            json!({"input": {"workflow": slow(1, 1, 1)}}).to_string(),
        )
        .await;
    assert_eq!(refused.status, 503, "{}", refused.body);
}
