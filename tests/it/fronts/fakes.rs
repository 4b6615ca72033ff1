//! What the other tests of fronts rest on: the fake endpoint and the fake provider do what they say.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::done;
use crate::support::clients::python;
use crate::support::elsewhere::assert_png;
use crate::support::http;
use crate::support::images_api::{As, IMAGES_KEY, ImagesApi};
use crate::support::platform::Platform;
use crate::support::runpod_api::{API_KEY, Fate, LARGEST, Route, RunpodApi};
use crate::support::scripted::{Reply, Words};

#[tokio::test]
async fn the_fake_endpoint_is_as_runpods_documentation_has_it() {
    let api = RunpodApi::scripted(Fate::InQueue).await;
    let ask = async |method: &str, path: &str, key: &str, body: String| {
        let method = method.parse().expect("a method");
        let request = http()
            .request(method, format!("{}{path}", api.url))
            .bearer_auth(key)
            .body(body);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let input = json!({"input": {"workflow": {}}}).to_string();
    assert_eq!(ask("POST", "/run", "wrong", input.clone()).await.0, 401);
    assert_eq!(ask("POST", "/run", API_KEY, "{}".to_owned()).await.0, 400);
    assert_eq!(ask("POST", "/run", API_KEY, "x".repeat(LARGEST + 1)).await.0, 413);
    assert_eq!(ask("GET", "/status/nobody", API_KEY, String::new()).await.0, 404);
    assert_eq!(ask("POST", "/cancel/nobody", API_KEY, String::new()).await.0, 404);
    assert!(api.taken().is_empty());

    let (status, taken) = ask("POST", "/run", API_KEY, input.clone()).await;
    let id = taken["id"].as_str().expect("an id").to_owned();
    assert_eq!((status, taken), (200, json!({"id": id, "status": "IN_QUEUE"})));
    assert_eq!(api.has_taken(1).await, id);
    let path = format!("/status/{id}");
    for (fate, expected) in [
        (Fate::InProgress, "IN_PROGRESS"),
        (Fate::Failed("the lamp is out"), "FAILED"),
        (Fate::TimedOut, "TIMED_OUT"),
        (done(), "COMPLETED"),
    ] {
        api.becomes(&id, fate);
        let told = ask("GET", &path, API_KEY, String::new()).await;
        assert_eq!(
            (told.0, &told.1["status"], &told.1["id"]),
            (200, &json!(expected), &json!(id))
        );
        assert_eq!(told.1["error"].is_string(), expected == "FAILED");
        assert_eq!(told.1["output"].is_object(), expected == "COMPLETED");
    }
    // A result that is too large is not kept.
    api.becomes(&id, Fate::Completed(json!({"text": "x".repeat(LARGEST)})));
    assert_eq!(ask("GET", &path, API_KEY, String::new()).await.1["output"], Value::Null);
    // What is over is not cancelled.
    let cancel = format!("/cancel/{id}");
    assert_eq!(
        ask("POST", &cancel, API_KEY, String::new()).await.1["status"],
        "COMPLETED"
    );
    api.becomes(&id, Fate::InProgress);
    assert_eq!(
        ask("POST", &cancel, API_KEY, String::new()).await.1["status"],
        "CANCELLED"
    );
    assert_eq!(ask("GET", &path, API_KEY, String::new()).await.1["status"], "CANCELLED");
    assert_eq!(
        ask("GET", "/health", API_KEY, String::new()).await.1["workers"]["ready"],
        1
    );

    // What is planned happens once.
    api.answers_runs([
        Reply::Says(Words::html(502)),
        Reply::Says(Words::json(429, &json!({"error": "slow down"})).with("retry-after", "7")),
        Reply::HangUp,
        Reply::Cut,
        Reply::Unread,
    ]);
    let run = async || {
        http()
            .post(format!("{}/run", api.url))
            .bearer_auth(API_KEY)
            .body(input.clone())
            .send()
            .await
    };
    let page = run().await.expect("an answer");
    assert_eq!(page.status(), 502);
    assert!(page.text().await.expect("a text").starts_with("<!DOCTYPE html>"));
    let slow_down = run().await.expect("an answer");
    assert_eq!(
        (slow_down.status().as_u16(), &slow_down.headers()["retry-after"]),
        (429, &"7".parse().expect("a header"))
    );
    assert_eq!(api.taken().len(), 1, "a refusal takes nothing");
    assert!(run().await.is_err());
    assert!(run().await.expect("a head").bytes().await.is_err());
    assert_eq!(api.taken().len(), 3, "what is lost on the way back was taken");
    assert!(run().await.is_err());
    assert_eq!(api.taken().len(), 3);
    assert_eq!(api.count(Route::Run), 9);
    assert_eq!(api.calls(Route::Run)[8].body, b"", "nobody has read it");
    api.settled();
}

#[tokio::test]
async fn the_fake_provider_makes_pictures_of_the_size_that_is_asked_for() {
    let api = ImagesApi::start().await;
    let ask = async || {
        let body = json!({"prompt": "a fox", "size": "320x256", "n": 2, "response_format": "b64_json"});
        let request = http().post(format!("{}/images/generations", api.url)).json(&body);
        let answer = request.bearer_auth(IMAGES_KEY).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")
    };
    for (tells, begin) in [(As::Base64, ""), (As::DataUri, "data:image/png;base64,")] {
        api.tells(tells);
        let answer = ask().await;
        assert_eq!(answer["data"].as_array().map(Vec::len), Some(2));
        let data = answer["data"][0]["b64_json"].as_str().expect("a picture");
        let picture = STANDARD
            .decode(data.strip_prefix(begin).expect("its begin"))
            .expect("base64");
        assert_png(&picture, 320, 256);
    }
    api.tells(As::Url);
    let url = ask().await["data"][1]["url"].as_str().expect("an address").to_owned();
    let picture = http()
        .get(url)
        .send()
        .await
        .expect("an answer")
        .bytes()
        .await
        .expect("a picture");
    assert_png(&picture, 320, 256);
    let form = reqwest::multipart::Form::new()
        .text("prompt", "a fox")
        .text("size", "64x32");
    let request = http().post(format!("{}/images/edits", api.url)).multipart(form);
    let answer = request.bearer_auth(IMAGES_KEY).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let asked = api.asked();
    assert_eq!(asked.len(), 4);
    assert_eq!(
        (asked[3].route.as_str(), asked[3].field("size").as_deref()),
        ("edits", Some("64x32"))
    );
    api.settled();
}

/// The judge of the fake: RunPod's own client on this side of it and RunPod's own worker on the other find nothing wrong.
#[tokio::test]
async fn runpods_own_client_and_worker_meet_at_the_fake_endpoint() {
    const PYTHON: &str = "runpod==1.12.0";
    let platform = Arc::new(Platform::start().await);
    // The worker ends when its call for jobs does.
    platform.hold(Duration::from_secs(1));
    let api = RunpodApi::before(&platform).await;
    let base = api.url.strip_suffix("/ep").expect("an endpoint");
    let plan = json!({"base": base, "key": API_KEY});
    let vars = json!(platform.vars());
    let worker = python(PYTHON, include_str!("../clients/runpod_worker.py"), &vars);
    let client = python(PYTHON, include_str!("../clients/runpod_public_api.py"), &plan);
    let (ended, seen) = tokio::join!(worker, client);
    assert_eq!(ended, "ended");
    assert_eq!(seen["health"]["workers"]["ready"], 1);
    let states = seen["states"].as_array().expect("a list");
    let expected = [
        json!(["IN_PROGRESS", "step 0", null]),
        json!(["IN_PROGRESS", "step 1", null]),
        json!(["COMPLETED", {"said": "á"}, null]),
    ];
    assert!(states.ends_with(&expected), "{states:#?}");
    assert_eq!((&seen["output"], &seen["stream"]), (&json!({"said": "á"}), &json!([])));
    assert_eq!(seen["failed"][0], "FAILED");
    assert!(seen["failed"][2].to_string().contains("the lamp is out"), "{seen:#}");
    assert_eq!(
        (&seen["cancel"]["status"], &seen["cancelled"]),
        (&json!("CANCELLED"), &json!("CANCELLED"))
    );
    assert!(seen["wrong_key"].is_string(), "{seen:#}");
    assert_eq!(seen["last"], json!(["COMPLETED", {"said": []}, null]));
    assert_eq!(api.taken().len(), 4);
    api.settled();
    platform.settled();
}
