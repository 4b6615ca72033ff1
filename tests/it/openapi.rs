//! The `OpenAPI` document and its page, held against what the routes answer.

use serde_json::{Value, json};

use crate::support::binary::binary;
use crate::support::clients::python;
use crate::support::{Worker, fresh_data, text, until};

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

/// `jsonschema` comes with it.
const VALIDATOR: &str = "openapi-spec-validator==0.9.0";

/// Reads the document, and what the worker answered; says what does not fit.
const VALIDATE: &str = r#"
import json, sys
from openapi_spec_validator import OpenAPIV31SpecValidator
import jsonschema
plan = json.load(sys.stdin)
document = plan["document"]
wrong = [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()]
# Nothing is answered that the document does not name. The parts of a whole (allOf) leave that to the whole.
def resolved(value, is_part=False):
    if isinstance(value, dict):
        if "$ref" in value:
            return resolved(document["components"]["schemas"][value["$ref"].split("/")[-1]], is_part)
        is_closed = isinstance(value.get("properties"), dict) or "allOf" in value
        parts = {"allOf": True, "oneOf": is_part, "anyOf": is_part}
        value = {key: resolved(item, parts.get(key, False)) for key, item in value.items()}
        if is_closed and not is_part and "additionalProperties" not in value:
            value.setdefault("unevaluatedProperties", False)
        return value
    return [resolved(item, is_part) for item in value] if isinstance(value, list) else value
for answer in plan["answers"]:
    responses = document["paths"][answer["path"]][answer["method"]]["responses"]
    described = responses.get(str(answer["status"]), responses["default"])
    schema = resolved(described["content"]["application/json"]["schema"])
    for error in jsonschema.Draft202012Validator(schema).iter_errors(answer["body"]):
        wrong.append(f"{answer['method']} {answer['path']} {answer['status']} {error.json_path}: {error.message}")
print(json.dumps(wrong))
"#;

async fn document(worker: &Worker) -> Value {
    worker.ask("/openapi.json").await.body
}

/// Answers, each with the route that gave it.
struct Answers<'a> {
    worker: &'a Worker,
    answers: Vec<Value>,
}

impl Answers<'_> {
    /// Asks a route, whose path is that of the document; `given` is the path itself with its query. Gives the answer.
    async fn of(&mut self, method: &str, path: &str, given: &str, body: &Value) -> Value {
        let verb = method.parse().expect("a method");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = self.worker.send(verb, given, body).await;
        assert_eq!(answer.status, 200, "{method} {given}: {:#}", answer.body);
        self.answers.push(json!({
            "path": path, "method": method.to_ascii_lowercase(), "status": answer.status, "body": answer.body.clone()}));
        answer.body
    }

    async fn get(&mut self, path: &str, given: &str) -> Value {
        self.of("GET", path, given, &Value::Null).await
    }

    async fn post(&mut self, path: &str, body: &Value) -> Value {
        self.of("POST", path, path, body).await
    }

    /// Asks until the answer says that it is over.
    async fn end(&mut self, path: &str, given: &str, over: impl Fn(&Value) -> bool) {
        until("it is over", async || over(&self.get(path, given).await)).await;
    }
}

