//! OpenAI's Images API, through the clients that people use.

use std::fmt::Write as _;
use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::clients::{node, python};
use crate::support::{Answer, PATIENCE, Worker, shared, text, until};

const PYTHON: &str = "openai==3.52.0";
const NPM: &str = "openai@6.49.0";
const KEY: &str = "a-key-of-the-tests";

/// A picture with a gradient, as PNG.
fn picture(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 4]) -> Vec<u8> {
    let image = RgbaImage::from_fn(width, height, |x, y| Rgba(pixel(x, y)));
    let mut content = Cursor::new(Vec::new());
    let image = DynamicImage::ImageRgba8(image);
    image.write_to(&mut content, ImageFormat::Png).expect("a PNG");
    content.into_inner()
}

#[expect(clippy::cast_possible_truncation, reason = "below 256")]
fn gradient() -> Vec<u8> {
    picture(128, 128, |x, y| [x as u8 * 2, y as u8 * 2, 90, 255])
}

/// A worker with a key on the shared ComfyUI, and what a script is to run.
async fn worker_and_plan() -> (Worker, Value) {
    let worker = Worker::beside_shared(&[("API_KEY", KEY)]).await;
    let plan = json!({
        "base": format!("{}/v1", worker.url),
        "key": KEY,
        "image": STANDARD.encode(gradient()),
        "second": STANDARD.encode(picture(64, 96, |_, _| [200, 30, 30, 255])),
        // The left half is to be changed.
        "mask": STANDARD.encode(picture(128, 128, |x, _| [0, 0, 0, if x < 64 { 0 } else { 255 }])),
    });
    (worker, plan)
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes everything");
        text
    })
}

/// What `/runsync` makes of the same prompt and seed.
async fn by_runsync(beside: &Worker) -> String {
    let worker = Worker::attached(&beside.comfy_url().await, &[]).await;
    let input = json!({"prompt": "a harbour", "width": 96, "height": 64, "seed": 5});
    let answer = worker.run(input).await.completed();
    digest(&worker.first_image(&answer).await)
}

#[track_caller]
fn assert_failure(failure: &Value, class: &str, status: u16, code: &str, param: &str) {
    assert_eq!(
        (
            text(failure, "class"),
            &failure["status"],
            text(failure, "code"),
            text(failure, "param")
        ),
        (class, &json!(status), code, param),
        "{failure:#}"
    );
    assert_eq!(failure["type"], "invalid_request_error", "{failure:#}");
}

#[track_caller]
fn assert_streamed(events: &Value, kind: &str) {
    let events = events.as_array().expect("a list");
    let (completed, partials) = events.split_last().expect("an event");
    assert_eq!(completed["type"], format!("{kind}.completed"), "{events:#?}");
    assert_eq!(completed["format"], "png");
    assert_eq!(text(completed, "image").len(), 64, "{events:#?}");
    assert!(!partials.is_empty(), "no preview came: {events:#?}");
    for (index, partial) in partials.iter().enumerate() {
        assert_eq!(partial["type"], format!("{kind}.partial_image"));
        assert_eq!((&partial["index"], &partial["format"]), (&json!(index), &json!("jpeg")));
    }
}

fn assert_seen_by_both(seen: &Value, same: &str) {
    let models: Vec<_> = seen["models"].as_array().into_iter().flatten().collect();
    assert!(models.contains(&&json!("Qwen/Qwen-Image-Edit")), "{models:?}");
    assert_eq!(seen["one_model"], "Qwen/Qwen-Image-Edit");
    assert_failure(&seen["no_model"], "NotFoundError", 404, "model_not_found", "model");
    assert_eq!(seen["fetched"], json!(["image/png", same]), "the picture of /runsync");
    assert_eq!(seen["inline"], same);
    // With a seed of its own: what ComfyUI has in its cache has no previews.
    assert_streamed(&seen["stream"], "image_generation");
    assert_failure(&seen["bad_size"], "BadRequestError", 400, "invalid_value", "size");
    assert!(!text(&seen["bad_size"], "request_id").is_empty());
    assert_failure(&seen["bad_model"], "NotFoundError", 404, "model_not_found", "model");
}

#[track_caller]
fn assert_edits(seen: &Value) {
    assert_eq!(text(seen, "edit_two").len(), 64, "{seen:#}");
    assert_streamed(&seen["edit_stream"], "image_edit");
}

