//! Which ComfyUI it is.

use std::sync::{Arc, OnceLock};

use serde::Serialize;
use utoipa::ToSchema;

use super::install::Installation;

/// Which ComfyUI it is, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ComfyVersion {
    /// ComfyUI's version: `0.30.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The commit that it was installed from, where it was: 40 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What `COMFYUI_VERSION` named then: `v0.46.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// Where a start puts down which version it has found, for those who are asked. Cheap to clone.
pub type KnownVersion = Arc<OnceLock<ComfyVersion>>;

impl From<&Installation> for ComfyVersion {
    fn from(installation: &Installation) -> Self {
        Self {
            version: Some(installation.version.clone()),
            commit: installation.commit.clone(),
            reference: installation.reference.clone(),
        }
    }
}
