//! Programs that other people wrote for ComfyUI, unchanged. The scripts in `clients/` use them as their users do; what cannot be
//! installed is replayed as its source sends it.

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::clients::{node, python, tool};
use crate::support::comfyui::{Client, empty, is_over};
use crate::support::{PATIENCE, Worker, graph, slow, text};

const KEY: &str = "a-key-of-the-tests";
/// The SHA-256 of no bytes.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A worker, and what a script is to run on it. The output node has a title, as the page gives it, and the numbers are this
/// test's own.
async fn worker_and_plan(vars: &[(&str, &str)], seed: u32) -> (Worker, Value) {
    let worker = Worker::beside_shared(vars).await;
    let mut plan = json!({
        "base": worker.url,
        "key": vars.iter().find(|(name, _)| *name == "API_KEY").map(|(_, key)| key),
        "client": format!("client-{seed}"),
        "folder": format!("clients/{seed}"),
        "graph": empty(seed, "clients/graph"),
        "second": empty(seed + 1, "clients/second"),
        "steps": slow(5, 30, seed + 2),
        "several": [slow(10, 50, seed + 3), slow(10, 50, seed + 4), slow(10, 50, seed + 5)],
        "slow": slow(1_000, 50, seed + 6),
        "fails": fails(seed + 7),
        "wrong": graph("NoSuchNode", json!({})),
        "image": STANDARD.encode(picture()),
    });
    for name in ["graph", "second", "fails"] {
        for (node, title) in [("1", "Make"), ("2", "Save"), ("3", "First")] {
            if plan[name].get(node).is_some() {
                plan[name][node]["_meta"] = json!({ "title": title });
            }
        }
    }
    for graph in plan["several"].as_array_mut().into_iter().flatten() {
        graph["1"]["inputs"]["preview"] = json!(false);
    }
    // Their previews would be taken for pictures.
    for name in ["steps", "slow"] {
        plan[name]["1"]["inputs"]["preview"] = json!(false);
    }
    (worker, plan)
}

/// A graph that fails, but not before those who ask first and listen then do listen.
fn fails(seed: u32) -> Value {
    let mut graph = graph("Raise", json!({"message": "the lamp is out", "image": ["3", 0]}));
    graph["3"] = slow(10, 50, seed)["1"].clone();
    graph["3"]["inputs"]["preview"] = json!(false);
    graph
}

fn picture() -> Vec<u8> {
    let mut content = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(32, 32, image::Rgb([200, 90, 90]));
    image.write_to(&mut content, ImageFormat::Png).expect("a PNG");
    content.into_inner()
}

#[track_caller]
fn assert_digest(digest: &Value) {
    let text = digest.as_str().unwrap_or_else(|| panic!("no picture: {digest}"));
    assert!(text.len() == 64 && text != OF_NOTHING, "{digest}");
}

