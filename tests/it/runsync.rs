//! `POST /runsync` as its users use it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{graph, http, shared, slow, text};

/// The documentation's request, at a size that a CPU makes in no time.
fn documented(prompt: &str, seed: u64) -> Value {
    let mut request: Value = serde_json::from_str(include_str!("../../test_input.json")).expect("JSON");
    let workflow = &mut request["input"]["workflow"];
    workflow["58"]["inputs"]["width"] = json!(128);
    workflow["58"]["inputs"]["height"] = json!(96);
    workflow["3"]["inputs"]["seed"] = json!(seed);
    workflow["6"]["inputs"]["text"] = json!(prompt);
    request["input"].take()
}

fn size_of(image: &[u8]) -> (usize, usize) {
    let size = imagesize::blob_size(image).expect("an image");
    (size.width, size.height)
}

#[tokio::test]
async fn the_documented_request_is_answered_as_documented() {
    let worker = shared().await;
    let answer = worker.run(documented("a quiet harbour", 1)).await.completed();
    insta::assert_json_snapshot!(answer.body, {
        ".id" => "[id]",
        ".output.images[].filename" => "[filename]",
        ".output.files[].filename" => "[filename]",
        ".output.warnings" => "[warnings]",
        ".output.image_url" => "[link]",
        ".output.result" => "[link]",
        ".execution_time" => "[seconds]",
        ".delayTime" => "[ms]",
        ".executionTime" => "[ms]",
    });
    assert!(text(&answer.images()[0], "filename").starts_with("ComfyUI_"));
    assert_eq!(size_of(&worker.first_image(&answer).await), (128, 96));
    let warning = answer.body["output"]["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.contains("a small demo model") && warning.contains("DEMO_WEIGHTS=false"),
        "{warning}"
    );
}

/// ComfyUI has half a million objects when it is ready; one full collection after each job takes 0.3 s.
#[tokio::test]
async fn pythons_collector_passes_over_what_is_there_when_the_first_job_comes() {
    let worker = shared().await;
    let workflow = json!({"1": {"class_type": "ShowFrozen", "inputs": {"text": ""}}});
    let answer = worker.run(json!({"workflow": workflow})).await.completed();
    let frozen = text(&answer.body["output"]["texts"][0], "text");
    let frozen: u32 = frozen.parse().unwrap_or_else(|_| panic!("{:#}", answer.body));
    assert!(frozen > 100_000, "{frozen}");
}

#[tokio::test]
async fn same_seed_same_bytes_other_seed_other_bytes() {
    let worker = shared().await;
    let first = worker.run(documented("a lighthouse", 11)).await.completed();
    let first = worker.first_image(&first).await;
    // Another picture in between, so that the second one is made and not remembered.
    let other = worker.run(documented("a lighthouse", 12)).await.completed();
    let again = worker.run(documented("a lighthouse", 11)).await.completed();
    assert!(
        first == worker.first_image(&again).await,
        "the same seed gave another picture"
    );
    assert!(
        first != worker.first_image(&other).await,
        "another seed gave the same picture"
    );
}

#[tokio::test]
async fn a_cached_graph_whose_file_is_gone_runs_again() {
    let worker = shared().await;
    let input = documented("a cached bridge", 21);
    let first = worker.run(input.clone()).await.completed();
    let bytes = worker.first_image(&first).await;
    let file = worker.output().join(text(&first.images()[0], "filename"));
    std::fs::remove_file(file).expect("the file is there");
    let again = worker.run(input).await.completed();
    assert!(bytes == worker.first_image(&again).await);
}

#[tokio::test]
async fn content_type_and_wrapping_do_not_matter() {
    let worker = shared().await;
    let input = documented("a market", 31);
    let as_string = json!({"input": input.to_string()}).to_string();
    worker.post(as_string).await.completed();
    let with_mark = [
        b"\xef\xbb\xbf".as_slice(),
        json!({"input": input}).to_string().as_bytes(),
    ]
    .concat();
    worker.post(with_mark).await.completed();
}

