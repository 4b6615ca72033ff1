//! Fronts that are killed, and jobs that are cancelled, at each moment of a job's way: no job is sent twice, and none is left running
//! that nobody waits for.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::{done, small};
use crate::support::elsewhere::{Front, images, runpod};
use crate::support::images_api::ImagesApi;
use crate::support::runpod_api::{Fate, Route, RunpodApi};
use crate::support::scripted::{Reply, Words};
use crate::support::{text, until};

/// Long enough for a second request, where there is one.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_front_that_is_killed_asks_on_for_what_it_has_sent() {
    let (api, provider) = (RunpodApi::scripted(Fate::InProgress).await, ImagesApi::start().await);
    let engines = runpod("first", &api.url, "") + &images("second", &provider.url, "group = 2");
    let mut front = Front::start(&engines, &[]).await;
    let id = front.accept(&small(9_300)).await;
    let there = api.has_taken(1).await;
    for _ in 0..3 {
        let polls = api.count(Route::Status);
        until("it is asked for", async || {
            assert_eq!(api.count(Route::Run), 1, "it was sent again");
            api.count(Route::Status) > polls
        })
        .await;
        front = front.killed_and_started(&engines, &[]).await;
    }
    api.becomes(&there, done());
    let end = front.end(&id).await.completed();
    assert_eq!(end.body["output"]["engine"], "first", "{:#}", end.body);
    assert!(api.calls(Route::Status).iter().all(|call| call.job == there));
    assert_eq!(
        (api.count(Route::Run), api.count(Route::Cancel), provider.asked().len()),
        (1, 0, 0)
    );
    // What is done stays done.
    let front = front.killed_and_started(&engines, &[]).await;
    let end = front.end(&id).await.completed();
    assert!(!front.picture(&end).await.is_empty());
    assert_eq!(api.count(Route::Run), 1);
    api.settled();
}

#[tokio::test]
async fn a_job_whose_front_was_killed_before_the_answer_is_told_as_unknown() {
    let (api, provider) = (RunpodApi::scripted(done()).await, ImagesApi::start().await);
    let first = runpod("first", &api.url, "") + &images("second", &provider.url, "group = 2");
    api.answers_runs([Reply::Never]);
    let front = Front::start(&first, &[]).await;
    let id = front.accept(&small(9_310)).await;
    api.has_taken(1).await;
    let front = front.killed_and_started(&first, &[]).await;
    let end = front.end(&id).await;
    assert_eq!(end.body["status"], "FAILED", "{:#}", end.body);
    assert!(
        end.error().contains("may have") && end.error().contains("first"),
        "{}",
        end.error()
    );
    a_while().await;
    assert_eq!((api.count(Route::Run), provider.asked().len()), (1, 0));
    // The front is as good as ever.
    front.runsync(&small(9_311)).await.by("first");

    // The same where a provider is asked, whose answer is the picture.
    let first = images("first", &provider.url, "") + &runpod("second", &api.url, "group = 2");
    provider.answers([Reply::Never]);
    let front = Front::start(&first, &[]).await;
    let id = front.accept(&small(9_312)).await;
    until("the provider is asked", async || provider.asked().len() == 1).await;
    let front = front.killed_and_started(&first, &[]).await;
    let end = front.end(&id).await;
    assert_eq!(end.body["status"], "FAILED", "{:#}", end.body);
    assert!(
        end.error().contains("may have") && end.error().contains("first"),
        "{}",
        end.error()
    );
    a_while().await;
    assert_eq!((provider.asked().len(), api.count(Route::Run)), (1, 2));
    api.settled();
    provider.settled();
}

#[tokio::test]
async fn where_it_is_allowed_what_is_unknown_after_a_kill_is_sent_again() {
    let api = RunpodApi::scripted(done()).await;
    let engines = runpod("first", &api.url, "unknown = \"retry\"");
    api.answers_runs([Reply::Never]);
    let front = Front::start(&engines, &[]).await;
    let id = front.accept(&small(9_320)).await;
    api.has_taken(1).await;
    let front = front.killed_and_started(&engines, &[]).await;
    front.end(&id).await.completed();
    assert_eq!(api.count(Route::Run), 2);
    api.settled();
}

#[tokio::test]
async fn a_job_that_nobody_has_taken_yet_is_sent_after_a_kill() {
    let api = RunpodApi::scripted(done()).await;
    let engines = runpod("first", &api.url, "");
    let wait = Words::json(429, &json!({"error": "slow down"})).with("retry-after", "3");
    api.answers_runs([Reply::Says(wait)]);
    let front = Front::start(&engines, &[]).await;
    let id = front.accept(&small(9_330)).await;
    until("it was tried", async || api.count(Route::Run) == 1).await;
    // Until it has noted that it was refused, a kill leaves it unknown.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let front = front.killed_and_started(&engines, &[]).await;
    front.end(&id).await.completed();
    assert_eq!(api.taken().len(), 1);
    api.settled();
}

