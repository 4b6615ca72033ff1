//! The custom nodes that come with ComfyUI, such as `SaveImageWebsocket`. With a base directory elsewhere ComfyUI looks for
//! custom nodes there alone; a file of paths names its own folder too.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Writes the file that names the custom nodes in `root`, ComfyUI's folder, for its `--extra-model-paths-config`. [`None`]:
/// it has none, or reads them anyway, as `base` is that folder. Blocks.
pub fn write(root: &Path, base: &Path, file: &Path) -> io::Result<Option<PathBuf>> {
    let nodes = root.join("custom_nodes");
    let is_base = || root.canonicalize().ok() == base.canonicalize().ok();
    if !nodes.is_dir() || is_base() {
        return Ok(None);
    }
    // ComfyUI takes one path a line, and YAML no other control character.
    let nodes = std::path::absolute(&nodes)?;
    let Some(nodes) = nodes.to_str().filter(|path| !path.contains(char::is_control)) else {
        return Ok(None);
    };
    let text = format!(
        "# Written by qwen-image-worker at each start: the custom nodes that come with ComfyUI.\ncomfyui:\n  custom_nodes: {}\n",
        Value::from(nodes)
    );
    std::fs::write(file, text)?;
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
            std::fs::create_dir_all(folder).unwrap();
        }
        assert_eq!(write(&root, &base, &file).unwrap(), None, "there are none");
        std::fs::create_dir(root.join("custom_nodes")).unwrap();
        assert_eq!(write(&root, &root, &file).unwrap(), None, "they are read anyway");
        assert_eq!(write(&root, &base, &file).unwrap(), Some(file.clone()));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.contains(&format!("custom_nodes: \"{}\"", root.join("custom_nodes").display())),
            "{text}"
        );
    }
}
