//! Comfy API v2, as requests by hand and as its document has it.

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::clients::python;
use super::comfyui::{Client, Said};
use super::recorder::Recorder;
use super::{text, until};

/// Comfy's document of the API, as its documentation publishes it: version 2.0.0, in the state of 2026-08-20.
const CONTRACT: &str = include_str!("../../data/comfy-api-v2.yaml");
const VALIDATOR: &str = "openapi-schema-validator==0.9.0 PyYAML==6.0.4";

/// Holds all that was recorded against the document; gives what does not fit.
pub(crate) async fn faults(recorders: &[&Recorder]) -> Vec<String> {
    let exchanges = recorders.iter().flat_map(|recorder| recorder.exchanges());
    let exchanges: Vec<Value> = exchanges.map(|exchange| exchange.told()).collect();
    assert!(!exchanges.is_empty());
    let plan = json!({"document": CONTRACT, "exchanges": exchanges});
    let wrong = python(VALIDATOR, include_str!("../clients/comfy_v2_contract.py"), &plan).await;
    serde_json::from_value(wrong).expect("a list")
}

/// What stands in a graph where an asset is meant.
pub(crate) fn reference(id: &str) -> Value {
    json!({"__type": "core/ASSET", "info": {"id": id}})
}

/// A graph that loads a picture and saves it.
pub(crate) fn loads(image: &Value, prefix: &str) -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    })
}

/// Uploads bytes; gives the asset.
pub(crate) async fn upload(client: &Client, name: &str, content: Vec<u8>) -> Value {
    let part = Part::bytes(content).file_name(name.to_owned());
    let form = Form::new()
        .text("content_type", "image/png")
        .text("file_path", name.to_owned())
        .part("file", part);
    let request = client.request(Method::POST, "/api/v2/assets").multipart(form);
    let said = client.said(request).await;
    assert!([200, 201].contains(&said.status), "{}: {:#}", said.status, said.body);
    said.body
}

/// Submits what is there as a body, with a key of its own where there is one.
pub(crate) async fn submit(client: &Client, body: &Value, key: Option<&str>) -> Said {
    let mut request = client.request(Method::POST, "/api/v2/jobs").json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    client.said(request).await
}

/// Submits a graph that is taken; gives the job.
pub(crate) async fn submitted(client: &Client, graph: &Value) -> Value {
    let said = submit(client, &json!({ "workflow": graph }), None).await;
    assert_eq!(said.status, 201, "{:#}", said.body);
    said.body
}

/// The job as it is now.
pub(crate) async fn job(client: &Client, id: &str) -> Value {
    client.get(&format!("/api/v2/jobs/{id}")).await.ok()
}

/// What the job runs, as its owner is told.
pub(crate) async fn workflow(client: &Client, job: &Value) -> Value {
    client
        .get(&format!("/api/v2/jobs/{}/workflow", text(job, "id")))
        .await
        .ok()
}

/// Runs a graph that ends well; gives the job as it came, and as it ended.
pub(crate) async fn succeeded(client: &Client, graph: &Value) -> (Value, Value) {
    let job = submitted(client, graph).await;
    let end = ended(client, text(&job, "id")).await;
    assert_eq!(text(&end, "status"), "succeeded", "{end:#}");
    (job, end)
}

/// The job at its end.
pub(crate) async fn ended(client: &Client, id: &str) -> Value {
    let mut seen = Value::Null;
    until("the job is over", async || {
        seen = job(client, id).await;
        ["succeeded", "failed", "canceled", "expired"].contains(&text(&seen, "status"))
    })
    .await;
    seen
}
