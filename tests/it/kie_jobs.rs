//! KIE's API of today: `createTask` and `recordInfo`, as programs that other people wrote for KIE use them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::clients::node;
use crate::support::image_server::{self, png};
use crate::support::receiver::Receiver;
use crate::support::{Worker, text, until};

const MCP: &str = "@felores/kie-ai-mcp-server@5.0.0 @modelcontextprotocol/sdk@1.32.2";

async fn worker() -> Worker {
    Worker::beside_shared(&[("ALLOW_PRIVATE_URLS", "127.0.0.1")]).await
}

/// Takes a task in; gives its id.
async fn create(worker: &Worker, body: &Value) -> String {
    let answer = worker
        .send(Method::POST, "/api/v1/jobs/createTask", body.to_string())
        .await;
    assert_eq!(
        (answer.status, &answer.body["code"], &answer.body["msg"]),
        (200, &json!(200), &json!("success")),
        "{:#}",
        answer.body
    );
    text(&answer.body["data"], "taskId").to_owned()
}

/// The record of a task at its end.
async fn record(worker: &Worker, task: &str) -> Value {
    let is_over = |record: &Value| ["success", "fail"].contains(&text(&record["data"], "state"));
    worker
        .ask_until(&format!("/api/v1/jobs/recordInfo?taskId={task}"), is_over)
        .await
}

/// The pictures of a record.
async fn pictures(worker: &Worker, record: &Value) -> Vec<image::RgbImage> {
    assert_eq!(record["data"]["state"], "success", "{record:#}");
    let results: Value = serde_json::from_str(text(&record["data"], "resultJson")).expect("JSON");
    let mut pictures = Vec::new();
    for url in results["resultUrls"].as_array().expect("a list") {
        let url = url.as_str().expect("a URL");
        let file = worker.get(url.strip_prefix(&worker.url).unwrap_or(url)).await;
        let content = file.bytes().await.expect("a file");
        pictures.push(image::load_from_memory(&content).expect("a picture").to_rgb8());
    }
    pictures
}

fn sizes(pictures: &[image::RgbImage]) -> Vec<(u32, u32)> {
    pictures.iter().map(image::RgbImage::dimensions).collect()
}

#[tokio::test]
async fn the_mcp_server_for_kie_makes_and_edits_pictures() {
    let (worker, receiver) = (worker().await, Receiver::start().await);
    let files = image_server::start().await;
    let home = tempfile::tempdir().expect("a folder");
    let plan = json!({
        "env": {
            "KIE_AI_API_KEY": "any",
            "KIE_AI_BASE_URL": format!("{}/api/v1", worker.url),
            "KIE_AI_CALLBACK_URL": receiver.url,
            "KIE_AI_DB_PATH": home.path().join("tasks.db"),
            "KIE_AI_ALLOW_DIRECT_GENERATION": "true",
        },
        "requests": [
            {"prompt": "a fox", "image_size": "square", "num_inference_steps": 2, "seed": 7},
            {"prompt": "make it white", "image_url": format!("{files}/pixel.png"), "image_size": "square",
                "num_inference_steps": 2, "seed": 7, "num_images": "2"},
            {"prompt": "make it white", "image_url": format!("{files}/nothing.png")},
        ],
    });
    let seen = node(MCP, include_str!("clients/kie_mcp.mjs"), &plan).await;
    for (seen, mode, count) in [(&seen[0], "Text-to-Image", 1), (&seen[1], "Image Editing", 2)] {
        assert_eq!(seen["created"]["parameters"]["mode"], mode, "{seen:#}");
        assert_eq!(
            seen["status"]["polling_strategy"]["next_action"], "task_complete",
            "{seen:#}"
        );
        let pictures = pictures(&worker, &seen["status"]["api_response"]).await;
        assert_eq!(sizes(&pictures), vec![(1024, 1024); count], "{seen:#}");
        let urls = seen["status"]["result_urls"].as_array().expect("a list");
        assert!(
            urls[0].as_str().is_some_and(|url| url.starts_with(&worker.url)),
            "{seen:#}"
        );
    }
    let next = &seen[2]["status"]["polling_strategy"]["next_action"];
    assert_eq!(next, "task_failed", "{:#}", seen[2]);
    assert!(text(&seen[2]["status"], "error").contains("404"), "{:#}", seen[2]);
    until("each is called back", async || receiver.came().len() == 3).await;
    let record = seen[1]["status"]["api_response"].clone();
    let came = receiver.came().clone();
    let called = came
        .iter()
        .find(|called| called.body["data"]["taskId"] == record["data"]["taskId"]);
    assert_eq!(called.map(|called| &called.body), Some(&record));
}

