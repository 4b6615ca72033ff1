//! Models that the worker has fetched: for its start, for a job, and from the command line. The Hub is ours, on a real
//! socket; ComfyUI is the real one, and loads what was fetched.

mod cli;
mod jobs;
mod start;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::model_hub::{Content, ModelHub};
use crate::support::{Worker, fresh_data, shared};

/// Bytes a second at which the VAE takes half a minute, in pieces that come every second.
const SLOW: u64 = 20_000;

/// The repository of the tests.
const REPO: &str = "owner/models";

/// A manifest with the sets `start` and `later`, each with one VAE, and `gated`, whose repository is.
const MANIFEST: &str = r#"
[sets.start]
title = "What the worker has from its start"
files = [{ repo = "owner/models", path = "start.safetensors", target = "vae" }]

[sets.later]
title = "What a job asks for"
files = [
  { repo = "owner/models", path = "split_files/later.safetensors", target = "vae" },
  { repo = "owner/models", path = "split_files/other.safetensors", target = "vae" },
]

[sets.gated]
title = "What needs a licence"
files = [{ repo = "owner/gated", path = "gated.safetensors", target = "vae" }]
"#;

/// A VAE that ComfyUI loads.
async fn vae() -> Content {
    let shared = shared().await;
    let data = shared.data.as_ref().expect("a folder of its own").path();
    let file = data.join("demo/models/vae/qwen_image_vae.safetensors");
    Content::literal(std::fs::read(file).expect("the demo weights"))
}

/// A Hub with the files of [`MANIFEST`].
async fn hub() -> (ModelHub, Content) {
    let (hub, vae) = (ModelHub::start().await, vae().await);
    let files = [
        "start.safetensors",
        "split_files/later.safetensors",
        "split_files/other.safetensors",
    ];
    hub.push(REPO, "main", files.map(|path| (path, &vae)));
    hub.push("owner/gated", "main", [("gated.safetensors", &vae)]);
    (hub, vae)
}

/// The variables of a worker that fetches from this Hub, with no model of its own.
fn vars(hub: &ModelHub, more: &[(&str, &str)]) -> (TempDir, BTreeMap<String, String>) {
    let (data, mut vars) = fresh_data();
    let manifest = data.path().join("models.toml");
    std::fs::write(&manifest, MANIFEST).expect("a file");
    let all = [
        ("DEMO_WEIGHTS", "false".to_owned()),
        ("HF_ENDPOINT", hub.url.to_string()),
        ("HF_HOME", data.path().join("hf").display().to_string()),
        ("MODEL_MANIFEST", manifest.display().to_string()),
    ];
    vars.extend(all.map(|(name, value)| (name.to_owned(), value)));
    vars.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    (data, vars)
}

/// A worker with these variables.
async fn worker(hub: &ModelHub, more: &[(&str, &str)]) -> Worker {
    let (data, vars) = vars(hub, more);
    let mut worker = Worker::start(vars).await;
    worker.data = Some(data);
    worker
}

/// A graph that decodes an empty picture with this VAE.
fn decode(vae: &str, side: u32) -> Value {
    json!({
        "1": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": side, "height": side, "length": 1, "batch_size": 1}},
        "2": {"class_type": "VAELoader", "inputs": {"vae_name": vae}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["2", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "test/vae"}},
    })
}
