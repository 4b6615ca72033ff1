//! Where state lives.

use std::path::PathBuf;

use super::variable::{Reader, Variable, listed, parsed, path};

/// Where state lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathsConfig {
    /// Our own folder: managed ComfyUI, demo weights, what ComfyUI writes when we manage it.
    pub data_dir: PathBuf,
    /// Where the managed ComfyUI is installed.
    pub install_dir: PathBuf,
    /// Where sets of custom nodes are installed.
    pub nodes_dir: PathBuf,
    /// A folder with further workflow templates.
    pub workflows_dir: Option<PathBuf>,
    /// Where network volumes are mounted, if there are any: folders whose models ComfyUI is to use too.
    pub network_volumes: Vec<PathBuf>,
    /// Whether somebody chose these.
    pub network_volumes_are_chosen: bool,
}

const DATA_DIR: Variable<PathBuf> = path("DATA_DIR", "folder")
    .example("/var/lib/qwen-image-worker")
    .meaning("Our own folder: managed ComfyUI, demo weights, outputs of a managed ComfyUI. Not set: `$XDG_DATA_HOME/qwen-image-worker`, else `~/.local/share/qwen-image-worker`.");
const COMFYUI_INSTALL_DIR: Variable<PathBuf> = path("COMFYUI_INSTALL_DIR", "folder")
    .example("/opt/comfyui")
    .meaning("Where the managed ComfyUI is installed (about 8 GB). Not set: `DATA_DIR/comfyui`. Several workers may share it: nothing is written there after the installation.");
const CUSTOM_NODES_DIR: Variable<PathBuf> = path("CUSTOM_NODES_DIR", "folder")
    .example("/opt/custom-nodes")
    .meaning("Where packs of custom nodes are installed, with the Python packages that they add. Not set: `DATA_DIR/nodes`. Not for a network volume: Python reads thousands of small files there.");
const WORKFLOWS_DIR: Variable<PathBuf> = path("WORKFLOWS_DIR", "folder")
    .example("/workspace/workflows")
    .meaning("A folder with further workflow templates: `NAME.json` and its bindings file, as in `workflows/`.");

const NETWORK_VOLUMES: Variable<Vec<PathBuf>> = parsed("NETWORK_VOLUMES", "folders, comma-separated, or none", folders)
    .default_and_example("/runpod-volume,/workspace", "/mnt/models,/runpod-volume")
    .meaning("Where network volumes are mounted, as far as there are any. Models in `FOLDER/models` and `FOLDER/ComfyUI/models` are used beside ComfyUI's own. New models go to the first that can be written to, unless `MODEL_DIR` says otherwise.");

fn folders(text: &str) -> Result<Vec<PathBuf>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    let folder = |name: &str| {
        let path = PathBuf::from(name);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(format!("has `{name}`, which does not begin with /"))
        }
    };
    listed(text).map(folder).collect()
}

pub(super) fn read(reader: &mut Reader) -> PathsConfig {
    let data_dir = reader.optional(&DATA_DIR).unwrap_or_else(|| {
        let shared = reader.foreign("XDG_DATA_HOME").map(PathBuf::from);
        let own = || Some(PathBuf::from(reader.foreign("HOME")?).join(".local/share"));
        let folder = shared.or_else(own).unwrap_or_else(|| PathBuf::from("/var/lib"));
        folder.join("qwen-image-worker")
    });
    // A relative folder would move with the working directory of whoever starts us next.
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    reader.computed(&DATA_DIR, data_dir.display());
    let install_dir = reader
        .optional(&COMFYUI_INSTALL_DIR)
        .unwrap_or_else(|| data_dir.join("comfyui"));
    let install_dir = std::path::absolute(&install_dir).unwrap_or(install_dir);
    reader.computed(&COMFYUI_INSTALL_DIR, install_dir.display());
    let nodes_dir = reader
        .optional(&CUSTOM_NODES_DIR)
        .unwrap_or_else(|| data_dir.join("nodes"));
    let nodes_dir = std::path::absolute(&nodes_dir).unwrap_or(nodes_dir);
    reader.computed(&CUSTOM_NODES_DIR, nodes_dir.display());
    PathsConfig {
        data_dir,
        install_dir,
        nodes_dir,
        workflows_dir: reader.optional(&WORKFLOWS_DIR),
        network_volumes: reader.value(&NETWORK_VOLUMES),
        network_volumes_are_chosen: reader.is_set(&NETWORK_VOLUMES),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn volumes_are_absolute_folders_or_none() {
        assert_eq!(
            folders("/runpod-volume, /mnt/x,").unwrap(),
            [Path::new("/runpod-volume"), Path::new("/mnt/x")]
        );
        assert!(folders("None").unwrap().is_empty());
        assert!(folders("/a,models").unwrap_err().contains("`models`"));
    }
}