/// Runs `comfy` and gives the lines that it prints, the last of which says how it ended.
async fn comfy(worker: &Worker, graph: &Value) -> Vec<Value> {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("graph.json");
    std::fs::write(&file, graph.to_string()).expect("a file");
    let port = worker.url.rsplit(':').next().expect("a port");
    let mut command = Command::new(tool("comfy-cli==1.23.0", "comfy").await);
    command.args([
        "--skip-prompt",
        "run",
        "--wait",
        "--json",
        "--host",
        "127.0.0.1",
        "--port",
        port,
    ]);
    command.arg("--workflow").arg(&file).current_dir(home.path());
    command
        .env("HOME", home.path())
        .env("DO_NOT_TRACK", "1")
        .env("NO_PROXY", "127.0.0.1");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(PATIENCE, command.output()).await;
    let done = done.expect("it ends in time").expect("it runs");
    let said = String::from_utf8_lossy(&done.stdout);
    let lines = said.lines().filter_map(|line| serde_json::from_str(line).ok());
    let lines: Vec<Value> = lines.collect();
    assert!(!lines.is_empty(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    lines
}

#[tokio::test]
async fn comfy_cli() {
    let (worker, plan) = worker_and_plan(&[], 610_000).await;
    let said = comfy(&worker, &plan["steps"]).await;
    let kinds: Vec<&str> = said.iter().filter_map(|line| line["type"].as_str()).collect();
    for kind in ["queued", "executing", "progress", "executed", "output"] {
        assert!(kinds.contains(&kind), "{kind}: {said:#?}");
    }
    let end = said.last().expect("a line");
    assert_eq!(end["ok"], true, "{end:#}");
    let output = said.iter().find(|line| line["type"] == "output").expect("an output");
    let picture = worker
        .get(text(output, "url").strip_prefix(&worker.url).expect("ours"))
        .await;
    assert_eq!(picture.headers()["content-type"], "image/png");

    let said = comfy(&worker, &plan["fails"]).await;
    let end = said.last().expect("a line");
    assert_eq!(
        (&end["ok"], &end["error"]["code"]),
        (&json!(false), &json!("execution_error")),
        "{end:#}"
    );
    assert!(end.to_string().contains("the lamp is out"), "{end:#}");
    // It looks into the descriptions of the classes before it sends anything.
    let mut wrong = plan["graph"].clone();
    wrong["1"]["inputs"]["width"] = json!(0);
    let said = comfy(&worker, &wrong).await;
    let end = said.last().expect("a line");
    assert_eq!(end["error"]["code"], "workflow_unknown_nodes", "{end:#}");
}

#[tokio::test]
async fn comfy_api_simplified() {
    const PACKAGE: &str = "comfy-api-simplified==1.6.0";
    for (vars, seed) in [(&[][..], 620_000), (&[("API_KEY", KEY)][..], 621_000)] {
        let (_worker, plan) = worker_and_plan(vars, seed).await;
        let seen = python(PACKAGE, include_str!("clients/comfy_api_simplified.py"), &plan).await;
        let pictures = seen["pictures"].as_object().expect("pictures");
        assert_eq!(pictures.len(), 1, "{seen:#}");
        pictures.values().for_each(|digest| assert_digest(digest));
        assert_eq!(text(&seen["upload"], "subfolder"), "default_upload_folder", "{seen:#}");
        assert_eq!(seen["interrupted"], "error", "{seen:#}");
        assert!(text(&seen, "refused").contains("400"), "{seen:#}");
        assert_eq!(seen["failed"], "Execution error occurred.", "{seen:#}");
        assert_eq!(seen["class"], json!(["SaveImage"]));
    }
}

#[tokio::test]
async fn comfyui_utils() {
    let (_worker, plan) = worker_and_plan(&[], 630_000).await;
    let seen = python("comfyui-utils==0.0.1", include_str!("clients/comfyui_utils.py"), &plan).await;
    for run in [&seen["run"], &seen["again"]] {
        assert_digest(&run["digest"]);
    }
    assert_eq!(seen["run"]["digest"], seen["again"]["digest"], "{seen:#}");
    let refused = text(&seen, "refused");
    assert!(!refused.is_empty(), "{seen:#}");
}

#[tokio::test]
async fn saintnos_sdk() {
    let (_worker, plan) = worker_and_plan(&[("API_KEY", KEY)], 640_000).await;
    let seen = node(
        "@saintno/comfyui-sdk@0.3.1",
        include_str!("clients/comfyui_sdk.mjs"),
        &plan,
    )
    .await;
    assert_digest(&seen["run"]["digest"]);
    for run in seen["several"].as_array().expect("three") {
        assert_digest(&run["digest"]);
    }
    assert!(
        seen["failed"]["failed"].is_array() && seen["wrong"]["failed"].is_array(),
        "{seen:#}"
    );
    assert_eq!(seen["uploaded"]["filename"], "sdk.png", "{seen:#}");
    assert_eq!(seen["queue"], json!({"queue_running": [], "queue_pending": []}));
    assert_eq!(seen["class"], json!(["SaveImage"]), "{seen:#}");
}

#[tokio::test]
async fn stable_canvas_client() {
    let (_worker, plan) = worker_and_plan(&[], 650_000).await;
    let seen = node(
        "@stable-canvas/comfyui-client@1.5.9",
        include_str!("clients/comfyui_client.mjs"),
        &plan,
    )
    .await;
    assert!(seen["run"]["steps"].as_u64() > Some(0), "{seen:#}");
    for run in [&seen["run"], &seen["polled"]] {
        assert_digest(&run["digests"][0]);
    }
    for name in ["failed", "refused"] {
        assert!(seen[name].is_array(), "{seen:#}");
    }
}

/// Open `WebUI`: its settings ask `/object_info`, a picture is one websocket, one prompt, its history and `/view`; edits upload to
/// `/api/upload/image`. All with `Authorization: Bearer`, on the websocket too.
#[tokio::test]
async fn open_webui_as_it_is_written() {
    let (worker, plan) = worker_and_plan(&[("API_KEY", KEY)], 660_000).await;
    let client = Client::new(&worker.url).with_key(KEY);
    let agent = |request: reqwest::RequestBuilder| request.header("user-agent", "Mozilla/5.0");
    let info = client
        .said(agent(client.request(Method::GET, "/object_info")))
        .await
        .ok();
    assert!(info["SaveImage"].is_object());

    let part = Part::bytes(picture()).file_name("open-webui.png");
    let form = Form::new()
        .part("image", part.mime_str("image/png").expect("a media type"))
        .text("type", "input");
    let uploaded = client
        .said(client.request(Method::POST, "/api/upload/image").multipart(form))
        .await
        .ok();
    let edit = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": uploaded["name"]}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "clients/open-webui"}},
    });
    for workflow in [&plan["steps"], &edit] {
        let client_id = uuid::Uuid::new_v4().to_string();
        let (mut socket, _) = client.socket(&client_id).await;
        let body = json!({"prompt": workflow, "client_id": client_id});
        let queued = client
            .said(agent(client.request(Method::POST, "/prompt")).json(&body))
            .await;
        let id = text(&queued.ok(), "prompt_id").to_owned();
        loop {
            let message = socket.next().await.expect("a message");
            if is_over(&message) && message["data"]["prompt_id"] == id {
                break;
            }
        }
        // Asked for once, at this moment.
        let history = client.get(&format!("/history/{id}")).await.ok();
        let image = &history[&id]["outputs"]["2"]["images"][0];
        let view = format!(
            "/view?filename={}&subfolder={}&type={}",
            text(image, "filename"),
            text(image, "subfolder").replace('/', "%2F"),
            text(image, "type")
        );
        let answer = client.request(Method::GET, &view).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let content = answer.bytes().await.expect("a picture");
        assert_eq!(image::guess_format(&content).ok(), Some(ImageFormat::Png));
        socket.close().await;
    }
}

