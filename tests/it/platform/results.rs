//! What may go wrong when results are posted: each arrives in the end, whole, and is taken in once.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Endpoint, endless, lasting, nothing_in_hand, quick};
use crate::support::platform::{Misdeed, Platform, Route, State};
use crate::support::{text, until};

/// Every attempt to post a result says the same.
#[track_caller]
fn alike(platform: &Platform, id: &str, at_least: usize) {
    let finals = platform.finals(id);
    assert!(finals.len() >= at_least, "{finals:#?}");
    assert!(finals.iter().all(|call| call.body == finals[0].body), "{finals:#?}");
}

#[tokio::test]
async fn whatever_a_post_meets_the_result_arrives() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    let status = |status| vec![Misdeed::Status(status)];
    let misdeeds = [
        status(429),
        status(500),
        status(502),
        status(503),
        status(504),
        vec![Misdeed::HangUp { taken_in: false }],
        vec![Misdeed::HangUp { taken_in: true }],
        vec![Misdeed::Reset { taken_in: false }],
        vec![Misdeed::Reset { taken_in: true }],
        vec![
            Misdeed::Status(500),
            Misdeed::Reset { taken_in: true },
            Misdeed::Status(502),
        ],
    ];
    for (seed, misdeeds) in (7_301..).zip(misdeeds) {
        let id = format!("job-{seed}");
        let attempts = misdeeds.len() + 1;
        endpoint.platform.misbehave(Route::Done, misdeeds);
        endpoint.platform.queue(&id, &quick(seed));
        endpoint.one_picture(&endpoint.platform.result(&id).await);
        alike(&endpoint.platform, &id, attempts);
    }
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_success_is_one_in_whatever_words() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    let misdeeds = [
        Misdeed::Says {
            content_type: "text/html",
            body: "<html>fine</html>",
        },
        Misdeed::Says {
            content_type: "application/json",
            body: "",
        },
        Misdeed::Says {
            content_type: "application/json",
            body: r#"{"cut": "#,
        },
        Misdeed::Slow(Duration::from_millis(100)),
    ];
    for (seed, misdeed) in (7_321..).zip(misdeeds) {
        let id = format!("job-{seed}");
        endpoint.platform.misbehave(Route::Done, [misdeed]);
        endpoint.platform.queue(&id, &quick(seed));
        endpoint.one_picture(&endpoint.platform.result(&id).await);
    }
    endpoint.platform.queue("last", &quick(7_320));
    endpoint.platform.result("last").await;
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_post_that_is_never_answered_is_made_again() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    endpoint.platform.misbehave(Route::Done, [Misdeed::Hang]);
    endpoint.platform.queue("stuck", &quick(7_330));
    // The next job does not wait for it.
    endpoint.platform.queue("next", &quick(7_331));
    endpoint.one_picture(&endpoint.platform.result("next").await);
    endpoint.one_picture(&endpoint.platform.result("stuck").await);
    alike(&endpoint.platform, "stuck", 2);
    endpoint.platform.settled();
}

