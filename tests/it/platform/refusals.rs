//! Failures that the platform does not take, and jobs that are refused before they run.

use std::time::Duration;

use serde_json::{Value, json};

use super::Endpoint;
use crate::support::platform::Misdeed;
use crate::support::{graph, text, until};

fn failing(message: &str) -> Value {
    json!({"workflow": graph("Raise", json!({"message": message}))})
}

/// A long error is refused for its size as a long result is. It is cut, nothing is posted again without a pause, and what is
/// refused although it is short is given up.
#[tokio::test]
async fn a_failure_that_the_platform_refuses_is_made_smaller_and_given_up_in_the_end() {
    let endpoint = Endpoint::start().await;
    let mut worker = endpoint.worker(&[]);
    endpoint
        .platform
        .misbehave(super::Route::Done, vec![Misdeed::Status(413); 2]);
    endpoint
        .platform
        .queue("long", &failing(&"no such image ".repeat(3_000)));
    let result = endpoint.platform.result("long").await;
    assert!(text(&result, "error").contains("no such image"), "{result:#}");
    endpoint
        .platform
        .misbehave(super::Route::Done, vec![Misdeed::Status(413); 40]);
    endpoint.platform.queue("never", &failing("no"));
    until("it is given up", async || worker.log().contains("so it is given up")).await;
    assert!(worker.runs(), "{}", worker.log());
    for id in ["long", "never"] {
        let finals = endpoint.platform.finals(id);
        assert!((2..20).contains(&finals.len()), "{finals:#?}");
        for pair in finals.windows(2) {
            let pause = pair[1].at - pair[0].at;
            assert!(pause >= Duration::from_millis(150), "{pause:?}: {finals:#?}");
            assert!(pair[1].length <= pair[0].length, "{finals:#?}");
        }
    }
    let long = endpoint.platform.finals("long");
    assert!(long.windows(2).all(|pair| pair[1].length < pair[0].length), "{long:#?}");
}

#[tokio::test]
async fn a_bucket_whose_name_leads_inside_the_network_is_refused_before_the_job_runs() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    let job = json!({
        "id": "inside",
        "input": failing("it ran"),
        "s3Config": {
            "accessId": "AKIA4711", "accessSecret": "secret-0815", "bucketName": "results",
            "endpointUrl": "http://localhost:9999",
        },
    });
    endpoint.platform.queue_as(&job);
    let result = endpoint.platform.result("inside").await;
    let error = text(&result, "error");
    assert!(error.contains("s3Config") && error.contains("localhost"), "{result:#}");
    assert!(!error.contains("it ran"), "{result:#}");
    endpoint.platform.settled();
}
