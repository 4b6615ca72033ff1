//! What is wanted: our own sets of model files, those of the user's manifest, and the files named one by one.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use url::Url;

use crate::config::{ManifestSource, ModelFile, ModelsConfig, Secret};
use crate::disk::blocking;
use crate::display::{error_chain, redacted};
use crate::net::guard::{ReadError, read_limited};
use crate::net::retry::RetryPolicy;
use crate::workflow::models::{CatalogError, Conflict, unite};
use crate::workflow::{ModelCatalog, closest};

/// The largest manifest that is read, in bytes.
const LARGEST: usize = 1_000_000;
/// The longest that one try to fetch a manifest may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Waits between tries to fetch a manifest: a worker does not start without it.
const RETRY: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(500),
    factor: 2.0,
    longest: Duration::from_secs(5),
    jitter: 0.25,
    attempts: Some(3),
};
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
        let read = match source {
            ManifestSource::File(path) => {
                let path = path.clone();
                blocking(move || read_file(&path)).await
            }
            ManifestSource::Url(url) => fetch(url, token_for(config, url)).await,
        };
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
    Ok(unite(files.into_iter().chain(&config.files))?)
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

fn read_file(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map(|file| file.take(LARGEST as u64 + 1));
    let read = file.and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() > LARGEST {
        return Err(too_large());
    }
    text(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".to_owned())
}

fn too_large() -> String {
    format!("it has more than {LARGEST} bytes, which no manifest has")
}

/// Fetches a manifest. The errors name neither query nor token.
async fn fetch(url: &Url, token: Option<&Secret>) -> Result<String, String> {
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .build()
        .map_err(|error| error_chain(&error))?;
    let mut delays = RETRY.delays();
    loop {
        let (reason, may_pass) = match try_fetch(&client, url, token).await {
            Ok(bytes) => return text(bytes),
            Err(failure) => failure,
        };
        if !may_pass || !delays.wait().await {
            return Err(reason);
        }
        tracing::warn!("the model manifest {} is fetched again: {reason}", redacted(url));
    }
}

/// Tries once. A failure comes with whether it may pass.
async fn try_fetch(client: &reqwest::Client, url: &Url, token: Option<&Secret>) -> Result<Vec<u8>, (String, bool)> {
    let mut request = client.get(url.clone());
    if let Some(token) = token {
        // The client takes it off again when a redirect leads to another host.
        request = request.bearer_auth(token.reveal());
    }
    let response = request.send().await;
    let response = response.map_err(|error| (error_chain(&error.without_url()), true))?;
    let status = response.status();
    if !status.is_success() {
        let host = url.host_str().unwrap_or_default();
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if token.is_some() => {
                format!("; see that the token for {host} is right")
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!("; MODEL_TOKENS={host}=… gives it a token"),
            _ => String::new(),
        };
        let may_pass = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        return Err((format!("the server answers {status}{advice}"), may_pass));
    }
    match read_limited(response, LARGEST).await {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(ReadError::TooLarge { .. }) => Err((too_large(), false)),
        Err(error) => Err((error_chain(&error), true)),
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