#[tokio::test]
async fn results_wait_for_a_platform_that_is_down() {
    let endpoint = Endpoint::start().await;
    let mut worker = endpoint.worker(&[]);
    endpoint.platform.queue("meanwhile", &lasting(10, 7_340));
    endpoint.at_comfyui(7_340).await;
    endpoint.platform.go_down().await;
    until("ComfyUI is done with it", async || !endpoint.comfyui_has(7_340).await).await;
    assert!(worker.runs(), "{}", worker.log());
    endpoint.platform.come_up().await;
    endpoint.one_picture(&endpoint.platform.result("meanwhile").await);
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_worker_killed_before_its_post_was_answered_posts_when_it_is_back() {
    let endpoint = Endpoint::start().await;
    for (seed, misdeed) in (7_350..).zip([
        Misdeed::Hang,
        Misdeed::Status(503),
        Misdeed::Reset { taken_in: false },
        Misdeed::Reset { taken_in: true },
    ]) {
        let id = format!("job-{seed}");
        let worker = endpoint.worker(&[]);
        endpoint.platform.misbehave(Route::Done, [misdeed]);
        endpoint.platform.queue(&id, &quick(seed));
        let posted = |state: &State| state.finals(&id).next().map(|_| ());
        endpoint.platform.until("a post is made", posted).await;
        worker.kill().await;
        let worker = endpoint.worker(&[("RUNPOD_PING_INTERVAL", "50")]);
        endpoint.one_picture(&endpoint.platform.result(&id).await);
        alike(&endpoint.platform, &id, 2);
        // Until it has noted that, a kill makes it post once more.
        nothing_in_hand(&endpoint.platform).await;
        worker.kill().await;
    }
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_refusal_is_not_lost_with_the_worker() {
    let endpoint = Endpoint::start().await;
    let worker = endpoint.worker(&[]);
    endpoint.platform.misbehave(Route::Done, [Misdeed::Hang]);
    endpoint.platform.queue("wrong", &json!({"workflow": 7}));
    let posted = |state: &State| state.finals("wrong").next().map(|_| ());
    endpoint.platform.until("a post is made", posted).await;
    worker.kill().await;
    let _worker = endpoint.worker(&[]);
    let result = endpoint.platform.result("wrong").await;
    assert!(text(&result, "error").contains("workflow"), "{result}");
    alike(&endpoint.platform, "wrong", 2);
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_worker_killed_before_it_could_post_at_all_posts_when_it_is_back() {
    let endpoint = Endpoint::start().await;
    let worker = endpoint.worker(&[]);
    endpoint.platform.queue("unposted", &lasting(10, 7_360));
    endpoint.at_comfyui(7_360).await;
    endpoint.platform.go_down().await;
    until("ComfyUI is done with it", async || !endpoint.comfyui_has(7_360).await).await;
    worker.kill().await;
    endpoint.platform.come_up().await;
    let _worker = endpoint.worker(&[]);
    endpoint.one_picture(&endpoint.platform.result("unposted").await);
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_worker_killed_in_mid_job_finishes_it_when_it_is_back() {
    let endpoint = Endpoint::start().await;
    let worker = endpoint.worker(&[]);
    endpoint.platform.queue("broken-off", &lasting(20, 7_370));
    endpoint.at_comfyui(7_370).await;
    worker.kill().await;
    let _worker = endpoint.worker(&[]);
    endpoint.one_picture(&endpoint.platform.result("broken-off").await);
    assert_eq!(endpoint.platform.finals("broken-off").len(), 1);
    endpoint.platform.settled();
}

/// A stop must not wait for ever for a platform that is gone; the result is in the store and goes out later.
#[tokio::test]
async fn a_worker_stopped_while_the_platform_is_down_keeps_its_result() {
    let endpoint = Endpoint::start().await;
    let mut worker = endpoint.worker(&[("SHUTDOWN_GRACE_S", "3")]);
    endpoint.platform.queue("kept", &lasting(10, 7_380));
    endpoint.at_comfyui(7_380).await;
    endpoint.platform.go_down().await;
    until("ComfyUI is done with it", async || !endpoint.comfyui_has(7_380).await).await;
    worker.signal(Signal::SIGTERM);
    worker.exit_code().await;
    endpoint.platform.come_up().await;
    let _worker = endpoint.worker(&[]);
    endpoint.one_picture(&endpoint.platform.result("kept").await);
    endpoint.platform.settled();
}

/// The platform hands a job out anew when it thinks that the worker is gone: one that comes back has it already.
#[tokio::test]
async fn a_job_that_comes_anew_after_a_kill_is_answered_once() {
    let endpoint = Endpoint::start().await;
    let worker = endpoint.worker(&[]);
    let mut input = endless(7_390);
    input["workflow"]["1"]["inputs"]["steps"] = serde_json::json!(100);
    endpoint.platform.queue("anew", &input);
    endpoint.at_comfyui(7_390).await;
    worker.kill().await;
    endpoint.platform.queue("anew", &input);
    let _worker = endpoint.worker(&[("WORKER_CONCURRENCY", "2")]);
    endpoint.one_picture(&endpoint.platform.result("anew").await);
    endpoint.platform.queue("after", &quick(7_391));
    endpoint.platform.result("after").await;
    assert_eq!(endpoint.platform.finals("anew").len(), 1);
    endpoint.platform.settled();
}