#[tokio::test]
async fn a_prompt_alone_is_enough() {
    let worker = shared().await;
    let answer = worker
        .run(json!({"prompt": "a fox", "width": 250, "height": 130, "steps": 2, "batch_size": 2}))
        .await
        .completed();
    assert_eq!(answer.images().len(), 2);
    let image = worker.first_image(&answer).await;
    assert_eq!(size_of(&image), (250, 130), "the size is exactly as asked");
    let seed = answer.body["output"]["seed"]
        .as_u64()
        .expect("a seed that was chosen is reported");
    let again = json!({"prompt": "a fox", "width": 250, "height": 130, "steps": 2, "batch_size": 2, "seed": seed});
    let again = worker.run(again).await.completed();
    assert_eq!(again.body["output"].get("seed"), None, "a seed that was given is not");
    assert!(
        image == worker.first_image(&again).await,
        "the reported seed makes the same picture"
    );
}

#[tokio::test]
async fn images_come_back_as_base64_when_asked() {
    let worker = shared().await;
    let mut input = documented("a garden", 41);
    let plain = worker.run(input.clone()).await.completed();
    let bytes = worker.first_image(&plain).await;
    input["return_images_as"] = json!("base64");
    let answer = worker.run(input).await.completed();
    let image = &answer.images()[0];
    assert_eq!(text(image, "type"), "base64");
    assert!(STANDARD.decode(text(image, "data")).expect("base64") == bytes);
}

#[tokio::test]
async fn uploaded_images_are_found_by_their_names_and_removed_afterwards() {
    let worker = shared().await;
    let made = worker.run(documented("a source picture", 51)).await.completed();
    let picture = STANDARD.encode(worker.first_image(&made).await);
    let load = |name: &str| {
        json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "uploaded"}},
        })
    };
    let mut ids = Vec::new();
    for name in ["photo.png", "people/anna ü.png"] {
        let images = json!([{"name": name, "image": format!("data:image/png;base64,{picture}")}]);
        let answer = worker
            .run(json!({"workflow": load(name), "images": images}))
            .await
            .completed();
        assert_eq!(size_of(&worker.first_image(&answer).await), (128, 96));
        ids.push(text(&answer.body, "id").to_owned());
    }
    // Workers that other tests attach to this ComfyUI cannot remove theirs.
    let inputs = worker.output().with_file_name("input").join("qwen-image-worker");
    let of_a_job = |folder: &std::fs::DirEntry| {
        let name = folder.file_name();
        ids.iter().any(|id| name.to_string_lossy().starts_with(id))
    };
    crate::support::until("the jobs' input folders are gone", async || {
        let folders = std::fs::read_dir(&inputs).expect("a folder").flatten();
        !folders.into_iter().any(|folder| of_a_job(&folder))
    })
    .await;
}

#[tokio::test]
async fn an_edit_template_takes_its_images_in_order() {
    let worker = shared().await;
    let made = worker.run(documented("something to edit", 61)).await.completed();
    let picture = STANDARD.encode(worker.first_image(&made).await);
    let input = json!({
        "prompt": "make it winter", "template": "qwen-image-edit-2511-lightning-4", "steps": 1, "seed": 1,
        "images": [{"name": "a.png", "image": picture}],
    });
    let answer = worker.run(input).await.completed();
    assert_eq!(answer.images().len(), 1);
}

#[tokio::test]
async fn text_templates_with_lightning_run() {
    let worker = shared().await;
    // The others are run by the tests of the family.
    for name in [
        "qwen-image-2512-lightning-4",
        "qwen-image-lightning",
        "qwen-image-lightning-4",
    ] {
        let input = json!({"prompt": "a tower", "template": name, "width": 64, "height": 64, "steps": 2, "seed": 3});
        let answer = worker.run(input).await.completed();
        assert_eq!(size_of(&worker.first_image(&answer).await), (64, 64), "{name}");
    }
}

