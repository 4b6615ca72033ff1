//! A `comfy-build.yaml` of comfy-cli, which writes it as YAML or JSON (`command/build_spec.py`, and `scan_custom_nodes`
//! and `build_definition` in `command/build.py`, of comfy-cli 1.23).
//!
//! ```yaml
//! schema: comfy-build/1
//! name: mine
//! definition:
//!   baseComfyVersion: v0.3.64
//!   customNodes:
//!     - name: ComfyUI-GGUF                # the folder
//!       repository: https://github.com/city96/ComfyUI-GGUF
//!       gitRef: 6ea2651e7df66d7585f6ffee804b20e92fb38b8a
//!     - {name: comfyui_essentials, id: comfyui_essentials, registryVersion: 1.1.0}
//!     - {name: mine, source: local, localPath: mine}   # in custom_nodes beside the file
//!   pipDependencies: |                    # what `pip freeze` said there, or what somebody wrote
//!     opencv-python-headless>=4.10
//! ```
//!
//! What `pip freeze` said of another machine has a head by which it is known ("Resolved pins from where the workflow ran
//! locally", for other machines to "retarget"): it is not installed. Lines that somebody wrote are requirements like
//! those of a pack.

use std::path::{Component, Path};

use serde_json::{Map, Value};

use super::{Document, ours, snapshot};
use crate::config::NodePack;
use crate::echo;

/// What `capture_pip_provenance` writes above what `pip freeze` said.
const CAPTURED: &str = "# Captured by comfy-cli";

/// What a definition may have that is not ours to do, and what does it.
const ELSEWHERE: [(&str, &str); 4] = [
    ("models", "MODELS and MODEL_MANIFEST name the models"),
    ("baseComfyVersion", "COMFYUI_VERSION chooses the version"),
    ("baseImage", "the image is your Dockerfile's"),
    (
        "environment",
        "it tells of the machine that it was made on; TORCH_INDEX_URL chooses the build of PyTorch",
    ),
];
/// What is read, or says nothing.
const DEFINITION_KEYS: [&str; 3] = ["schema", "customNodes", "pipDependencies"];

/// What an entry of `customNodes` may have that is read.
const NODE_KEYS: [&str; 8] = [
    "name",
    "id",
    "registryVersion",
    "repository",
    "gitRef",
    "commit",
    "localPath",
    "source",
];

/// What else comfy-cli writes there: where its builder has the folder, and what was in it.
const BUILDER_KEYS: [&str; 3] = ["blobId", "localDigest", "localSizeBytes"];

/// Whether a document is one.
pub(super) fn is_one(document: &Map<String, Value>) -> bool {
    let schema = document.get("schema").and_then(Value::as_str);
    schema.is_some_and(|schema| schema.starts_with("comfy-build/")) || document.contains_key("definition")
}

/// Reads a document; `base` is the folder that it lies in. Blocks.
pub(super) fn read(build: &Map<String, Value>, base: Option<&Path>) -> Document {
    let schema = build.get("schema").and_then(Value::as_str).unwrap_or("none");
    if schema != "comfy-build/1" {
        return Document::wrong(format!("its `schema` is {}; comfy-build/1 is known", echo::cut(schema)));
    }
    let Some(definition) = build.get("definition").and_then(Value::as_object) else {
        return Document::wrong("`definition` is no table");
    };
    let mut document = Document::default();
    for (key, value) in definition {
        let elsewhere = ELSEWHERE.iter().find(|(known, _)| known == key);
        if is_empty(value) || DEFINITION_KEYS.contains(&key.as_str()) {
            continue;
        }
        document.warnings.push(match elsewhere {
            Some((key, what)) => format!("`{key}` is not taken: {what}"),
            None => format!("`{}` is not known, and not taken", echo::cut(key)),
        });
    }
    match definition.get("customNodes") {
        None | Some(Value::Null) => {}
        Some(Value::Array(nodes)) => {
            for (index, node) in nodes.iter().enumerate() {
                take(index, node, base, &mut document);
            }
        }
        Some(_) => document.mistakes.push("`customNodes` is no list".to_owned()),
    }
    match definition.get("pipDependencies") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => packages(text, &mut document),
        Some(_) => document.mistakes.push("`pipDependencies` is no text".to_owned()),
    }
    document
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

/// The builder takes the first of a blob, a version of the Registry, and a repository (`NODE_SOURCES` in
/// `command/build_validation.py`). Blobs are its own.
fn take(index: usize, node: &Value, base: Option<&Path>, document: &mut Document) {
    let entry = format!("entry {} of `customNodes`", index + 1);
    let text = |key: &str| node.get(key).and_then(Value::as_str).map(str::trim);
    let text = |key: &str| text(key).filter(|text| !text.is_empty());
    if !node.is_object() {
        document.mistakes.push(format!("{entry} is no table"));
        return;
    }
    let wrong = NODE_KEYS.iter().find(|key| {
        node.get(*key)
            .is_some_and(|value| !value.is_null() && !value.is_string())
    });
    if let Some(key) = wrong {
        document
            .mistakes
            .push(format!("{entry} has a `{key}` that is no text: put quotes around it"));
        return;
    }
    let name = text("name");
    let named = match name {
        Some(name) => format!("{entry}, `{}`,", echo::cut(name)),
        None => entry,
    };
    if [name, text("id"), text("repository")]
        .into_iter()
        .flatten()
        .any(snapshot::is_manager)
    {
        document.warnings.push(snapshot::no_manager());
        return;
    }
    document.note_unknown(&named, node, &[&NODE_KEYS[..], &BUILDER_KEYS].concat());
    let is_local = text("blobId").is_some() || text("source") == Some("local");
    let pack = if let (Some(version), false) = (text("registryVersion"), is_local) {
        match text("id").or(name) {
            Some(id) => NodePack::registry(id, Some(version)),
            None => Err("has no `id`".to_owned()),
        }
    } else if let (Some(repository), false) = (text("repository"), is_local) {
        NodePack::git(repository, text("commit").or(text("gitRef")))
    } else if let Some(folder) = local(text("localPath"), base) {
        NodePack::folder(&folder)
    } else {
        document.warnings.push(format!(
            "{named} is not taken, as it is a folder of the machine that it was made on; CUSTOM_NODES takes its folder, once it is here"
        ));
        return;
    };
    let pack = pack.and_then(|pack| match name {
        Some(name) => pack.named(name),
        None => Ok(pack),
    });
    document.take(&named, pack);
}

/// A pack's folder in `custom_nodes` beside the file, if it is there (`resolve_local_path` in `command/build_paths.py`).
fn local(path: Option<&str>, base: Option<&Path>) -> Option<std::path::PathBuf> {
    let path = Path::new(path?);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let folder = base?.join("custom_nodes").join(path);
    folder.is_dir().then_some(folder)
}

fn packages(text: &str, document: &mut Document) {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    if text.trim_start().starts_with(CAPTURED) {
        let count = lines.count();
        document.warnings.push(format!(
            "its `pipDependencies`, the {count} packages of the machine that it was made on, are not installed: what the packs require is. `packages` of a TOML manifest names further ones"
        ));
        return;
    }
    for line in lines {
        // As in a requirements.txt: a comment has space before it.
        match ours::requirement(line.split(" #").next().unwrap_or_default()) {
            Ok(package) => document.packages.push(package),
            Err(error) => document.mistakes.push(format!("`pipDependencies`: {error}")),
        }
    }
}
