//! Results that go to an S3 bucket, and what becomes of them when it does not take them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::bucket::{BucketServer, SECRET};
use crate::support::{Answer, Worker, fresh_data, graph, http, shared, text, until};

fn noise(side: u32, seed: u32) -> Value {
    graph("Noise", json!({"side": side, "count": 1, "seed": seed}))
}

/// A picture and a file of another kind.
fn two_kinds(seed: u32, words: &str) -> Value {
    let mut workflow = noise(48, seed);
    workflow["3"] = json!({
        "class_type": "SaveFile", "inputs": {"text": words, "filename_prefix": "test/note", "kind": "files"},
    });
    workflow
}

/// What an address of a result has.
async fn fetched(file: &Value) -> Vec<u8> {
    assert_eq!(text(file, "type"), "s3_url", "{file}");
    let answer = http().get(text(file, "data")).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{file}");
    answer.bytes().await.expect("a body").to_vec()
}

fn warnings(answer: &Answer) -> String {
    answer.body["output"]["warnings"].to_string()
}

#[tokio::test]
async fn files_of_each_kind_go_to_the_configured_bucket() {
    // The installation is there when the shared worker is ready.
    drop(shared().await);
    let bucket = BucketServer::start().await;
    let (data, mut vars) = fresh_data();
    let more = BucketServer::vars(&bucket.endpoint, SECRET);
    vars.extend(
        more.into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    vars.insert("RESULT_MAX_BYTES".to_owned(), "20000".to_owned());
    let worker = Worker::start(vars).await;
    worker.ready().await;
    let input = json!({"workflow": two_kinds(9_001, "words"), "output_format": "webp"});
    let answer = worker.run(input).await.completed();
    let image = &answer.images()[0];
    let content = fetched(image).await;
    assert_eq!(image::guess_format(&content).expect("an image"), ImageFormat::WebP);
    let name = text(image, "filename");
    assert_eq!(
        std::fs::read(worker.output().join("test").join(name)).expect("it is here too"),
        content
    );
    let files = answer.body["output"]["files"].as_array().expect("files");
    let note = files
        .iter()
        .find(|file| text(file, "kind") == "text")
        .expect("the note");
    assert_eq!(fetched(note).await, b"words");
    assert_eq!(bucket.objects(), 2);

    // Too much for base64.
    let input = json!({"workflow": noise(160, 9_002), "return_images_as": "base64"});
    let answer = worker.run(input).await.completed();
    let content = fetched(&answer.images()[0]).await;
    assert_eq!(image::guess_format(&content).expect("an image"), ImageFormat::Png);
    assert!(
        warnings(&answer).contains("they are in the bucket"),
        "{}",
        warnings(&answer)
    );

    // What is asked for goes before what is configured.
    let input = json!({"workflow": noise(16, 9_003), "return_images_as": "metadata"});
    let answer = worker.run(input).await.completed();
    assert_eq!(text(&answer.images()[0], "type"), "output");
    assert_eq!(bucket.objects(), 3);
    drop(data);
}

#[tokio::test]
async fn the_other_dialects_name_what_lies_in_the_bucket_and_take_it_as_input() {
    let bucket = BucketServer::start().await;
    let mut more = BucketServer::vars(&bucket.endpoint, SECRET);
    more.push(("ALLOW_PRIVATE_URLS", "127.0.0.1"));
    let worker = Worker::beside_shared(&more).await;
    let png = async |url: &str| {
        assert!(
            url.starts_with(&bucket.endpoint) && url.contains("X-Amz-Signature"),
            "{url}"
        );
        let answer = http().get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{url}");
        let content = answer.bytes().await.expect("a body");
        image::load_from_memory(&content).expect("a picture").width()
    };

    let asked = json!({"prompt": "a harbour", "size": "96x64", "seed": 9_051}).to_string();
    let answer = worker.send(Method::POST, "/v1/images/generations", asked).await;
    assert_eq!(answer.status, 200, "{:#}", answer.body);
    let url = text(&answer.body["data"][0], "url").to_owned();
    assert_eq!(png(&url).await, 96);

    // Inline where that is asked for, whatever is configured.
    let asked = json!({"prompt": "a harbour", "size": "96x64", "seed": 9_051, "response_format": "b64_json"});
    let answer = worker
        .send(Method::POST, "/v1/images/generations", asked.to_string())
        .await;
    assert!(answer.body["data"][0]["b64_json"].is_string(), "{:#}", answer.body);

    let asked = json!({"prompt": "a harbour", "image_size": "square", "acceleration_level": "high", "seed": 9_052});
    let answer = worker
        .send(Method::POST, "/api/v1/qwen/generate", asked.to_string())
        .await;
    let path = format!(
        "/api/v1/qwen/record-info?taskId={}",
        text(&answer.body["data"], "taskId")
    );
    let record = worker.ask_until(&path, |record| record["successFlag"] != 0).await;
    assert_eq!(png(text(&record, "imageUrl")).await, 1024, "{record:#}");

    // What was made is the input of the next, by the address that was answered and by its place in the bucket.
    let parsed: reqwest::Url = url.parse().expect("a URL");
    let in_bucket = format!("s3:/{}", parsed.path());
    for image in [&url, &in_bucket] {
        let asked = json!({
            "image1_url": image, "prompt": "make it night", "steps": 1, "cfg": 1.0, "megapixels": 0.02, "seed": 9_053});
        let answer = worker.send(Method::POST, "/edit/edit-image", asked.to_string()).await;
        let id = text(&answer.body, "job_id");
        let status = worker
            .ask_until(&format!("/edit/status/{id}"), |status| {
                ["completed", "error"].contains(&text(status, "status"))
            })
            .await;
        assert_eq!(text(&status, "status"), "completed", "{image}: {status:#}");
        let picture = worker.get(&format!("/edit/download/{id}")).await;
        let picture = picture.bytes().await.expect("a body");
        image::load_from_memory(&picture).expect("a picture");

        let asked = json!({
            "image": image, "model": "Qwen/Qwen-Image-Edit", "prompt": "make it night", "size": "256x256", "steps": 1,
            "seed": 9_054});
        let answer = worker.send(Method::POST, "/v1/images/edits", asked.to_string()).await;
        assert_eq!(answer.status, 200, "{image}: {:#}", answer.body);
        assert_eq!(png(text(&answer.body["data"][0], "url")).await, 256);
    }
}

#[tokio::test]
async fn a_request_brings_its_own_bucket() {
    let worker = shared().await;
    let bucket = BucketServer::start().await;
    let body = json!({"input": {"workflow": two_kinds(9_011, "own")}, "s3Config": bucket.config()}).to_string();
    // Where private addresses are not allowed, the bucket is refused before the graph runs.
    let refused = worker.post(body.clone()).await;
    assert_eq!(refused.status, 400, "{:#}", refused.body);
    assert!(refused.error().contains("s3Config"), "{}", refused.error());
    let more = [("ALLOW_PRIVATE_URLS", "127.0.0.1")];
    let attached = Worker::attached(&worker.comfy_url().await, &more).await;
    let answer = attached.post(body).await.completed();
    let content = fetched(&answer.images()[0]).await;
    assert_eq!(image::guess_format(&content).expect("an image"), ImageFormat::Png);
    assert_eq!(bucket.objects(), 2);
    assert!(!answer.body.to_string().contains(SECRET));
}

#[tokio::test]
async fn when_the_bucket_fails_the_answer_holds_the_files_if_they_fit() {
    let worker = shared().await;
    let bucket = BucketServer::start().await;
    let mut more = BucketServer::vars(&bucket.endpoint, "wrong-secret");
    more.push(("RESULT_MAX_BYTES", "20000"));
    let attached = Worker::attached(&worker.comfy_url().await, &more).await;
    let answer = attached.run(json!({"workflow": noise(48, 9_021)})).await.completed();
    let image = &answer.images()[0];
    assert_eq!(text(image, "type"), "base64");
    image::load_from_memory(&STANDARD.decode(text(image, "data")).expect("base64")).expect("an image");
    let told = warnings(&answer);
    assert!(
        told.contains("could not be uploaded") && told.contains("BUCKET_SECRET_ACCESS_KEY"),
        "{told}"
    );
    assert!(!told.contains("wrong-secret"), "{told}");

    let words = "words ".repeat(10_000);
    let answer = attached.run(json!({"workflow": two_kinds(9_022, &words)})).await;
    assert_eq!((answer.status, text(&answer.body, "status")), (500, "FAILED"));
    let error = answer.error();
    assert!(
        error.contains("too large") && error.contains("could not be uploaded"),
        "{error}"
    );
}

#[tokio::test]
async fn comfyui_does_not_wait_for_an_upload_which_can_be_called_off() {
    let worker = shared().await;
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    let more = BucketServer::vars(&endpoint, SECRET);
    let attached = Worker::attached(&worker.comfy_url().await, &more).await;
    let id = attached.accept(noise(16, 9_031)).await;
    until("the files are uploaded", async || {
        let answer = attached.ask(&format!("/status/{id}")).await;
        answer.body["progress"]["stage"] == "delivering"
    })
    .await;
    let input = json!({"workflow": noise(16, 9_032), "return_images_as": "metadata"});
    attached.run(input).await.completed();
    assert_eq!(attached.status(&id).await, "IN_PROGRESS");
    let answer = attached.send(Method::POST, &format!("/cancel/{id}"), "").await;
    assert_eq!(answer.status, 200);
    until("it is cancelled", async || attached.status(&id).await == "CANCELLED").await;
    drop(silent);
}
