//! What is in a job, and what its result says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Endpoint, lasting, quick};
use crate::support::platform::{Misdeed, Route, State};
use crate::support::{graph, slow, text};

#[tokio::test]
async fn the_documented_request_gives_a_body_of_version_5() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    let mut job: Value = serde_json::from_str(include_str!("../../../test_input.json")).expect("JSON");
    // A size that a CPU makes in no time.
    job["input"]["workflow"]["58"]["inputs"] = json!({"width": 64, "height": 64, "batch_size": 2});
    job["id"] = json!("sync-d1-u1");
    // What the platform adds to a job.
    job["webhook"] = json!("https://example.org/never-called");
    job["delayTime"] = json!(1200);
    endpoint.platform.queue_as(&job);
    let result = endpoint.platform.result("sync-d1-u1").await;
    assert_eq!(result.as_object().expect("an object").len(), 1, "{result:#}");
    let images = result["output"]["images"].as_array().expect("a list");
    assert_eq!(images.len(), 2);
    for image in images {
        assert!(text(image, "filename").starts_with("ComfyUI_"), "{image}");
        assert_eq!(image["type"], "base64");
        let picture = STANDARD.decode(text(image, "data")).expect("base64");
        let kind = imagesize::image_type(&picture).expect("a picture");
        assert_eq!(kind, imagesize::ImageType::Png);
    }
    endpoint.platform.settled();
}

#[tokio::test]
async fn pictures_that_come_with_a_request_are_used() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    endpoint.platform.queue("plain", &quick(7_100));
    let picture = endpoint.one_picture(&endpoint.platform.result("plain").await);
    let workflow = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "from-the-request.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "platform/loaded"}},
    });
    for (id, begin) in [("with-mark", "data:image/png;base64,"), ("bare", "")] {
        let image = format!("{begin}{}", STANDARD.encode(&picture));
        let images = json!([{"name": "from-the-request.png", "image": image}]);
        endpoint
            .platform
            .queue(id, &json!({"workflow": workflow, "images": images}));
        endpoint.one_picture(&endpoint.platform.result(id).await);
    }
    endpoint.platform.settled();
}

#[tokio::test]
async fn what_cannot_be_done_is_an_error_that_names_it_and_the_worker_goes_on() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    let mut unknown = slow(1, 1, 7_110);
    unknown["1"]["class_type"] = json!("NoSuchNode");
    let raises = graph("Raise", json!({"message": "the lamp is out"}));
    let wrong = [
        ("no-input", json!({"id": "no-input"}), "input"),
        ("null-input", json!({"id": "null-input", "input": null}), "input"),
        ("no-work", json!({"id": "no-work", "input": {}}), "workflow"),
        (
            "no-graph",
            json!({"id": "no-graph", "input": {"workflow": 7}}),
            "workflow",
        ),
        (
            "no-picture",
            json!({"id": "no-picture", "input": {"workflow": slow(1, 1, 7_111), "images": [{"name": "a.png"}]}}),
            "images",
        ),
        (
            "no-such-node",
            json!({"id": "no-such-node", "input": {"workflow": unknown}}),
            "NoSuchNode",
        ),
        (
            "raises",
            json!({"id": "raises", "input": {"workflow": raises}}),
            "the lamp is out",
        ),
    ];
    for (id, job, name) in &wrong {
        endpoint.platform.queue_as(job);
        let result = endpoint.platform.result(id).await;
        assert!(text(&result, "error").contains(name), "{id}: {result:#}");
        assert!(result["output"].is_null(), "{id}: {result:#}");
    }
    endpoint.platform.queue("good", &quick(7_112));
    endpoint.one_picture(&endpoint.platform.result("good").await);
    endpoint.platform.settled();
}

