//! Saved workflows by ComfyUI's own API, in files, on the command line, and held against the page that saves them.

use serde_json::{Value, json};

use crate::durability::attached;
use crate::saved::{converted, graph, page, plain};
use crate::support::binary::binary;
use crate::support::browser::{browse_with, with_pages};
use crate::support::comfyui::Client;
use crate::support::image_server::png;
use crate::support::{PATIENCE, Worker, http, shared, text};

/// Templates of the package that comes with the ComfyUI in use, which needs no API nodes for them.
const TEMPLATES: &[&str] = &[
    "image_qwen_image",
    "image_qwen_Image_2512",
    "image_qwen_image_edit_2509",
    "image_qwen_image_instantx_inpainting_controlnet",
    "image_flux2_text_to_image",
    "image_krea2_turbo_int8_image_style_reference",
    "sdxl_refiner_prompt_example",
    "audio_ace_step_1_t2a_song",
    "video_wan2_2_14B_i2v",
    "video_wan_ati",
    "template_ltx2_3_ic_lora_ingredients",
    "templates-6-key-frames",
    "utility_z_image_turbo_2k_upscaler.app",
];

/// Small workflows, of which the tests of the conversion have what the page made.
const CASES: &[(&str, &str)] = &[
    (
        "dynamic-combo",
        include_str!("../data/ui-format/ours/dynamic-combo.ui.json"),
    ),
    (
        "growing-inputs",
        include_str!("../data/ui-format/ours/growing-inputs.ui.json"),
    ),
    (
        "host-values",
        include_str!("../data/ui-format/ours/host-values.ui.json"),
    ),
    (
        "links-as-objects",
        include_str!("../data/ui-format/ours/links-as-objects.ui.json"),
    ),
    (
        "mode-chains",
        include_str!("../data/ui-format/ours/mode-chains.ui.json"),
    ),
    (
        "primitive-many",
        include_str!("../data/ui-format/ours/primitive-many.ui.json"),
    ),
    (
        "reroute-nodes",
        include_str!("../data/ui-format/ours/reroute-nodes.ui.json"),
    ),
    ("same-ids", include_str!("../data/ui-format/ours/same-ids.ui.json")),
    (
        "subgraph-nested",
        include_str!("../data/ui-format/ours/subgraph-nested.ui.json"),
    ),
];