#[tokio::test]
async fn the_python_client() {
    let (worker, plan) = worker_and_plan().await;
    let same = by_runsync(&worker).await;
    let seen = python(PYTHON, include_str!("clients/openai_python.py"), &plan).await;
    assert_seen_by_both(&seen, &same);
    assert!(text(&seen, "url").starts_with(&format!("{}/files/", worker.url)));
    let several = seen["several"].as_array().expect("a list");
    assert_eq!(several.len(), 2);
    assert_ne!(several[0], several[1]);
    assert!(seen["created"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000));
    assert_failure(&seen["bad_image"], "BadRequestError", 400, "invalid_value", "image");
    assert_failure(&seen["bad_mask"], "BadRequestError", 400, "invalid_value", "mask");
    assert_eq!(
        (text(&seen["bad_key"], "class"), text(&seen["bad_key"], "code")),
        ("AuthenticationError", "invalid_api_key")
    );
    // Where no field is at fault it is the request that is named.
    assert_eq!(seen["bad_key"]["param"], seen["bad_key"]["request_id"]);
}

#[tokio::test]
async fn the_python_client_edits() {
    let (worker, plan) = worker_and_plan().await;
    let seen = python(PYTHON, include_str!("clients/openai_python_edits.py"), &plan).await;
    assert_edits(&seen);
    let files = format!("{}/files/", worker.url);
    assert!(
        text(&seen, "as_specified").starts_with(&files),
        "{}",
        seen["as_specified"]
    );
    assert_masked(&seen["masked"]);
}

/// Two seeds make two pictures of the half that the mask shows, and nearly the same of the other.
#[track_caller]
fn assert_masked(masked: &Value) {
    let decode = |picture: &Value| {
        let content = STANDARD.decode(picture.as_str().expect("a picture")).expect("base64");
        image::load_from_memory(&content).expect("an image").to_rgb8()
    };
    let (one, other) = (decode(&masked[0]), decode(&masked[1]));
    assert_eq!(one.dimensions(), (256, 256));
    // Away from the edge of the mask.
    let difference = |columns: std::ops::Range<u32>| -> u64 {
        let pixels = columns.flat_map(|x| (0..256).map(move |y| (x, y)));
        let channels = pixels.flat_map(|(x, y)| one.get_pixel(x, y).0.into_iter().zip(other.get_pixel(x, y).0));
        channels.map(|(a, b)| u64::from(a.abs_diff(b))).sum()
    };
    let (shown, kept) = (difference(0..96), difference(160..256));
    assert!(
        shown > kept * 4,
        "the half to be changed differs by {shown}, the other by {kept}"
    );
}

#[tokio::test]
async fn the_npm_client() {
    let (worker, plan) = worker_and_plan().await;
    let same = by_runsync(&worker).await;
    let seen = node(NPM, include_str!("clients/openai_npm.mjs"), &plan).await;
    assert_seen_by_both(&seen, &same);
    assert_edits(&seen);
    let files = format!("{}/files/", worker.url);
    assert!(text(&seen, "variation").starts_with(&files), "{}", seen["variation"]);
}

async fn post(worker: &Worker, path: &str, body: &Value) -> Answer {
    worker.send(Method::POST, path, body.to_string()).await
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, param: &str, words: &str) {
    let error = &answer.body["error"];
    assert_eq!(answer.status, status, "{error:#}");
    assert_eq!(text(error, "param"), param, "{error:#}");
    assert!(text(error, "message").contains(words), "{error:#}");
    assert_eq!(error.as_object().map(serde_json::Map::len), Some(4), "{error:#}");
    assert!(error["code"].is_string() && error["type"].is_string(), "{error:#}");
}

