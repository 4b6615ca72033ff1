//! The Edit Plus API, on its own port and under `/edit`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::images::serve;
use crate::support::binary::binary;
use crate::support::clients::python;
use crate::support::{Answer, Worker, http, json_at, shared, slow, text, until};

const REQUESTS: &str = "requests==2.32.5";

/// A PNG of one colour, twice as wide as high.
fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut content = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(64, 32, Rgb(colour));
    picture.write_to(&mut content, ImageFormat::Png).expect("an encoder");
    content.into_inner()
}

fn data_uri(colour: [u8; 3]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png(colour)))
}

/// The smallest edit that a request can ask for.
#[expect(clippy::needless_pass_by_value, reason = "it is given a fresh one each time")]
fn edit(more: Value) -> Value {
    let mut body = json!({
        "image1_url": data_uri([200, 0, 0]), "prompt": "make it blue", "steps": 1, "cfg": 1.0, "megapixels": 0.02, "seed": 7});
    body.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    body
}

async fn submit(worker: &Worker, body: &Value) -> String {
    let answer = worker.send(Method::POST, "/edit/edit-image", body.to_string()).await;
    assert_eq!(answer.status, 200, "{:#}", answer.body);
    text(&answer.body, "job_id").to_owned()
}

/// The job's status at its end.
async fn end(worker: &Worker, id: &str) -> Value {
    let mut status = Value::Null;
    until("the job is over", async || {
        status = worker.ask(&format!("/edit/status/{id}")).await.body;
        ["completed", "error"].contains(&text(&status, "status"))
    })
    .await;
    status
}

/// The graph that ComfyUI ran for a job.
async fn graph(worker: &Worker, status: &Value) -> Value {
    let prompt_id = text(status, "prompt_id");
    let url = format!("{}history/{prompt_id}", worker.comfy_url().await);
    let history = json_at(&url).await;
    history[prompt_id]["prompt"][2].clone()
}

fn assert_detail(answer: &Answer, status: u16, words: &str) {
    let detail = text(&answer.body, "detail");
    assert!(
        answer.status == status && detail.contains(words),
        "{} {:#}",
        answer.status,
        answer.body
    );
    assert_eq!(
        answer.body.as_object().map(serde_json::Map::len),
        Some(1),
        "{:#}",
        answer.body
    );
}

#[tokio::test]
async fn the_documented_client_on_both_addresses() {
    let files = serve(vec![("portrait.png", png([0, 200, 0]))]).await;
    let vars = [("ALLOW_PRIVATE_URLS", "127.0.0.1")];
    let worker = Worker::beside_shared(&vars).await;
    let mut pictures = Vec::new();
    for (base, download) in [(worker.edit_url.clone(), ""), (format!("{}/edit", worker.url), "/edit")] {
        let plan = json!({
            "base": base,
            "edit": edit(json!({"image1_url": format!("{files}/portrait.png")})),
            "missing": format!("{files}/nowhere.png?key=4711"),
        });
        let seen = python(REQUESTS, include_str!("clients/edit_plus.py"), &plan).await;
        let about = json!({
            "message": "Qwen Image Edit Plus API", "status": "running", "version": "2.0.0", "features": ["multi-image-support"]});
        assert_eq!(seen["about"], about);
        let submitted = &seen["submitted"];
        let id = text(submitted, "job_id");
        assert_eq!(
            (text(submitted, "status"), text(submitted, "message")),
            ("queued", "Image editing started")
        );
        let completed = &seen["completed"];
        assert_eq!(
            (&completed["progress"], &completed["image_ready"]),
            (&json!(100), &json!(true))
        );
        assert_eq!(text(completed, "download_url"), format!("{download}/download/{id}"));
        let path = text(completed, "image_path");
        assert!(path.ends_with(&format!("/QwenEdit/api_{id}_00001_.png")), "{path}");
        let picture = STANDARD.decode(text(&seen, "image")).expect("base64");
        let picture = image::load_from_memory(&picture).expect("a PNG").to_rgb8();
        // 0.02 megapixels are 20971 pixels: 205 by 102, in steps of 16.
        assert_eq!(picture.dimensions(), (208, 96));
        pictures.push(picture);
        let failed = text(&seen, "failed");
        assert!(
            failed.starts_with(
                "Job failed: Failed to download file from URL: the image `image1_url` cannot be fetched from"
            ) && failed.contains("404 Not Found")
                && !failed.contains("4711"),
            "{failed}"
        );
        assert_eq!(seen["refused"][0], 400, "{seen:#}");
        assert!(
            text(&seen["refused"][1], "detail").contains("steps: must be"),
            "{seen:#}"
        );
    }
    assert!(pictures[0] == pictures[1], "the same seed gives the same picture");
}