#[tokio::test]
async fn a_cancel_reaches_the_endpoint() {
    let api = RunpodApi::scripted(Fate::InProgress).await;
    let engines = runpod("first", &api.url, "");
    let front = Front::start(&engines, &[]).await;
    let (kept, cancelled) = (front.accept(&small(9_340)).await, front.accept(&small(9_341)).await);
    api.has_taken(2).await;
    until("both are asked for", async || {
        let asked: BTreeSet<String> = api.calls(Route::Status).into_iter().map(|call| call.job).collect();
        asked.len() == 2
    })
    .await;
    // Which is which there, their seeds tell.
    let runs = api.calls(Route::Run);
    let place = runs.iter().position(|call| call.has_seed(9_341));
    let place = place.expect("its seed is in its graph");
    let there = api.taken()[place].clone();
    front.cancel(&cancelled).await;
    until("the endpoint is told", async || api.count(Route::Cancel) > 0).await;
    assert!(api.calls(Route::Cancel).iter().all(|call| call.job == there));
    until("it is cancelled", async || {
        text(&front.status(&cancelled).await, "status") == "CANCELLED"
    })
    .await;
    // The other one goes on.
    api.becomes(&api.taken()[1 - place], done());
    front.end(&kept).await.completed();
    assert_eq!(api.count(Route::Run), 2);
    api.settled();
}

/// A job that nobody waits for any more is paid for to its end, unless the endpoint hears of it.
#[tokio::test]
async fn a_cancel_that_was_not_heard_is_told_again() {
    let api = RunpodApi::scripted(Fate::InProgress).await;
    let engines = runpod("first", &api.url, "");
    let front = Front::start(&engines, &[]).await;
    let (one, other) = (front.accept(&small(9_345)).await, front.accept(&small(9_346)).await);
    api.has_taken(2).await;
    for id in [&one, &other] {
        front.is(id, "IN_PROGRESS").await;
    }
    api.answers_cancels([Reply::Says(Words::json(500, &json!({"error": "out of order"})))]);
    front.cancel(&one).await;
    until("the endpoint is told again", async || api.count(Route::Cancel) > 1).await;
    api.answers_cancels([Reply::Says(Words::html(502)), Reply::Says(Words::html(502))]);
    let before = api.count(Route::Cancel);
    front.cancel(&other).await;
    until("the endpoint is told", async || api.count(Route::Cancel) > before).await;
    let front = front.killed_and_started(&engines, &[]).await;
    until("both are told", async || {
        let told: BTreeSet<String> = api.calls(Route::Cancel).into_iter().map(|call| call.job).collect();
        told.len() == 2 && api.count(Route::Cancel) > before + 2
    })
    .await;
    for id in [one, other] {
        assert_eq!(text(&front.status(&id).await, "status"), "CANCELLED");
    }
    assert_eq!(api.count(Route::Run), 2);
    api.settled();
}

#[tokio::test]
async fn a_job_that_is_cancelled_while_it_is_sent_is_cancelled_there() {
    let api = RunpodApi::scripted(Fate::InProgress).await;
    let front = Front::start(&runpod("first", &api.url, ""), &[]).await;
    api.answers_runs([Reply::Late(Duration::from_secs(2))]);
    let id = front.accept(&small(9_350)).await;
    let there = api.has_taken(1).await;
    front.cancel(&id).await;
    until("the endpoint is told", async || api.count(Route::Cancel) > 0).await;
    assert!(api.calls(Route::Cancel).iter().all(|call| call.job == there));
    until("it is cancelled", async || {
        text(&front.status(&id).await, "status") == "CANCELLED"
    })
    .await;
    assert_eq!(api.count(Route::Run), 1);
    api.settled();
}

#[tokio::test]
async fn a_job_that_takes_too_long_there_is_cancelled_there() {
    let api = RunpodApi::scripted(Fate::InProgress).await;
    let front = Front::start(&runpod("first", &api.url, "timeout_s = 6"), &[]).await;
    let id = front.accept(&small(9_360)).await;
    let there = api.has_taken(1).await;
    let end = front.end(&id).await;
    assert!(
        ["FAILED", "TIMED_OUT"].contains(&text(&end.body, "status")),
        "{:#}",
        end.body
    );
    until("the endpoint is told", async || api.count(Route::Cancel) > 0).await;
    assert!(api.calls(Route::Cancel).iter().all(|call| call.job == there));
    assert_eq!(api.count(Route::Run), 1);
    let limit = api.calls(Route::Run)[0].json()["policy"]["executionTimeout"].clone();
    assert!(limit.as_u64().is_some_and(|limit| limit <= 6_000), "{limit}");
    api.settled();
}
