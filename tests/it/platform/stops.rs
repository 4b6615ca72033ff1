//! Jobs that the platform cancels, and workers that it ends.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Endpoint, endless, lasting, nothing_in_hand, pinged_with, quick};
use crate::support::platform::{Misdeed, Platform, Route};
use crate::support::until;

/// Nothing that counts as a result was posted.
#[track_caller]
fn no_result(platform: &Platform, id: &str) {
    assert!(platform.finals(id).is_empty(), "{:#?}", platform.finals(id));
}

#[tokio::test]
async fn a_stop_in_mid_sampling_interrupts_comfyui_and_nothing_is_posted() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[("RUNPOD_PING_INTERVAL", "100")]);
    endpoint.platform.queue("stopped", &endless(7_400));
    endpoint.at_comfyui(7_400).await;
    pinged_with(&endpoint.platform, "stopped").await;
    endpoint.platform.queue("next", &quick(7_401));
    endpoint.platform.cancel(&["stopped"]);
    until("ComfyUI is interrupted", async || !endpoint.comfyui_has(7_400).await).await;
    endpoint.one_picture(&endpoint.platform.result("next").await);
    no_result(&endpoint.platform, "stopped");
    nothing_in_hand(&endpoint.platform).await;
    // The platform may hand it out again: `/retry` does.
    endpoint.platform.queue("stopped", &quick(7_402));
    endpoint.one_picture(&endpoint.platform.result("stopped").await);
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_stop_of_one_job_leaves_the_others_alone() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[("WORKER_CONCURRENCY", "3"), ("RUNPOD_PING_INTERVAL", "100")]);
    endpoint.platform.queue("runs", &lasting(30, 7_410));
    endpoint.at_comfyui(7_410).await;
    endpoint.platform.queue("waits", &quick(7_411));
    endpoint.platform.handed_out("waits").await;
    endpoint.platform.queue("waits-too", &quick(7_412));
    endpoint.platform.handed_out("waits-too").await;
    endpoint.platform.cancel(&["waits", "nobody-has-this"]);
    endpoint.one_picture(&endpoint.platform.result("runs").await);
    endpoint.one_picture(&endpoint.platform.result("waits-too").await);
    no_result(&endpoint.platform, "waits");
    nothing_in_hand(&endpoint.platform).await;
    endpoint.platform.settled();
}

