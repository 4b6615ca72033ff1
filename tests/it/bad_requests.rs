//! Requests that are wrong in other things than their images, through every way in: each is refused in the words of its
//! API, with the field named, and the next request gets its picture.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gradio::small_sizes;
use crate::support::Worker;
use crate::support::dialects::{Client, Refusal, Way};
use crate::support::image_server::png;

const KEY: &str = "a-key-of-the-tests";
/// An id of the right form that nothing has.
const NOTHING: &str = "01234567-89ab-7cde-8f01-23456789abcd";

/// A worker with a key, small pictures and small bodies.
async fn worker() -> (Worker, TempDir) {
    let templates = small_sizes();
    let folder = templates.path().display().to_string();
    let vars = [("API_KEY", KEY), ("WORKFLOWS_DIR", &*folder), ("MAX_BODY_MB", "1")];
    (Worker::beside_shared(&vars).await, templates)
}

/// A request that is right. For the ways that need an image it has one.
fn good(way: Way) -> Value {
    let image = STANDARD.encode(png(1, 1, 255));
    match way {
        Way::Runsync => json!({"prompt": "a hut", "width": 64, "height": 64, "steps": 1}),
        Way::Generations | Way::GenerationsStreamed => {
            json!({"prompt": "a hut", "size": "64x64", "steps": 1, "quality": "low", "response_format": "b64_json"})
        }
        Way::Edits | Way::EditsForm | Way::EditsStreamed => {
            json!({"prompt": "a hut", "image": image, "size": "256x256", "steps": 1, "quality": "low",
                "response_format": "b64_json"})
        }
        Way::GradioCall | Way::GradioJoin => json!(["a hut", 3, false, "1:1", 4, 1, false]),
        Way::Kie => json!({"prompt": "a hut", "image_size": "square_hd", "num_inference_steps": 1}),
        Way::EditPlus => {
            json!({"prompt": "a hut", "image1_url": image, "steps": 1, "cfg": 1, "megapixels": 0.02})
        }
    }
}

/// A request that is right but for one field; null leaves it out.
async fn with(client: &Client<'_>, way: Way, field: &str, value: &Value) -> (Refusal, String) {
    let mut body = good(way);
    body[field] = value.clone();
    let what = format!("{way:?} {field} = {value}");
    (client.ask(way, &body).await.refused(&what), what)
}

