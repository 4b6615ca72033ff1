//! The `OpenAPI` document held against the server by schemathesis, which makes requests from it: such as it allows, and such as
//! it does not.

use serde_json::Value;
use tokio::process::Command;

use crate::support::clients::tool;
use crate::support::{PATIENCE, Worker, fresh_data, text};

const SCHEMATHESIS: &str = "schemathesis==4.32.5";
const KEY: &str = "0123456789abcdef";

/// How the paths begin that are passed on to ComfyUI.
const PASSED_ON: &str = "embeddings|experiment|extensions|features|global_subgraphs|i18n|internal|models|node_replacements|object_info|settings|system_stats|upload|userdata|users|view_metadata|workflow_templates";

/// Where ComfyUI does not look at the kind of a value, it is not looked at.
const AS_COMFYUI: &[&str] = &["/prompt", "/queue", "/history", "/free", "/interrupt", "/jobs/cancel"];

/// What a document cannot say, as docs/apis.md names it.
fn is_named(code: &str, operation: &str) -> bool {
    let (method, path) = operation.split_once(' ').unwrap_or_default();
    let ends_with = |routes: &[&str]| method == "POST" && routes.iter().any(|route| path.ends_with(route));
    match code {
        // A request that the document allows is refused: a text is no picture, no graph, no model.
        "ST202" => {
            ends_with(&[
                "/run",
                "/runsync",
                "/edit/edit-image",
                "/createTask",
                "/prompt",
                "/convert",
                "/api/v2/jobs",
                "/api/v2/assets",
                "/api/v2/assets/from-hash",
            ]) || (method == "GET"
                && ["/ws", "/view", "/api/v2/jobs"]
                    .iter()
                    .any(|route| path.ends_with(route)))
                || (method == "POST" && (path.starts_with("/v1/images/") || path.starts_with("/api/v1/")))
        }
        // One that it does not allow is taken: what is wrong with Gradio's values is told in the event's stream.
        "ST201" => {
            ends_with(AS_COMFYUI)
                // In a form all is text, and beside a key a link's parameters count for nothing.
                || operation == "POST /api/v2/assets"
                || operation == "GET /api/v2/assets/{id}/content"
                || ends_with(&[
                    "/gradio_api/queue/join",
                    "/gradio_api/call/infer",
                    "/gradio_api/call/v2/infer",
                ])
        }
        _ => false,
    }
}

#[tokio::test]
async fn the_server_does_what_the_document_says() {
    let (data, mut vars) = fresh_data();
    // Jobs from templates end at once, since there are no models.
    for (name, value) in [
        ("DEMO_WEIGHTS", "false"),
        ("MODEL_ON_DEMAND", "false"),
        ("QUEUE_LIMIT", "1000"),
        ("API_KEY", KEY),
    ] {
        vars.insert(name.to_owned(), value.to_owned());
    }
    let worker = Worker::start(vars).await;
    worker.ready().await;
    let report = data.path().join("report.json");
    let mut run = Command::new(tool(SCHEMATHESIS, "schemathesis").await);
    run.arg("run").arg(format!("{}/openapi.json", worker.url));
    run.args(["--checks", "all", "--max-examples", "10", "--seed", "7", "--no-shrink"]);
    // Two workers would share Hypothesis's cache of sources, which is not made for threads.
    run.args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]);
    run.args(["--workers", "1"]);
    run.args(["--suppress-health-check", "all", "--warnings", "off"]);
    // A heartbeat has no end, what ComfyUI answers itself is for ComfyUI to say, and a route under /api or
    // /v2/ENDPOINT is the one at the root.
    let others = format!("heartbeat|^/({PASSED_ON})(/|$)|^/api/(?!jobs|v1|v2)|^/v2/");
    run.args(["--exclude-path-regex", &others, "--request-timeout", "60"]);
    run.args(["--header", &format!("Authorization: Bearer {KEY}")]);
    run.args(["--report", "json", "--report-json-path"]).arg(&report);
    run.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    run.current_dir(data.path()).kill_on_drop(true);
    // Thousands of requests, one after another, on cores that other tests share.
    let done = tokio::time::timeout(3 * PATIENCE, run.output()).await;
    let done = done.expect("it ends in time").expect("it runs");
    let said = String::from_utf8_lossy(&done.stdout);
    let report = std::fs::read(&report).unwrap_or_else(|_| panic!("no report: {said}"));
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert!(report["test_cases"]["generated"].as_u64() > Some(1_000), "{said}");
    assert_eq!(report["errors"], serde_json::json!([]), "{said}");
    let mut unnamed = Vec::new();
    for failure in report["failures"].as_array().expect("a list") {
        let code = text(failure, "code");
        for operation in failure["operations"].as_array().expect("a list") {
            let operation = operation.as_str().expect("a name");
            if !is_named(code, operation) {
                unnamed.push(format!("{code} {operation}"));
            }
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:?}\n{said}");
    worker.app.close().await;
}
