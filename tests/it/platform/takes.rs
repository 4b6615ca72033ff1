//! What may go wrong when jobs are taken.

use std::time::Duration;

use serde_json::json;

use super::{Endpoint, endless, quick};
use crate::support::platform::{Misdeed, Route};
use crate::support::proxy::Proxy;
use crate::support::until;

/// One misdeed after another, with a job after each.
async fn survives(route: Route, first_seed: u32, misdeeds: Vec<Misdeed>) {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    endpoint.platform.is_asked_for_jobs().await;
    for (seed, misdeed) in (first_seed..).zip(misdeeds) {
        // The call that is held already is answered as it should be; the misdeed is done to the next one.
        endpoint.platform.misbehave(route, [misdeed]);
        let id = format!("job-{seed}");
        endpoint.platform.queue(&id, &quick(seed));
        endpoint.one_picture(&endpoint.platform.result(&id).await);
    }
    endpoint.platform.queue("last", &quick(first_seed - 1));
    endpoint.one_picture(&endpoint.platform.result("last").await);
    endpoint.platform.settled();
}

fn says(body: &'static str) -> Misdeed {
    let content_type = "application/json";
    Misdeed::Says { content_type, body }
}

#[tokio::test]
async fn a_status_that_brings_no_job_is_got_over() {
    let statuses = [204, 400, 401, 404, 413, 429, 500, 502, 503];
    survives(Route::Take, 7_201, statuses.map(Misdeed::Status).into()).await;
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_got_over() {
    let misdeeds = vec![
        says(r#"{"id": "cut-off", "input": {"#),
        says("7"),
        says("null"),
        says(r#""a job""#),
        says(""),
        says("[]"),
        says(r#"{"input": {"prompt": "a fox"}}"#),
        says(r#"{"id": 7, "input": {"prompt": "a fox"}}"#),
        says(r#"[{"input": {}}, null]"#),
        Misdeed::Says {
            content_type: "text/html",
            body: "<html>We are moving</html>",
        },
        Misdeed::Listed,
    ];
    survives(Route::Take, 7_221, misdeeds).await;
}

#[tokio::test]
async fn a_connection_that_breaks_loses_no_job() {
    let misdeeds = vec![
        Misdeed::HangUp { taken_in: false },
        Misdeed::Reset { taken_in: false },
        Misdeed::Slow(Duration::from_millis(100)),
    ];
    survives(Route::Take, 7_241, misdeeds).await;
}

#[tokio::test]
async fn a_job_is_taken_for_each_comfyui_that_is_ready() {
    let endpoint = Endpoint::start().await;
    // The same one twice, by two ways to it: both would run jobs at the same time if they were two.
    let (first, second) = (
        Proxy::to(&endpoint.comfy_url).await,
        Proxy::to(&endpoint.comfy_url).await,
    );
    let both = format!("{},{}", first.url, second.url);
    let _worker = endpoint.worker(&[("COMFYUI_URL", both.as_str())]);
    for (seed, id) in [(7_260, "one"), (7_261, "two")] {
        endpoint.platform.queue(id, &endless(seed));
        endpoint.at_comfyui(seed).await;
    }
    endpoint.platform.cancel(&["one", "two"]);
    for seed in [7_260, 7_261] {
        until("ComfyUI is interrupted", async || !endpoint.comfyui_has(seed).await).await;
    }
    endpoint.platform.queue("next", &quick(7_262));
    endpoint.one_picture(&endpoint.platform.result("next").await);
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_job_out_of_a_list_is_taken_where_a_batch_was_asked_for() {
    let endpoint = Endpoint::start().await;
    endpoint.platform.misbehave(Route::Take, [Misdeed::Listed]);
    let _worker = endpoint.worker(&[("WORKER_CONCURRENCY", "2")]);
    endpoint.platform.queue("alone", &quick(7_250));
    endpoint.one_picture(&endpoint.platform.result("alone").await);
    endpoint.platform.settled();
}

#[tokio::test]
async fn of_a_batch_with_rubbish_in_it_the_good_ones_are_done() {
    let endpoint = Endpoint::start().await;
    endpoint.platform.queue_as(&json!({"id": "no-input"}));
    endpoint.platform.queue("good", &quick(7_260));
    let _worker = endpoint.worker(&[("WORKER_CONCURRENCY", "2")]);
    endpoint.one_picture(&endpoint.platform.result("good").await);
    assert!(endpoint.platform.result("no-input").await["error"].is_string());
    endpoint.platform.settled();
}

/// Takes a minute and a half: so long does RunPod's own client wait.
#[tokio::test]
async fn a_question_that_is_never_answered_is_asked_again_while_pings_go_on() {
    let endpoint = Endpoint::start().await;
    endpoint.platform.misbehave(Route::Take, [Misdeed::Hang]);
    let _worker = endpoint.worker(&[("RUNPOD_PING_INTERVAL", "100")]);
    endpoint.platform.queue("patient", &quick(7_270));
    endpoint.one_picture(&endpoint.platform.result("patient").await);
    let takes = endpoint.platform.calls(Route::Take);
    let meanwhile = endpoint.platform.calls(Route::Ping).into_iter();
    let meanwhile = meanwhile.filter(|ping| (takes[0].at..takes[1].at).contains(&ping.at));
    assert!(meanwhile.count() > 10, "{}", endpoint.platform.told());
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_platform_that_is_not_there_is_waited_for() {
    let endpoint = Endpoint::start().await;
    endpoint.platform.go_down().await;
    endpoint.platform.queue("late", &quick(7_280));
    let mut worker = endpoint.worker(&[]);
    until("the worker has asked in vain", async || {
        assert!(worker.runs(), "{}", worker.log());
        worker.log().contains("refused")
    })
    .await;
    endpoint.platform.come_up().await;
    endpoint.one_picture(&endpoint.platform.result("late").await);
    // A held call breaks too.
    endpoint.platform.is_asked_for_jobs().await;
    endpoint.platform.go_down().await;
    endpoint.platform.queue("later", &quick(7_281));
    endpoint.platform.come_up().await;
    endpoint.one_picture(&endpoint.platform.result("later").await);
    endpoint.platform.settled();
}
