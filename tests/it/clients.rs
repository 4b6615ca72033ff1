//! RunPod's official clients against the worker: what they read is what counts. The scripts in `clients/` use them as
//! their users do; the tests look at what they saw.

use serde_json::{Value, json};

use crate::support::clients::{node, python};
use crate::support::{Worker, graph, slow, text};

const PYTHON: &str = "runpod==1.12.0";
const NPM: &str = "runpod-sdk@1.1.2";

/// A worker with a queue of its own, which may be purged, on the shared ComfyUI; and what a script is to run. No two
/// jobs have a seed in common, so what is run once does not come from ComfyUI's cache.
async fn worker_and_plan(seed: u32) -> (Worker, Value) {
    let worker = Worker::beside_shared(&[]).await;
    let plan = json!({
        "base": format!("{}/v2", worker.url),
        "quick": {"workflow": slow(1, 1, seed)},
        "slow": {"workflow": slow(60, 50, seed + 1)},
        "raises": {"workflow": graph("Raise", json!({"message": "the lamp is out"}))},
        // Nobody waits for its end.
        "endless": {"workflow": slow(10_000, 50, seed + 2)},
    });
    (worker, plan)
}

#[track_caller]
fn assert_output(output: &Value) {
    let image = &output["images"][0];
    assert_eq!(
        (text(image, "type"), text(image, "subfolder")),
        ("output", "test"),
        "{output}"
    );
}

/// `/health` has the counts that the clients' types name.
#[track_caller]
fn assert_health(health: &Value) {
    for (group, names) in [
        ("jobs", &["completed", "failed", "inProgress", "inQueue", "retried"][..]),
        ("workers", &["idle", "initializing", "ready", "running", "throttled"]),
    ] {
        for name in names {
            assert!(health[group][name].is_u64(), "{group}.{name}: {health}");
        }
    }
}

/// Each step of the slow job was seen at most once, in order, and the last ones were seen.
#[track_caller]
fn assert_chunks(chunks: &Value) {
    let chunks = chunks.as_array().expect("a list");
    let steps: Vec<u64> = chunks.iter().filter_map(|chunk| chunk["step"].as_u64()).collect();
    assert!(steps.len() > 1, "{chunks:?}");
    assert!(steps.is_sorted_by(|a, b| a <= b), "{steps:?}");
    let percents: Vec<u64> = chunks.iter().filter_map(|chunk| chunk["percent"].as_u64()).collect();
    assert_eq!(percents.len(), chunks.len(), "{chunks:?}");
    assert!(percents.is_sorted(), "{percents:?}");
}

#[track_caller]
fn assert_purged_and_cancelled(seen: &Value) {
    assert_eq!(seen["purge"]["status"], "completed", "{seen:#}");
    assert!(
        seen["purge"]["removed"]
            .as_u64()
            .is_some_and(|removed| (1..=3).contains(&removed)),
        "{seen:#}"
    );
    assert_eq!(seen["cancel"]["status"], "CANCELLED", "{seen:#}");
    assert!(seen["cancel"]["id"].is_string(), "{seen:#}");
}

#[tokio::test]
async fn the_python_client() {
    let (_worker, plan) = worker_and_plan(5_000).await;
    let seen = python(PYTHON, include_str!("clients/runpod_sync.py"), &plan).await;
    assert_health(&seen["health"]);
    assert_output(&seen["run"]);
    assert_eq!(seen["run_status"], "COMPLETED");
    assert_output(&seen["run_sync"]);
    assert_chunks(&seen["stream"]);
    assert_eq!(seen["stream_status"], "COMPLETED");
    assert_eq!(
        (&seen["failed_output"], &seen["failed_sync"]),
        (&Value::Null, &Value::Null)
    );
    assert_purged_and_cancelled(&seen);
    assert_eq!(
        (&seen["cancelled_status"], &seen["cancel_again"]),
        (&json!("CANCELLED"), &json!("CANCELLED"))
    );
    assert_eq!(seen["refused"][0], 400);
    assert!(
        text(&seen["refused"][1], "error").contains("neither `workflow` nor `prompt`"),
        "{seen:#}"
    );
}

#[tokio::test]
async fn the_python_client_on_asyncio() {
    let (_worker, plan) = worker_and_plan(5_100).await;
    let seen = python(PYTHON, include_str!("clients/runpod_asyncio.py"), &plan).await;
    assert_health(&seen["health"]);
    assert_output(&seen["run"]);
    assert_eq!(seen["run_status"], "COMPLETED");
    assert_chunks(&seen["stream"]);
    assert_eq!(seen["stream_status"], "COMPLETED");
    assert_eq!(
        (&seen["failed_output"], &seen["failed_status"]),
        (&Value::Null, &json!("FAILED"))
    );
    assert_purged_and_cancelled(&seen);
    assert_eq!(seen["cancelled_status"], "CANCELLED");
}

#[tokio::test]
async fn the_npm_client() {
    let (_worker, plan) = worker_and_plan(5_200).await;
    let seen = node(NPM, include_str!("clients/runpod_sdk.mjs"), &plan).await;
    assert_health(&seen["health"]);
    assert_eq!(seen["accepted"], "IN_QUEUE");
    for run in [&seen["run"], &seen["run_sync"]] {
        assert_eq!(
            (&run["completed"], &run["succeeded"]),
            (&json!(true), &json!(true)),
            "{run}"
        );
        assert!(run["delayTime"].is_u64() && run["executionTime"].is_u64(), "{run}");
        assert_output(&run["output"]);
    }
    assert_chunks(&seen["stream"]);
    assert_eq!(seen["stream_status"], "COMPLETED");
    let failed = &seen["failed"];
    assert_eq!(
        (text(failed, "status"), &failed["succeeded"]),
        ("FAILED", &json!(false)),
        "{failed}"
    );
    assert!(text(failed, "error").contains("node 1 (Raise) failed"), "{failed}");
    assert_eq!(seen["run_sync_late"]["completed"], false, "{seen:#}");
    assert!(seen["progress"]["percent"].is_u64(), "{seen:#}");
    assert_purged_and_cancelled(&seen);
    assert_eq!(seen["cancelled"]["completed"], true, "{seen:#}");
    assert_eq!(seen["unknown"]["status"], 404, "{seen:#}");
    assert_eq!(seen["refused"]["status"], 400, "{seen:#}");
}