#[tokio::test]
async fn what_goes_well_is_answered_as_the_document_says_and_nothing_else_is() {
    let worker = Worker::beside_shared(&[]).await;
    let mut answers = Answers {
        worker: &worker,
        answers: Vec::new(),
    };
    let input = json!({"input": {"prompt": "a cat", "width": 64, "height": 64, "seed": 3}});
    answers.post("/runsync", &input).await;
    let mut inline = input.clone();
    inline["input"]["return_images_as"] = json!("base64");
    answers.post("/runsync", &inline).await;
    let accepted = answers.post("/run", &input).await;
    let id = text(&accepted, "id");
    let is_over = |answer: &Value| answer["status"] == "COMPLETED";
    answers.end("/status/{id}", &format!("/status/{id}"), is_over).await;
    answers.get("/status-sync/{id}", &format!("/status-sync/{id}")).await;
    answers.get("/stream/{id}", &format!("/stream/{id}")).await;
    for path in [
        "/requests",
        "/health",
        "/ping",
        "/v1/models",
        "/edit",
        "/config",
        "/gradio_api/info",
    ] {
        answers.get(path, path).await;
    }
    let graph = json!({"1": {"class_type": "EmptyImage", "inputs": {}}});
    answers.post("/convert", &json!({ "workflow": graph })).await;
    answers.post("/purge-queue", &Value::Null).await;
    answers.get("/v1/models/{model}", "/v1/models/Qwen/Qwen-Image").await;
    for (format, form) in [("url", "png"), ("b64_json", "webp")] {
        let body =
            json!({"prompt": "a cat", "size": "64x64", "seed": 3, "response_format": format, "output_format": form});
        answers.post("/v1/images/generations", &body).await;
    }
    let task = json!({"prompt": "a cat", "image_size": "square", "acceleration_level": "high", "seed": 3});
    let task = answers.post("/api/v1/qwen/generate", &task).await;
    let given = format!("/api/v1/qwen/record-info?taskId={}", text(&task["data"], "taskId"));
    answers
        .end("/api/v1/qwen/record-info", &given, |answer| answer["successFlag"] == 1)
        .await;
    let task = json!({"model": "qwen/text-to-image", "input": {"prompt": "a cat", "image_size": "square",
        "acceleration": "high", "seed": 3, "steps": 4}});
    let task = answers.post("/api/v1/jobs/createTask", &task).await;
    let given = format!("/api/v1/jobs/recordInfo?taskId={}", text(&task["data"], "taskId"));
    answers
        .end("/api/v1/jobs/recordInfo", &given, |answer| {
            answer["data"]["state"] == "success"
        })
        .await;
    let edit = json!({"image1_url": PIXEL, "prompt": "a cat", "steps": 1, "cfg": 1.0, "megapixels": 0.02, "seed": 3});
    let edit = answers.post("/edit/edit-image", &edit).await;
    let id = text(&edit, "job_id");
    let is_over = |answer: &Value| answer["status"] == "completed";
    answers
        .end("/edit/status/{id}", &format!("/edit/status/{id}"), is_over)
        .await;
    answers.get("/edit/jobs", "/edit/jobs").await;
    answers
        .get("/edit/debug/job/{id}", &format!("/edit/debug/job/{id}"))
        .await;
    answers.get("/edit/debug/files", "/edit/debug/files").await;
    let given = format!("/edit/jobs/{id}");
    answers.of("DELETE", "/edit/jobs/{id}", &given, &Value::Null).await;
    let event = answers.post("/gradio_api/call/infer", &json!({"data": [""]})).await;
    assert!(event["event_id"].is_string());
    answers.post("/gradio_api/cancel", &event).await;
    answers.post("/gradio_api/reset", &event).await;

    let plan = json!({"document": document(&worker).await, "answers": answers.answers});
    assert_eq!(python(VALIDATOR, VALIDATE, &plan).await, json!([]));
}

/// The path with something in the place of each parameter.
fn filled(path: &str) -> String {
    let parts = path.split('/');
    let filled = parts.map(|part| if part.starts_with('{') { "0" } else { part });
    filled.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn the_document_is_valid_and_its_routes_answer_as_it_says() {
    // Who is led somewhere is answered there.
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    let client = client.build().expect("a client");
    let worker = Worker::attached(NOWHERE, &[]).await;
    let document = document(&worker).await;
    let mut answers = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("methods").keys() {
            // A heartbeat has no end.
            if method == "parameters" || path.contains("heartbeat") {
                continue;
            }
            let verb = method.to_uppercase().parse().expect("a method");
            let request = client.request(verb, format!("{}{}", worker.url, filled(path)));
            // No field that anything needs is there.
            let request = if method == "post" { request.body("{}") } else { request };
            let answer = request.send().await.expect("an answer");
            let status = answer.status().as_u16();
            let text = answer.text().await.expect("a body");
            assert!(
                status != 405 && !text.contains("There is no GET") && !text.contains("There is no POST"),
                "{method} {path}: {text}"
            );
            if let Ok(body) = serde_json::from_str::<Value>(&text) {
                answers.push(json!({"path": path, "method": method, "status": status, "body": body}));
            }
        }
    }
    assert!(answers.len() > 40, "{} answers", answers.len());
    let plan = json!({"document": document, "answers": answers});
    assert_eq!(python(VALIDATOR, VALIDATE, &plan).await, json!([]));
}

#[tokio::test]
async fn the_page_needs_no_key_and_loads_nothing_from_elsewhere() {
    let worker = Worker::attached(NOWHERE, &[("API_KEY", "a-key")]).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let page = client.get(format!("{}/docs", worker.url)).send().await;
    let page = page.expect("an answer");
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let text = page.text().await.expect("a page");
    assert!(!text.contains("http://") && !text.contains("https://"));
    let document = client.get(format!("{}/openapi.json", worker.url)).send().await;
    let document: Value = document.expect("an answer").json().await.expect("JSON");
    assert!(document["paths"]["/run"]["post"]["security"].is_array());
}

#[tokio::test]
async fn the_command_prints_the_document() {
    let (_data, vars) = fresh_data();
    let done = binary(&vars).arg("openapi").output().await.expect("the binary runs");
    assert!(done.status.success());
    let document: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert!(document["paths"]["/v1/images/generations"].is_object());
}
