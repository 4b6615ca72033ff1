//! Keeps Python's garbage collector from holding ComfyUI up between two jobs, by a custom-node file without nodes; that
//! file says how and why.
//!
//! A ComfyUI at `COMFYUI_URL` has none of it, nor has one that was told `--disable-all-custom-nodes`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const CUSTOM_NODE: &str = include_str!("qwen_image_worker_collector.py");
const EXTRA_MODEL_PATHS: &str = include_str!("extra_model_paths.yaml");

/// Writes the file under `folder`, which ComfyUI reads when it starts; gives the file for its
/// `--extra-model-paths-config`. Blocks.
pub fn write(folder: &Path) -> io::Result<PathBuf> {
    // ComfyUI runs in a folder of its own.
    let folder = std::path::absolute(folder)?;
    let nodes = folder.join("custom_nodes");
    fs::create_dir_all(&nodes)?;
    fs::write(nodes.join("qwen_image_worker_collector.py"), CUSTOM_NODE)?;
    let paths = folder.join("extra_model_paths.yaml");
    fs::write(&paths, EXTRA_MODEL_PATHS)?;
    Ok(paths)
}
