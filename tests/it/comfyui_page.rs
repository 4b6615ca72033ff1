//! ComfyUI's own page, as a browser shows it, with this worker in ComfyUI's place.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::browser::{browse_with, complaints, with_pages};
use crate::support::image_server::png;
use crate::support::{Worker, slow, text};

const KEY: &str = "a-key-of-the-page";

/// Runs a script on ComfyUI's page.
async fn browse(name: &str, script: &str, plan: Value) -> Value {
    let shared = [("comfyui.mjs", include_str!("pages/comfyui.mjs"))];
    browse_with(&shared, name, script, plan).await
}

/// The worker's own record of a prompt.
async fn record(worker: &Worker, id: &Value) -> Value {
    let id = id.as_str().expect("an id");
    let history = worker.ask(&format!("/history/{id}")).await.body;
    history[id].clone()
}

#[tokio::test]
async fn the_qwen_template_runs_to_its_picture() {
    let worker = with_pages().await;
    let plan = json!({"url": worker.url, "comfyUrl": worker.comfy_url().await.trim_end_matches('/'), "keep": kept_picture()});
    let seen = browse("comfyui_run", include_str!("pages/comfyui_run.mjs"), plan).await;
    // Nothing is wrong with the page that is not wrong with it where ComfyUI itself serves it.
    let all = |name: &str| -> BTreeSet<String> { serde_json::from_value(seen[name].clone()).expect("texts") };
    let (ours, theirs) = (all("atStart"), all("theirs"));
    assert!(ours.is_subset(&theirs), "{:#?}", ours.difference(&theirs));
    let later = all("complaints");
    assert!(later.is_subset(&theirs), "{:#?}", later.difference(&theirs));

    assert!(seen["template"]["wide"].as_u64() > Some(100), "{}", seen["template"]);
    let percents = seen["percents"].as_array().expect("a list").iter();
    let percents: BTreeSet<_> = percents.filter_map(Value::as_f64).map(|percent| percent as u64).collect();
    assert!(percents.iter().filter(|percent| (1..100).contains(*percent)).count() >= 2, "{percents:?}");
    assert!(text(&seen["preview"], "src").starts_with("blob:"), "{}", seen["preview"]);
    assert!(text(&seen["picture"], "src").starts_with(&worker.url), "{}", seen["picture"]);
    assert_eq!(seen["picture"]["wide"], 256);
    assert_eq!(seen["thumbnail"]["wide"], 256);
    assert!(text(&seen, "later").starts_with("Qwen-Image_"));
    // It was a job of ours.
    let id = text(&seen, "id");
    assert_eq!(worker.status(id).await, "COMPLETED");
    assert_eq!(record(&worker, &seen["id"]).await["status"]["status_str"], "success");
}

/// Where the picture for the README goes, when it is made anew: `PICTURES=1 cargo test …`.
fn kept_picture() -> Option<String> {
    std::env::var_os("PICTURES").map(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/docs/comfyui.png").to_owned())
}

#[tokio::test]
async fn a_second_tab_sees_the_queue_and_the_pages_own_buttons_cancel() {
    let worker = with_pages().await;
    let plan = json!({"url": worker.url, "graph": slow(1_000, 300, 9_601)});
    let seen = browse("comfyui_queue", include_str!("pages/comfyui_queue.mjs"), plan).await;
    let rows = seen["seen"].as_array().expect("a list");
    for id in [&seen["running"], &seen["waiting"]] {
        assert!(rows.iter().any(|row| row[0] == *id), "{id}: {rows:?}");
        assert_eq!(worker.status(id.as_str().expect("an id")).await, "CANCELLED");
    }
    assert!(text(&seen, "active").starts_with("2 active"), "{}", seen["active"]);
    assert_eq!(seen["bar"], Value::Null);
    // As in ComfyUI, one that never ran leaves nothing behind.
    assert_eq!(record(&worker, &seen["waiting"]).await, Value::Null);
    let record = record(&worker, &seen["running"]).await;
    assert_eq!(record["status"]["messages"].as_array().and_then(|all| all.last()).map(|last| &last[0]), Some(&json!("execution_interrupted")));
    assert_eq!(complaints(&seen), <[&str; 0]>::default());
}

#[tokio::test]
async fn what_one_brings_to_the_page_stays_and_packs_have_their_scripts_and_routes() {
    let worker = with_pages().await;
    let graph = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    let plan = json!({"url": worker.url, "graph": graph, "name": "dropped", "png": STANDARD.encode(png(64, 48, 255))});
    let seen = browse("comfyui_keeps", include_str!("pages/comfyui_keeps.mjs"), plan).await;
    assert_eq!(seen["pack"], json!({"greeting": "Hello, page", "event": "page"}));
    for picture in ["uploaded", "shown", "again"] {
        assert_eq!(seen[picture]["wide"], 64, "{picture}: {}", seen[picture]);
    }
    assert!(text(&seen, "address").contains("/userdata/workflows%2Fdropped.json"), "{}", seen["address"]);
    assert_eq!((&seen["status"], &seen["setting"]), (&json!(200), &json!(false)));
}
