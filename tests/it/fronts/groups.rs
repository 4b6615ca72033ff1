//! Engines in groups: who gets a job when all is well, when one is full, and when there is to be no other.

use std::time::Duration;

use serde_json::{Value, json};

use super::{done, small};
use crate::support::elsewhere::{Front, images, runpod};
use crate::support::image_server;
use crate::support::images_api::ImagesApi;
use crate::support::runpod_api::{Fate, Route, RunpodApi};
use crate::support::scripted::{Reply, Words};
use crate::support::{slow, until};

fn fails() -> Reply {
    Reply::Says(Words::json(500, &json!({"error": "out of order"})))
}

#[tokio::test]
async fn without_fallback_there_is_one_try_and_one_group() {
    for (variable, policy) in [
        (&[("FALLBACK", "never")][..], Value::Null),
        (&[], json!({"fallback": "never"})),
    ] {
        let (api, provider) = (RunpodApi::scripted(done()).await, ImagesApi::start().await);
        let engines = runpod("first", &api.url, "") + &images("second", &provider.url, "group = 2");
        let front = Front::start(&engines, variable).await;
        api.answers_runs([fails()]);
        let beside = if policy.is_null() {
            json!({})
        } else {
            json!({ "policy": policy })
        };
        let ended = front.runsync_with(&small(9_200), &beside).await;
        ended.failed(&["first"]);
        assert_eq!((api.count(Route::Run), provider.asked().len()), (1, 0));
        front.runsync_with(&small(9_201), &beside).await.by("first");
        // What a request says goes before what is configured.
        api.answers_runs([fails()]);
        front
            .runsync_with(&small(9_202), &json!({"policy": {"fallback": "errors"}}))
            .await
            .by("second");
        assert_eq!((api.count(Route::Run), provider.asked().len()), (3, 1));
        api.settled();
        provider.settled();
    }
}

/// Whether they wait or fail, jobs that may have no other engine get none: while theirs is full, and while it rests.
#[tokio::test]
async fn without_fallback_a_full_group_and_one_that_rests_have_no_stand_in() {
    let (api, provider) = (RunpodApi::scripted(Fate::InProgress).await, ImagesApi::start().await);
    let engines = runpod("first", &api.url, "capacity = 1") + &images("second", &provider.url, "group = 2");
    let front = Front::start(&engines, &[("FALLBACK", "never")]).await;
    front.accept(&small(9_205)).await;
    api.has_taken(1).await;
    front.accept(&small(9_206)).await;
    let wait = Words::json(429, &json!({"error": "slow down"})).with("retry-after", "60");
    api.answers_runs([Reply::Says(wait)]);
    api.becomes(&api.taken()[0], done());
    until("the next one was tried", async || api.count(Route::Run) == 2).await;
    front.accept(&small(9_207)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((api.count(Route::Run), provider.asked().len()), (2, 0));
    api.settled();
}

#[tokio::test]
async fn a_full_group_is_waited_for_unless_the_request_says_otherwise() {
    let (api, provider) = (RunpodApi::scripted(Fate::InProgress).await, ImagesApi::start().await);
    let engines = runpod("first", &api.url, "capacity = 1") + &images("second", &provider.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    let running = front.accept(&small(9_210)).await;
    let there = api.has_taken(1).await;
    front.is(&running, "IN_PROGRESS").await;
    let waiting = front.accept(&small(9_211)).await;
    let busy = json!({"policy": {"fallback": "busy"}});
    front.runsync_with(&small(9_212), &busy).await.by("second");
    assert_eq!(front.status(&waiting).await["status"], "IN_QUEUE");
    assert_eq!((api.count(Route::Run), provider.asked().len()), (1, 1));

    api.becomes(&there, done());
    let next = api.has_taken(2).await;
    api.becomes(&next, done());
    for id in [running, waiting] {
        let end = front.end(&id).await.completed();
        assert_eq!(end.body["output"]["engine"], "first", "{:#}", end.body);
    }
    assert_eq!((api.most_at_once(), provider.asked().len()), (1, 1));
    let wrong = json!({"policy": {"fallback": "sometimes"}});
    let refused = front.runsync_with(&small(9_213), &wrong).await;
    refused.failed(&["fallback"]);
    assert_eq!(refused.answer.status, 400);
    // For all requests, by the variable.
    let front = Front::start(&engines, &[("FALLBACK", "busy")]).await;
    front.accept(&small(9_214)).await;
    api.has_taken(3).await;
    front.runsync(&small(9_215)).await.by("second");
    api.settled();
    provider.settled();
}

#[tokio::test]
async fn no_engine_has_more_jobs_than_its_capacity() {
    let api = RunpodApi::scripted(Fate::InProgress).await;
    let front = Front::start(&runpod("first", &api.url, "capacity = 2"), &[]).await;
    let mut ids = Vec::new();
    for seed in 9_220..9_225 {
        ids.push(front.accept(&small(seed)).await);
    }
    for count in 1..=ids.len() {
        let there = api.has_taken(count).await;
        // Long enough for one more than there may be.
        tokio::time::sleep(Duration::from_millis(300)).await;
        api.becomes(&there, done());
    }
    for id in ids {
        front.end(&id).await.completed();
    }
    assert_eq!((api.count(Route::Run), api.most_at_once()), (5, 2));
    api.settled();
}

#[tokio::test]
async fn a_job_goes_to_the_engine_that_can_do_it() {
    let (api, provider) = (RunpodApi::scripted(done()).await, ImagesApi::start().await);
    let engines = images("provider", &provider.url, "") + &runpod("endpoint", &api.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    front.runsync(&small(9_610)).await.by("provider");
    let mut large = small(9_611);
    large["width"] = json!(2_048);
    front.runsync(&large).await.by("endpoint");
    front
        .runsync(&json!({"workflow": slow(1, 1, 9_612)}))
        .await
        .by("endpoint");
    // That one cannot do it is no failure: it is done without any fallback too, in the first group that can.
    let never = json!({"policy": {"fallback": "never"}});
    let graph = json!({"workflow": slow(1, 1, 9_613)});
    front.runsync_with(&graph, &never).await.by("endpoint");
    assert_eq!((provider.asked().len(), api.count(Route::Run)), (1, 3));
    api.settled();
    provider.settled();
}

#[tokio::test]
async fn images_fetched_for_a_full_engine_hold_up_no_job_of_a_free_one() {
    let (api, provider) = (RunpodApi::scripted(Fate::InProgress).await, ImagesApi::start().await);
    let more = "edit_model = \"Qwen/Qwen-Image-Edit\"\nmax_side = 512";
    let engines = images("free", &provider.url, more) + &runpod("full", &api.url, "capacity = 1\ngroup = 2");
    let front = Front::start(&engines, &[("ALLOW_PRIVATE_URLS", "127.0.0.1")]).await;
    let picture = format!("{}/pixel.png", image_server::start().await);
    let edit = |side: u32, seed: u32| {
        json!({"prompt": "make it winter", "template": "qwen-image-edit-2511-lightning-4", "width": side, "height": side,
               "seed": seed, "images": [{"name": "a.png", "image": picture}]})
    };
    let mut waiting = Vec::new();
    for seed in 9_620..9_628 {
        waiting.push(front.accept(&edit(1_024, seed)).await);
    }
    api.has_taken(1).await;
    front.runsync(&edit(256, 9_629)).await.by("free");
    // Nor one that waits for that engine once it is free again.
    for count in 1..=waiting.len() {
        let there = api.has_taken(count).await;
        api.becomes(&there, done());
    }
    for id in waiting {
        front.end(&id).await.completed();
    }
    api.settled();
    provider.settled();
}
