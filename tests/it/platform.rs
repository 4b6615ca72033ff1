//! The worker on RunPod's platform: jobs are taken, results go back, and nothing is lost whatever the platform does.

use std::time::Duration;

use serde_json::json;

use crate::support::clients::python;
use crate::support::platform::{Call, Platform, Route};

/// Waits for a ping that names these jobs.
async fn pinged_with(platform: &Platform, ids: &str) {
    let found = |ping: &Call| (ping.head.query("job_id") == ids).then_some(());
    let what = format!("a ping that names {ids:?}");
    platform
        .until(&what, |state| state.calls(Route::Ping).find_map(found))
        .await;
}

/// The judge of the fake: RunPod's own package must find nothing wrong with it, nor it with the package.
#[tokio::test]
async fn runpods_own_worker_works_on_the_fake_platform() {
    let platform = Platform::start().await;
    platform.hold(Duration::from_secs(1));
    platform.queue("a", &json!({"say": "á", "steps": 2}));
    platform.queue("b", &json!({"raise": "the lamp is out"}));
    platform.queue("c", &json!({"wait": true}));
    let jobs = async {
        assert_eq!(platform.result("a").await, json!({"output": {"said": "á"}}));
        let error = platform.result("b").await["error"].as_str().expect("text").to_owned();
        assert!(error.contains("the lamp is out"), "{error}");
        pinged_with(&platform, "c").await;
        platform.cancel(&["c"]);
        platform.queue("d", &json!({"error": "no", "say": 1}));
        assert_eq!(platform.result("d").await, json!({"error": "no"}));
        platform.queue("e", &json!({"say": [], "refresh": true, "end": true}));
        let last = platform.result("e").await;
        assert_eq!(last, json!({"output": {"said": []}, "stopPod": true}));
    };
    let vars = json!(platform.vars());
    let worker = python("runpod==1.12.0", include_str!("clients/runpod_worker.py"), &vars);
    let (ended, ()) = tokio::join!(worker, jobs);
    assert_eq!(ended, "ended");
    let progress: Vec<_> = platform
        .posts("a")
        .iter()
        .map(|call| call.json()["output"].clone())
        .collect();
    assert_eq!(progress, [json!("step 0"), json!("step 1"), json!({"said": "á"})]);
    assert!(platform.posts("c").is_empty());
    platform.settled();
}
