//! Signs of life: pings, readiness, and the last word of a worker that cannot work.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use super::fitness::last_word;
use super::{Endpoint, lasting, noise, nothing_in_hand, pinged_with, quick};
use crate::support::binary::Served;
use crate::support::deployed::Deployed;
use crate::support::platform::{Call, KEY, Misdeed, POD, Platform, Route, State};
use crate::support::proxy::Proxy;

#[tokio::test]
async fn pings_name_the_jobs_in_hand() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[("WORKER_CONCURRENCY", "2"), ("RUNPOD_PING_INTERVAL", "50")]);
    pinged_with(&endpoint.platform, "").await;
    endpoint.platform.queue("a", &lasting(30, 7_500));
    endpoint.at_comfyui(7_500).await;
    endpoint.platform.queue("b", &quick(7_501));
    let both = endpoint.platform.until("a ping with both", |state| {
        let mut pings = state
            .calls(Route::Ping)
            .map(|ping| ping.head.query("job_id").to_owned());
        pings.find(|ids| ids.contains(','))
    });
    let mut both: Vec<String> = both.await.split(',').map(str::to_owned).collect();
    both.sort();
    assert_eq!(both, ["a", "b"]);
    for id in ["a", "b"] {
        endpoint.one_picture(&endpoint.platform.result(id).await);
    }
    nothing_in_hand(&endpoint.platform).await;
    endpoint.platform.settled();
}

/// One that hangs behind the work would leave jobs out, and the platform would give them to another worker.
#[tokio::test]
async fn under_load_every_job_is_named_by_a_ping() {
    let endpoint = Endpoint::start().await;
    let ids: Vec<String> = (0..6).map(|index| format!("load-{index}")).collect();
    for (seed, id) in (7_540_u32..).zip(&ids) {
        endpoint.platform.queue(id, &noise(1024, seed));
    }
    let vars = [
        ("WORKER_CONCURRENCY", "3"),
        ("RUNPOD_PING_INTERVAL", "10"),
        ("RESULT_MAX_BYTES", "1000000"),
    ];
    let _worker = endpoint.worker(&vars);
    for id in &ids {
        assert!(endpoint.platform.result(id).await["output"].is_object(), "{id}");
    }
    let pings = endpoint.platform.calls(Route::Ping);
    for id in &ids {
        let names = |ping: &Call| ping.head.query("job_id").split(',').any(|named| named == id);
        assert!(
            pings.iter().any(names),
            "{id} was named by no ping\n{}",
            endpoint.platform.told()
        );
    }
    endpoint.platform.settled();
}

#[tokio::test]
async fn pings_go_on_whatever_they_meet() {
    let endpoint = Endpoint::start().await;
    let misdeeds = [
        Misdeed::Status(500),
        Misdeed::Status(503),
        Misdeed::Status(401),
        Misdeed::HangUp { taken_in: false },
        Misdeed::Reset { taken_in: false },
        Misdeed::Hang,
        Misdeed::Slow(Duration::from_millis(5)),
    ];
    let count = misdeeds.len();
    endpoint.platform.misbehave(Route::Ping, misdeeds);
    let _worker = endpoint.worker(&[("RUNPOD_PING_INTERVAL", "50")]);
    endpoint.platform.queue("job", &quick(7_510));
    endpoint.one_picture(&endpoint.platform.result("job").await);
    let more = |state: &State| state.calls(Route::Ping).nth(count + 5).map(|_| ());
    endpoint.platform.until("pings after the bad ones", more).await;
    endpoint.platform.settled();
}

#[tokio::test]
async fn no_job_is_taken_before_comfyui_is_ready() {
    let endpoint = Endpoint::start().await;
    let gate = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", gate.local_addr().expect("an address"));
    endpoint.platform.queue("early", &quick(7_520));
    let vars = [("COMFYUI_URL", address.as_str()), ("RUNPOD_PING_INTERVAL", "50")];
    let _worker = endpoint.worker(&vars);
    let alive = |state: &State| state.calls(Route::Ping).nth(10).map(|_| ());
    endpoint.platform.until("the worker lives", alive).await;
    assert!(endpoint.platform.calls(Route::Take).is_empty());
    let _proxy = Proxy::behind(gate, &endpoint.comfy_url);
    endpoint.one_picture(&endpoint.platform.result("early").await);
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_worker_that_cannot_work_says_why_once_and_ends() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    let nowhere = ("COMFYUI_DIR", "/nowhere/comfyui");
    let refuses = ("COMFYUI_URL", address.as_str());
    for broken in [nowhere, refuses] {
        let platform = Platform::start().await;
        let data = tempfile::tempdir().expect("a folder");
        let vars = [broken, ("COMFY_API_AVAILABLE_MAX_RETRIES", "20")];
        let mut worker = Deployed::start(&platform, data.path(), &vars);
        let last = last_word(&platform, &mut worker).await;
        assert!(last.head.path.ends_with(POD), "{last:?}");
        assert!(!last.head.query("check").is_empty(), "{last:?}");
        let name = broken.1.trim_start_matches("http://");
        assert!(last.head.query("reason").contains(name), "{last:?}");
    }
}

/// The key to the platform and its addresses are nobody's business.
#[tokio::test]
async fn the_log_keeps_the_platforms_key_to_itself() {
    let endpoint = Endpoint::start().await;
    let worker = endpoint.worker(&[("LOG_LEVEL", "trace")]);
    endpoint.platform.misbehave(Route::Take, [Misdeed::Status(500)]);
    endpoint
        .platform
        .misbehave(Route::Done, [Misdeed::Reset { taken_in: false }]);
    endpoint.platform.queue("job", &quick(7_530));
    endpoint.platform.result("job").await;
    let log = worker.log();
    assert!(!log.is_empty() && !log.contains(KEY), "{log}");
    endpoint.platform.settled();
}

#[tokio::test]
async fn the_command_that_names_the_worker_is_one_too() {
    let endpoint = Endpoint::start().await;
    let vars = [("COMFYUI_URL", endpoint.comfy_url.as_str())];
    let _worker = Deployed::start_as(&["worker"], &endpoint.platform, endpoint.data.path(), &vars);
    endpoint.platform.queue("job", &quick(7_550));
    endpoint.one_picture(&endpoint.platform.result("job").await);
    endpoint.platform.settled();
}

#[tokio::test]
async fn the_api_served_in_its_place_takes_nothing_from_the_queue() {
    let endpoint = Endpoint::start().await;
    let mut vars = endpoint.platform.vars();
    // With it the log is for RunPod, and not where `Served` reads it.
    vars.remove("RUNPOD_ENDPOINT_ID");
    let more = [
        ("COMFYUI_URL", endpoint.comfy_url.as_str()),
        ("DATA_DIR", endpoint.data.path().to_str().expect("UTF-8")),
        ("SERVE_API_LOCALLY", "true"),
        ("PORT", "0"),
    ];
    vars.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let served = Served::start_as(&[], &vars).await;
    let id = served.accept(json!({"input": quick(7_560)})).await;
    served.end(&id).await.completed();
    assert!(endpoint.platform.calls(Route::Take).is_empty());
}