#[tokio::test]
async fn openai() {
    let (worker, _templates) = worker().await;
    let client = Client::new(&worker, KEY);
    let long = json!("x".repeat(20_001));
    // In forms too, where all values are text.
    let wrong = [
        ("prompt", json!(null), 400, "say what the picture should show"),
        ("prompt", json!(" "), 400, "say what the picture should show"),
        ("prompt", long, 400, "has 20001 characters, the limit is 20000"),
        ("model", json!("sdxl"), 404, "The models are Qwen/Qwen-Image"),
        ("size", json!("big"), 400, "write `1024x1024`, or `auto`"),
        ("size", json!("1x1"), 400, "each side must be from"),
        ("size", json!("100000x100000"), 400, "each side must be from"),
        ("n", json!(0), 400, "from 1 to 10, not 0"),
        ("n", json!(1.5), 400, "from 1 to 10, not 1.5"),
        ("n", json!("two"), 400, "from 1 to 10, not \"two\""),
        ("seed", json!(-2), 400, "a whole number from 0"),
        ("seed", json!("x"), 400, "not \"x\""),
        ("steps", json!(0), 400, "from 1 to 10000"),
        ("guidance_scale", json!(101), 400, "from 0 to 100"),
        ("quality", json!("best"), 400, "auto, low, medium, high"),
        ("response_format", json!("png"), 400, "url or b64_json"),
        ("output_format", json!("gif"), 400, "png, jpeg or webp"),
        ("output_compression", json!(101), 400, "from 0 to 100"),
        ("background", json!("transparent"), 400, "send opaque or auto"),
        ("partial_images", json!(4), 400, "from 0 to 3"),
    ];
    let of_wrong_type = [
        ("prompt", json!(7), 400, "must be a string, not 7"),
        ("prompt", json!(["a hut"]), 400, "must be a string, not a list"),
        ("negative_prompt", json!(7), 400, "must be a string"),
        ("model", json!(["x"]), 400, "must be a string"),
        ("size", json!(1024), 400, "must be a string, not 1024"),
        ("n", json!({}), 400, "not an object"),
        ("seed", json!(true), 400, "not true"),
        ("image", json!(7), 400, "must be a URL"),
        ("image", json!([[]]), 400, "must be a URL"),
        ("image", json!({"image_url": 7}), 400, "must be a URL"),
        (
            "image",
            json!({"file_id": "file-1"}),
            400,
            "send the image itself or a URL",
        ),
        ("mask", json!(7), 400, "must be a URL"),
    ];
    for way in [
        Way::Generations,
        Way::GenerationsStreamed,
        Way::Edits,
        Way::EditsStreamed,
        Way::EditsForm,
    ] {
        let types: &[_] = if way == Way::EditsForm { &[] } else { &of_wrong_type };
        for (field, value, status, words) in wrong.iter().chain(types) {
            let (refusal, what) = with(&client, way, field, value).await;
            refusal.says(*status, &[words], &what);
            assert_eq!(refusal.param.as_deref(), Some(*field), "{what}");
        }
    }
    let (refusal, what) = with(&client, Way::Generations, "stream", &json!("yes")).await;
    refusal.says(400, &["true or false"], &what);
    assert_eq!(refusal.param.as_deref(), Some("stream"));
    for way in [Way::Generations, Way::GenerationsStreamed, Way::EditsForm] {
        client.ask(way, &good(way)).await.picture(&format!("{way:?}"));
    }
}

#[tokio::test]
async fn gradio() {
    let (worker, _templates) = worker().await;
    let client = Client::new(&worker, KEY);
    for way in [Way::GradioCall, Way::GradioJoin] {
        for (data, status, words) in [
            (json!([]), 200, &["prompt", "say what the picture should show"][..]),
            (json!([null, 7]), 200, &["prompt", "say what the picture should show"]),
            (json!([7]), 200, &["prompt", "must be a string, not 7"]),
            (json!([["a hut"]]), 200, &["prompt", "must be a string, not a list"]),
            (json!(["p", -2]), 200, &["seed", "from 0 to 9007199254740991, not -2"]),
            (json!(["p", "x"]), 200, &["seed", "not \"x\""]),
            (json!(["p", 1, "no"]), 200, &["randomize_seed", "true or false"]),
            (
                json!(["p", 1, true, "5:4"]),
                200,
                &["aspect_ratio", "none of 1:1, 16:9"],
            ),
            (json!(["p", 1, true, 7]), 200, &["aspect_ratio", "must be a string"]),
            (
                json!(["p", 1, true, "1:1", 21]),
                200,
                &["guidance_scale", "from 0 to 20, not 21"],
            ),
            (
                json!(["p", 1, true, "1:1", 4, 101]),
                200,
                &["num_inference_steps", "from 1 to 100"],
            ),
            (
                json!(["p", 1, true, "1:1", 4, 1.5]),
                200,
                &["num_inference_steps", "not 1.5"],
            ),
            (
                json!(["p", 1, true, "1:1", 4, 1, "no"]),
                200,
                &["prompt_enhance", "true or false"],
            ),
            (
                json!(["p", 1, true, "1:1", 4, 1, true, 8]),
                200,
                &["data", "has 8 values, and /infer takes 7"],
            ),
            (
                json!(["", -2]),
                200,
                &["2 fields are wrong", "- prompt: is empty", "- seed: must be"],
            ),
            (json!("p"), 422, &["data", "must be a list"]),
            (json!({"prompt": "p"}), 422, &["data", "must be a list, not an object"]),
        ] {
            let what = format!("{way:?} {data}");
            let refusal = client.ask(way, &data).await.refused(&what);
            refusal.says(status, words, &what);
        }
        client.ask(way, &good(way)).await.picture(&format!("{way:?}"));
    }
}

