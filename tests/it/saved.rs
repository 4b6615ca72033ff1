//! Workflows as ComfyUI's page saves them, everywhere a graph is taken.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::durability::attached;
use crate::support::binary::Served;
use crate::support::comfyui::Client;
use crate::support::image_server::png;
use crate::support::{Worker, http, shared, slow, text, until};

/// An empty picture of one colour, as the page saves its workflow; an app that names its width, and a note beside it.
pub(crate) fn page(color: u32, prefix: &str) -> Value {
    json!({
        "id": "2a9c8a5e-0f5c-4d0e-9f64-3b6c1f0a7b11", "revision": 0, "version": 0.4,
        "last_node_id": 3, "last_link_id": 1, "groups": [], "config": {},
        "nodes": [
            {"id": 1, "type": "EmptyImage", "pos": [0, 0], "size": [200, 100], "flags": {}, "order": 0, "mode": 0,
             "inputs": [{"name": "width", "type": "INT", "widget": {"name": "width"}, "link": null}],
             "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}], "properties": {},
             "widgets_values": [64, 48, 1, color]},
            {"id": 2, "type": "SaveImage", "pos": [300, 0], "size": [200, 100], "flags": {}, "order": 1, "mode": 0,
             "inputs": [{"name": "images", "type": "IMAGE", "link": 1}], "outputs": [], "properties": {},
             "widgets_values": [prefix]},
            {"id": 3, "type": "Note", "pos": [0, 200], "size": [200, 100], "flags": {}, "order": 2, "mode": 0,
             "inputs": [], "outputs": [], "properties": {}, "widgets_values": ["for people"]},
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "extra": {"linearMode": true, "linearData": {"inputs": [[1, "width"]], "outputs": [2]}},
    })
}

/// The graph that the page sends of it.
pub(crate) fn graph(color: u32, prefix: &str) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix, "images": ["1", 0]}},
    })
}

/// What counts of a graph: no titles, no notes of ComfyUI's, and every number as JavaScript has it.
pub(crate) fn plain(graph: &Value) -> Value {
    let mut graph = graph.clone();
    for node in graph.as_object_mut().expect("a graph").values_mut() {
        let node = node.as_object_mut().expect("a node");
        node.retain(|field, _| field == "class_type" || field == "inputs");
    }
    doubles(&mut graph);
    graph
}

fn doubles(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_f64()),
        Value::Array(items) => items.iter_mut().for_each(doubles),
        Value::Object(fields) => fields.values_mut().for_each(doubles),
        _ => {}
    }
}

/// `/convert` of a body as it is.
pub(crate) async fn converted(worker: &Worker, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let answer = worker.send(reqwest::Method::POST, "/convert", body).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn the_official_template_runs_as_the_page_saved_it() {
    let worker = shared().await;
    let mut template: Value = worker
        .get("/templates/image_qwen_image.json")
        .await
        .json()
        .await
        .expect("a template");
    // Small, and of two steps.
    for node in template["definitions"]["subgraphs"][0]["nodes"]
        .as_array_mut()
        .expect("nodes")
    {
        match node["id"].as_u64() {
            Some(58) => node["widgets_values"] = json!([256, 256, 1]),
            Some(84) => node["widgets_values"] = json!([2, "fixed"]),
            _ => {}
        }
    }
    let (status, told) = converted(&worker, template.to_string()).await;
    assert_eq!(status, 200, "{told:#}");
    for workflow in [template.clone(), json!(template.to_string())] {
        let done = worker
            .run(json!({"workflow": workflow, "return_workflow": true}))
            .await
            .completed();
        let size = imagesize::blob_size(&worker.first_image(&done).await).expect("a picture");
        assert_eq!((size.width, size.height), (256, 256));
        let output = &done.body["output"];
        assert_eq!(output["workflow"], told["workflow"]);
        assert_eq!(output["workflow"]["76:58"]["class_type"], "EmptySD3LatentImage");
        let warnings = output["warnings"].to_string();
        assert!(warnings.contains("ComfyUI's page saved"), "{warnings}");
    }
}

#[tokio::test]
async fn what_cannot_be_converted_is_refused_by_the_name_of_its_node() {
    let worker = shared().await;
    let mut workflow = page(760_200, "saved/refused");
    workflow["nodes"][0]["type"] = json!("NoSuchClassOfAnybody");
    let refused = worker.run(json!({ "workflow": workflow })).await;
    assert_eq!(
        (refused.status, text(&refused.body, "status")),
        (400, "FAILED"),
        "{:#}",
        refused.body
    );
    assert!(
        refused.error().contains("node 1 (NoSuchClassOfAnybody)"),
        "{}",
        refused.error()
    );
    assert_eq!(refused.body["details"][0]["node_id"], "1");

    let said = Client::new(&worker.url)
        .post("/prompt", &json!({ "prompt": workflow }))
        .await;
    assert_eq!(said.status, 400, "{:#}", said.body);
    assert_eq!(said.body["error"]["type"], "missing_node_type", "{:#}", said.body);
    let errors = &said.body["node_errors"]["1"];
    assert_eq!(errors["class_type"], "NoSuchClassOfAnybody", "{:#}", said.body);
    assert!(errors["errors"][0]["message"].is_string(), "{errors:#}");

    let (status, told) = converted(&worker, workflow.to_string()).await;
    assert_eq!(status, 400);
    assert!(
        text(&told, "error").contains("node 1 (NoSuchClassOfAnybody)"),
        "{told:#}"
    );

    // A field with a text in the place of a number is not run as it is either.
    let mut workflow = page(760_201, "saved/refused");
    workflow["nodes"][0]["widgets_values"][0] = json!("wide");
    let refused = worker.run(json!({ "workflow": workflow })).await;
    assert_eq!(refused.status, 400, "{:#}", refused.body);
    assert!(refused.error().contains("node 1 (EmptyImage)"), "{}", refused.error());
}

#[tokio::test]
async fn the_inputs_of_an_app_are_set_by_name() {
    let worker = shared().await;
    let workflow = page(760_300, "saved/app");
    let done = worker
        .run(json!({"workflow": workflow, "inputs": {"width": 96}}))
        .await
        .completed();
    let size = imagesize::blob_size(&worker.first_image(&done).await).expect("a picture");
    assert_eq!((size.width, size.height), (96, 48));
    let refused = worker.run(json!({"workflow": workflow, "inputs": {"widht": 96}})).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .error()
            .contains("inputs.widht: is no input of this workflow; the inputs are `width`"),
        "{}",
        refused.error()
    );
    let body = json!({"workflow": workflow, "inputs": {"1.width": 128}});
    let (_, told) = converted(&worker, body.to_string()).await;
    assert_eq!(told["workflow"]["1"]["inputs"]["width"], 128, "{told:#}");
}