#[tokio::test]
async fn images_reach_their_nodes_in_both_models() {
    let worker = shared().await;
    for (model, images) in [("2509", 3), ("2511", 2)] {
        let mut body = edit(json!({"model": model}));
        for number in 2..=images {
            body[format!("image{number}_url")] = json!(data_uri([0, 0, 80 * number]));
        }
        let id = submit(&worker, &body).await;
        let status = end(&worker, &id).await;
        assert_eq!(text(&status, "status"), "completed", "{status:#}");
        let graph = graph(&worker, &status).await;
        for number in 1..=images {
            let name = text(&graph[format!("image{number}")]["inputs"], "image");
            assert!(name.ends_with(&format!("/image{number}_url")), "{name}");
            assert!(
                graph["positive"]["inputs"][format!("image{number}")].is_array(),
                "{graph:#}"
            );
        }
        assert_eq!(graph["positive"]["inputs"].get(format!("image{}", images + 1)), None);
        let unet = text(&graph["unet"]["inputs"], "unet_name");
        assert!(unet.contains(model), "{unet}");
        let sampler = &graph["sample"]["inputs"];
        assert_eq!(
            (&sampler["steps"], &sampler["cfg"], &sampler["seed"]),
            (&json!(1), &json!(1.0), &json!(7))
        );
    }
}

#[tokio::test]
async fn a_job_is_listed_shown_and_removed_with_its_files() {
    let worker = shared().await;
    let id = submit(&worker, &edit(json!({"seed": 8}))).await;
    let status = end(&worker, &id).await;
    let path = std::path::PathBuf::from(text(&status, "image_path"));
    assert!(path.starts_with(worker.output()) && path.is_file(), "{status:#}");
    let jobs = worker.ask("/edit/jobs").await.body;
    assert_eq!(jobs["jobs"][&id], json!({"status": "completed", "progress": 100}));
    let debug = worker.ask(&format!("/edit/debug/job/{id}")).await.body;
    let name = format!("QwenEdit/api_{id}_00001_.png");
    assert_eq!(debug["files"][0]["path"], json!(name), "{debug:#}");
    assert_eq!(debug["files"][0]["exists"], true);
    let listed = worker.ask("/edit/debug/files").await.body;
    let files = listed["files"].as_array().expect("a list");
    assert!(files.iter().any(|file| file["path"] == json!(name)), "{listed:#}");
    assert!(
        files.iter().all(|file| !text(file, "path").starts_with(['/', '.'])),
        "{listed:#}"
    );

    let deleted = worker.send(Method::DELETE, &format!("/edit/jobs/{id}"), "").await;
    assert_eq!((deleted.status, deleted.body), (200, json!({"message": "Job deleted"})));
    assert!(!path.exists());
    for path in ["status", "download", "debug/job"] {
        assert_detail(&worker.ask(&format!("/edit/{path}/{id}")).await, 404, "Job not found");
    }
}