#[tokio::test]
async fn every_kind_of_output_comes_back() {
    let worker = shared().await;
    let workflow = json!({
        "1": {"class_type": "ShowText", "inputs": {"text": "hello"}},
        "2": {"class_type": "SaveFile", "inputs": {"text": "words", "filename_prefix": "sub/note", "kind": "audio"}},
    });
    let answer = worker.run(json!({"workflow": workflow})).await.completed();
    let output = &answer.body["output"];
    assert_eq!(output["texts"], json!([{"node_id": "1", "text": "hello"}]));
    let file = &output["files"][0];
    assert_eq!(
        (text(file, "kind"), text(file, "subfolder"), text(file, "node_id")),
        ("text", "sub", "2")
    );
    let path = format!("/view?filename={}&subfolder=sub&type=output", text(file, "filename"));
    assert_eq!(worker.get(&path).await.text().await.expect("a text"), "words");
}

#[tokio::test]
async fn a_graph_that_only_shows_previews_returns_them() {
    let worker = shared().await;
    let workflow = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 255}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    let answer = worker.run(json!({"workflow": workflow})).await.completed();
    assert_eq!(text(&answer.images()[0], "type"), "temp");
    assert_eq!(size_of(&worker.first_image(&answer).await), (32, 32));
}

#[tokio::test]
async fn jobs_at_once_each_get_their_own_result() {
    let worker = shared().await;
    let runs = (0..4).map(|seed| worker.run(json!({"workflow": slow(2, 20, 700 + seed)})));
    let answers = futures_util::future::join_all(runs).await;
    let mut names = std::collections::HashSet::new();
    for answer in answers {
        let answer = answer.completed();
        names.insert(text(&answer.images()[0], "filename").to_owned());
    }
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn view_refuses_what_lies_elsewhere() {
    let worker = shared().await;
    for (query, status) in [
        ("filename=../../etc/passwd", 400),
        ("filename=a.png&subfolder=../..", 400),
        ("filename=a.png&subfolder=/etc", 400),
        ("filename=a.png&type=secret", 400),
        ("filename=none_00001_.png", 404),
        ("", 400),
    ] {
        let answer = worker.get(&format!("/view?{query}")).await;
        assert_eq!(answer.status(), status, "{query}");
        let body: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        assert!(body["error"].is_string(), "{query}: {body}");
    }
}

#[tokio::test]
async fn view_answers_an_etag_with_nothing() {
    let worker = shared().await;
    let answer = worker
        .run(json!({"workflow": graph("SlowSilent", json!({"ms": 1, "seed": 5}))}))
        .await
        .completed();
    let path = format!(
        "/view?filename={}&subfolder=test&type=output",
        text(&answer.images()[0], "filename")
    );
    let first = worker.get(&path).await;
    assert_eq!(first.headers()["content-type"], "image/png");
    let etag = first.headers()["etag"].clone();
    let again = http()
        .get(format!("{}{path}", worker.url))
        .header("if-none-match", etag)
        .send()
        .await
        .expect("an answer");
    assert_eq!(again.status(), 304);
}

#[tokio::test]
async fn health_counts_jobs_and_unknown_routes_are_named() {
    let worker = shared().await;
    worker.run(json!({"workflow": slow(1, 1, 990)})).await.completed();
    let health: Value = serde_json::from_str(&worker.get("/health").await.text().await.expect("a body")).expect("JSON");
    assert!(health["jobs"]["completed"].as_u64().expect("a number") >= 1, "{health}");
    assert_eq!(health["comfyui"]["state"], "ready");
    let unknown = worker.get("/run-sync").await;
    assert_eq!(unknown.status(), 404);
    assert!(unknown.text().await.expect("a body").contains("POST /runsync"));
    let wrong = worker.get("/runsync").await;
    assert_eq!(wrong.status(), 405);
    assert!(wrong.headers().contains_key("x-request-id"));
}
