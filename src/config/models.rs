//! Models: which are wanted, where they go, and how they are fetched.

use std::path::PathBuf;

use url::Url;

use super::model_file::ModelFile;
use super::secret::Secret;

/// The models that the worker sees to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelsConfig {
    /// Sets of the manifest by name; [`None`]: not chosen; empty: none is wanted (`MODEL_SET=none`).
    pub sets: Option<Vec<String>>,
    /// A manifest of the user's own.
    pub manifest: Option<ManifestSource>,
    /// Files beside the sets.
    pub files: Vec<ModelFile>,
    /// Whether several files, and several ranges of a file, are fetched at once.
    pub parallel: bool,
    /// Whether a job may have a missing model of the manifest fetched.
    pub on_demand: bool,
    /// Where new files go; [`None`]: to a volume if there is one to write to, else `ComfyUI`'s own models folder.
    pub dir: Option<PathBuf>,
    /// The most bytes of models that were fetched for jobs; the least recently used go first.
    pub cache_max_bytes: Option<u64>,
    /// The Hugging Face Hub.
    pub hub: HubConfig,
    /// Tokens for other hosts, by host name.
    pub tokens: Vec<(String, Secret)>,
    /// Whether the log tells where models were looked for.
    pub debug: bool,
}

/// The Hugging Face Hub, as its own tools read it from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The Hub, or a mirror of it.
    pub endpoint: Url,
    /// The user's token.
    pub token: Option<Secret>,
    /// Where the tools keep what they fetched.
    pub cache: Option<PathBuf>,
    /// Whether Xet may be used.
    pub xet: bool,
}

/// Where a manifest is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestSource {
    /// A file on this machine.
    File(PathBuf),
    /// An http or https URL.
    Url(Url),
}

impl ModelsConfig {
    /// The token for a host: the one of the longest name that it is, or ends in.
    pub fn token(&self, host: &str) -> Option<&Secret> {
        let mut found: Option<&(String, Secret)> = None;
        for entry in &self.tokens {
            let below = host
                .strip_suffix(&entry.0)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            if below && found.is_none_or(|found| found.0.len() < entry.0.len()) {
                found = Some(entry);
            }
        }
        found.map(|(_, token)| token)
    }
}
