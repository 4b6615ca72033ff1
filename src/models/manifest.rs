//! What is wanted: our own sets of model files, those of the user's manifest, and the files named one by one.

use reqwest::StatusCode;
use url::Url;

use crate::config::{ManifestSource, ModelFile, ModelsConfig, Secret};
use crate::echo;
use crate::net;
use crate::workflow::models::{CatalogError, Conflict, Unaccepted, unite};
use crate::workflow::{ModelCatalog, closest};

/// How many names are suggested instead of one that does not exist.
const SUGGESTIONS: usize = 3;

/// Why it is not known which models are wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Our own catalogue is broken, which a test rules out.
    #[error("the worker's own model catalogue cannot be used: {0}")]
    Builtin(#[source] CatalogError),
    /// The user's manifest could not be had.
    #[error("the model manifest {from} cannot be read: {reason}; MODEL_MANIFEST names it")]
    Unread {
        /// Its path or address.
        from: String,
        /// Why, and what may help.
        reason: String,
    },
    /// The user's manifest is wrong.
    #[error("the model manifest {from} cannot be used: {source}; MODEL_MANIFEST names it")]
    Wrong {
        /// Its path or address.
        from: String,
        /// What is wrong with it.
        #[source]
        source: CatalogError,
    },
    /// There is no such set.
    #[error("there is no model set `{name}`{}; there are {}", did_you_mean(closest), all.join(", "))]
    UnknownSet {
        /// The name that no set has.
        name: String,
        /// The names that come near it.
        closest: Vec<String>,
        /// All names.
        all: Vec<String>,
    },
    /// A wanted file is under a licence that nobody has accepted.
    #[error("the model {target} is not fetched: {reason}")]
    Licence {
        /// The file, such as `vae/x.safetensors`.
        target: String,
        /// Which licence, and how it is accepted.
        #[source]
        reason: Unaccepted,
    },
    /// There is no such licence to accept.
    #[error("ACCEPT_LICENSES: there is no licence `{}`; there are {}", echo::cut(name), all.join(", "))]
    UnknownLicence {
        /// The name that none has.
        name: String,
        /// All names.
        all: Vec<String>,
    },
    /// Two files are wanted in one place.
    #[error("the wanted models do not go together: {0}")]
    Conflict(#[from] Conflict),
}

fn did_you_mean(closest: &[String]) -> String {
    if closest.is_empty() {
        return String::new();
    }
    format!(" (did you mean {}?)", closest.join(" or "))
}

/// Everything that is known: our own sets, those of `MODEL_MANIFEST`, and the files of `MODELS`.
pub async fn catalog(config: &ModelsConfig) -> Result<ModelCatalog, ManifestError> {
    catalog_and_sets(config).await.map(|(catalog, _)| catalog)
}

/// The same, with the names of the sets of `MODEL_MANIFEST`.
pub async fn catalog_and_sets(config: &ModelsConfig) -> Result<(ModelCatalog, Vec<String>), ManifestError> {
    let mut catalog = ModelCatalog::builtin().map_err(ManifestError::Builtin)?;
    let mut sets = Vec::new();
    if let Some(source) = &config.manifest {
        let from = source.to_string();
        let url = match source {
            ManifestSource::File(_) => None,
            ManifestSource::Url(url) => Some(url),
        };
        let token = url.and_then(|url| token_for(config, url));
        let advice = |status| url.map_or_else(String::new, |url| advice(url, status, token.is_some()));
        let read = net::manifest::text(source, "the model manifest", token, advice).await;
        let text = read.map_err(|reason| ManifestError::Unread {
            from: from.clone(),
            reason,
        })?;
        let added = ModelCatalog::parse(&text).and_then(|theirs| {
            sets = theirs.sets().map(|(name, _)| name.to_owned()).collect();
            catalog.with(theirs)
        });
        catalog = added.map_err(|source| ManifestError::Wrong { from, source })?;
    }
    let all = catalog.licences().map(str::to_owned).collect();
    let accepting = catalog.accepting(&config.accepted_licences);
    let catalog = accepting.map_err(|name| ManifestError::UnknownLicence { name, all })?;
    Ok((catalog.with_files(&config.files), sets))
}

/// The files to have: those of the chosen sets, or of `default_sets` where none was chosen, and those of `MODELS`, each
/// once.
pub fn wanted(
    catalog: &ModelCatalog,
    config: &ModelsConfig,
    default_sets: &[&str],
) -> Result<Vec<ModelFile>, ManifestError> {
    let sets: Vec<&str> = match &config.sets {
        Some(sets) => sets.iter().map(String::as_str).collect(),
        None => default_sets.to_vec(),
    };
    let mut files: Vec<&ModelFile> = Vec::new();
    for name in sets {
        files.extend(catalog.files(name).ok_or_else(|| unknown_set(catalog, name))?);
    }
    let files = unite(files.into_iter().chain(&config.files))?;
    for file in &files {
        if let Some(reason) = catalog.unaccepted(file) {
            return Err(ManifestError::Licence {
                target: file.target(),
                reason,
            });
        }
    }
    Ok(files)
}

fn unknown_set(catalog: &ModelCatalog, name: &str) -> ManifestError {
    let all = || catalog.sets().map(|(name, _)| name);
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    ManifestError::UnknownSet {
        name: name.to_owned(),
        closest: owned(closest(name, all(), SUGGESTIONS)),
        all: owned(all().collect()),
    }
}

/// The token that goes with a manifest: that of its host, and the Hub's own for the Hub.
fn token_for<'a>(config: &'a ModelsConfig, url: &Url) -> Option<&'a Secret> {
    let hub = &config.hub;
    let of_hub = hub.token.as_ref().filter(|_| url.origin() == hub.endpoint.origin());
    url.host_str().and_then(|host| config.token(host)).or(of_hub)
}

/// What may help where a server refuses the manifest.
fn advice(url: &Url, status: StatusCode, has_token: bool) -> String {
    let host = url.host_str().unwrap_or_default();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if has_token => {
            format!("; see that the token for {host} is right")
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!("; MODEL_TOKENS={host}=… gives it a token"),
        _ => String::new(),
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