/// `SillyTavern`: `/system_stats` to see that somebody is there, `/object_info` for its lists, then a prompt as text, and the whole
/// history again and again. Who goes away sends `/interrupt` without a body. It sends no key.
#[tokio::test]
async fn sillytavern_as_it_is_written() {
    let (worker, plan) = worker_and_plan(&[], 670_000).await;
    let client = Client::new(&worker.url);
    client.get("/system_stats").await.ok();
    let info = client.get("/object_info").await.ok();
    let required = |class: &str, input: &str| info[class]["input"]["required"][input][0].clone();
    assert!(required("KSampler", "sampler_name").is_array() && required("KSampler", "scheduler").is_array());
    assert!(required("UNETLoader", "unet_name").is_array() && required("VAELoader", "vae_name").is_array());

    let send = async |graph: &Value| {
        // Node's `fetch` names a text so.
        let request = client.request(Method::POST, "/prompt");
        let request = request.header("content-type", "text/plain;charset=UTF-8");
        let body = json!({ "prompt": graph }).to_string();
        text(&client.said(request.body(body)).await.ok(), "prompt_id").to_owned()
    };
    let item = async |id: &str| loop {
        let history = client.get("/history").await.ok();
        if let Some(item) = history.get(id) {
            return item.clone();
        }
    };
    let id = send(&plan["steps"]).await;
    let made = item(&id).await;
    assert_eq!(made["status"]["status_str"], "success", "{made:#}");
    let image = &made["outputs"]["2"]["images"][0];
    let view = format!(
        "/view?filename={}&subfolder={}&type=output",
        text(image, "filename"),
        text(image, "subfolder")
    );
    assert_eq!(worker.get(&view).await.status(), 200);

    let failed = item(&send(&plan["fails"]).await).await;
    let messages = failed["status"]["messages"].as_array().expect("messages");
    let error = messages.iter().find(|message| message[0] == "execution_error");
    let error = &error.expect("an error")[1];
    assert_eq!(failed["status"]["status_str"], "error");
    assert_eq!(
        (text(error, "node_type"), text(error, "exception_type")),
        ("Raise", "RuntimeError")
    );
    assert!(
        text(error, "exception_message").contains("the lamp is out"),
        "{error:#}"
    );

    let id = send(&plan["slow"]).await;
    client.runs(&id).await;
    let interrupted = client.said(client.request(Method::POST, "/interrupt")).await;
    assert_eq!(interrupted.status, 200, "{:#}", interrupted.body);
    let item = item(&id).await;
    assert_eq!(item["status"]["status_str"], "error", "{item:#}");
}
