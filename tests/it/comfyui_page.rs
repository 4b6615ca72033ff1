//! ComfyUI's own page, as a browser shows it, with this worker in ComfyUI's place.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::browser::{browse_with, complaints, kept_picture, with_pages};
use crate::support::image_server::png;
use crate::support::{Worker, slow, text};

const KEY: &str = "a-key-of-the-page";

/// Runs a script on ComfyUI's page.
async fn browse(name: &str, script: &str, plan: Value) -> Value {
    let shared = [
        ("comfyui.mjs", include_str!("pages/comfyui.mjs")),
        ("play.mjs", include_str!("pages/play.mjs")),
    ];
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
    let plan = json!({"url": worker.url, "comfyUrl": worker.comfy_url().await.trim_end_matches('/'), "kept": kept_picture("comfyui")});
    let seen = browse("comfyui_run", include_str!("pages/comfyui_run.mjs"), plan).await;
    // Nothing is wrong with the page that is not wrong with it where ComfyUI itself serves it.
    let all = |name: &str| -> BTreeSet<String> { serde_json::from_value(seen[name].clone()).expect("texts") };
    let (ours, theirs) = (all("atStart"), all("theirs"));
    assert!(ours.is_subset(&theirs), "{:#?}", ours.difference(&theirs));
    let later = all("complaints");
    assert!(later.is_subset(&theirs), "{:#?}", later.difference(&theirs));

    assert!(seen["template"]["wide"].as_u64() > Some(100), "{}", seen["template"]);
    let percents = seen["percents"].as_array().expect("a list").iter();
    let percents: BTreeSet<_> = percents
        .filter_map(Value::as_f64)
        .map(|percent| format!("{percent:.0}"))
        .collect();
    assert!(
        percents
            .iter()
            .filter(|percent| !matches!(percent.as_str(), "0" | "100"))
            .count()
            >= 2,
        "{percents:?}"
    );
    assert!(text(&seen, "preview").starts_with("blob:"), "{}", seen["preview"]);
    assert!(
        text(&seen["picture"], "src").starts_with(&worker.url),
        "{}",
        seen["picture"]
    );
    assert_eq!(seen["picture"]["wide"], 768);
    assert_eq!(seen["thumbnail"]["wide"], 768);
    assert!(text(&seen, "later").starts_with("Qwen-Image_"));
    // It was a job of ours.
    let id = text(&seen, "id");
    assert_eq!(worker.status(id).await, "COMPLETED");
    assert_eq!(record(&worker, &seen["id"]).await["status"]["status_str"], "success");
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
    assert_eq!(
        record["status"]["messages"]
            .as_array()
            .and_then(|all| all.last())
            .map(|last| &last[0]),
        Some(&json!("execution_interrupted"))
    );
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
    assert!(
        text(&seen, "address").contains("/userdata/workflows%2Fdropped.json"),
        "{}",
        seen["address"]
    );
    assert_eq!((&seen["status"], &seen["setting"]), (&json!(200), &json!(false)));
}

#[tokio::test]
async fn behind_a_key_it_is_there_after_the_login_and_nothing_of_it_before() {
    let pages = with_pages().await;
    let page = pages.get("/").await.text().await.expect("a page");
    let (_, script) = page.split_once("src=\"./assets/").expect("a script");
    let script = format!("/assets/{}", script.split('"').next().unwrap_or_default());
    assert_eq!(pages.get(&script).await.status(), 200, "{script}");

    let worker = Worker::attached(&pages.comfy_url().await, &[("API_KEY", KEY)]).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    let client = client.build().expect("a client");
    for path in [
        "/",
        &script,
        "/extensions/qiw-page/greet.js",
        "/templates/index.json",
        "/api/object_info",
        "/api/userdata?dir=workflows",
        "/api/qiw_page/greet",
        "/ws?clientId=a",
        "/api/view?filename=a.png&type=output",
        "/history",
    ] {
        let upgrade = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let request = client.get(format!("{}{path}", worker.url));
        let request = if path.starts_with("/ws") {
            upgrade
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value))
        } else {
            request
        };
        let answer = request.header("accept", "text/html").send().await.expect("an answer");
        let (status, to) = (answer.status().as_u16(), answer.headers().get("location").cloned());
        let leads_to_login = to.is_some_and(|to| to.to_str().is_ok_and(|to| to.contains("login")));
        assert!(status == 401 || (status == 303 && leads_to_login), "{path}: {status}");
        let said = answer.text().await.expect("a text");
        assert!(said.len() < 2_000 && !said.contains("assets/"), "{path}: {said}");
    }

    let plan = json!({"url": worker.url, "key": KEY, "graph": slow(3, 100, 9_701)});
    let seen = browse("comfyui_key", include_str!("pages/comfyui_key.mjs"), plan).await;
    assert_eq!((&seen["ledTo"], &seen["inAt"]), (&json!("/login"), &json!("/")));
    assert!(
        text(&seen, "refused").contains("none of the keys"),
        "{}",
        seen["refused"]
    );
    assert_eq!(seen["wrong"], json!([]), "{:#}", seen["wrong"]);
    let cookies = seen["cookies"].as_array().expect("a list");
    assert!(
        cookies
            .iter()
            .any(|cookie| cookie["httpOnly"] == true && cookie["sameSite"] == "Strict"),
        "{cookies:?}"
    );
    assert!(cookies.iter().all(|cookie| cookie["isTheKey"] == false), "{cookies:?}");
    // What ComfyUI has not got, and nothing that was refused.
    let refused = |name: &str| -> Vec<String> {
        let said: Vec<String> = serde_json::from_value(seen[name].clone()).expect("texts");
        said.into_iter()
            .filter(|said| said.contains("401") || said.contains("403"))
            .collect()
    };
    assert_eq!(refused("atStart"), <[String; 0]>::default());
    assert!(seen["shown"]["wide"].as_u64() > Some(0), "{}", seen["shown"]);
    assert!(!seen["percents"].as_array().expect("a list").is_empty());
    assert_eq!((&seen["made"]["wide"], &seen["after"]), (&json!(256), &json!(401)));
}
