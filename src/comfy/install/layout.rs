//! Where an installation's parts are, and the stamp that says it is whole.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{InstallError, io};
use super::release::Release;
use super::{InstallOptions, Installation};
use crate::disk::write_atomically;
use crate::display::redacted;

/// The content of the stamp file. What is not in the stamps of older programs may be missing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// [`Layout::key`].
    pub(super) key: String,
    /// ComfyUI's version.
    pub(super) comfyui: String,
    /// The git repository that the tree comes from, without a password; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) repository: Option<String>,
    /// What was asked for when it was installed, `v0.46.0`; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
    /// The commit of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
    /// The index that torch comes from, without a password; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) torch_index: Option<String>,
    /// The name of the requirement list, in the folder of the installations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) packages: Option<String>,
    /// Python's version; for people.
    pub(super) python: String,
    /// The version of the program that installed it; for people.
    pub(super) installed_by: String,
}

/// Where things are.
#[derive(Debug)]
pub(super) struct Layout {
    /// The name of the folder.
    pub(super) key: String,
    pub(super) home: PathBuf,
    pub(super) lock: PathBuf,
    /// Held, shared, by those who run what is installed.
    pub(super) used: PathBuf,
    pub(super) source: PathBuf,
    pub(super) venv: PathBuf,
    pub(super) work: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) stamp: PathBuf,
}

impl Layout {
    /// The place of `release` with what `options` want in it.
    pub(super) fn new(options: &InstallOptions, release: &Release) -> Self {
        let pins = &options.pins;
        let torch = options.torch_index.as_ref().map(redacted).unwrap_or_default();
        let key = match release {
            Release::Pinned if torch.is_empty() => pins.key(),
            Release::Pinned => format!("{}-{}", pins.version, digest(&[&pins.key(), &torch])),
            Release::Git { commit, .. } => {
                let commit = commit.to_string();
                format!("{}-{}", &commit[..12], digest(&[&commit, &pins.dependencies, &torch]))
            }
        };
        Self::at(&options.dir, key)
    }

    /// The place of that name.
    pub(super) fn at(dir: &Path, key: String) -> Self {
        let home = dir.join(&key);
        Self {
            lock: dir.join(format!("{key}.lock")),
            used: dir.join(format!("{key}.used")),
            source: home.join("ComfyUI"),
            venv: home.join("venv"),
            work: home.join("work"),
            cache: home.join("cache"),
            stamp: home.join("installed.json"),
            home,
            key,
        }
    }

    /// The requirement list of what was resolved for this place and a Python such as `3.11`; [`None`]: that of the pins,
    /// which is for all.
    pub(super) fn packages(&self, python: Option<&str>) -> PathBuf {
        let name = match python {
            Some(python) => format!("{}.packages-{python}.txt", self.key),
            None => format!("{}.packages.txt", self.key),
        };
        self.home.with_file_name(name)
    }

    /// What is installed here, with its stamp, if it is whole.
    pub(super) fn stamped(&self) -> Option<(Installation, Stamp)> {
        let stamp: Stamp = serde_json::from_slice(&std::fs::read(&self.stamp).ok()?).ok()?;
        let list = match &stamp.packages {
            // One name, and no way out of the folder.
            Some(name) => self.home.with_file_name(Path::new(name).file_name()?),
            None => self.packages(None),
        };
        let installation = Installation {
            root: std::path::absolute(&self.source).ok()?,
            python: std::path::absolute(self.venv.join("bin/python")).ok()?,
            version: stamp.comfyui.clone(),
            commit: stamp.commit.clone(),
            reference: None,
            lock: std::path::absolute(list).ok().filter(|list| list.is_file()),
        };
        // `python` is a link to the interpreter below, which an upgrade of the system may have taken away.
        let complete =
            stamp.key == self.key && installation.root.join("main.py").is_file() && installation.python.is_file();
        complete.then_some((installation, stamp))
    }

    /// What is installed here for who asks for `release`, if it is whole.
    pub(super) fn find(&self, release: &Release) -> Option<Installation> {
        let (found, _) = self.stamped()?;
        let reference = release.reference().map(str::to_owned);
        Some(Installation { reference, ..found })
    }

    /// Writes the stamp. `stamp.key` is set here.
    pub(super) fn write(&self, stamp: Stamp) -> Result<(), InstallError> {
        let stamp = Stamp {
            key: self.key.clone(),
            ..stamp
        };
        write(&self.stamp, &json(&stamp))
    }
}

/// Writes a file that everybody may read: who installs need not be who starts. It appears complete or not at all.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), InstallError> {
    let write = |file: &mut File| {
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(content)
    };
    write_atomically(path, write).map_err(io("write", path))
}

/// A small value as a file's content.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    // Texts alone; that does not fail.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// The start of a digest over texts, as the names of folders have it.
pub(super) fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..6])
}

/// The names of all installations in `dir`, finished and not: the folders that have a lock beside them.
pub(super) fn all(dir: &Path) -> Vec<Layout> {
    let mut keys: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|key| dir.join(format!("{key}.lock")).is_file())
        .collect();
    keys.sort();
    keys.into_iter().map(|key| Layout::at(dir, key)).collect()
}