#[tokio::test]
async fn images_of_the_request_are_found_and_their_folder_is_not_told() {
    let worker = shared().await;
    let mut workflow = page(0, "saved/image");
    workflow["nodes"][0] = json!({
        "id": 1, "type": "LoadImage", "mode": 0, "inputs": [], "properties": {},
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}, {"name": "MASK", "type": "MASK", "links": null}],
        "widgets_values": ["photo.png", "image"],
    });
    workflow["extra"] = json!({});
    let image = json!({"name": "photo.png", "image": STANDARD.encode(png(40, 24, 200))});
    let input = json!({"workflow": workflow, "images": [image], "return_workflow": true});
    let done = worker.run(input).await.completed();
    let size = imagesize::blob_size(&worker.first_image(&done).await).expect("a picture");
    assert_eq!((size.width, size.height), (40, 24));
    assert_eq!(done.body["output"]["workflow"]["1"]["inputs"]["image"], "photo.png");
    // Of a template too.
    let input =
        json!({"prompt": "a ball", "images": [image], "width": 64, "height": 64, "steps": 1, "return_workflow": true});
    let done = worker.run(input).await.completed();
    let ran = done.body["output"]["workflow"].to_string();
    assert!(ran.contains("LoadImage") && !ran.contains("qwen-image-worker"), "{ran}");
}

#[tokio::test]
async fn the_seed_of_dynamic_prompts_is_the_jobs_and_is_told() {
    let worker = shared().await;
    let mut workflow = page(760_400, "saved/dynamic");
    workflow["extra"] = json!({});
    workflow["nodes"].as_array_mut().expect("nodes").extend([
        json!({"id": 4, "type": "CLIPLoader", "mode": 0, "inputs": [], "properties": {},
            "outputs": [{"name": "CLIP", "type": "CLIP", "links": [2]}],
            "widgets_values": ["qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image", "default"]}),
        json!({"id": 5, "type": "CLIPTextEncode", "mode": 0, "properties": {},
            "inputs": [{"name": "clip", "type": "CLIP", "link": 2}],
            "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING", "links": []}],
            "widgets_values": ["a {a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p} fox"]}),
    ]);
    workflow["links"]
        .as_array_mut()
        .expect("links")
        .push(json!([2, 4, 0, 5, 0, "CLIP"]));
    let run = async |seed: Value| {
        let input = json!({"workflow": workflow, "seed": seed, "return_workflow": true});
        let done = worker.run(input).await.completed();
        let output = done.body["output"].clone();
        (output["workflow"]["5"]["inputs"]["text"].clone(), output)
    };
    let (chosen, output) = run(Value::Null).await;
    assert!(
        chosen.as_str().is_some_and(|text| text.len() == "a x fox".len()),
        "{chosen}"
    );
    assert!(output["seed"].is_u64(), "{output:#}");
    assert!(
        output["warnings"].to_string().contains("node 5"),
        "{}",
        output["warnings"]
    );
    let (again, output) = run(output["seed"].clone()).await;
    assert_eq!(again, chosen);
    assert_eq!(output["seed"], Value::Null, "it was given");
}

#[tokio::test]
async fn it_outlives_the_worker() {
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let vars = attached(data.path(), &shared.comfy_url().await, &[]);
    let worker = Served::start(&vars).await;
    let accept = async |url: &str, workflow: Value| {
        let body = json!({"input": {"workflow": workflow}}).to_string();
        let answer = http()
            .post(format!("{url}/run"))
            .body(body)
            .send()
            .await
            .expect("an answer");
        let body: Value = answer.json().await.expect("JSON");
        text(&body, "id").to_owned()
    };
    accept(&worker.url, slow(100_000, 20, 760_500)).await;
    let id = accept(&worker.url, page(760_501, "saved/kept")).await;
    worker.kill().await;
    let worker = Served::start(&vars).await;
    // What ran before it is of no use to anybody.
    let running = Client::new(&worker.url).get("/requests?status=IN_PROGRESS").await.ok();
    let queued = Client::new(&worker.url).get("/requests?status=IN_QUEUE").await.ok();
    for job in [&running, &queued]
        .iter()
        .flat_map(|jobs| jobs["requests"].as_array().into_iter().flatten())
    {
        if text(job, "id") != id {
            let path = format!("/cancel/{}", text(job, "id"));
            Client::new(&worker.url).post(&path, &json!({})).await.ok();
        }
    }
    let mut said = Value::Null;
    until("the job is over", async || {
        said = Client::new(&worker.url).get(&format!("/status/{id}")).await.ok();
        said["status"] == "COMPLETED" || said["status"] == "FAILED"
    })
    .await;
    assert_eq!(said["status"], "COMPLETED", "{said:#}");
    worker.kill().await;
}
