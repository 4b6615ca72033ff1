//! Custom nodes that would end ComfyUI, on the real one.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::binary::Served;
use crate::support::{fresh_data, slow, text};

/// What the start hook has recorded in the one run of this data folder, a line each.
fn recorded(data: &Path) -> Vec<Value> {
    let mut runs = std::fs::read_dir(data.join("run")).expect("a folder");
    let run = runs.next().expect("a run").expect("a folder").path();
    let text = std::fs::read_to_string(run.join("start/imports.jsonl")).expect("a record");
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON")
}

#[tokio::test]
async fn a_pack_that_ends_comfyui_costs_one_start_and_no_other_pack() {
    let (data, vars) = fresh_data();
    for (name, code) in [
        ("exits_hard", "import os\nos._exit(5)"),
        ("exits", "import sys\nsys.exit(1)"),
    ] {
        let folder = data.path().join("base/custom_nodes").join(name);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("__init__.py"), code).expect("a file");
    }
    let worker = Served::start(&vars).await;
    worker.comfy_pid().await;
    let health = worker.ask("/health").await.body;
    assert_eq!(health["comfyui"]["generation"], json!(2), "{health:#}");
    let lines = recorded(data.path());
    let error_of = |name: &str| {
        let of_pack = |line: &&Value| text(line, "folder").ends_with(name) && line["state"] == "failed";
        lines.iter().find(of_pack).map(|line| text(line, "error").to_owned())
    };
    let hard = error_of("/exits_hard").expect("a failure");
    assert!(
        hard.contains("ended with exit status 5") && hard.contains("left out until"),
        "{hard}"
    );
    let soft = error_of("/exits").expect("a failure");
    assert!(soft.contains("sys.exit(1)"), "{soft}");
    assert_eq!(error_of("/worker_test_nodes.py"), None);
    let id = worker.accept(json!({"input": {"workflow": slow(1, 1, 1)}})).await;
    let done = worker.end(&id).await.body;
    assert_eq!(text(&done, "status"), "COMPLETED", "{done:#}");
    worker.kill().await;
}
