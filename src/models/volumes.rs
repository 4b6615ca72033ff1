//! Network volumes: models that lie beside ComfyUI's own folders, and the file that makes ComfyUI look there.
//!
//! RunPod mounts a network volume at `/runpod-volume` for serverless workers and at `/workspace` for pods
//! (docs.runpod.io/storage/network-volumes). What their users keep on it has one of two layouts, and both are read:
//!
//! ```text
//! ROOT/models/<folder>/…              as worker-comfyui documents it
//! ROOT/ComfyUI/models/<folder>/…      a whole ComfyUI, as pods leave it
//! ```
//!
//! A volume is shared by all workers of an endpoint. New models may go there ([`locate`](super::locate)), and what uv fetches
//! for custom nodes ([`uv_cache`]); nothing else does. Custom nodes on it are code, and left alone unless the owner says
//! otherwise ([`custom_nodes`]).
//!
//! Further folders of models, such as `MODEL_DIR`, go the same way to ComfyUI ([`add`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::model_folder::{KINDS, known_kind};
use crate::error::JobError;
use crate::workflow::is_model_file;

/// Where a volume keeps models, below its root.
const LAYOUTS: [&str; 2] = ["models", "ComfyUI/models"];

/// Names that mean something else in ComfyUI's file of paths.
const NO_KINDS: [&str; 4] = ["base_path", "is_default", "custom_nodes", "datasets"];

/// How deep below a folder of models files are counted.
const DEPTH: u32 = 3;

/// The most entries of one models folder that are looked at for the count: a volume is slow, and may hold anything.
const MOST_LOOKED_AT: usize = 20_000;

/// A volume that is there, or a folder of models that is none of a volume's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    root: PathBuf,
    /// Whether it is a volume.
    mounted: bool,
    models: Vec<ModelsFolder>,
}

/// A folder on a volume that holds models, in folders by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ModelsFolder {
    path: PathBuf,
    /// Whether it is the one that ComfyUI reads anyway.
    own: bool,
}

/// The volumes among `roots` that are there. `own` is the models folder of ComfyUI itself, which may lie on one of them.
/// Looks at a handful of folders.
pub fn find(roots: &[PathBuf], own: &Path) -> Vec<Volume> {
    let own = own.canonicalize().ok();
    let mut seen = Vec::new();
    let mut volumes = Vec::new();
    for root in roots {
        // One mount point may be a link to the other.
        match root.canonicalize() {
            Ok(place) if place.is_dir() && !seen.contains(&place) => seen.push(place),
            _ => continue,
        }
        let models = LAYOUTS.iter().map(|layout| root.join(layout));
        let models = models.filter(|path| path.is_dir()).map(|path| ModelsFolder {
            own: own.is_some() && path.canonicalize().ok() == own,
            path,
        });
        volumes.push(Volume {
            models: models.collect(),
            root: root.clone(),
            mounted: true,
        });
    }
    volumes
}

/// Adds a folder of models that ComfyUI is to read too, unless it reads it anyway. The folder need not be there yet.
pub fn add(volumes: &mut Vec<Volume>, folder: &Path, own: &Path) {
    let same = |path: &Path| {
        path == folder
            || path
                .canonicalize()
                .is_ok_and(|path| folder.canonicalize().is_ok_and(|folder| folder == path))
    };
    if same(own) || volumes.iter().flat_map(Volume::models).any(same) {
        return;
    }
    let path = folder.to_owned();
    volumes.push(Volume {
        root: path.clone(),
        mounted: false,
        models: vec![ModelsFolder { path, own: false }],
    });
}

/// The folders in `models` that ComfyUI itself has no kind for, in order; custom nodes may.
fn others_in(models: &Path) -> Vec<String> {
    let known = |name: &str| NO_KINDS.contains(&name) || known_kind(name).is_some();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let entries = fs::read_dir(models).into_iter().flatten().flatten();
    let mut others: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(plain) && !known(name))
        .collect();
    others.sort();
    others
}

/// The text of a file for ComfyUI's `--extra-model-paths-config`; [`None`] when no volume has models of its own.
///
/// Those of `copies`, the local copies, come before all others. Folders that are not there yet are named too, so that a model that somebody uploads later is found.
fn extra_model_paths(volumes: &[Volume], copies: Option<&Path>) -> Option<String> {
    let mut text = String::from("# Written by qwen-image-worker at each start: the models on network volumes.\n");
    let (mut number, mut has_any) = (0, false);
    if let Some(path) = copies
        .and_then(Path::to_str)
        .filter(|path| !path.contains(char::is_control))
    {
        has_any = true;
        let _ = writeln!(text, "local_copies:\n  is_default: true");
        for (kind, _) in KINDS {
            let _ = writeln!(text, "  {kind}: {}", quoted(format!("{path}/{kind}")));
        }
    }
    for folder in volumes.iter().flat_map(|volume| &volume.models) {
        // ComfyUI takes one path a line, and YAML no other control character.
        let path = folder.path.to_str().filter(|path| !path.contains(char::is_control));
        let (Some(path), false) = (path, folder.own) else {
            continue;
        };
        number += 1;
        let _ = writeln!(text, "network_volume_{number}:");
        for (kind, names) in KINDS {
            let paths: Vec<String> = names.iter().map(|name| format!("{path}/{name}")).collect();
            let _ = writeln!(text, "  {kind}: {}", quoted(paths.join("\n")));
        }
        for other in others_in(&folder.path) {
            let path = quoted(format!("{path}/{other}"));
            let _ = writeln!(text, "  {}: {path}", quoted(other));
        }
    }
    (number > 0 || has_any).then_some(text)
}

