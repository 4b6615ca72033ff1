//! A pack of custom nodes, as `CUSTOM_NODES` and the manifests name it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::display::redacted;

/// A pack of custom nodes that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePack {
    /// The name of its folder under `custom_nodes`: one path component, not hidden.
    pub name: String,
    /// Where it comes from.
    pub origin: PackOrigin,
}

/// Where a pack comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackOrigin {
    /// The Comfy Registry (registry.comfy.org).
    Registry {
        /// `comfyui-kjnodes`.
        id: String,
        /// `1.1.7`; [`None`]: the newest, which moves.
        version: Option<String>,
    },
    /// A git repository.
    Git {
        /// `https://…`, `file://…`.
        repository: String,
        /// A commit in full; anything else, or [`None`] for the default branch, moves.
        reference: Option<String>,
    },
    /// A folder of this machine.
    Folder(PathBuf),
}

impl NodePack {
    /// Whether what it names may be something else tomorrow. A folder is its owner's, and is not counted.
    pub fn is_floating(&self) -> bool {
        match &self.origin {
            PackOrigin::Registry { version, .. } => version.is_none(),
            PackOrigin::Git { reference, .. } => !reference.as_deref().is_some_and(is_commit),
            PackOrigin::Folder(_) => false,
        }
    }
}

/// Whether a text is the full name of a commit: 40 hexadecimal digits.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl fmt::Display for NodePack {
    /// As it is written in `CUSTOM_NODES`, without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            PackOrigin::Registry { id, version: None } => f.write_str(id),
            PackOrigin::Registry {
                id,
                version: Some(version),
            } => write!(f, "{id}@{version}"),
            PackOrigin::Git { repository, reference } => {
                let address = url::Url::parse(repository).map_or_else(|_| repository.clone(), |url| redacted(&url));
                f.write_str(&address)?;
                reference.as_ref().map_or(Ok(()), |reference| write!(f, "@{reference}"))
            }
            PackOrigin::Folder(folder) => folder.display().fmt(f),
        }
    }
}

impl FromStr for NodePack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = |path: &str| {
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            name.strip_suffix(".git").unwrap_or(name).to_owned()
        };
        let split = |text: &str| match text.rsplit_once('@') {
            Some((before, after)) if !after.contains('/') => (before.to_owned(), Some(after.to_owned())),
            _ => (text.to_owned(), None),
        };
        if text.contains("://") {
            let (repository, reference) = split(text);
            let origin = PackOrigin::Git {
                repository: repository.clone(),
                reference,
            };
            return Ok(Self {
                name: name(&repository),
                origin,
            });
        }
        if text.starts_with(['/', '.', '~']) {
            return Ok(Self {
                name: name(text),
                origin: PackOrigin::Folder(text.into()),
            });
        }
        let (id, version) = split(text);
        Ok(Self {
            name: id.clone(),
            origin: PackOrigin::Registry { id, version },
        })
    }
}
