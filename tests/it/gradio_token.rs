//! Gradio's Python clients with the key where their users put it.

use serde_json::{Value, json};

use crate::gradio::small_sizes;
use crate::support::Worker;
use crate::support::clients::python;

const KEY: &str = "0123456789abcdef";

const SCRIPT: &str = r#"
import json, sys
from gradio_client import Client
plan = json.load(sys.stdin)
def said(**more):
    try:
        client = Client(plan["url"], verbose=False, **more)
        job = client.submit("a red lighthouse", plan["seed"], False, "1:1", 1, 1, False, api_name="/infer")
        return job.result(timeout=120)[1]
    except Exception as error:
        return type(error).__name__
print(json.dumps([said(**{plan["word"]: plan["key"]}), said(**{plan["word"]: "another"})]))
"#;

async fn check(package: &'static str, word: &str, seed: u32) {
    let templates = small_sizes();
    let folder = templates.path().display().to_string();
    let worker = Worker::beside_shared(&[("API_KEY", KEY), ("WORKFLOWS_DIR", &folder)]).await;
    let plan = json!({"url": worker.url, "key": KEY, "word": word, "seed": seed});
    let said = python(package, SCRIPT, &plan).await;
    assert_eq!(said[0], seed, "{said}");
    assert!(matches!(said[1], Value::String(_)), "{said}");
}

#[tokio::test]
async fn the_python_client_brings_its_token() {
    check("gradio_client==2.7.2", "token", 6_700).await;
}

#[tokio::test]
async fn the_older_python_client_brings_its_token() {
    check("gradio_client==1.14.0", "hf_token", 6_800).await;
}