#[tokio::test]
async fn prompt_takes_it_and_its_picture_holds_both() {
    let worker = Worker::beside_shared(&[]).await;
    let client = Client::new(&worker.url);
    let workflow = page(760_001, "saved/prompt");
    let id = client.prompt(&workflow, "a").await;
    let entry = client.ended(&id).await;
    let expected = plain(&graph(760_001, "saved/prompt"));
    assert_eq!(plain(&entry["prompt"][2]), expected);
    let view = format!(
        "/view?filename={}&subfolder=saved&type=output",
        text(&entry["outputs"]["2"]["images"][0], "filename")
    );
    let picture = worker.get(&view).await.bytes().await.expect("a picture");

    // Its graph comes back; and, with an input by name, what the page saved.
    let (status, told) = converted(&worker, picture.clone()).await;
    assert_eq!((status, plain(&told["workflow"])), (200, expected.clone()), "{told:#}");
    let part = || reqwest::multipart::Part::bytes(picture.to_vec()).file_name("a.png");
    let form = reqwest::multipart::Form::new()
        .part("file", part())
        .text("inputs", r#"{"width": 32}"#);
    let answer = http()
        .post(format!("{}/convert", worker.url))
        .multipart(form)
        .send()
        .await;
    let told: Value = answer.expect("an answer").json().await.expect("JSON");
    assert_eq!(told["workflow"]["1"]["inputs"]["width"], 32, "{told:#}");
    let plain_png = png(8, 8, 255);
    let (status, told) = converted(&worker, plain_png).await;
    assert_eq!(status, 400);
    assert!(text(&told, "error").contains("holds no workflow"), "{told}");
}

#[tokio::test]
async fn a_graph_is_answered_as_it_is_and_nothing_runs() {
    let worker = Worker::beside_shared(&[]).await;
    let graph = graph(760_100, "saved/as-it-is");
    for body in [
        graph.clone(),
        json!({ "workflow": graph }),
        json!({"workflow": graph.to_string()}),
    ] {
        let (status, told) = converted(&worker, body.to_string()).await;
        assert_eq!(
            (status, &told["workflow"], &told["warnings"]),
            (200, &graph, &json!([]))
        );
    }
    let (status, told) = converted(&worker, page(760_101, "saved/not-run").to_string()).await;
    assert_eq!(status, 200);
    assert_eq!(
        plain(&told["workflow"]),
        plain(&crate::saved::graph(760_101, "saved/not-run"))
    );
    assert_eq!(worker.ask("/requests").await.body["requests"], json!([]));
}

#[tokio::test]
async fn without_a_comfyui_it_is_tried_later() {
    let worker = Worker::attached("http://127.0.0.1:9", &[]).await;
    let answer = http()
        .post(format!("{}/convert", worker.url))
        .body(page(1, "a").to_string())
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let said: Value = answer.json().await.expect("JSON");
    assert!(text(&said, "error").contains("ComfyUI"), "{said}");
    // A graph needs none.
    let (status, _) = converted(&worker, graph(1, "a").to_string()).await;
    assert_eq!(status, 200);
    // A prompt waits for it.
    let said = Client::new(&worker.url)
        .post("/prompt", &json!({"prompt": page(1, "a")}))
        .await;
    assert_eq!(said.status, 200, "{:#}", said.body);
}

#[tokio::test]
async fn the_command_line_runs_and_converts_files() {
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let vars = attached(data.path(), &shared.comfy_url().await, &[]);
    let folder = data.path();
    let file = |name: &str| folder.join(name);
    std::fs::write(file("page.json"), page(760_600, "saved/cli").to_string()).expect("a file");
    std::fs::write(file("graph.json"), graph(760_601, "saved/cli").to_string()).expect("a file");
    let picture = include_bytes!("../data/embedded/save_image.png");
    std::fs::write(file("picture.png"), picture).expect("a file");
    let call = async |arguments: &[&str], ok: bool| {
        let called = binary(&vars).args(arguments).current_dir(folder).output();
        let done = tokio::time::timeout(PATIENCE, called)
            .await
            .expect("in time")
            .expect("the binary runs");
        let log = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.success(), ok, "{arguments:?}: {log}");
        (done.stdout, log)
    };
    for name in ["page.json", "graph.json", "picture.png"] {
        let (answer, log) = call(&["run", name, "--out", "out"], true).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{error}: {log}"));
        let image = &answer["output"]["images"][0];
        let written = file("out").join(text(image, "subfolder")).join(text(image, "filename"));
        assert!(written.is_file(), "{}: {log}", written.display());
    }
    let (printed, _) = call(&["convert", "page.json"], true).await;
    let printed: Value = serde_json::from_slice(&printed).expect("a graph");
    assert_eq!(plain(&printed), plain(&graph(760_600, "saved/cli")));
    let (nothing, _) = call(&["convert", "page.json", "--out", "made.json"], true).await;
    assert!(nothing.is_empty());
    let made: Value = serde_json::from_slice(&std::fs::read(file("made.json")).expect("a file")).expect("a graph");
    assert_eq!(made, printed);
    let (printed, log) = call(&["convert", "picture.png"], true).await;
    assert!(
        serde_json::from_slice::<Value>(&printed).is_ok_and(|graph| graph["2"]["class_type"] == "SaveImage"),
        "{log}"
    );
    std::fs::write(file("rubbish.png"), b"\x89PNG\r\n\x1a\n").expect("a file");
    let (_, log) = call(&["convert", "rubbish.png"], false).await;
    assert!(log.contains("rubbish.png: The PNG holds no workflow"), "{log}");

    // A template is converted once, by its owner.
    let templates = file("templates");
    std::fs::create_dir_all(&templates).expect("a folder");
    std::fs::write(templates.join("mine.json"), page(1, "a").to_string()).expect("a file");
    std::fs::write(templates.join("mine.bindings.toml"), "title = 'x'\nkind = 'generate'\n").expect("a file");
    let mut vars = vars.clone();
    vars.insert("WORKFLOWS_DIR".to_owned(), templates.display().to_string());
    let done = binary(&vars).arg("serve").output().await.expect("the binary runs");
    let log = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success());
    assert!(
        log.contains("mine.json: ") && log.contains("qwen-image-worker convert FILE"),
        "{log}"
    );
}

#[tokio::test]
async fn the_graph_is_the_one_that_the_page_sends() {
    let worker = with_pages().await;
    let mut cases = json!({"plain": page(7, "%date:yyyy%")});
    let muted = |mode: u32| {
        let mut workflow = page(7, "a");
        workflow["nodes"][0]["mode"] = json!(mode);
        workflow
    };
    cases["muted"] = muted(2);
    cases["bypassed"] = muted(4);
    let mut short = page(7, "a");
    short["nodes"][0]["widgets_values"] = json!([64]);
    cases["values that lack"] = short;
    for (name, text) in CASES {
        cases[*name] = serde_json::from_str(text).expect("JSON");
    }
    let plan = json!({"url": worker.url, "templates": TEMPLATES, "cases": cases});
    let shared = [("comfyui.mjs", include_str!("pages/comfyui.mjs"))];
    let seen = browse_with(
        &shared,
        "comfyui_convert",
        include_str!("pages/comfyui_convert.mjs"),
        plan,
    )
    .await;
    let results = seen["results"].as_array().expect("a list");
    assert_eq!(results.len(), TEMPLATES.len() + cases.as_object().expect("cases").len());
    let mut others = Vec::new();
    for result in results {
        let name = text(result, "name");
        if result["status"] != 200 {
            others.push(format!("{name}: {}", result["ours"]));
            continue;
        }
        let (ours, theirs) = (plain(&result["ours"]["workflow"]), plain(&result["theirs"]));
        if ours != theirs {
            others.push(format!("{name}:\nours   {ours}\ntheirs {theirs}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n\n"));
}