#[tokio::test]
async fn a_running_and_a_waiting_job_are_called_off_and_the_next_one_goes_on() {
    let worker = Worker::beside_shared(&[]).await;
    let running = submit(&worker, &edit(json!({"seed": 9, "steps": 100, "megapixels": 0.3}))).await;
    let waiting = submit(&worker, &edit(json!({"seed": 10}))).await;
    let next = submit(&worker, &edit(json!({"seed": 11}))).await;
    worker.has_a_job_running().await;
    assert_eq!(
        text(&worker.ask(&format!("/edit/status/{waiting}")).await.body, "status"),
        "queued"
    );
    assert_detail(
        &worker.ask(&format!("/edit/download/{waiting}")).await,
        400,
        "Image not ready",
    );
    for id in [&waiting, &running] {
        let deleted = worker.send(Method::DELETE, &format!("/edit/jobs/{id}"), "").await;
        assert_eq!(deleted.status, 200, "{:#}", deleted.body);
        assert_detail(&worker.ask(&format!("/edit/status/{id}")).await, 404, "Job not found");
    }
    assert_eq!(text(&end(&worker, &next).await, "status"), "completed");
}

#[tokio::test]
async fn what_is_wrong_is_told_in_detail() {
    let worker = shared().await;
    for (body, words) in [
        ("", "The request has no body"),
        ("{", "is no JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "Both image1_url and prompt are required"),
        ("{\"prompt\": \"a\", \"image1_url\": 7}", "image1_url: must be a string"),
    ] {
        assert_detail(&worker.send(Method::POST, "/edit/edit-image", body).await, 400, words);
    }
    for (url, words) in [
        ("http://10.0.0.1/a.png?key=4711", "10.0.0.1 is refused"),
        ("http://localhost:1/a.png", "localhost is refused"),
        ("s3://pictures/a.png", "the worker has no bucket"),
    ] {
        let id = submit(&worker, &edit(json!({"image1_url": url}))).await;
        let status = end(&worker, &id).await;
        let error = text(&status, "error");
        assert_eq!(text(&status, "status"), "error", "{status:#}");
        assert!(
            error.starts_with("Failed to download file from URL:") && error.contains(words) && !error.contains("4711"),
            "{error}"
        );
    }
    // A job of another API is none of this one's.
    let other = worker.accept(slow(1, 1, 4_712)).await;
    worker.end(&other).await.completed();
    for (method, path) in [
        (Method::GET, format!("/edit/status/{other}")),
        (Method::DELETE, format!("/edit/jobs/{other}")),
        (Method::GET, "/edit/status/no-such-job".to_owned()),
    ] {
        assert_detail(&worker.send(method, &path, "").await, 404, "Job not found");
    }
    assert_eq!(worker.ask("/edit/jobs").await.body["jobs"].get(&other), None);
}

#[tokio::test]
async fn errors_before_a_job_have_the_same_shape_on_the_own_port() {
    let worker = Worker::attached("http://127.0.0.1:9", &[("API_KEY", "first-key")]).await;
    let mut told = Vec::new();
    for (method, path, key) in [
        (Method::GET, "/jobs", ""),
        (Method::GET, "/runsync", "Bearer first-key"),
        (Method::POST, "/jobs", "Bearer first-key"),
    ] {
        let request = http()
            .request(method, format!("{}{path}", worker.edit_url))
            .header("authorization", key);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.expect("JSON");
        told.push(format!("{status} {}", text(&body, "detail")));
    }
    insta::assert_snapshot!(told.join("\n"), @"
    401 The request's key is not right. Send `Authorization: Bearer KEY` with one of the keys of API_KEY.
    404 There is no GET /runsync. `GET /docs` of the main port shows all of them, below /edit.
    405 /jobs takes GET, not POST
    ");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_by_its_variable() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let data = tempfile::tempdir().expect("a folder");
    let vars = [
        ("DATA_DIR", data.path().display().to_string()),
        ("COMFYUI_URL", "http://127.0.0.1:9".to_owned()),
        ("PORT", "0".to_owned()),
        ("EDIT_PORT", taken.local_addr().expect("an address").port().to_string()),
    ];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let output = binary(&vars).arg("serve").output().await.expect("it runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && log.contains("EDIT_PORT chooses another port"),
        "{log}"
    );
}