#[tokio::test]
async fn kie_edit_plus_and_runpod() {
    let (worker, _templates) = worker().await;
    let client = Client::new(&worker, KEY);
    for (way, field, value, words) in [
        (Way::Kie, "prompt", json!(null), "say what the picture should show"),
        (Way::Kie, "prompt", json!({}), "must be a string, not an object"),
        (Way::Kie, "image_size", json!("huge"), "none of square, square_hd"),
        (Way::Kie, "image_size", json!(1024), "must be a string"),
        (Way::Kie, "num_inference_steps", json!(251), "from 1 to 250"),
        (Way::Kie, "guidance_scale", json!(-1), "from 0 to 20"),
        (Way::Kie, "seed", json!("x"), "not \"x\""),
        (Way::Kie, "acceleration_level", json!("max"), "none, regular or high"),
        (Way::Kie, "output_format", json!("webp"), "png or jpeg"),
        (Way::Kie, "safety_check", json!("yes"), "true or false"),
        (Way::Kie, "callBackUrl", json!("nowhere"), "http or https"),
        (
            Way::Kie,
            "callBackUrl",
            json!("http://10.0.0.1/x"),
            "10.0.0.1 is refused",
        ),
        (Way::EditPlus, "prompt", json!(null), "prompt are required"),
        (Way::EditPlus, "prompt", json!(7), "must be a string, not 7"),
        (
            Way::EditPlus,
            "image1_url",
            json!(["x"]),
            "must be a string, not a list",
        ),
        (Way::EditPlus, "image2_url", json!(7), "must be a string, not 7"),
        (Way::EditPlus, "negative_prompt", json!(7), "must be a string, not 7"),
        (Way::EditPlus, "steps", json!(101), "from 1 to 100"),
        (Way::EditPlus, "cfg", json!(0), "from 1 to 20"),
        (Way::EditPlus, "megapixels", json!(17), "from 0.01 to 16"),
        (Way::EditPlus, "seed", json!(-2), "a whole number"),
        (Way::EditPlus, "model", json!("sdxl"), "none of qwen-image-edit-2511"),
        (Way::EditPlus, "model", json!(2511), "must be a string"),
        (Way::Runsync, "prompt", json!(null), "neither `workflow` nor `prompt`"),
        (Way::Runsync, "prompt", json!({}), "must be a string, not an object"),
        (Way::Runsync, "width", json!("64"), "from 16 to 16384"),
        (Way::Runsync, "template", json!("sdxl"), "The templates are"),
        (Way::Runsync, "template", json!(7), "must be a string"),
        (Way::Runsync, "aspect_ratio", json!("5:4"), "the ratios are"),
        (Way::Runsync, "images", json!({}), "needs a `name` and an `image`"),
        (Way::Runsync, "images", json!([{"image": {}}]), "a data URI, or a URL"),
    ] {
        let (refusal, what) = with(&client, way, field, &value).await;
        refusal.says(400, &[field, words], &what);
    }
    for way in [Way::Kie, Way::EditPlus, Way::Runsync] {
        client.ask(way, &good(way)).await.picture(&format!("{way:?}"));
    }
}

/// Each dialect's route that takes work in, with where its errors say what is wrong.
const INTO: [(&str, &str); 7] = [
    ("/runsync", "/error"),
    ("/run", "/error"),
    ("/v1/images/generations", "/error/message"),
    ("/gradio_api/call/infer", "/detail/0/msg"),
    ("/gradio_api/queue/join", "/detail/0/msg"),
    ("/api/v1/qwen/generate", "/msg"),
    ("/edit/edit-image", "/detail"),
];

