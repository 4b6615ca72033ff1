//! Fronts: workers without a ComfyUI, whose jobs run at engines elsewhere. RunPod's API and a provider of pictures are fakes on real
//! sockets; where a test says so, a real worker of ours on the real ComfyUI stands behind them.

mod behind;
mod dialects;
mod fallback;
mod groups;
mod kills;
mod refused;
mod rests;
mod results;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::http;
use crate::support::image_server::png;
use crate::support::images_api::{As, IMAGES_KEY, ImagesApi};
use crate::support::runpod_api::{API_KEY, Fate, LARGEST, Route, RunpodApi};
use crate::support::scripted::{Reply, Words};

/// The width and height of what [`small`] asks for.
const SIDE: u32 = 256;

/// A job that any engine can do.
fn small(seed: u32) -> Value {
    json!({"prompt": "a fox", "template": "qwen-image", "width": SIDE, "height": SIDE, "seed": seed})
}

/// The output of an endpoint that has made this picture.
fn output_of(picture: &[u8]) -> Value {
    let image = json!({"filename": "made_00001_.png", "type": "base64", "data": STANDARD.encode(picture)});
    json!({"images": [image]})
}

/// The end of a job that made what [`small`] asks for.
fn done() -> Fate {
    Fate::Completed(output_of(&png(SIDE, SIDE, 255)))
}

/// What the other tests rest on: the fake endpoint has RunPod's answers and limits.
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
        crate::support::elsewhere::assert_png(&picture, 320, 256);
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
    crate::support::elsewhere::assert_png(&picture, 320, 256);
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
