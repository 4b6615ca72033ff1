//! Engines that rest, and what `/health` says of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{done, small};
use crate::images::serve;
use crate::support::elsewhere::{Front, images, runpod};
use crate::support::images_api::{ImagesApi, refusal};
use crate::support::runpod_api::{Route, RunpodApi};
use crate::support::scripted::{Reply, Words};
use crate::support::{text, until};

/// An endpoint, a provider in the second group, and their front.
struct Two {
    api: RunpodApi,
    provider: ImagesApi,
    front: Front,
}

impl Two {
    async fn start() -> Self {
        let (api, provider) = (RunpodApi::scripted(done()).await, ImagesApi::start().await);
        let engines =
            runpod("first", &api.url, "cost = \"0.00044 $ a second\"") + &images("second", &provider.url, "group = 2");
        let front = Front::start(&engines, &[]).await;
        Self { api, provider, front }
    }

    /// How often each was asked.
    fn asked(&self) -> (usize, usize) {
        (self.api.count(Route::Run), self.provider.asked().len())
    }

    /// For how many seconds the first one rests on; [`None`] where it does not.
    async fn rest(&self) -> Option<f64> {
        let engine = self.front.engine("first").await;
        if !text(&engine, "state").starts_with("resting") {
            return None;
        }
        let seconds = engine["rests_s"].as_f64();
        Some(seconds.unwrap_or_else(|| panic!("it is not said for how long: {engine:#}")))
    }
}

#[tokio::test]
async fn a_429_gives_a_rest_of_the_time_that_it_names() {
    let two = Two::start().await;
    for (seed, wait, seconds) in [(9_400, Some("120"), 60.0..=120.0), (9_410, None, 10.0..=30.0)] {
        let two = if seed == 9_400 { &two } else { &Two::start().await };
        let words = Words::json(429, &json!({"error": "slow down"}));
        let words = match wait {
            Some(wait) => words.with("retry-after", wait),
            None => words,
        };
        two.api.answers_runs([Reply::Says(words)]);
        two.front.runsync(&small(seed)).await.by("second");
        let rest = two.rest().await.expect("it rests");
        assert!(seconds.contains(&rest), "{rest}");
        // It is not asked while it rests.
        two.front.runsync(&small(seed + 1)).await.by("second");
        assert_eq!(two.asked(), (1, 2));
    }
}

#[tokio::test]
async fn a_refused_key_and_an_empty_account_give_a_long_rest() {
    let error = |status: u16| Words::json(status, &json!({"error": "no"}));
    let quota = refusal(429, "insufficient_quota").with("retry-after", "1");
    for (words, seed) in [
        (error(401), 9_420),
        (error(402), 9_422),
        (error(404), 9_424),
        (quota, 9_426),
    ] {
        let two = Two::start().await;
        two.api.answers_runs([Reply::Says(words)]);
        two.front.runsync(&small(seed)).await.by("second");
        let rest = two.rest().await.expect("it rests");
        assert!((300.0..=600.0).contains(&rest), "{rest}");
        two.front.runsync(&small(seed + 1)).await.by("second");
        assert_eq!(two.asked(), (1, 2));
    }
}

#[tokio::test]
async fn three_failures_in_a_row_give_a_rest_and_a_success_between_them_none() {
    let two = Two::start().await;
    let fails = || Reply::Says(Words::json(500, &json!({"error": "out of order"})));
    two.api.answers_runs([fails(), fails(), Reply::Well, fails(), fails()]);
    for (seed, engine) in (9_430..).zip(["second", "second", "first", "second", "second"]) {
        assert_eq!(two.rest().await, None);
        two.front.runsync(&small(seed)).await.by(engine);
    }
    assert_eq!(two.rest().await, None);
    two.api.answers_runs([fails()]);
    two.front.runsync(&small(9_440)).await.by("second");
    let rest = two.rest().await.expect("it rests");
    assert!((5.0..=30.0).contains(&rest), "{rest}");
    two.front.runsync(&small(9_441)).await.by("second");
    assert_eq!(two.asked(), (6, 6));
    two.api.settled();
}

