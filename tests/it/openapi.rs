//! The `OpenAPI` document and its page. ComfyUI is not needed for that.

use serde_json::{Value, json};

use crate::support::binary::binary;
use crate::support::clients::python;
use crate::support::{Worker, fresh_data};

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

/// `jsonschema` comes with it.
const VALIDATOR: &str = "openapi-spec-validator==0.9.0";

/// Reads the document, and errors that the worker answered; says what does not fit.
const VALIDATE: &str = r#"
import json, sys
from openapi_spec_validator import OpenAPIV31SpecValidator
import jsonschema
plan = json.load(sys.stdin)
document = plan["document"]
wrong = [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()]
def resolved(value):
    if isinstance(value, dict):
        if "$ref" in value:
            return resolved(document["components"]["schemas"][value["$ref"].split("/")[-1]])
        return {key: resolved(item) for key, item in value.items()}
    return [resolved(item) for item in value] if isinstance(value, list) else value
for answer in plan["answers"]:
    responses = document["paths"][answer["path"]][answer["method"]]["responses"]
    described = responses.get(str(answer["status"]), responses["default"])
    schema = resolved(described["content"]["application/json"]["schema"])
    for error in jsonschema.Draft202012Validator(schema).iter_errors(answer["body"]):
        wrong.append(f"{answer['method']} {answer['path']} {answer['status']}: {error.message}")
print(json.dumps(wrong))
"#;

/// The path with something in the place of each parameter.
fn filled(path: &str) -> String {
    let parts = path.split('/');
    let filled = parts.map(|part| if part.starts_with('{') { "0" } else { part });
    filled.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn the_document_is_valid_and_its_routes_answer_as_it_says() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let document = client.get(format!("{}/openapi.json", worker.url)).send().await;
    let document: Value = document.expect("an answer").json().await.expect("JSON");
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
                status != 405 && !text.contains("The routes are"),
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
    let page = client
        .get(format!("{}/docs", worker.url))
        .send()
        .await
        .expect("an answer");
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
