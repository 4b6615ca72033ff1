//! A snapshot of ComfyUI-Manager: `get_current_snapshot` in `glob/manager_core.py` of comfyui-manager 4.3 writes it as
//! JSON, or, under a key `custom_nodes`, as YAML.
//!
//! ```json
//! {
//!   "comfyui": "b53af269a04f9a0bd2e32568aa1db69e709b3a7b",
//!   "git_custom_nodes": {"https://github.com/city96/ComfyUI-GGUF": {"hash": "…", "disabled": false}},
//!   "cnr_custom_nodes": {"comfyui_essentials": "1.1.0"},
//!   "file_custom_nodes": [{"filename": "websocket_image_save.py", "disabled": false}],
//!   "pips": {"aiohttp==3.14.5": "", "mine": "file:///…"}
//! }
//! ```
//!
//! `pips` is everything that was installed on the machine it was made on, PyTorch included. ComfyUI-Manager installs
//! nothing of it unless told (`restore_pip_snapshot`), and neither do we: the packs' own requirements are resolved
//! together with what ComfyUI needs.

use serde_json::{Map, Value};
use url::Url;

use super::Document;
use crate::config::NodePack;
use crate::display::redacted;
use crate::echo;

const KEYS: [&str; 5] = [
    "comfyui",
    "git_custom_nodes",
    "cnr_custom_nodes",
    "file_custom_nodes",
    "pips",
];
/// The keys by which it is known.
const OWN_KEYS: [&str; 3] = ["git_custom_nodes", "cnr_custom_nodes", "file_custom_nodes"];
/// What ComfyUI itself brings.
const OWN_FILE: &str = "websocket_image_save.py";

/// The snapshot in a document, if it has one.
pub(super) fn within(document: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let is_one = |object: &&Map<String, Value>| OWN_KEYS.iter().any(|key| object.contains_key(*key));
    let inner = || document.get("custom_nodes").and_then(Value::as_object);
    Some(document).filter(is_one).or_else(|| inner().filter(is_one))
}

/// Reads a snapshot.
pub(super) fn read(snapshot: &Map<String, Value>) -> Document {
    let mut document = Document::default();
    for (key, value) in snapshot {
        if !KEYS.contains(&key.as_str()) && !value.is_null() {
            let key = echo::cut(key);
            document.warnings.push(format!("`{key}` is not known, and not taken"));
        }
    }
    for (url, state) in table(snapshot, "git_custom_nodes", &mut document) {
        git(url, state, &mut document);
    }
    for (id, version) in table(snapshot, "cnr_custom_nodes", &mut document) {
        let place = format!("`{}` in `cnr_custom_nodes`", echo::cut(id));
        match version.as_str() {
            _ if is_manager(id) => document.warnings.push(no_manager()),
            Some(version) => document.take(&place, NodePack::registry(id, Some(version))),
            None => document.mistakes.push(format!("{place} has a version that is no text")),
        }
    }
    files(snapshot.get("file_custom_nodes"), &mut document);
    if let Some(commit) = snapshot.get("comfyui").and_then(Value::as_str) {
        let commit = echo::cut(commit);
        document.warnings.push(format!(
            "it was made with ComfyUI {commit}; COMFYUI_VERSION chooses the version, and nothing of it is taken from here"
        ));
    }
    let pips = table(snapshot, "pips", &mut document).len();
    if pips > 0 {
        document.warnings.push(format!(
            "its `pips`, the {pips} packages of the machine that it was made on, are not installed: what the packs require is. `packages` of a TOML manifest names further ones"
        ));
    }
    document
}

/// The entries of a table, which may be missing.
fn table<'a>(snapshot: &'a Map<String, Value>, key: &str, document: &mut Document) -> Vec<(&'a String, &'a Value)> {
    match snapshot.get(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(table)) => table.iter().collect(),
        Some(_) => {
            document.mistakes.push(format!("`{key}` is no table"));
            Vec::new()
        }
    }
}

/// ComfyUI-Manager, which passes over itself too when it restores a snapshot. It is found wherever somebody used it, and
/// lets the page install more.
pub(super) fn is_manager(name: &str) -> bool {
    name.to_ascii_lowercase().contains("comfyui-manager")
}

pub(super) fn no_manager() -> String {
    "ComfyUI-Manager itself is not taken: the worker sees to the packs; CUSTOM_NODES takes it, if it is wanted"
        .to_owned()
}

fn git(url: &str, state: &Value, document: &mut Document) {
    let shown = shown(url);
    if is_manager(url) {
        document.warnings.push(no_manager());
    } else if state.get("disabled").and_then(Value::as_bool) == Some(true) {
        document
            .warnings
            .push(format!("{shown} is disabled there, and not taken"));
    } else if url == "null" || url.is_empty() {
        let what = "a pack without an address of its repository is not taken";
        document.warnings.push(format!("{what}; CUSTOM_NODES takes a folder"));
    } else {
        // Where its HEAD is a commit and no branch, the line break of git's file comes with it.
        let hash = state.get("hash").and_then(Value::as_str).map(str::trim);
        let hash = hash.filter(|hash| !hash.is_empty() && *hash != "unknown");
        let place = format!("{shown} in `git_custom_nodes`");
        document.note_unknown(&place, state, &["hash", "disabled"]);
        document.take(&place, NodePack::git(&normal(url), hash));
    }
}

/// The address without what may be secret.
fn shown(url: &str) -> String {
    Url::parse(url).map_or_else(|_| echo::cut(url), |url| redacted(&url))
}

/// An address of GitHub as ComfyUI-Manager takes it (`normalize_url` in `common/git_utils.py`), whichever way it was
/// cloned; others as they are.
fn normal(url: &str) -> String {
    let ssh = url.strip_prefix("git@github.com:");
    let ssh = ssh.or_else(|| url.strip_prefix("ssh://git@github.com/"));
    match ssh {
        Some(path) => format!("https://github.com/{}", path.trim_end_matches(".git")),
        None => url.to_owned(),
    }
}

fn files(files: Option<&Value>, document: &mut Document) {
    let files: Vec<_> = files.and_then(Value::as_array).into_iter().flatten().collect();
    for (index, file) in files.iter().enumerate() {
        let place = format!("entry {} of `file_custom_nodes`", index + 1);
        document.note_unknown(&place, file, &["filename", "disabled"]);
    }
    let names = files
        .into_iter()
        .filter_map(|file| file.get("filename").and_then(Value::as_str));
    let names: Vec<_> = names.filter(|name| *name != OWN_FILE).map(echo::cut).collect();
    if !names.is_empty() {
        document.warnings.push(format!(
            "the files {} are not taken, as no repository has them; put each into a folder as __init__.py, and name the folder in CUSTOM_NODES",
            names.join(", ")
        ));
    }
}
