//! The custom nodes that a ComfyUI of ours reads: a file of the worker's own, and those that come with ComfyUI.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

const COLLECTOR: &str = include_str!("../collector/qwen_image_worker_collector.py");
const EXTRA_MODEL_PATHS: &str = include_str!("../collector/extra_model_paths.yaml");

/// Keeps Python's garbage collector from holding ComfyUI up between two jobs, by a custom-node file without nodes; that
/// file says how and why. Writes it under `folder`, which ComfyUI reads when it starts; gives the file for its
/// `--extra-model-paths-config`. Blocks.
///
/// A ComfyUI at `COMFYUI_URL` has none of it, nor has one that was told `--disable-all-custom-nodes`.
pub fn write_collector(folder: &Path) -> io::Result<PathBuf> {
    // ComfyUI runs in a folder of its own.
    let folder = std::path::absolute(folder)?;
    let nodes = folder.join("custom_nodes");
    fs::create_dir_all(&nodes)?;
    fs::write(nodes.join("qwen_image_worker_collector.py"), COLLECTOR)?;
    let paths = folder.join("extra_model_paths.yaml");
    fs::write(&paths, EXTRA_MODEL_PATHS)?;
    Ok(paths)
}

/// Writes the file that names the custom nodes that come with ComfyUI, such as `SaveImageWebsocket`, for its
/// `--extra-model-paths-config`: with a base directory elsewhere it looks for custom nodes there alone. `root` is its folder. [`None`]:
/// it has none, or reads them anyway, as `base` is that folder. Blocks.
pub fn name_own(root: &Path, base: &Path, file: &Path) -> io::Result<Option<PathBuf>> {
    let nodes = root.join("custom_nodes");
    let is_base = || root.canonicalize().ok() == base.canonicalize().ok();
    if !nodes.is_dir() || is_base() {
        return Ok(None);
    }
    let nodes = std::path::absolute(&nodes)?;
    name_folders([nodes], file)
}

/// Writes the file that names folders of custom nodes for ComfyUI's `--extra-model-paths-config`. [`None`]: there are none. Blocks.
pub fn name_folders(folders: impl IntoIterator<Item = PathBuf>, file: &Path) -> io::Result<Option<PathBuf>> {
    let mut text = String::from("# Written by qwen-image-worker at each start: folders of custom nodes.\n");
    let mut number = 0;
    for folder in folders {
        // ComfyUI takes one path a line, and YAML no other control character.
        let Some(folder) = folder.to_str().filter(|path| !path.contains(char::is_control)) else {
            continue;
        };
        number += 1;
        let _ = writeln!(text, "nodes_{number}:\n  custom_nodes: {}", Value::from(folder));
    }
    if number == 0 {
        return Ok(None);
    }
    fs::write(file, text)?;
    Ok(Some(file.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_beside_comfyui_are_named_where_they_would_be_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let (root, base, file) = (
            folder.path().join("ComfyUI"),
            folder.path().join("base"),
            folder.path().join("y"),
        );
        for folder in [&root, &base] {
            fs::create_dir_all(folder).unwrap();
        }
        assert_eq!(name_own(&root, &base, &file).unwrap(), None, "there are none");
        fs::create_dir(root.join("custom_nodes")).unwrap();
        assert_eq!(name_own(&root, &root, &file).unwrap(), None, "they are read anyway");
        assert_eq!(name_own(&root, &base, &file).unwrap(), Some(file.clone()));
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.contains(&format!("custom_nodes: \"{}\"", root.join("custom_nodes").display())),
            "{text}"
        );
    }
}
