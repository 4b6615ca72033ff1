//! Where state lives.

use std::path::PathBuf;

use serde::Deserialize;

use super::variable::{Reader, Variable};

/// Where state lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathsConfig {
    /// Our own folder: managed ComfyUI, demo weights, what ComfyUI writes when we manage it.
    pub data_dir: PathBuf,
    /// Where the managed ComfyUI is installed.
    pub install_dir: PathBuf,
    /// A folder with further workflow templates.
    pub workflows_dir: Option<PathBuf>,
    /// Where network volumes are mounted, if there are any: folders whose models ComfyUI is to use too.
    pub network_volumes: Vec<PathBuf>,
}

const DATA_DIR: Variable = Variable {
    name: "DATA_DIR",
    kind: "folder",
    default: None,
    example: "/var/lib/qwen-image-worker",
    meaning: "Our own folder: managed ComfyUI, demo weights, outputs of a managed ComfyUI. Not set: `$XDG_DATA_HOME/qwen-image-worker`, else `~/.local/share/qwen-image-worker`.",
    secret: false,
};
const COMFYUI_INSTALL_DIR: Variable = Variable {
    name: "COMFYUI_INSTALL_DIR",
    kind: "folder",
    default: None,
    example: "/opt/comfyui",
    meaning: "Where the managed ComfyUI is installed (about 8 GB). Not set: `DATA_DIR/comfyui`. Several workers may share it: nothing is written there after the installation.",
    secret: false,
};
const WORKFLOWS_DIR: Variable = Variable {
    name: "WORKFLOWS_DIR",
    kind: "folder",
    default: None,
    example: "/workspace/workflows",
    meaning: "A folder with further workflow templates: `NAME.json` and its bindings file, as in `workflows/`.",
    secret: false,
};

const NETWORK_VOLUMES: Variable = Variable {
    name: "NETWORK_VOLUMES",
    kind: "folders, comma-separated, or none",
    default: Some("/runpod-volume,/workspace"),
    example: "/mnt/models,/runpod-volume",
    meaning: "Where network volumes are mounted, as far as there are any. Models in `FOLDER/models` and `FOLDER/ComfyUI/models` are used beside ComfyUI's own. New models go to the first that can be written to, unless `MODEL_DIR` says otherwise.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&DATA_DIR, &COMFYUI_INSTALL_DIR, &WORKFLOWS_DIR, &NETWORK_VOLUMES];

#[derive(Deserialize, Default)]
struct Raw {
    data_dir: Option<String>,
    comfyui_install_dir: Option<String>,
    workflows_dir: Option<String>,
    network_volumes: Option<String>,
    xdg_data_home: Option<String>,
    home: Option<String>,
}

fn folders(text: &str) -> Result<Vec<PathBuf>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let folder = |name: &str| {
        let path = PathBuf::from(name);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(format!("has `{name}`, which does not begin with /"))
        }
    };
    names.map(folder).collect()
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<PathsConfig> {
    let raw: Raw = reader.raw(vars);
    let path = |text: &str| Ok(PathBuf::from(text));
    let data_dir = reader.optional(&DATA_DIR, raw.data_dir, path)?.unwrap_or_else(|| {
        let shared = raw
            .xdg_data_home
            .map(PathBuf::from)
            .or_else(|| raw.home.map(|home| PathBuf::from(home).join(".local/share")));
        shared
            .unwrap_or_else(|| PathBuf::from("/var/lib"))
            .join("qwen-image-worker")
    });
    // A relative folder would move with the working directory of whoever starts us next.
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    reader.computed(&DATA_DIR, data_dir.display().to_string());
    let install_dir = reader
        .optional(&COMFYUI_INSTALL_DIR, raw.comfyui_install_dir, path)?
        .unwrap_or_else(|| data_dir.join("comfyui"));
    let install_dir = std::path::absolute(&install_dir).unwrap_or(install_dir);
    reader.computed(&COMFYUI_INSTALL_DIR, install_dir.display().to_string());
    let workflows_dir = reader.optional(&WORKFLOWS_DIR, raw.workflows_dir, path)?;
    let network_volumes = reader.value(&NETWORK_VOLUMES, raw.network_volumes, folders)?;
    Some(PathsConfig {
        data_dir,
        install_dir,
        workflows_dir,
        network_volumes,
    })
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
