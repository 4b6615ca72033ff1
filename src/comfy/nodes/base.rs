//! What ComfyUI's own environment holds, which the packages of packs must go with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::NodesError;
use crate::comfy::install::{Runner, io};

const DESCRIBE: &str = include_str!("describe.py");

/// What ends the versions that only ComfyUI's own environment has; see `describe.py`.
pub(super) const LOCAL: &str = "+comfyui";

/// What ComfyUI's own environment holds.
#[derive(Debug, Deserialize)]
pub(super) struct Base {
    /// Where its packages are, in the order of its `sys.path`.
    pub(super) folders: Vec<PathBuf>,
    /// The version of each, by its normalized name.
    pub(super) packages: BTreeMap<String, String>,
}

impl Base {
    /// Asks the interpreter, and has it write the wheels that stand for what it holds into `stubs`.
    pub(super) async fn ask(runner: &Runner<'_>, python: &Path, stubs: &Path) -> Result<Self, NodesError> {
        std::fs::create_dir_all(stubs).map_err(io("create", stubs))?;
        let mut command = runner.command(python);
        command.args(["-c", DESCRIBE]).arg(stubs);
        let lines = runner
            .run("read the packages of ComfyUI's Python", command, |_| {})
            .await?;
        let said = lines.iter().find_map(|line| line.strip_prefix("qwen-image-worker "));
        let said = said.ok_or_else(|| NodesError::Base("it says nothing".to_owned()))?;
        serde_json::from_str(said).map_err(|error| NodesError::Base(error.to_string()))
    }

    /// The version of a package that ComfyUI's own environment has.
    pub(super) fn version(&self, package: &str) -> Option<&str> {
        let version = self.packages.get(&normalized(package))?;
        Some(version.strip_suffix(LOCAL).unwrap_or(version))
    }
}

/// A package's name as indexes compare it (PEP 503).
pub(super) fn normalized(name: &str) -> String {
    let mut normal = String::new();
    for letter in name.chars() {
        let letter = if "-_.".contains(letter) {
            '-'
        } else {
            letter.to_ascii_lowercase()
        };
        if letter != '-' || !normal.ends_with('-') {
            normal.push(letter);
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_indexes_do() {
        assert_eq!(normalized("Opencv_Python..Headless"), "opencv-python-headless");
    }
}
