//! What packs are wanted: `CUSTOM_NODES`, and the manifest that `CUSTOM_NODES_MANIFEST` names.
//!
//! A manifest is told by what is in it, not by its name: our own form ([`ours`]), a snapshot of ComfyUI-Manager
//! ([`snapshot`]), or a `comfy-build.yaml` of comfy-cli ([`build`]).

mod build;
mod format;
mod merge;
mod ours;
mod snapshot;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{ManifestSource, NodePack, NodesConfig, PackOrigin};
use crate::disk::blocking;
use crate::echo;
use crate::net;

pub use merge::{Named, united};
pub use ours::freeze;

/// What is wanted. [`united`] tells which of the packs can be had as they are named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The packs, with who names them, in that order; those of `CUSTOM_NODES` come first.
    pub named: Vec<Named>,
    /// Python requirements beside those of the packs, as in a `requirements.txt`: a name with versions, extras or an address.
    pub packages: Vec<String>,
    /// What a manifest says and we do not take, each with what does it instead.
    pub warnings: Vec<String>,
}

/// Why it is not known which packs are wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The manifest could not be had.
    #[error("the manifest of custom nodes {from} cannot be read: {reason}; CUSTOM_NODES_MANIFEST names it")]
    Unread {
        /// Its path or address.
        from: String,
        /// Why, and what may help.
        reason: String,
    },
    /// The manifest is wrong.
    #[error("the manifest of custom nodes {from} cannot be used: {}; CUSTOM_NODES_MANIFEST names it", mistakes.join("; "))]
    Wrong {
        /// Its path or address.
        from: String,
        /// All that is wrong with it, each with its line or entry.
        mistakes: Vec<String>,
    },
}

/// What one document says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Document {
    packs: Vec<NodePack>,
    packages: Vec<String>,
    warnings: Vec<String>,
    mistakes: Vec<String>,
}

impl Document {
    /// A document of which nothing can be used.
    fn wrong(mistake: impl Into<String>) -> Self {
        Self {
            mistakes: vec![mistake.into()],
            ..Self::default()
        }
    }

    /// Takes a pack, or notes what is wrong with it, which comes with its line or entry.
    fn take(&mut self, place: &str, pack: Result<NodePack, String>) {
        match pack {
            Ok(pack) => self.packs.push(pack),
            Err(error) => self.mistakes.push(format!("{place} {error}")),
        }
    }

    /// Tells of what an entry has beside `known`.
    fn note_unknown(&mut self, place: &str, entry: &Value, known: &[&str]) {
        for (key, value) in entry.as_object().into_iter().flatten() {
            if !known.contains(&key.as_str()) && !value.is_null() {
                let key = echo::cut(key);
                self.warnings
                    .push(format!("{place} has `{key}`, which is not known, and not taken"));
            }
        }
    }
}

/// The packs of `CUSTOM_NODES` and of the manifest together.
pub async fn read(config: &NodesConfig) -> Result<Manifest, ManifestError> {
    let mut manifest = Manifest::default();
    for pack in &config.packs {
        manifest.named.push(Named {
            pack: absolute(pack.clone()),
            by: "CUSTOM_NODES".to_owned(),
        });
    }
    if let Some(source) = &config.manifest {
        let from = source.to_string();
        let text = net::manifest::text(source, "the manifest of custom nodes", None, |_| String::new());
        let text = text.await.map_err(|reason| ManifestError::Unread {
            from: from.clone(),
            reason,
        })?;
        let base = match source {
            ManifestSource::File(path) => folder_of(path),
            ManifestSource::Url(_) => None,
        };
        // It may look whether a folder is there.
        let document = blocking(move || format::read(&text, base.as_deref())).await;
        if !document.mistakes.is_empty() {
            return Err(ManifestError::Wrong {
                from,
                mistakes: document.mistakes,
            });
        }
        manifest.packages = document.packages;
        let warnings = document.warnings.into_iter();
        manifest.warnings = warnings.map(|warning| format!("{from}: {warning}")).collect();
        let packs = document.packs.into_iter();
        manifest
            .named
            .extend(packs.map(|pack| Named { pack, by: from.clone() }));
    }
    Ok(manifest)
}

/// The folder that a manifest lies in; [`None`] where the working directory is gone.
fn folder_of(manifest: &Path) -> Option<PathBuf> {
    Some(std::path::absolute(manifest).ok()?.parent()?.to_owned())
}

/// A folder that does not move with the working directory.
fn absolute(mut pack: NodePack) -> NodePack {
    if let PackOrigin::Folder(folder) = &mut pack.origin
        && let Ok(path) = std::path::absolute(&*folder)
    {
        *folder = path;
    }
    pack
}

#[cfg(test)]
mod tests;
