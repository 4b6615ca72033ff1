//! The front's own APIs with a real worker behind a RunPod endpoint: each client gets its picture at the front.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use super::behind::Behind;
use crate::images::{encoded, picture};
use crate::support::clients::python;
use crate::support::comfy_v2;
use crate::support::comfyui::{Client, empty};
use crate::support::elsewhere::{Front, assert_png};
use crate::support::runpod_api::Route;
use crate::support::{slow, text, until};

const OPENAI: &str = "openai==3.52.0";

async fn post(front: &Front, path: &str, body: &Value) -> Value {
    let answer = front.served.send(Method::POST, path, body.to_string()).await;
    assert_eq!(answer.status, 200, "{path}: {:#}", answer.body);
    answer.body
}

#[tokio::test]
async fn openais_python_client() {
    let behind = Behind::start().await;
    let front = behind.front(&[]).await;
    let plan = json!({"base": format!("{}/v1", front.url()), "seed": 8_810});
    let seen = python(OPENAI, include_str!("../clients/openai_front.py"), &plan).await;
    assert_eq!(seen["engine"], "runpod-a");
    for name in ["inline", "fetched"] {
        assert_png(&STANDARD.decode(text(&seen, name)).expect("base64"), 96, 64);
    }
    assert_eq!(behind.api.count(Route::Run), 2);
    behind.settled();
}

#[tokio::test]
async fn comfyuis_own_api_with_its_websocket() {
    let behind = Behind::start().await;
    let front = behind.front(&[]).await;
    let client = Client::new(front.url());
    let (mut socket, _) = client.socket("a-front-client").await;
    for (graph, size) in [
        (empty(880_201, "fronts/native"), Some((64, 48))),
        (slow(10, 30, 88_020), None),
    ] {
        let id = client.prompt(&graph, "a-front-client").await;
        let of_it = |message: &Value, kind: &str| message["type"] == kind && message["data"]["prompt_id"] == id;
        let heard = socket.until(|message| of_it(message, "execution_success")).await;
        assert!(
            heard.iter().any(|message| of_it(message, "execution_start")),
            "{heard:#?}"
        );
        let entry = client.ended(&id).await;
        assert_eq!(entry["status"]["status_str"], "success", "{entry:#}");
        for path in [format!("/history/{id}"), format!("/api/jobs/{id}")] {
            assert_eq!(front.engine_of(&path).await.as_deref(), Some("runpod-a"), "{path}");
        }
        // Several jobs are of several engines.
        assert_eq!(front.engine_of("/history").await, None);
        let image = &entry["outputs"]["2"]["images"][0];
        let (name, subfolder) = (text(image, "filename"), text(image, "subfolder"));
        let folder = text(image, "type");
        let content = front
            .file(&format!("/view?filename={name}&subfolder={subfolder}&type={folder}"))
            .await;
        match size {
            Some((width, height)) => assert_png(&content, width, height),
            None => assert!(image::load_from_memory(&content).is_ok(), "no picture"),
        }
    }
    socket.close().await;
    assert_eq!(behind.api.count(Route::Run), 2);
    behind.settled();
}

#[tokio::test]
async fn edit_plus_and_comfys_api_v2() {
    let behind = Behind::start().await;
    let front = behind.front(&[]).await;
    let source = encoded(&picture([0, 0, 250]), image::ImageFormat::Png);
    let edit = json!({"image1_url": format!("data:image/png;base64,{}", STANDARD.encode(source)),
        "prompt": "make it blue", "steps": 1, "cfg": 1.0, "megapixels": 0.02, "seed": 88});
    let job = post(&front, "/edit/edit-image", &edit).await;
    let id = text(&job, "job_id");
    let mut status = Value::Null;
    until("the edit is over", async || {
        status = front.served.ask(&format!("/edit/status/{id}")).await.body;
        ["completed", "error"].contains(&text(&status, "status"))
    })
    .await;
    assert_eq!(status["status"], "completed", "{status:#}");
    let engine = front.engine_of(&format!("/edit/status/{id}")).await;
    assert_eq!(engine.as_deref(), Some("runpod-a"));
    let edited = front.file(&format!("/edit/download/{id}")).await;
    let size = imagesize::blob_size(&edited).expect("a picture");
    // Twice as wide as high, as the source, and about 0.02 megapixels.
    assert!(
        size.width > size.height && (15_000..25_000).contains(&(size.width * size.height)),
        "{size:?}"
    );

    let client = Client::new(front.url());
    let (_, end) = comfy_v2::succeeded(&client, &empty(880_211, "fronts/v2")).await;
    let engine = front.engine_of(&format!("/api/v2/jobs/{}", text(&end, "id"))).await;
    assert_eq!(engine.as_deref(), Some("runpod-a"));
    let id = text(&end["outputs"][0], "id");
    let content = front.file(&format!("/api/v2/assets/{id}/content")).await;
    assert_png(&content, 64, 48);
    assert_eq!(behind.api.count(Route::Run), 2);
    behind.settled();
}

#[tokio::test]
async fn a_task_of_kies() {
    let behind = Behind::start().await;
    let front = behind.front(&[]).await;
    let task = json!({"prompt": "a dragon", "image_size": "square", "acceleration_level": "none",
        "num_inference_steps": 1, "guidance_scale": 1, "seed": 88});
    let task = post(&front, "/api/v1/qwen/generate", &task).await;
    let path = format!("/api/v1/qwen/record-info?taskId={}", text(&task["data"], "taskId"));
    let mut record = Value::Null;
    until("the task ends", async || {
        record = front.served.ask(&path).await.body;
        record["successFlag"] != 0
    })
    .await;
    assert_eq!(record["successFlag"], 1, "{record:#}");
    assert_eq!(front.engine_of(&path).await.as_deref(), Some("runpod-a"));
    let url = text(&record, "imageUrl");
    let path = url.strip_prefix(front.url()).unwrap_or_else(|| panic!("{url}"));
    assert_png(&front.file(path).await, 1024, 1024);
    behind.settled();
}