/// Each of these posts takes a road of its own, and must not be overtaken by the next one, nor overtake it.
#[tokio::test]
async fn progress_comes_in_order_and_never_after_the_result() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[("PROGRESS_INTERVAL_MS", "10")]);
    let pause = std::time::Duration::from_millis(30);
    let misdeeds = [
        Misdeed::Slow(pause),
        Misdeed::Status(500),
        Misdeed::Reset { taken_in: false },
        Misdeed::Slow(pause),
        Misdeed::HangUp { taken_in: true },
    ];
    endpoint.platform.misbehave(Route::Progress, misdeeds);
    endpoint.platform.queue("told", &lasting(20, 7_120));
    endpoint.one_picture(&endpoint.platform.result("told").await);
    let posts = endpoint.platform.posts("told");
    let (last, progress) = posts.split_last().expect("posts");
    assert_eq!(last.route, Route::Done);
    assert!(progress.len() > 5, "{posts:#?}");
    let steps: Vec<u64> = progress
        .iter()
        .filter_map(|call| call.json()["output"]["step"].as_u64())
        .collect();
    assert!(!steps.is_empty() && steps.is_sorted(), "{steps:?}");
    endpoint.platform.settled();
}

#[tokio::test]
async fn without_an_interval_no_progress_is_told() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[("PROGRESS_INTERVAL_MS", "0")]);
    endpoint.platform.queue("silent", &lasting(5, 7_130));
    endpoint.platform.result("silent").await;
    assert_eq!(endpoint.platform.posts("silent").len(), 1);
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_job_that_streams_posts_its_chunks_before_its_result() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[("PROGRESS_INTERVAL_MS", "10")]);
    let mut input = lasting(10, 7_140);
    input["stream"] = json!(true);
    endpoint.platform.queue("streams", &input);
    endpoint.one_picture(&endpoint.platform.result("streams").await);
    let posts = endpoint.platform.posts("streams");
    let (last, before) = posts.split_last().expect("posts");
    assert_eq!((last.route, last.head.query("isStream")), (Route::Done, "true"));
    let chunks: Vec<_> = before.iter().filter(|call| call.route == Route::Stream).collect();
    assert!(!chunks.is_empty(), "{posts:#?}");
    assert!(
        chunks.iter().all(|chunk| chunk.json()["output"].is_object()),
        "{chunks:#?}"
    );
    endpoint.platform.settled();
}

#[tokio::test]
async fn two_at_once_are_asked_for_in_a_batch() {
    let endpoint = Endpoint::start().await;
    for id in ["one", "two", "three"] {
        let seed = u32::try_from(7_150 + id.len()).expect("small");
        let mut input = lasting(5, seed);
        input["workflow"]["2"]["inputs"]["filename_prefix"] = json!(format!("platform/{id}"));
        endpoint.platform.queue(id, &input);
    }
    let _worker = endpoint.worker(&[("WORKER_CONCURRENCY", "2")]);
    for id in ["one", "two", "three"] {
        endpoint.one_picture(&endpoint.platform.result(id).await);
    }
    let first = &endpoint.platform.calls(Route::Take)[0];
    assert!(first.head.path.contains("/job-take-batch/"), "{first:?}");
    assert_eq!(first.head.query("batch_size"), "2");
    assert_eq!(first.head.query("job_in_progress"), "0");
    endpoint.platform.settled();
}

#[tokio::test]
async fn a_job_that_is_handed_out_again_while_it_is_in_hand_runs_once() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[("WORKER_CONCURRENCY", "2")]);
    let mut input = lasting(20, 7_160);
    input["workflow"]["2"]["inputs"]["filename_prefix"] = json!("platform/twice/picture");
    endpoint.platform.queue("twice", &input);
    endpoint.at_comfyui(7_160).await;
    endpoint.platform.queue("twice", &input);
    let again = |state: &State| (state.ticket("twice").handed_out == 2).then_some(());
    endpoint.platform.until("it is handed out again", again).await;
    endpoint.one_picture(&endpoint.platform.result("twice").await);
    // Whatever would come of the second one comes before this.
    endpoint.platform.queue("after", &quick(7_161));
    endpoint.platform.result("after").await;
    assert_eq!(endpoint.platform.finals("twice").len(), 1);
    let saved = std::fs::read_dir(endpoint.shared.output().join("platform/twice")).expect("a folder");
    assert_eq!(saved.count(), 1);
    endpoint.platform.settled();
}