/// The bodies that n8n-nodes-kie sends for its three operations, steps aside.
#[tokio::test]
async fn what_n8n_sends_is_done() {
    let worker = worker().await;
    let files = image_server::start().await;
    let image = format!("{files}/pixel.png");
    let t2i = json!({"model": "qwen/text-to-image", "input": {"prompt": "a fox", "image_size": "square",
        "num_inference_steps": 1, "guidance_scale": 1, "acceleration": "none", "output_format": "jpeg",
        "enable_safety_checker": true, "seed": 9}});
    let i2i = json!({"model": "qwen/image-to-image", "input": {"prompt": "a fox", "image_size": "square", "image_url": image,
        "strength": 0.0, "num_inference_steps": 1, "guidance_scale": 1, "negative_prompt": "dark", "seed": 9}});
    let edit = json!({"model": "qwen/image-edit", "input": {"prompt": "a fox", "image_size": "square", "image_url": image,
        "num_inference_steps": 1, "guidance_scale": 1, "seed": 9}});
    for body in [&t2i, &i2i, &edit] {
        let record = record(&worker, &create(&worker, body).await).await;
        let data = &record["data"];
        assert_eq!(data["model"], body["model"], "{record:#}");
        // What the node for the status parses.
        let asked: Value = serde_json::from_str(text(data, "param")).expect("JSON");
        assert_eq!(asked["input"]["prompt"], "a fox");
        assert!(
            data["completeTime"].as_u64() >= data["createTime"].as_u64(),
            "{record:#}"
        );
        assert!(data["costTime"].is_u64() && data["failCode"].is_null() && data["failMsg"].is_null());
        let unchecked = "the pictures were not checked for safety: SAFETY_CHECK_URL is not set";
        assert_eq!(data["warnings"], json!([unchecked]), "{record:#}");
        assert_eq!(sizes(&pictures(&worker, &record).await), [(1024, 1024)]);
    }
}

/// With the demo weights a picture is recognised by its bytes alone: one that is made anew from the image in part is another one
/// than the edit, and its own for each strength.
#[tokio::test]
async fn the_strength_says_how_much_is_made_anew() {
    let worker = worker().await;
    let image = format!("data:image/png;base64,{}", STANDARD.encode(png(32, 32, 255)));
    let made = async |strength: f64| {
        let body = json!({"model": "qwen/image-to-image", "input": {"prompt": "p", "image_url": image, "strength": strength,
            "num_inference_steps": 2, "guidance_scale": 1, "seed": 9}});
        let record = record(&worker, &create(&worker, &body).await).await;
        let asked: Value = serde_json::from_str(text(&record["data"], "param")).expect("JSON");
        assert!(
            text(&asked["input"], "image_url").ends_with("characters)"),
            "{record:#}"
        );
        pictures(&worker, &record).await.remove(0)
    };
    let (kept, half, anew) = (made(0.0).await, made(0.5).await, made(1.0).await);
    assert!(kept != half && half != anew && kept != anew);
    // The shape is that of the image.
    assert_eq!(kept.width(), kept.height());
    // Of one that is kept whole, the noise has no part.
    let again = json!({"model": "qwen/image-to-image", "input": {"prompt": "p", "image_url": image, "strength": 0,
        "num_inference_steps": 2, "guidance_scale": 1, "seed": 10}});
    let record = record(&worker, &create(&worker, &again).await).await;
    assert!(pictures(&worker, &record).await.remove(0) == kept);
}

#[tokio::test]
async fn what_is_not_served_is_told_in_kies_envelope() {
    let worker = Worker::attached("http://127.0.0.1:9", &[]).await;
    for (body, words) in [
        (
            json!({"model": "z-image", "input": {"prompt": "p"}}),
            "qwen/text-to-image",
        ),
        (
            json!({"model": "qwen/image-edit", "input": {"prompt": "p"}}),
            "image_url",
        ),
        (
            json!({"model": "qwen/image-edit", "input": {"prompt": "p", "image_url": "https://x/a.png", "mask_url": "https://x/b.png"}}),
            "mask_url",
        ),
    ] {
        let answer = worker
            .send(Method::POST, "/api/v1/jobs/createTask", body.to_string())
            .await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (400, &json!(400)),
            "{:#}",
            answer.body
        );
        assert!(text(&answer.body, "msg").contains(words), "{:#}", answer.body);
    }
    let answer = worker.ask("/api/v1/jobs/recordInfo?taskId=task_12345678").await;
    assert_eq!((answer.status, &answer.body["code"]), (404, &json!(404)));
}
