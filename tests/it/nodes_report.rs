//! Packs of custom nodes that somebody has put into ComfyUI's folder: what became of each is told everywhere.

use std::path::Path;

use qwen_image_worker::comfy::nodes::report::NodesReport;
use serde_json::{Value, json};

use crate::support::{Worker, fresh_data, text, until};

const GOOD: &str = r#"
class Echo:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}
    RETURN_TYPES = ()
    FUNCTION = "echo"
    OUTPUT_NODE = True
    CATEGORY = "test"
    def echo(self, text):
        return {"ui": {"text": [text]}}
NODE_CLASS_MAPPINGS = {"GoodEcho": Echo}
"#;

fn put(nodes: &Path, pack: &str, source: &str) {
    let folder = nodes.join(pack);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("__init__.py"), source).expect("a file");
}

#[tokio::test]
async fn what_became_of_each_pack_is_told_everywhere() {
    let (data, vars) = fresh_data();
    let nodes = data.path().join("base/custom_nodes");
    put(&nodes, "good-pack", GOOD);
    std::fs::write(
        nodes.join("good-pack/pyproject.toml"),
        "[project]\nversion = \"1.2.3\"\n",
    )
    .expect("a file");
    put(
        &nodes,
        "lacks.package",
        "import surely_not_installed\nNODE_CLASS_MAPPINGS = {\"Lacking\": None}\n",
    );
    put(
        &nodes,
        "raises",
        "raise RuntimeError(\"no licence\")\nNODE_CLASS_MAPPINGS = {\"Licensed\": None}\n",
    );
    put(
        &nodes,
        "exits",
        "import sys\nsys.exit(3)\nMAPPINGS = {\"Exiting\": None}\n",
    );
    put(&nodes, "empty", "x = 1\n");
    put(&nodes, "page", "WEB_DIRECTORY = \"./js\"\nNODE_CLASS_MAPPINGS = {}\n");
    let mut worker = Worker::start(vars).await;
    worker.ready().await;

    let mut health = Value::Null;
    until("the classes are counted", async || {
        health = worker.ask("/health").await.body;
        health["custom_nodes"][0]["classes"].is_u64()
    })
    .await;
    let told: Vec<String> = health["custom_nodes"]
        .as_array()
        .expect("packs")
        .iter()
        .map(|pack| format!("{} {} {}", text(pack, "name"), text(pack, "state"), pack["classes"]))
        .collect();
    assert_eq!(
        told[..6],
        [
            "empty no_nodes 0",
            "exits failed 0",
            "good-pack loaded 1",
            "lacks.package failed 0",
            "page no_nodes 0",
            "raises failed 0",
        ],
        "{health:#}"
    );
    assert!(
        told[6..]
            .iter()
            .all(|pack| pack.starts_with("worker_test_nodes loaded")),
        "{told:?}"
    );
    let pack = |name: &str| {
        let packs = health["custom_nodes"].as_array().expect("packs");
        packs.iter().find(|pack| text(pack, "name") == name).expect("the pack")
    };
    assert_eq!(text(pack("good-pack"), "version"), "1.2.3");
    assert!(pack("good-pack")["seconds"].is_f64());
    assert_eq!(
        text(pack("lacks.package"), "error"),
        "No module named 'surely_not_installed'"
    );
    // A pack that fails is no reason to take the worker out.
    assert_eq!(health["workers"]["unhealthy"], 0, "{health:#}");

    // For other processes.
    let report = NodesReport::read(data.path()).expect("a report");
    assert_eq!(report.broken().count(), 3);
    let trouble = report.packs[1].trouble().expect("trouble");
    assert!(
        trouble.starts_with("exits failed to load: ") && trouble.contains("sys.exit(3)"),
        "{trouble}"
    );

    let echo = |class: &str| json!({"workflow": {"12": {"class_type": class, "inputs": {"text": "hello"}}}});
    let answer = worker.run(echo("GoodEcho")).await.completed();
    assert!(answer.body["output"].to_string().contains("hello"), "{:#}", answer.body);
    for (class, words) in [
        (
            "Lacking",
            "it comes with lacks.package, which failed to load: No module named 'surely_not_installed'",
        ),
        (
            "Licensed",
            "it comes with raises, which failed to load: RuntimeError: no licence",
        ),
        ("Exiting", "it comes with exits, which failed to load: "),
        (
            "UnetLoaderGGUF",
            "it comes with comfyui-gguf: add `comfyui-gguf@VERSION` to CUSTOM_NODES",
        ),
        ("NobodysClass", "install the custom node that provides it"),
    ] {
        let answer = worker.run(echo(class)).await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
        let error = answer.error();
        assert!(error.contains("node 12") && error.contains(words), "{class}: {error}");
    }
    worker.data = Some(data);
}
