//! Requests as people send them by mistake, after reports about other workers: each runs, or is told what is wrong and what to
//! write instead, in a short answer.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Worker, shared};

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC";

/// The most bytes of an answer to any of these.
const SHORT: usize = 6_000;

/// A graph of one node that makes an image, and one that saves it.
fn save(maker: &Value) -> Value {
    json!({"1": maker, "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "cases"}}})
}

fn blue() -> Value {
    json!({"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 255}})
}

fn load(image: &str) -> Value {
    save(&json!({"class_type": "LoadImage", "inputs": {"image": image}}))
}

/// A graph whose output shows what one node gives.
fn show(class: &str, input: &str, value: &Value) -> Value {
    json!({"1": {"class_type": class, "inputs": {input: value}},
        "9": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}})
}

#[track_caller]
fn refused(answer: &Answer, words: &[&str], what: &str) {
    assert!(
        (400..500).contains(&answer.status),
        "{what}: {} {:#}",
        answer.status,
        answer.body
    );
    let length = answer.body.to_string().len();
    assert!(length < SHORT, "{what}: {length} bytes");
    let error = answer.error();
    for word in words {
        assert!(error.contains(word), "{what}: `{word}` is not in: {error}");
    }
}

#[track_caller]
fn warned(answer: Answer, words: &[&str]) {
    let answer = answer.completed();
    let warnings = answer.body["output"]["warnings"].to_string();
    for word in words {
        assert!(warnings.contains(word), "`{word}` is not in: {warnings}");
    }
}

#[tokio::test]
async fn what_stands_where_a_name_should_stand() {
    let worker = shared().await;
    let base64 = "iVBORw0KGgoAAAANSUhEUgAA".repeat(80_000);
    for (class, input) in [
        ("LoadImage", "image"),
        ("LoadAudio", "audio"),
        ("LoadImageMask", "image"),
    ] {
        let graph = show(class, input, &json!(base64));
        let answer = worker.run(json!({ "workflow": graph })).await;
        // It was taken as a file, and is none.
        let place = format!("the file in `{input}` of node 1 ({class}) has ");
        refused(&answer, &[&place, "pixels; the limit is 16384 a side"], class);
    }
    let answer = worker
        .run(json!({"workflow": show("VAELoader", "vae_name", &json!(base64))}))
        .await;
    refused(&answer, &["longer than any name"], "VAELoader");
    for (image, word) in [
        ("ftp://example.com/cat.png", "has an address of the scheme `ftp`"),
        ("data:image/png;base64,iVBORw0KGgo", "is no image that ComfyUI reads"),
    ] {
        refused(
            &worker.run(json!({"workflow": load(image)})).await,
            &["the file in `image` of node 1 (LoadImage) ", word],
            image,
        );
    }
    // ComfyUI's own API takes names alone.
    for (image, word) in [
        ("https://example.com/cat.png", "is an address"),
        ("data:image/png;base64,iVBORw0KGgo", "is a data URI"),
        (&*base64, "looks like base64"),
    ] {
        let answer = worker
            .send(Method::POST, "/prompt", json!({"prompt": load(image)}).to_string())
            .await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
        let told = answer.body.to_string();
        for word in [word, "upload the file by `/upload/image`", "`/runsync`"] {
            assert!(told.contains(word), "`{word}` is not in: {told}");
        }
    }
    let model = show("VAELoader", "vae_name", &json!("Qwen\\qwen_image_vae.safetensors"));
    let answer = worker.run(json!({ "workflow": model })).await;
    refused(
        &answer,
        &["under that name: write `qwen_image_vae.safetensors`"],
        "a backslash",
    );
    assert!(!answer.error().contains("https://"), "{}", answer.error());
}

#[tokio::test]
async fn images_by_other_names_than_the_graph_has() {
    let worker = shared().await;
    let input =
        |named: &str, loaded: &str| json!({"workflow": load(loaded), "images": [{"name": named, "image": PIXEL}]});
    // Marked as one of ComfyUI's input folder, on either side; and with its accents as macOS writes them.
    for (named, loaded) in [
        ("clipspace/mask-1.5.png [input]", "clipspace/mask-1.5.png [input]"),
        ("a.png [input]", "a.png"),
        ("a.png", "a.png [input]"),
        ("fu\u{308}r.png", "f\u{fc}r.png"),
        ("f\u{fc}r.png", "fu\u{308}r.png"),
    ] {
        let answer = worker.run(input(named, loaded)).await.completed();
        assert_eq!(answer.images().len(), 1, "{named} {loaded}");
        assert!(
            answer.body["output"]
                .get("warnings")
                .is_none_or(|told| !told.to_string().contains("not used")),
            "{}",
            answer.body
        );
    }
    let answer = worker.run(input("image (3).png", "pasted/image (3).png")).await;
    refused(&answer, &["the request brings `image (3).png`"], "another folder");
    refused(
        &worker.run(input("cat.png", "Dog and pony.png")).await,
        &["the request brings `cat.png`"],
        "another name",
    );
    refused(
        &worker.run(input("a.png [output]", "a.png")).await,
        &["leave `[output]` out"],
        "a mark",
    );
    let filename = json!({"workflow": load("cat.png"), "images": [{"filename": "cat.png", "image": PIXEL}]});
    refused(
        &worker.run(filename).await,
        &["`filename` is not known", "`name`"],
        "filename",
    );
    let images = json!([{"name": "cat.png", "image": PIXEL}]);
    let unused = worker.run(json!({"workflow": save(&blue()), "images": images})).await;
    warned(unused, &["the image `cat.png` was not used"]);
    let beside = json!({"input": {"workflow": save(&blue())}, "images": images});
    refused(
        &worker.post(beside.to_string()).await,
        &["images: stands beside `input`"],
        "beside",
    );
}

#[tokio::test]
async fn graphs_that_something_else_than_comfyuis_export_made() {
    let worker = shared().await;
    let mut graph = save(&blue());
    graph["70"] = json!({"class_type": "MarkdownNote", "inputs": {}});
    graph["71"] = json!({"class_type": "Reroute", "inputs": {"": ["1", 0]}});
    graph["72"] = json!({"class_type": "PrimitiveNode", "inputs": {"value": 1}});
    let answer = worker.run(json!({ "workflow": graph })).await;
    refused(
        &answer,
        &["exists on the page only", "Workflow > Export (API)"],
        "page only",
    );
    let mut graph = save(&blue());
    graph["70"] = json!({"inputs": {}, "_meta": {"title": "Power Lora Loader (rgthree)"}});
    let answer = worker.run(json!({ "workflow": graph })).await;
    refused(&answer, &["Power Lora Loader (rgthree)", "not installed"], "no class");
    let answer = worker.run(json!({"prompt": save(&blue())})).await;
    refused(&answer, &["a graph belongs into `workflow`"], "a graph in prompt");
    let text = format!("\u{feff}{}", save(&blue()));
    worker.run(json!({ "workflow": text })).await.completed();
    let nan = save(&blue()).to_string().replacen('{', r#"{"5": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}, "is_changed": [NaN]}, "#, 1);
    worker
        .post(format!(r#"{{"input": {{"workflow": {nan}}}}}"#))
        .await
        .completed();
    let seed = show("RandomNoise", "noise_seed", &json!(-1));
    refused(
        &worker.run(json!({ "workflow": seed })).await,
        &["Write a number, another for each picture"],
        "seed",
    );
    let switch = json!({"1": blue(), "2": blue(),
        "4": {"class_type": "ComfySwitchNode", "inputs": {"switch": "false", "on_false": ["1", 0], "on_true": ["2", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "cases"}}});
    warned(
        worker.run(json!({ "workflow": switch })).await,
        &["node 4 (ComfySwitchNode), switch", "is true to ComfyUI"],
    );
}

#[tokio::test]
async fn prompts_with_more_or_less_than_there_is() {
    let worker = shared().await;
    let prompt = |more: Value| {
        let mut input = json!({"prompt": "x", "width": 64, "height": 64, "steps": 1});
        for (name, value) in more.as_object().expect("an object") {
            input[name] = value.clone();
        }
        input
    };
    let answer = worker
        .run(prompt(json!({"image_path": "/in/a.jpg", "length": 81})))
        .await;
    refused(&answer, &["image_path: is not known", "`images`"], "image_path");
    let answer = worker.run(prompt(json!({"seed": -1, "length": 81}))).await;
    assert!(answer.body["output"]["seed"].is_u64(), "{}", answer.body);
    warned(answer, &["`length` is not known"]);
}

/// What each of these says is repeated by its answer and again by `/status`, as far as people read.
#[tokio::test]
async fn nothing_long_is_repeated() {
    let worker = shared().await;
    let long = "x\n".repeat(150_000);
    let path = format!("https://10.0.0.1/{}", "x".repeat(300_000));
    let mut ring = save(&blue());
    ring[&long] = json!({"class_type": "ImageInvert", "inputs": {"image": [long, 0]}});
    let mut extra = save(&blue());
    extra["9"]["inputs"][&long] = json!(["77", 0]);
    let mut prefix = save(&blue());
    prefix["9"]["inputs"]["filename_prefix"] = json!("x".repeat(300_000));
    let lora = json!([{"name": long, "strength": 1}]);
    for input in [
        json!({"workflow": {long.clone(): {"class_type": "Nothing like it", "inputs": {}}}}),
        json!({"workflow": {"1": {"class_type": long, "inputs": {}}}}),
        json!({ "workflow": ring }),
        json!({ "workflow": extra }),
        json!({ "workflow": prefix }),
        json!({"workflow": load(&long)}),
        json!({"workflow": show("KSamplerSelect", "sampler_name", &json!(long))}),
        json!({"prompt": "x", "template": long}),
        json!({"prompt": "x", "aspect_ratio": long}),
        json!({"prompt": "x", "loras": lora}),
        json!({"prompt": "x", "images": [{"name": "a.png", "image": path}]}),
        json!({"prompt": "x", "images": [{"name": long, "image": PIXEL}]}),
    ] {
        let what = format!("{:.60}", input.to_string());
        let answer = worker.run(input.clone()).await;
        refused(&answer, &[], &what);
        assert!(!answer.error().contains("x\nx"), "{what}: {}", answer.error());
        again(&worker, &json!({ "input": input }), &what).await;
    }
    let many: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("prompt{n}"), json!(1))).collect();
    let mut input = json!({"workflow": save(&blue())});
    input.as_object_mut().expect("an object").extend(many);
    let answer = worker.run(input).await.completed();
    assert!(
        answer.body.to_string().len() < SHORT,
        "{}",
        answer.body.to_string().len()
    );
    warned(answer, &["and 19984 more fields are not known"]);
}

/// The same by `/run`, where it is taken, as `/status` tells it.
async fn again(worker: &Worker, body: &Value, what: &str) {
    let taken = worker.send(Method::POST, "/run", body.to_string()).await;
    if let Some(id) = taken.body["id"].as_str() {
        let end = worker.end(id).await;
        assert_eq!(end.body["status"], "FAILED", "{what}: {:#}", end.body);
        assert!(
            end.body.to_string().len() < SHORT,
            "{what}: {}",
            end.body.to_string().len()
        );
    }
}