/// In double quotes, as JSON and YAML both read it.
fn quoted(text: String) -> Value {
    Value::String(text)
}

/// The folders of custom nodes on volumes that ComfyUI is to read, if it may: whoever can write to a volume can run code with
/// them. Tells of them either way. Blocking: a volume may answer slowly.
pub fn custom_nodes(volumes: &[Volume], may_be_read: bool) -> Vec<PathBuf> {
    let folders = folders_of_nodes(volumes);
    for folder in &folders {
        let folder = folder.display();
        if may_be_read {
            tracing::warn!(
                "the custom nodes in {folder} are loaded: whoever can write there can run code here (VOLUME_CUSTOM_NODES=true)"
            );
        } else {
            tracing::info!(
                "the custom nodes in {folder} are not loaded; VOLUME_CUSTOM_NODES=true has ComfyUI load them, and their Python packages are their owner's to install"
            );
        }
    }
    if may_be_read { folders } else { Vec::new() }
}

/// The folders of custom nodes that there are on volumes, with something in them. Blocks.
pub fn folders_of_nodes(volumes: &[Volume]) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for volume in volumes.iter().filter(|volume| volume.mounted) {
        folders.push(volume.root.join("custom_nodes"));
        // Beside its own models, ComfyUI reads them anyway.
        if !volume
            .models
            .iter()
            .any(|folder| folder.own && folder.path.ends_with(LAYOUTS[1]))
        {
            folders.push(volume.root.join("ComfyUI/custom_nodes"));
        }
    }
    folders.retain(|folder| holds_nodes(folder));
    folders
}

/// Whether there is anything in a folder that ComfyUI would take for a custom node.
fn holds_nodes(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_off = name.starts_with(['.', '_']) || name.ends_with(".disabled");
        !is_off
            && name != "example_node.py.example"
            && (path.is_dir() || path.extension().is_some_and(|end| end == "py"))
    })
}

/// Where uv may keep the packages of custom nodes, for all workers of a volume: on the first that is mounted.
pub fn uv_cache(volumes: &[Volume]) -> Option<PathBuf> {
    let mut mounted = volumes.iter().filter(|volume| volume.mounted);
    mounted
        .next()
        .map(|volume| volume.root.join(".cache/qwen-image-worker/uv"))
}

/// Logs what each volume holds, and writes `file` for ComfyUI's `--extra-model-paths-config`; [`None`] when there is nothing
/// to write. Blocking: a volume may answer slowly.
pub fn write(volumes: &[Volume], copies: Option<&Path>, file: &Path) -> Result<Option<PathBuf>, JobError> {
    for volume in volumes {
        tracing::info!("{}", volume.described());
    }
    let Some(text) = extra_model_paths(volumes, copies) else {
        return Ok(None);
    };
    let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
    folder.and_then(|()| fs::write(file, text)).map_err(|error| {
        JobError::internal(format!(
            "cannot write {}, which tells ComfyUI of the models on network volumes: set DATA_DIR to a folder that this \
             user may write to and that has space left ({error})",
            file.display()
        ))
    })?;
    Ok(Some(file.to_owned()))
}

impl Volume {
    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its folders of models.
    pub fn models(&self) -> impl Iterator<Item = &Path> {
        self.models.iter().map(|folder| folder.path.as_path())
    }

    /// What is on it, in one line.
    fn described(&self) -> String {
        let root = self.root.display();
        if self.models.is_empty() {
            let places = LAYOUTS.map(|layout| format!("{root}/{layout}/<folder>"));
            return format!(
                "network volume {root}: no models; they are looked for in {}, where <folder> is diffusion_models, \
                 text_encoders, vae, loras or another of ComfyUI's",
                places.join(" and ")
            );
        }
        let folders = self.models.iter().map(|folder| {
            let own = if folder.own {
                ", which is ComfyUI's own folder"
            } else {
                ""
            };
            described(&folder.path) + own
        });
        let what = if self.mounted {
            "network volume"
        } else {
            "models folder"
        };
        format!("{what} {root}: {}", folders.collect::<Vec<_>>().join("; "))
    }
}

/// What a folder of models holds: `3 model files in /workspace/models (loras 2, vae 1)`. Looks at a bounded number of its
/// entries.
pub fn described(models: &Path) -> String {
    let mut left = MOST_LOOKED_AT;
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(models).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            let files = model_files(&entry.path(), DEPTH, &mut left);
            counts.insert(entry.file_name().to_string_lossy().into_owned(), files);
        }
    }
    counts.retain(|_, files| *files > 0);
    let all: usize = counts.values().sum();
    let path = models.display();
    if all == 0 {
        return format!("no model files in {path}");
    }
    let least = if left == 0 { "at least " } else { "" };
    let files = if all == 1 { "file" } else { "files" };
    let by_folder: Vec<String> = counts.iter().map(|(name, files)| format!("{name} {files}")).collect();
    format!("{least}{all} model {files} in {path} ({})", by_folder.join(", "))
}

/// How many model files lie under `folder`; `left` is how many more entries may be looked at.
fn model_files(folder: &Path, depth: u32, left: &mut usize) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let path = entry.path();
        if is_model_file(&path) {
            files += 1;
        } else if depth > 0 && path.is_dir() {
            files += model_files(&path, depth - 1, left);
        }
    }
    files
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
