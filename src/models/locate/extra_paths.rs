//! ComfyUI's own files of further model folders, `extra_model_paths.yaml`: read as `utils/extra_config.py` of
//! ComfyUI 0.30.0 reads them.
//!
//! ```yaml
//! anything:
//!   base_path: /data/ui      # absolute, or from the file's folder; not needed
//!   is_default: true         # looked at before all others
//!   loras: models/loras
//!   text_encoders: |         # several, one a line
//!     models/text_encoders
//!     models/clip
//! ```

use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use saphyr::{LoadableYamlNode as _, Yaml};

use crate::config::model_folder::kind_of;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1_000_000;

/// ComfyUI's argument that names such files.
const ARGUMENT: &str = "--extra-model-paths-config";

/// Names that are no kinds of model.
const NO_KINDS: [&str; 2] = ["custom_nodes", "datasets"];

/// A folder for one kind of model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtraFolder {
    /// The kind.
    pub(super) kind: String,
    /// The folder.
    pub(super) path: PathBuf,
    /// Whether ComfyUI looks there before all others.
    pub(super) first: bool,
}

/// The files that ComfyUI's arguments name; relative ones lie in `root`, where ComfyUI is started.
pub(super) fn files_of(args: &[String], root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut after = false;
    for arg in args {
        if let Some(file) = arg.strip_prefix(ARGUMENT).and_then(|rest| rest.strip_prefix('=')) {
            files.push(root.join(file));
            after = false;
        } else if arg.starts_with('-') {
            after = arg == ARGUMENT;
        } else if after {
            files.push(root.join(arg));
        }
    }
    files
}

/// The folders that a file names, in order. ComfyUI does not start with a file that it cannot read; we go on without.
pub(super) fn read(file: &Path) -> io::Result<Vec<ExtraFolder>> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(LARGEST).read_to_string(&mut text)?;
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let documents = Yaml::load_from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let Some(document) = documents.first().filter(|document| !document.is_null()) else {
        return Ok(Vec::new());
    };
    let sections = document
        .as_mapping()
        .ok_or_else(|| wrong("it has no sections".to_owned()))?;
    // As ComfyUI does: the file's own folder, wherever the working directory is.
    let here = std::path::absolute(file)?;
    let here = here.parent().unwrap_or(Path::new("/"));
    let mut folders = Vec::new();
    for section in sections.values() {
        let Some(section) = section.as_mapping() else { continue };
        let value = |wanted: &str| {
            section
                .iter()
                .find(|(name, _)| name.as_str() == Some(wanted))
                .map(|(_, value)| value)
        };
        let base = value("base_path").and_then(Yaml::as_str).unwrap_or_default();
        let base = here.join(expanded(base, |name| std::env::var(name).ok()));
        let first = value("is_default").is_some_and(is_true);
        for (name, paths) in section {
            let (Some(name), Some(paths)) = (name.as_str(), paths.as_str()) else {
                continue;
            };
            if matches!(name, "base_path" | "is_default") || NO_KINDS.contains(&name) {
                continue;
            }
            for path in paths.split('\n').filter(|path| !path.is_empty()) {
                folders.push(ExtraFolder {
                    kind: kind_of(name).to_owned(),
                    path: normal(&base.join(path)),
                    first,
                });
            }
        }
    }
    Ok(folders)
}

/// What Python takes for true; YAML 1.1, which ComfyUI reads, has further words for false.
fn is_true(value: &Yaml<'_>) -> bool {
    match value.as_str() {
        Some(word) => !matches!(word.to_ascii_lowercase().as_str(), "" | "no" | "off" | "n"),
        None => value.as_bool() == Some(true) || value.as_integer().is_some_and(|number| number != 0),
    }
}

/// With `~` and `$NAME` or `${NAME}` filled in; a name that is not set stays as it is.
fn expanded(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut done = String::new();
    let mut rest = text;
    if let Some(after) = text.strip_prefix('~')
        && (after.is_empty() || after.starts_with('/'))
        && let Some(home) = variable("HOME")
    {
        done.push_str(&home);
        rest = after;
    }
    while let Some((before, after)) = rest.split_once('$') {
        done.push_str(before);
        let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, behind)) => (name, behind),
            None => after.split_at(
                after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(after.len()),
            ),
        };
        if let Some(value) = variable(name) {
            done.push_str(&value);
            rest = behind;
        } else {
            done.push('$');
            rest = after;
        }
    }
    done.push_str(rest);
    done
}

/// Without `.` and `..`, as Python's `normpath` does it: by the names alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(text: &str) -> Vec<(String, String, bool)> {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("extra_model_paths.yaml");
        std::fs::write(&file, text).unwrap();
        let shown = |path: PathBuf| {
            path.display()
                .to_string()
                .replace(root.path().to_str().unwrap(), "HERE")
        };
        let folders = read(&file).unwrap().into_iter();
        folders
            .map(|folder| (folder.kind, shown(folder.path), folder.first))
            .collect()
    }

    #[test]
    fn sections_are_read_as_comfyui_reads_them() {
        let text = "# Rename this\n\
            a1111:\n    base_path: /data/webui/\n    checkpoints: models/Stable-diffusion\n    loras: |\n         models/Lora\n         models/LyCORIS\n\
            other:\n  unet: ../common/./unet\n  vae: \"/data/vae\"\n  custom_nodes: nodes\n\
            third:\n  base_path: sub\n  is_default: true\n  clip: x\n\
            nothing:\n";
        let expected = [
            ("checkpoints", "/data/webui/models/Stable-diffusion", false),
            ("loras", "/data/webui/models/Lora", false),
            ("loras", "/data/webui/models/LyCORIS", false),
            ("diffusion_models", "HERE/../common/unet", false),
            ("vae", "/data/vae", false),
            ("text_encoders", "HERE/sub/x", true),
        ];
        let found = folders(text);
        assert_eq!(found.len(), expected.len());
        for ((kind, path, first), (a, b, c)) in found.iter().zip(expected) {
            assert_eq!((kind.as_str(), *first), (a, c));
            // The folder above the temporary one has a name of its own.
            assert!(path == b || path.ends_with("/common/unet"), "{path}");
        }
    }

    #[test]
    fn files_that_say_nothing_and_files_that_are_none() {
        assert!(folders("").is_empty());
        assert!(folders("# all of it commented out\n#a:\n").is_empty());
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("x.yaml");
        assert_eq!(read(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
        for wrong in ["a: [", "just words", "a: &x [*x, *x]\nb: {"] {
            std::fs::write(&file, wrong).unwrap();
            assert!(read(&file).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_and_the_home_folder_are_filled_in() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/somebody".to_owned()),
            "DATA_1" => Some("/data".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("~/ui", "/home/somebody/ui"),
            ("~other/ui", "~other/ui"),
            ("$DATA_1/x", "/data/x"),
            ("${DATA_1}2/$NONE", "/data2/$NONE"),
            ("/a${", "/a${"),
            ("", ""),
        ] {
            assert_eq!(expanded(text, variable), expected, "{text}");
        }
    }

    #[test]
    fn the_arguments_of_comfyui_name_files() {
        let args = [
            "--lowvram",
            ARGUMENT,
            "a.yaml",
            "/b.yaml",
            "--x",
            "c",
            "--extra-model-paths-config=d.yaml",
            "e",
        ];
        let args = args.map(str::to_owned);
        let files = files_of(&args, Path::new("/comfyui"));
        assert_eq!(
            files,
            [
                Path::new("/comfyui/a.yaml"),
                Path::new("/b.yaml"),
                Path::new("/comfyui/d.yaml")
            ]
        );
    }
}