#[tokio::test]
async fn what_is_wrong_is_told_in_openais_shape() {
    let worker = shared().await;
    let image = STANDARD.encode(gradient());
    let mut opaque = Cursor::new(Vec::new());
    DynamicImage::new_rgb8(128, 128)
        .write_to(&mut opaque, ImageFormat::Png)
        .expect("a PNG");
    let opaque = STANDARD.encode(opaque.into_inner());
    let private = "http://127.0.0.1:9/a.png?token=4711";
    for (path, body, status, param, words) in [
        ("generations", json!({}), 400, "prompt", "empty"),
        ("generations", json!({"prompt": "p", "n": 11}), 400, "n", "from 1 to 10"),
        (
            "generations",
            json!({"prompt": "p", "model": "x"}),
            404,
            "model",
            "does not exist",
        ),
        ("edits", json!({"prompt": "p"}), 400, "image", "is missing"),
        (
            "edits",
            json!({"prompt": "p", "image": "nonsense!"}),
            400,
            "image",
            "no base64",
        ),
        (
            "edits",
            json!({"prompt": "p", "image": private}),
            400,
            "image",
            "is refused",
        ),
        (
            "edits",
            json!({"prompt": "p", "image": image, "size": "1537x256"}),
            400,
            "size",
            "256 to 1536",
        ),
        (
            "edits",
            json!({"prompt": "p", "image": image, "mask": opaque}),
            400,
            "mask",
            "transparency",
        ),
    ] {
        let answer = post(&worker, &format!("/v1/images/{path}"), &body).await;
        assert_refused(&answer, status, param, words);
        assert!(!answer.body.to_string().contains("4711"), "{}", answer.body);
    }
    let answer = worker.send(Method::POST, "/v1/images/generations", "no JSON").await;
    assert_eq!(
        (answer.status, text(&answer.body["error"], "code")),
        (400, "invalid_value")
    );
    let answer = worker.ask("/v1/images/generations").await;
    assert_eq!(
        (answer.status, text(&answer.body["error"], "code")),
        (405, "method_not_allowed")
    );
    let answer = worker.ask("/v1/chat/completions").await;
    assert_eq!((answer.status, text(&answer.body["error"], "code")), (404, "not_found"));
}

#[tokio::test]
async fn a_form_that_breaks_off_is_refused() {
    let worker = shared().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (kind, body) in [
        ("multipart/form-data", "x"),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\np",
        ),
    ] {
        let request = client.post(format!("{}/v1/images/edits", worker.url));
        let answer = request
            .header("content-type", kind)
            .body(body)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 400, "{kind}");
        let body: Value = answer.json().await.expect("JSON");
        assert!(text(&body["error"], "message").contains("form"), "{body}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_calls_its_job_off() {
    for streamed in [false, true] {
        let worker = Worker::beside_shared(&[]).await;
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let body = json!({"prompt": "p", "size": "256x256", "steps": 10_000, "quality": "low", "stream": streamed});
        let request = client
            .post(format!("{}/v1/images/generations", worker.url))
            .body(body.to_string());
        let asked = tokio::spawn(async move {
            let answer = request.send().await?;
            answer.bytes().await
        });
        worker.has_a_job_running().await;
        asked.abort();
        until("the job is cancelled", async || {
            let jobs = worker.ask("/requests?status=CANCELLED").await;
            jobs.body["requests"].as_array().is_some_and(|jobs| jobs.len() == 1)
        })
        .await;
    }
}

#[tokio::test]
async fn a_link_works_without_a_key_and_for_its_file_alone() {
    let more = [("API_KEY", KEY), ("PUBLIC_URL", "https://images.example.com/w")];
    let worker = Worker::beside_shared(&more).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .expect("a client");
    let request = client
        .post(format!("{}/v1/images/generations", worker.url))
        .bearer_auth(KEY);
    let body = json!({"prompt": "p", "size": "64x64", "seed": 1, "quality": "low"}).to_string();
    let answer: Value = request
        .body(body)
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    let url = text(&answer["data"][0], "url");
    let path = url
        .strip_prefix("https://images.example.com/w")
        .unwrap_or_else(|| panic!("{answer}"));
    let get = async |path: &str| worker.get(path).await;
    let file = get(path).await;
    assert_eq!(
        (file.status().as_u16(), &file.headers()["content-type"]),
        (200, &"image/png".parse().expect("a header"))
    );
    for wrong in [
        path.replace("/0/", "/1/"),
        path.replace("expires=", "expires=1"),
        path.split('?').next().expect("a path").to_owned(),
    ] {
        let answer = get(&wrong).await;
        assert_eq!(answer.status(), 404, "{wrong}");
        assert!(answer.text().await.expect("a body").contains("There is no such file"));
    }
}