#[tokio::test]
async fn whatever_the_stop_channel_says_the_next_stop_is_heard() {
    let endpoint = Endpoint::start().await;
    let says = |body| Misdeed::Says {
        content_type: "application/json",
        body,
    };
    let misdeeds = [
        Misdeed::Status(500),
        Misdeed::Status(429),
        Misdeed::Reset { taken_in: false },
        says(""),
        says(r#"["running"]"#),
        says(r#"{"jobsToStop": "running"}"#),
        says(r#"{"jobsToStop": [7, null]}"#),
        says(r#"{"jobsToStop": ["#),
        says("{}"),
    ];
    endpoint.platform.misbehave(Route::Stop, misdeeds);
    let _worker = endpoint.worker(&[]);
    endpoint.platform.queue("running", &endless(7_420));
    endpoint.at_comfyui(7_420).await;
    endpoint.platform.cancel(&["running"]);
    until("ComfyUI is interrupted", async || !endpoint.comfyui_has(7_420).await).await;
    endpoint.platform.queue("next", &quick(7_421));
    endpoint.one_picture(&endpoint.platform.result("next").await);
    no_result(&endpoint.platform, "running");
    endpoint.platform.settled();
}

/// A job is queued at each of many moments around the signal. It is done, or it stays in the queue for another worker.
#[tokio::test]
async fn a_worker_that_is_told_to_end_while_it_waits_loses_no_job() {
    const ROUNDS: u32 = 24;
    let endpoint = Endpoint::start().await;
    // The runtime's own timer is too coarse.
    let after = async |micros: u32| {
        let pause = Duration::from_micros(micros.into());
        tokio::task::spawn_blocking(move || std::thread::sleep(pause))
            .await
            .expect("no panic");
    };
    for round in 0..ROUNDS {
        let mut worker = endpoint.worker(&[]);
        endpoint.platform.is_asked_for_jobs().await;
        let id = format!("round-{round}");
        // From a millisecond before the signal to five after it.
        let signal = async {
            after(1_000).await;
            worker.signal(Signal::SIGTERM);
        };
        let queue = async {
            after(round * 250).await;
            endpoint.platform.queue(&id, &quick(7_430 + round));
        };
        tokio::join!(signal, queue);
        assert_eq!(worker.exit_code().await, Some(0), "{}", worker.log());
    }
    let _worker = endpoint.worker(&[]);
    for round in 0..ROUNDS {
        let id = format!("round-{round}");
        endpoint.one_picture(&endpoint.platform.result(&id).await);
    }
    endpoint.platform.settled();
}

/// A large request takes its time, and the platform counts it as handed out from its first byte on.
#[tokio::test]
async fn a_job_that_is_on_its_way_when_the_worker_is_told_to_end_is_not_lost() {
    let endpoint = Endpoint::start().await;
    let pause = Duration::from_millis(300);
    endpoint.platform.misbehave(Route::Take, [Misdeed::Slow(pause)]);
    let mut worker = endpoint.worker(&[("SHUTDOWN_GRACE_S", "60")]);
    endpoint.platform.queue("on-its-way", &quick(7_455));
    endpoint.platform.handed_out("on-its-way").await;
    // By now the answer has begun: its head is in the first two of five pieces.
    tokio::time::sleep(pause * 5 / 2).await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.exit_code().await, Some(0), "{}", worker.log());
    let _worker = endpoint.worker(&[]);
    endpoint.one_picture(&endpoint.platform.result("on-its-way").await);
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_finishes_its_job_and_takes_no_other() {
    let endpoint = Endpoint::start().await;
    let mut worker = endpoint.worker(&[("SHUTDOWN_GRACE_S", "120")]);
    endpoint.platform.queue("last", &lasting(20, 7_460));
    endpoint.at_comfyui(7_460).await;
    worker.signal(Signal::SIGTERM);
    endpoint.platform.queue("for-another", &quick(7_461));
    assert_eq!(worker.exit_code().await, Some(0), "{}", worker.log());
    endpoint.one_picture(&endpoint.platform.result("last").await);
    let handed_out = endpoint
        .platform
        .until("", |state| Some(state.ticket("for-another").handed_out))
        .await;
    assert_eq!(handed_out, 0);
    let _worker = endpoint.worker(&[]);
    endpoint.one_picture(&endpoint.platform.result("for-another").await);
    endpoint.platform.settled();
}

/// What does not end in time goes on in the next worker on the same folder.
#[tokio::test]
async fn a_job_that_outlasts_the_grace_is_not_lost() {
    let endpoint = Endpoint::start().await;
    let mut worker = endpoint.worker(&[("SHUTDOWN_GRACE_S", "1")]);
    endpoint.platform.queue("long", &lasting(40, 7_465));
    endpoint.at_comfyui(7_465).await;
    worker.signal(Signal::SIGTERM);
    worker.exit_code().await;
    let _worker = endpoint.worker(&[]);
    let result = endpoint.platform.result("long").await;
    assert!(
        result["output"].is_object() || result["error"].is_string(),
        "{result:#}"
    );
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_worker_that_asks_for_a_clean_one_ends_once_its_result_is_taken_in() {
    for (way, seed) in [("by the environment", 7_470), ("by the request", 7_475)] {
        let endpoint = Endpoint::start().await;
        let by_environment = seed == 7_470;
        let refresh = if by_environment { "true" } else { "false" };
        let mut worker = endpoint.worker(&[("REFRESH_WORKER", refresh)]);
        let misdeeds = [Misdeed::Status(500), Misdeed::Reset { taken_in: false }];
        endpoint.platform.misbehave(Route::Done, misdeeds);
        let mut input = quick(seed);
        if !by_environment {
            input["refresh_worker"] = json!(true);
        }
        endpoint.platform.queue("only", &input);
        let result = endpoint.platform.result("only").await;
        assert_eq!(result["stopPod"], true, "{way}: {result:#}");
        endpoint.one_picture(&result);
        assert_eq!(worker.exit_code().await, Some(0), "{way}: {}", worker.log());
        assert_eq!(endpoint.platform.finals("only").len(), 3);
        endpoint.platform.settled();
    }
}

/// A failed job leaves as much behind as any other.
#[tokio::test]
async fn a_failed_job_asks_for_a_clean_worker_too() {
    let endpoint = Endpoint::start().await;
    let mut worker = endpoint.worker(&[("REFRESH_WORKER", "true")]);
    endpoint.platform.queue("wrong", &json!({"workflow": 7}));
    let result = endpoint.platform.result("wrong").await;
    assert!(result["error"].is_string() && result["stopPod"] == true, "{result:#}");
    assert_eq!(worker.exit_code().await, Some(0), "{}", worker.log());
    endpoint.platform.settled();
}
