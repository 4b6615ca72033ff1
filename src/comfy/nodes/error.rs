//! Why there is no set of custom nodes at all. What is wrong with one pack is that pack's `failure`.

use serde::{Deserialize, Serialize};

use super::manifest::ManifestError;
use crate::comfy::install::InstallError;
use crate::display::error_chain;

/// Why the packs cannot be seen to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodesError {
    /// It is not known which packs are wanted.
    #[error("it is not known which custom nodes are wanted: {0}")]
    Manifest(#[from] ManifestError),
    /// A program, the disk or the network failed.
    #[error("the custom nodes cannot be installed: {}", error_chain(.0))]
    Install(#[from] InstallError),
    /// The interpreter says nothing of what it has.
    #[error("the packages of ComfyUI's Python cannot be read: {0}")]
    Base(String),
}

impl NodesError {
    /// It with the next step.
    pub fn whole(&self) -> String {
        format!("{}. {}", self.to_string().trim_end_matches('.'), self.hint())
    }

    /// The next step for the user.
    pub fn hint(&self) -> String {
        match self {
            Self::Manifest(_) => {
                "Look at CUSTOM_NODES_MANIFEST; `qwen-image-worker nodes check` reads it again.".to_owned()
            }
            Self::Install(error) => error.hint(),
            Self::Base(_) => "Look whether COMFYUI_PYTHON, or the environment beside COMFYUI_DIR, runs.".to_owned(),
        }
    }
}

/// Why one pack cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// Whether a later try may succeed although nobody changed anything.
    pub(super) may_pass: bool,
}

impl Failure {
    /// One that stands until somebody changes something.
    pub(super) fn lasting(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            may_pass: false,
        }
    }

    /// One that may be over at the next start.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            may_pass: true,
        }
    }
}
