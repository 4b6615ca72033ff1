//! Code of ours that runs in ComfyUI's process before anything of ComfyUI does.
//!
//! It is a `sitecustomize` of Python's, whose folder stands first in `PYTHONPATH`; the two files tell what they do. That
//! way `main.py` is started by name with nothing before it in its tracebacks, multiprocessing finds it, and the hook is
//! there again after ComfyUI-Manager has started ComfyUI anew by `exec`. What goes wrong in it is a line in the log.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::comfy::memory::MemoryLimit;

#[cfg(test)]
mod tests;

const SITECUSTOMIZE: &str = include_str!("sitecustomize.py");
const START: &str = include_str!("start.py");

/// The script of a pack that ComfyUI runs before it is ready for custom nodes.
pub(super) const PRESTARTUP: &str = "prestartup_script.py";

/// The folder of the hook, below [`Launch::run_dir`](super::Launch::run_dir).
fn folder(run_dir: &Path) -> PathBuf {
    run_dir.join("start")
}

/// Where the hook writes what it sees of imports.
pub(super) fn record(run_dir: &Path) -> PathBuf {
    folder(run_dir).join("imports.jsonl")
}

/// Writes the hook for the next start, and forgets what it recorded of the one before. `left_out` are packs that are not
/// imported, each with the reason. `metadata`: prompts of ComfyUI's own API have theirs. `mark` ends the prefixes of output files. Gives the folder for `PYTHONPATH`. Blocks for a moment.
pub(super) fn write(
    run_dir: &Path,
    memory: Option<&MemoryLimit>,
    left_out: &BTreeMap<PathBuf, String>,
    metadata: bool,
    mark: Option<&str>,
) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder(run_dir))?;
    if folder.to_str().is_none_or(|path| path.contains(':')) {
        let message = format!("{} cannot stand in PYTHONPATH", folder.display());
        return Err(io::Error::new(io::ErrorKind::InvalidFilename, message));
    }
    fs::create_dir_all(&folder)?;
    // First: whatever fails below, what is known of the start before is not told of this one.
    match fs::remove_file(record(run_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(folder.join("sitecustomize.py"), SITECUSTOMIZE)?;
    fs::write(folder.join("qwen_image_worker_start.py"), START)?;
    let left_out: BTreeMap<_, _> = left_out
        .iter()
        .map(|(folder, reason)| (folder.to_string_lossy(), reason))
        .collect();
    let memory = memory.map(MemoryLimit::for_python).unwrap_or_default();
    let settings = json!({"memory": memory, "left_out": left_out, "metadata": metadata, "mark": mark});
    fs::write(folder.join("settings.json"), settings.to_string())?;
    Ok(folder)
}