/// An endpoint that has no worker for a job, as RunPod says where it has no GPU to give.
#[tokio::test]
async fn an_endpoint_without_workers_gets_a_job_only_where_no_other_engine_could_do_it() {
    let two = Two::start().await;
    let throttled = json!({"idle": 0, "initializing": 0, "ready": 0, "running": 0, "throttled": 3, "unhealthy": 0});
    two.api.has_workers(throttled.clone());
    two.front.runsync(&small(9_470)).await.by("second");
    let engine = two.front.engine("first").await;
    assert_eq!(engine["state"], "resting", "{engine:#}");
    assert!(text(&engine, "reason").contains("3 throttled"), "{engine:#}");
    // What the second one cannot do is done there all the same, and it is not asked how it is.
    let mut large = small(9_471);
    large["width"] = json!(2_048);
    let (asked, begun) = (two.api.count(Route::Health), Instant::now());
    two.front.runsync(&large).await.by("first");
    assert!(begun.elapsed() < Duration::from_secs(4), "it waits for no rest");
    assert_eq!((two.asked(), two.api.count(Route::Health)), ((1, 1), asked));
    // It has one again: a job goes there as soon as that is known, and it is not asked before each.
    two.api
        .has_workers(json!({"idle": 0, "initializing": 1, "throttled": 2}));
    tokio::time::sleep(Duration::from_secs(6)).await;
    for seed in 9_472..9_476 {
        two.front.runsync(&small(seed)).await.by("first");
    }
    let often = two.api.count(Route::Health) - asked;
    assert!((1..4).contains(&often), "asked {often} times for four jobs");
    // Without any other engine nobody asks.
    two.api.has_workers(throttled.clone());
    let alone = Front::start(&runpod("first", &two.api.url, ""), &[]).await;
    alone.runsync(&small(9_477)).await.by("first");
    assert_eq!(two.api.count(Route::Health), asked + often);
    two.api.settled();
}

#[tokio::test]
async fn a_health_check_that_says_nothing_changes_nothing() {
    let strange = [
        Reply::Says(Words::html(502)),
        Reply::Says(Words::json(200, &json!({"workers": "many"}))),
        Reply::Says(Words::text(200, "{")),
        Reply::HangUp,
        Reply::Never,
    ];
    for (seed, reply) in (9_480..).zip(strange) {
        let two = Two::start().await;
        two.api.answers_healths([reply]);
        for seed in [seed, seed + 10] {
            two.front.runsync(&small(seed)).await.by("first");
        }
        // Nor is it asked again at once.
        assert_eq!((two.asked(), two.api.count(Route::Health)), ((2, 0), 1));
        two.api.settled();
    }
}

#[tokio::test]
async fn while_all_rest_jobs_wait() {
    let api = RunpodApi::scripted(done()).await;
    let wait = Words::json(429, &json!({"error": "slow down"})).with("retry-after", "3");
    api.answers_runs([Reply::Says(wait)]);
    let front = Front::start(&runpod("first", &api.url, ""), &[]).await;
    let (one, other) = (front.accept(&small(9_450)).await, front.accept(&small(9_451)).await);
    until("the first one was tried", async || api.count(Route::Run) > 0).await;
    for id in [one, other] {
        let end = front.end(&id).await.completed();
        assert_eq!(end.body["output"]["engine"], "first");
    }
    assert_eq!(api.taken().len(), 2);
    api.settled();
}

#[tokio::test]
async fn the_health_check_lists_the_engines() {
    let two = Two::start().await;
    let health = two.front.served.ask("/health").await.body;
    let engines = health["engines"].as_array().expect("a list");
    let told: Vec<_> = engines
        .iter()
        .map(|engine| (text(engine, "name"), text(engine, "kind"), text(engine, "state")))
        .collect();
    assert_eq!(
        told,
        [("first", "runpod", "ready"), ("second", "openai", "ready")],
        "{health:#}"
    );
    assert_eq!(engines[0]["cost"], "0.00044 $ a second", "{health:#}");
    let said = health.to_string();
    assert!(
        !said.contains(crate::support::runpod_api::API_KEY),
        "a key is nobody's to read"
    );
    assert!(
        !said.contains(crate::support::images_api::IMAGES_KEY),
        "a key is nobody's to read"
    );
}

#[tokio::test]
async fn the_engines_may_stand_in_a_file_or_at_an_address() {
    let api = RunpodApi::scripted(done()).await;
    let engines = runpod("first", &api.url, "");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("engines.toml");
    std::fs::write(&file, &engines).expect("a file");
    let address = serve(vec![("engines.toml", engines.into_bytes())]).await;
    // What stands elsewhere leads into this network only where that is allowed.
    let allowed = ("ALLOW_PRIVATE_URLS", "127.0.0.1");
    for (place, more, seed) in [
        (file.display().to_string(), &[][..], 9_460),
        (format!("{address}/engines.toml"), &[allowed], 9_461),
    ] {
        let front = Front::start(&place, more).await;
        front.runsync(&small(seed)).await.by("first");
        assert_eq!(front.engine("first").await["kind"], Value::from("runpod"));
    }
    api.settled();
}
