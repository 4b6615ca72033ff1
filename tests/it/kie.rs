//! KIE's tasks, as its users ask for them.

use std::sync::{Arc, Mutex};

use axum::Json;
use axum::routing::post;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::{PATIENCE, Worker, text, until};

const KEY: &str = "a-key-of-the-tests";

/// A worker on the shared ComfyUI that may reach this machine.
async fn worker(more: &[(&str, &str)]) -> Worker {
    let vars = [&[("API_KEY", KEY), ("ALLOW_PRIVATE_URLS", "127.0.0.1")], more].concat();
    Worker::beside_shared(&vars).await
}

async fn ask(worker: &Worker, method: Method, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .expect("a client");
    let request = client
        .request(method, format!("{}/api/v1/qwen/{path}", worker.url))
        .bearer_auth(key);
    let answer = request.body(body.to_string()).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// Takes a task in; gives its id.
async fn generate(worker: &Worker, body: &Value) -> String {
    let (status, body) = ask(worker, Method::POST, "generate", KEY, body).await;
    assert_eq!(
        (status, &body["code"], &body["msg"]),
        (200, &json!(200), &json!("success")),
        "{body}"
    );
    text(&body["data"], "taskId").to_owned()
}

/// The record of a task at its end.
async fn record(worker: &Worker, task: &str) -> Value {
    let mut record = Value::Null;
    until("the task ends", async || {
        let path = format!("record-info?taskId={task}");
        let (status, body) = ask(worker, Method::GET, &path, KEY, &Value::Null).await;
        assert_eq!(status, 200, "{body}");
        record = body;
        record["successFlag"] != 0
    })
    .await;
    record
}

fn quick(seed: u32) -> Value {
    json!({"prompt": "a dragon", "image_size": "square", "acceleration_level": "none", "num_inference_steps": 1,
        "guidance_scale": 1, "seed": seed})
}

#[tokio::test]
async fn a_task_is_taken_in_looked_at_and_called_back() {
    let worker = worker(&[]).await;
    let receiver = Receiver::start().await;
    let mut body = quick(7);
    body["callBackUrl"] = json!(receiver.url);
    let task = generate(&worker, &body).await;
    let record = record(&worker, &task).await;
    let data = &record["data"];
    assert_eq!(
        (&data["successFlag"], &record["taskId"]),
        (&json!(1), &json!(task)),
        "{record:#}"
    );
    assert_eq!(data["safetyChecked"], false, "nobody was asked: {record:#}");
    let url = text(&record, "imageUrl");
    let path = url.strip_prefix(&worker.url).unwrap_or_else(|| panic!("{url}"));
    let image = worker.get(path).await;
    assert_eq!(
        (image.status().as_u16(), &image.headers()["content-type"]),
        (200, &"image/png".parse().expect("a header"))
    );
    // The same picture as by another way.
    let same = json!({"prompt": "a dragon", "width": 1024, "height": 1024, "steps": 1, "cfg": 1, "seed": 7,
        "template": "qwen-image"});
    let other = Worker::attached(&worker.comfy_url().await, &[]).await;
    let answer = other.run(same).await.completed();
    assert!(other.first_image(&answer).await == image.bytes().await.expect("a file"));
    until("the call back", async || !receiver.came().is_empty()).await;
    let called = receiver.came()[0].body.clone();
    assert_eq!(called, record);
}

#[tokio::test]
async fn a_task_that_fails_says_why_and_calls_back() {
    let worker = worker(&[("SAFETY_CHECK_URL", "http://127.0.0.1:9/v1/moderations")]).await;
    let receiver = Receiver::start().await;
    let mut body = quick(8);
    body["callBackUrl"] = json!(receiver.url);
    let record = record(&worker, &generate(&worker, &body).await).await;
    assert_eq!(record["successFlag"], 2, "{record:#}");
    let message = text(&record["data"], "errorMessage");
    assert!(message.contains("safety check could not be made"), "{message}");
    until("the call back", async || !receiver.came().is_empty()).await;
    assert_eq!(receiver.came()[0].body["code"], 501);
}

#[tokio::test]
async fn a_picture_is_judged_where_that_is_configured() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/v1/moderations", listener.local_addr().expect("an address"));
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    // The first picture is safe, the second is not.
    let judge = async move |Json(body): Json<Value>| {
        let picture = text(&body["input"][0]["image_url"], "url").to_owned();
        assert!(picture.starts_with("data:image/png;base64,"));
        let mut count = count.lock().expect("no panic");
        *count += 1;
        Json(json!({"results": [{"flagged": *count > 1, "categories": {"violence": *count > 1}}]}))
    };
    let router = axum::Router::new()
        .route("/v1/moderations", post(judge))
        .layer(axum::extract::DefaultBodyLimit::disable());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let worker = worker(&[("SAFETY_CHECK_URL", &url)]).await;
    let safe = record(&worker, &generate(&worker, &quick(9)).await).await;
    assert_eq!(
        (&safe["successFlag"], &safe["data"]["safetyChecked"]),
        (&json!(1), &json!(true)),
        "{safe:#}"
    );
    let unsafe_one = record(&worker, &generate(&worker, &quick(10)).await).await;
    assert_eq!(unsafe_one["successFlag"], 2, "{unsafe_one:#}");
    assert!(text(&unsafe_one["data"], "errorMessage").contains("violence"));
    let mut unasked = quick(11);
    unasked["safety_check"] = json!(false);
    let unasked = record(&worker, &generate(&worker, &unasked).await).await;
    assert_eq!(
        (&unasked["successFlag"], &unasked["data"]["safetyChecked"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(*asked.lock().expect("no panic"), 2);
}

#[tokio::test]
async fn what_is_wrong_is_told_in_kies_envelope() {
    let worker = worker(&[("ALLOW_PRIVATE_URLS", "none")]).await;
    for (method, path, key, body, code, words) in [
        (Method::POST, "generate", KEY, json!({}), 400, "prompt"),
        (
            Method::POST,
            "generate",
            KEY,
            json!({"prompt": "p", "image_size": "x"}),
            400,
            "image_size",
        ),
        (
            Method::POST,
            "generate",
            KEY,
            json!({"prompt": "p", "callBackUrl": "http://127.0.0.1/x?token=4711"}),
            400,
            "callBackUrl",
        ),
        (Method::POST, "generate", "wrong", json!({"prompt": "p"}), 401, "key"),
        (Method::GET, "generate", KEY, Value::Null, 405, "POST"),
        (Method::GET, "record-info", KEY, Value::Null, 400, "taskId"),
        (
            Method::GET,
            "record-info?taskId=x",
            KEY,
            Value::Null,
            404,
            "There is no task",
        ),
        (
            Method::GET,
            "record-info?taskId=qwen_task_01234567-89ab-7cde-8f01-23456789abcd",
            KEY,
            Value::Null,
            404,
            "There is no task",
        ),
        (Method::GET, "no-such-route", KEY, Value::Null, 404, "There is no GET"),
    ] {
        let (status, answer) = ask(&worker, method, path, key, &body).await;
        assert_eq!(
            (status, &answer["code"]),
            (code, &json!(code)),
            "{path} {body}: {answer}"
        );
        let message = text(&answer, "msg");
        assert!(
            message.contains(words) && !message.contains("4711"),
            "{path} {body}: {message}"
        );
    }
}

#[tokio::test]
async fn a_job_of_another_api_is_no_task() {
    let worker = Worker::beside_shared(&[]).await;
    let answer = worker
        .run(json!({"prompt": "p", "width": 64, "height": 64, "steps": 1}))
        .await
        .completed();
    let path = format!("/api/v1/qwen/record-info?taskId=qwen_task_{}", text(&answer.body, "id"));
    let answer = worker.ask(&path).await;
    assert_eq!((answer.status, &answer.body["code"]), (404, &json!(404)));
}