#[track_caller]
fn message(text: &str, place: &str, what: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{what}: no JSON ({error}): {text}"));
    let message = body.pointer(place).and_then(Value::as_str);
    message
        .unwrap_or_else(|| panic!("{what}: nothing at {place}: {text}"))
        .to_owned()
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let (worker, _templates) = worker().await;
    let client = Client::new(&worker, KEY);
    let (deep, large) = ("[".repeat(100_000), format!("\"{}\"", "x".repeat(1024 * 1024)));
    for (path, place) in INTO {
        for body in [
            "",
            "{",
            "hello",
            "[]",
            "7",
            "null",
            "\"p\"",
            "{\"prompt\": \"\\ud800\"}",
            "\0",
            &deep,
        ] {
            let what = format!("{path} {body:.40}");
            let (status, text) = client.send(Method::POST, path, body).await;
            let expected = if path.starts_with("/gradio") { 422 } else { 400 };
            assert_eq!(status, expected, "{what}: {text}");
            assert!(message(&text, place, &what).len() > 20, "{what}: {text}");
        }
        let (status, text) = client.send(Method::POST, path, &large).await;
        assert_eq!(status, 413, "{path}: {text}");
        // What is not wrong in itself is told by Gradio as a text.
        let place = if path.starts_with("/gradio") { "/detail" } else { place };
        assert!(message(&text, place, path).contains("MAX_BODY_MB"), "{path}: {text}");
    }
}

#[tokio::test]
async fn ids_that_nothing_has() {
    let (worker, _templates) = worker().await;
    let client = Client::new(&worker, KEY);
    let long = "x".repeat(2_000);
    for id in [NOTHING, "x", "%ff", "..%2f..", "%00", "a%20b", "%F0%9F%A6%8A", &*long] {
        for (method, path, place) in [
            (Method::GET, format!("/status/{id}"), "/error"),
            (Method::GET, format!("/v2/any/status/{id}"), "/error"),
            (Method::GET, format!("/status-sync/{id}"), "/error"),
            (Method::GET, format!("/stream/{id}"), "/error"),
            (Method::GET, format!("/events/{id}"), "/error"),
            (Method::POST, format!("/cancel/{id}"), "/error"),
            (Method::POST, format!("/retry/{id}"), "/error"),
            (Method::GET, format!("/gradio_api/call/infer/{id}"), "/detail"),
            (Method::GET, format!("/api/v1/qwen/record-info?taskId={id}"), "/msg"),
            (
                Method::GET,
                format!("/api/v1/qwen/record-info?taskId=qwen_task_{id}"),
                "/msg",
            ),
            (Method::GET, format!("/edit/status/{id}"), "/detail"),
            (Method::GET, format!("/edit/download/{id}"), "/detail"),
            (Method::GET, format!("/edit/debug/job/{id}"), "/detail"),
            (Method::DELETE, format!("/edit/jobs/{id}"), "/detail"),
        ] {
            let (status, text) = client.send(method, &path, "").await;
            // A path that no two servers read alike is refused before anything is looked for.
            let is_clear = id != "%00" || path.contains('?');
            let wanted: &[u16] = if is_clear { &[404] } else { &[400, 422] };
            assert!(wanted.contains(&status), "{path}: {status} {text}");
            assert!(!is_clear || !message(&text, place, &path).is_empty(), "{path}");
        }
    }
}

#[tokio::test]
async fn a_key_that_is_wrong() {
    let (worker, _templates) = worker().await;
    for key in ["", "another-key", "ü"] {
        let stranger = Client::new(&worker, key);
        for way in [
            Way::Runsync,
            Way::Generations,
            Way::Edits,
            Way::EditsForm,
            Way::EditsStreamed,
            Way::GenerationsStreamed,
            Way::GradioCall,
            Way::GradioJoin,
            Way::Kie,
            Way::EditPlus,
        ] {
            let what = format!("{way:?} {key:?}");
            let refusal = stranger.ask(way, &good(way)).await.refused(&what);
            refusal.says(401, &["key", "Authorization: Bearer KEY", "API_KEY"], &what);
        }
    }
}
