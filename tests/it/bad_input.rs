//! Everything a user can get wrong: each is refused with what is wrong, where, and what to do.

use serde_json::{Value, json};

use crate::support::{Answer, Worker, http, shared};

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, words: &[&str], what: &str) {
    let error = answer.error();
    assert_eq!(answer.status, status, "{what}: {error}");
    for word in words {
        assert!(error.contains(word), "{what}: `{word}` is not in: {error}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let worker = shared().await;
    for (body, words) in [
        ("", &["no body", "\"input\""][..]),
        ("  \n", &["no body"]),
        ("hello", &["no JSON", "line 1"]),
        ("{\"input\": {", &["no JSON", "EOF"]),
        ("[]", &["must be a JSON object", "a list"]),
        ("{}", &["no `input`"]),
        ("{\"input\": null}", &["no `input`"]),
        ("{\"input\": 7}", &["`input` must be an object, not 7"]),
        ("{\"input\": \"hello\"}", &["a string that holds no JSON"]),
        ("{\"input\": {}}", &["neither `workflow` nor `prompt`"]),
        ("{\"input\": {\"promt\": \"a cat\"}}", &["did you mean `prompt`"]),
        (
            "{\"input\": {\"workflow\": {\"1\": {\"class_type\": \"x\", \"inputs\": {}}}, \"prompt\": \"a cat\"}}",
            &["beside `workflow`"],
        ),
    ] {
        assert_refused(&worker.post(body).await, 400, words, body);
    }
}

#[tokio::test]
async fn parameters_out_of_range() {
    let worker = shared().await;
    for (field, value, words) in [
        ("prompt", json!("   "), &["prompt", "is empty"][..]),
        ("prompt", json!(7), &["must be a string, not 7"]),
        ("steps", json!(0), &["steps", "from 1 to 10000, not 0"]),
        ("steps", json!(1_000_000_000), &["from 1 to 10000"]),
        ("steps", json!("abc"), &["steps", "\"abc\""]),
        ("steps", json!(2.5), &["steps", "2.5"]),
        ("width", json!(-1), &["width", "from 16 to 16384, not -1"]),
        ("width", json!(100_000), &["width", "16384"]),
        ("height", json!(0), &["height"]),
        ("batch_size", json!(5000), &["batch_size", "from 1 to 64"]),
        ("seed", json!(-2), &["seed", "18446744073709551615, not -2"]),
        (
            "seed",
            json!(18_446_744_073_709_551_616.0),
            &["seed", "18446744073709551615"],
        ),
        ("seed", json!("abc"), &["seed", "\"abc\""]),
        ("cfg", json!(1000), &["cfg", "from 0 to 100"]),
        ("aspect_ratio", json!("7:3"), &["aspect_ratio", "16:9"]),
        (
            "template",
            json!("qwen-image-lightnin"),
            &["no template", "qwen-image-lightning"],
        ),
        ("loras", json!([{"strength": 1}]), &["loras[0]", "`name`"]),
        ("loras", json!([{"name": "a", "strength": 1e9}]), &["`strength`", "-20"]),
        ("loras", json!("a.safetensors"), &["loras", "must be a list"]),
        ("return_images_as", json!("gif"), &["metadata", "base64"]),
    ] {
        let mut input = json!({"prompt": "a cat"});
        input[field] = value.clone();
        assert_refused(&worker.run(input).await, 400, words, &format!("{field} = {value}"));
    }
}

#[tokio::test]
async fn a_seed_of_two_to_the_64_is_refused_as_written() {
    let worker = shared().await;
    let answer = worker
        .post("{\"input\": {\"prompt\": \"a\", \"seed\": 18446744073709551616}}")
        .await;
    assert_refused(&answer, 400, &["seed"], "2^64");
}

#[tokio::test]
async fn several_mistakes_are_told_at_once() {
    let worker = shared().await;
    let answer = worker.run(json!({"prompt": " ", "steps": 0, "seed": "x"})).await;
    assert_refused(&answer, 400, &["3 fields", "prompt", "steps", "seed"], "three mistakes");
    assert_eq!(answer.body["details"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn images_that_are_none() {
    let worker = shared().await;
    let text = "aGVsbG8gd29ybGQ=";
    for (images, words) in [
        (json!("x"), &["image_1", "no base64"][..]),
        (json!(7), &["images", "must be a list of images, or one"]),
        (json!([7]), &["images[0]", "`image`"]),
        (json!([{"name": "a.png"}]), &["images[0]", "`image`"]),
        (json!([{"name": 7, "image": PIXEL}]), &["`name` must be a string"]),
        (json!([{"name": "a.png", "image": "%%%"}]), &["a.png", "no base64"]),
        (
            json!([{"name": "a.png", "image": text}]),
            &["a.png", "is no image", "PNG, JPEG or WebP"],
        ),
        (
            json!([{"name": "a.png", "image": "http://10.0.0.1/a.png?key=4711"}]),
            &[
                "the image `a.png` cannot be fetched from http://10.0.0.1/a.png:",
                "10.0.0.1 is refused",
            ],
        ),
        (
            json!([{"name": "a.png", "image": "http://localhost:1/a.png"}]),
            &["the name localhost is refused"],
        ),
        (
            json!([{"name": "a.png", "image": "ftp://storage.example.com/a.png"}]),
            &["the scheme `ftp`", "send http, https or s3"],
        ),
        (
            json!([{"name": "a.png", "image": "s3://pictures/a.png"}]),
            &["s3://pictures/a.png", "the worker has no bucket"],
        ),
        (
            json!([{"name": "a.png", "image": "PHN2ZyB4bWxucz0naHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmcnLz4="}]),
            &["a.png", "is an SVG"],
        ),
        (
            json!([{"name": "../../x", "image": PIXEL}]),
            &["../../x", "leads out of its folder", "photo.png"],
        ),
        (json!([{"name": "/etc/x", "image": PIXEL}]), &["leads out"]),
        (
            json!([{"name": "a.png", "image": PIXEL}, {"name": "a.png", "image": PIXEL}]),
            &["images[1]", "second time"],
        ),
    ] {
        let answer = worker.run(json!({"prompt": "a cat", "images": images.clone()})).await;
        assert_refused(&answer, 400, words, &images.to_string());
    }
}

#[tokio::test]
async fn graphs_that_cannot_run() {
    let worker = shared().await;
    let save = |images: Value| json!({"class_type": "SaveImage", "inputs": {"images": images, "filename_prefix": "x"}});
    let empty = json!({"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}});
    for (workflow, words) in [
        (json!({}), &["Invalid workflow JSON structure"][..]),
        (json!([]), &["Invalid workflow JSON structure"]),
        (json!("not json"), &["Invalid workflow JSON structure", "holds no JSON"]),
        (
            json!({"nodes": [], "links": []}),
            &["The saved workflow cannot be converted", "Export (API)"],
        ),
        (json!({"prompt": {"1": empty}}), &["Invalid workflow JSON structure"]),
        (json!({"1": 7}), &["Invalid workflow JSON structure", "node 1"]),
        (
            json!({"1": {"inputs": {}}}),
            &["Invalid workflow JSON structure", "class_type"],
        ),
        (
            json!({"1": empty}),
            &["Invalid workflow JSON structure", "no node saves or shows anything"],
        ),
        (
            json!({"1": {"class_type": "SaveImag", "inputs": {}}}),
            &["Invalid workflow JSON structure", "SaveImage"],
        ),
        (
            json!({"2": save(json!(["1", 0]))}),
            &["Invalid workflow JSON structure", "node 2 (SaveImage)"],
        ),
        (
            json!({"1": empty, "2": save(json!(["1", 5]))}),
            &["Invalid workflow JSON structure", "node 2 (SaveImage)"],
        ),
        (
            json!({
                "1": {"class_type": "ImageScale", "inputs": {
                    "image": ["3", 0], "upscale_method": "bilinear", "width": 8, "height": 8, "crop": "disabled"}},
                "3": {"class_type": "ImageScale", "inputs": {
                    "image": ["1", 0], "upscale_method": "bilinear", "width": 8, "height": 8, "crop": "disabled"}},
                "2": save(json!(["1", 0])),
            }),
            &["Invalid workflow JSON structure", "in a circle"],
        ),
    ] {
        let answer = worker.run(json!({"workflow": workflow.clone()})).await;
        assert_refused(&answer, 400, words, &workflow.to_string());
    }
}

#[tokio::test]
async fn everything_wrong_in_a_graph_is_told_node_by_node() {
    let worker = shared().await;
    let mut request: Value = serde_json::from_str(include_str!("../../test_input.json")).expect("JSON");
    let workflow = &mut request["input"]["workflow"];
    workflow["37"]["inputs"]["unet_name"] = json!("qwen_image_fp8.safetensors");
    workflow["3"]["inputs"]["steps"] = json!(0);
    workflow["3"]["inputs"]["sampler_name"] = json!("eulr");
    workflow["58"]["inputs"]
        .as_object_mut()
        .expect("inputs")
        .remove("width");
    let answer = worker.run(request["input"].take()).await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    assert_eq!(answer.body["status"], "FAILED");
    insta::assert_snapshot!(answer.error());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_client_sees_why() {
    let worker = shared().await;
    // Sent in full by a client that does not ask first.
    let large = format!("{{\"input\": {{\"prompt\": \"{}\"}}}}", "x".repeat(200 * 1024 * 1024));
    assert_refused(
        &worker.post(large).await,
        413,
        &["larger than 64 MiB", "MAX_BODY_MB"],
        "200 MB",
    );
    worker.get("/ping").await.error_for_status().expect("the worker lives");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    let first = shared().await;
    let worker = Worker::attached(&first.comfy_url().await, &[("QUEUE_LIMIT", "1")]).await;
    let slow = json!({"workflow": crate::support::slow(100, 50, 4711)});
    let (answers, refused) = tokio::join!(worker.run(slow.clone()), async {
        worker.has_a_job_running().await;
        http()
            .post(format!("{}/runsync", worker.url))
            .body(json!({"input": slow}).to_string())
            .send()
            .await
            .expect("an answer")
    });
    answers.completed();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(refused.text().await.expect("a body").contains("QUEUE_LIMIT"));
}

#[tokio::test]
async fn names_of_classes_that_make_no_address() {
    let worker = shared().await;
    for class in [
        "",
        ".",
        "..",
        "../system_stats",
        "a/b c",
        "a?b#c",
        "ü🦊",
        &"L".repeat(20_000),
    ] {
        let graph = json!({"1": {"class_type": class, "inputs": {}}});
        let answer = worker.run(json!({ "workflow": graph })).await;
        assert_refused(&answer, 400, &["node 1", "has no node class"], class);
    }
}

#[tokio::test]
async fn thousands_of_unknown_classes() {
    let worker = shared().await;
    let nodes = (0..3000).map(|n| (n.to_string(), json!({"class_type": format!("Nope{n}"), "inputs": {}})));
    let answer = worker
        .run(json!({ "workflow": nodes.collect::<serde_json::Map<_, _>>() }))
        .await;
    assert_refused(&answer, 400, &["Nope0", "and 2950 more"], "3000 unknown classes");
}

#[tokio::test]
async fn the_wrong_method_is_told_in_json() {
    let worker = shared().await;
    let response = worker.get("/runsync").await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["error"], "/runsync takes POST, not GET");
}

#[tokio::test]
async fn an_address_that_is_no_comfyui_is_told_as_such() {
    // The worker's other port answers HTTP, and is no ComfyUI.
    let not_comfyui = shared().await.edit_url.clone();
    let worker = Worker::attached(&not_comfyui, &[]).await;
    let answer = worker.run(json!({"prompt": "a cat"})).await;
    assert_refused(&answer, 503, &["is no ComfyUI", "COMFYUI_URL"], "no ComfyUI");
    let worker = Worker::attached("http://127.0.0.1:1", &[]).await;
    let answer = worker.run(json!({"prompt": "a cat"})).await;
    assert_refused(&answer, 503, &["refused", "COMFYUI_URL"], "nobody there");
}
