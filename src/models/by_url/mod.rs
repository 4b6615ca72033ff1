//! Models that requests name by their address.
//!
//! ```text
//!  address ─► whose host may be named? ─► what does its server say? ─┬─ content is there ──────────────► header ─┐
//!             (URL_MODELS, the guard)     (size, hash, version)      └─ else: header ─► does it fit? ─► fetched ─┴► name
//! ```
//!
//! A file is kept by its content, under the folder of its kind, and is called by its hash; nothing that a user writes becomes a
//! part of a path:
//!
//! ```text
//! MODELS/loras/qwen-image-worker-urls/0123…cdef.safetensors
//! ```

mod civitai;
mod fit;
mod flights;
mod header;
mod incoming;
mod judge;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::Models;
use super::cache::Held;
use super::download::{CORRECT_MANIFEST, Downloader, FetchError, Located, Settings, Source};
use crate::config::{HUGGING_FACE, ModelsConfig, Origin, UrlHosts};
use crate::disk::blocking;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Download;
use crate::net::guard::{AddressGuard, GuardedClient, Redirects};
use crate::workflow::{AddressedModel, ModelAddress, shown_address};
use flights::{Flights, Wish};
use header::Header;
use incoming::INCOMING;
use judge::{Headers, Judge};

/// The folder in each kind's folder that such models lie in.
const FOLDER: &str = "qwen-image-worker-urls";
/// What their names end with.
const ENDING: &str = ".safetensors";
/// How long a server may be silent that is asked about a model.
const SILENCE: Duration = Duration::from_secs(15);
/// What to do about a file that is none that is taken.
const NAME_SAFETENSORS: &str = "Name a .safetensors file.";
/// How many versions are remembered by what their servers call them.
const REMEMBERED: usize = 1_000;

/// What it takes to fetch them.
pub(super) struct ByUrl {
    /// Reaches only what the guard allows.
    downloader: Downloader,
    client: GuardedClient,
    guard: AddressGuard,
    flights: Flights,
    headers: Headers,
    /// The SHA-256 of versions whose servers name none, by address and version.
    seen: Mutex<IndexMap<String, String>>,
}

/// A model that was fetched by its address.
#[derive(Debug)]
pub struct UrlModel {
    /// Its name as ComfyUI lists it.
    pub name: String,
    /// What its user should know.
    pub warning: Option<String>,
    /// It stays as long as this does.
    pub held: Arc<Held>,
}

/// Where a model comes from, as far as its address and its page tell.
struct Found {
    source: Source,
    sha256: Option<String>,
    /// The kind of model that it is made for, in the words of its page.
    base: Option<String>,
}

impl ByUrl {
    pub(super) fn new(config: &ModelsConfig) -> Result<Self, reqwest::Error> {
        let guard = AddressGuard::new(config.by_url.private.clone());
        let mut settings = Settings::new(config.hub.endpoint.clone(), config.hub.token.clone());
        settings.parallel = config.parallel;
        settings.guard = Some(guard.clone());
        Ok(Self {
            downloader: Downloader::new(settings)?,
            client: guard.client(Redirects::Never, SILENCE)?,
            guard,
            flights: Flights::default(),
            headers: Headers::default(),
            seen: Mutex::default(),
        })
    }

    /// Where a model is fetched from. Civitai is asked which file is meant.
    async fn find(&self, address: &ModelAddress, config: &ModelsConfig) -> Result<Found, FetchError> {
        let host_token = |url: &Url| url.host_str().and_then(|host| config.token(host)).cloned();
        match address {
            ModelAddress::File(origin) => Ok(Found {
                source: Source {
                    origin: origin.clone(),
                    token: match origin {
                        Origin::Hub { .. } => None,
                        Origin::Url(url) => host_token(url),
                    },
                },
                sha256: None,
                base: None,
            }),
            ModelAddress::Civitai(wanted) => {
                let endpoint = &config.by_url.civitai;
                let token = wanted.token.clone().or_else(|| host_token(endpoint));
                let chosen = civitai::choose(&self.client, endpoint, wanted, token.as_ref()).await?;
                Ok(Found {
                    source: Source {
                        origin: Origin::Url(chosen.url),
                        token,
                    },
                    sha256: chosen.sha256,
                    base: chosen.base,
                })
            }
        }
    }

    fn seen(&self, key: &str) -> Option<String> {
        self.seen.lock().get(key).cloned()
    }

    fn see(&self, key: String, sha256: String) {
        let mut seen = self.seen.lock();
        if seen.len() >= REMEMBERED {
            seen.shift_remove_index(0);
        }
        seen.insert(key, sha256);
    }
}

impl Models {
    /// The address, if requests may name it: by the settings, and by what the address itself shows.
    pub fn may_name(&self, text: &str) -> Result<ModelAddress, JobError> {
        let config = &self.0.config;
        let refused =
            |why: String| JobError::invalid(format!("the model {} cannot be had: {why}", shown_address(text)));
        let address = ModelAddress::parse_with(text, &config.hub.endpoint, &config.by_url)
            .map_err(|why| JobError::invalid(format!("the model {} {why}", shown_address(text))))?;
        let hosts = &config.by_url.hosts;
        let (host, mirror) = match &address {
            ModelAddress::Civitai(_) => (crate::config::CIVITAI, config.by_url.civitai.host_str()),
            ModelAddress::File(Origin::Hub { .. }) => (HUGGING_FACE, config.hub.endpoint.host_str()),
            ModelAddress::File(Origin::Url(url)) => (url.host_str().unwrap_or_default(), None),
        };
        if !hosts.allow(host) && !mirror.is_some_and(|mirror| hosts.allow(mirror)) {
            let host = cut(host);
            return Err(match hosts {
                UrlHosts::Listed(hosts) => refused(format!(
                    "its host {host} is none of those that requests may name ({})",
                    hosts.join(", ")
                ))
                .hint(format!("Whoever runs the worker may add {host} to URL_MODELS.")),
                _ => refused("this worker takes no models by URL".to_owned())
                    .hint("Name a model that is installed, or have URL_MODELS set."),
            });
        }
        if let ModelAddress::File(Origin::Url(url)) = &address {
            self.0
                .by_url
                .guard
                .check_url(url)
                .map_err(|error| refused(error.to_string()).hint("Name a public address."))?;
            if url.scheme() != "https" && !self.0.by_url.guard.allows_privately(url) {
                return Err(refused("its address has no encryption".to_owned()).hint("Write https://."));
            }
        }
        Ok(address)
    }

    /// Has a model there that a request names by its address; `tell` hears how far it is. `base` is the folder and the name of
    /// the model that a LoRA is to change, where that is known.
    pub async fn by_url(
        &self,
        place: &AddressedModel,
        base: Option<(&'static str, String)>,
        tell: impl FnMut(Download),
    ) -> Result<UrlModel, JobError> {
        let address = self.may_name(&place.address)?;
        let label = address.to_string();
        let Some(store) = &self.0.store else {
            let message = format!("Failed to load model: {label}: nobody knows where ComfyUI has its models");
            return Err(JobError::new(ErrorKind::ModelMissing, message).hint(
                "Have the worker start ComfyUI itself, or tell it the folder (MODEL_DIR); or install the file there.",
            ));
        };
        let by_url = &self.0.by_url;
        let failed = |error: FetchError| told_to_user(&error, &label);
        let found = by_url.find(&address, &self.0.config).await.map_err(failed)?;
        let located = by_url.downloader.locate(&found.source).await.map_err(failed)?;
        let sha256 = agreed(&found, &located, &label).map_err(failed)?;
        let judge = Judge {
            base: match base {
                // It is where ComfyUI lists it, if it is on this machine; one without a header tells nothing.
                Some((folder, name)) => {
                    let (places, headers) = (Arc::clone(&store.places), by_url.headers.clone());
                    blocking(move || headers.of(&places.taken(folder, &name)?).ok()).await
                }
                None => None,
            },
            said: found.base,
            label: label.clone(),
        };
        let key = key_of(&found.source, &located);
        let known = sha256.clone().or_else(|| by_url.seen(key.as_ref()?));
        let folder = store.folder.join(place.folder).join(FOLDER);
        if let Some(sha256) = known {
            let path = folder.join(file_name(&sha256));
            let held = Arc::new(self.keep(vec![path.clone()]).await);
            let headers = by_url.headers.clone();
            if let Some(header) = blocking(move || there(&headers, &path)).await {
                return Ok(UrlModel {
                    name: format!("{FOLDER}/{}", file_name(&sha256)),
                    warning: judge.judge(&header).await?,
                    held,
                });
            }
        }
        let on_its_way = sha256.clone().unwrap_or_else(|| hashed(&found.source, &located));
        let most = self.0.config.by_url.max_bytes;
        let wish = Wish {
            source: found.source,
            label: label.clone(),
            incoming: folder.join(format!("{on_its_way}{INCOMING}")),
            sha256,
            most: self.0.config.cache_max_bytes.map_or(most, |cache| cache.min(most)),
            located,
        };
        wish.located
            .size()
            .map_or(Ok(()), |size| wish.fits(size))
            .map_err(failed)?;
        let (arrived, warning) = by_url.flights.join(&self.0, store, wish, &judge, tell).await?;
        let name = arrived
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let (Some(key), Some(sha256)) = (key, name.strip_suffix(ENDING)) {
            by_url.see(key, sha256.to_owned());
        }
        Ok(UrlModel {
            name: format!("{FOLDER}/{name}"),
            warning,
            held: arrived.held,
        })
    }
}

/// The name of a file with this content.
fn file_name(sha256: &str) -> String {
    format!("{sha256}{ENDING}")
}

/// What a job is told whose model cannot be had from its address; and the log.
fn told_to_user(error: &FetchError, label: &str) -> JobError {
    let mut error = error.to_job_error(label);
    // No manifest speaks of the file.
    if error.hint.as_deref() == Some(CORRECT_MANIFEST) {
        let hint = "It is not the file that was spoken of: try again later, or name another version.";
        error.hint = Some(hint.to_owned());
    }
    tracing::warn!("{}", error.full_text());
    error
}

/// The hash that the page and the server name, which must not be two.
fn agreed(found: &Found, located: &Located, label: &str) -> Result<Option<String>, FetchError> {
    match (found.sha256.as_deref(), located.sha256()) {
        (Some(expected), Some(got)) if expected != got => Err(FetchError::WrongHash {
            url: label.to_owned(),
            expected: expected.to_owned(),
            got: got.to_owned(),
        }),
        (named, told) => Ok(named.or(told).map(str::to_owned)),
    }
}

/// What a file is, as far as its address and its server tell; [`None`] where nothing tells it from another at that address.
fn key_of(source: &Source, located: &Located) -> Option<String> {
    let version = located.version()?;
    Some(format!(
        "{}\n{version}\n{}",
        exactly(source),
        located.size().unwrap_or_default()
    ))
}

/// A name for a file on its way whose content nobody names.
fn hashed(source: &Source, located: &Located) -> String {
    let key = key_of(source, located).unwrap_or_else(|| exactly(source));
    hex::encode(Sha256::digest(key))
}

fn exactly(source: &Source) -> String {
    match &source.origin {
        Origin::Hub { repo, revision, path } => format!("hf://{repo}@{revision}/{path}"),
        Origin::Url(url) => url.to_string(),
    }
}

/// The header of a file that was fetched before; one that is damaged is removed. Blocking.
fn there(headers: &Headers, path: &Path) -> Option<Arc<Header>> {
    if !path.is_file() {
        return None;
    }
    let header = headers.of(path);
    if let Err(why) = &header {
        tracing::warn!("model {} {why}; it is fetched again", path.display());
        let _ = super::cache::remove(path);
    }
    header.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str) -> Source {
        let origin = Origin::Url(url.parse().unwrap());
        Source { origin, token: None }
    }

    #[test]
    fn files_that_may_differ_do_not_share_a_name() {
        let (one, other) = (
            source("https://models.example.com/x?a=1"),
            source("https://models.example.com/x?a=2"),
        );
        let located = Located::nowhere();
        // Nothing tells two versions apart: what was there before is none.
        assert_eq!(key_of(&one, &located), None);
        assert_ne!(hashed(&one, &located), hashed(&other, &located));
        let hub = |repo: &str| Source {
            origin: Origin::hub(repo, "main", "x.safetensors").unwrap(),
            token: None,
        };
        assert_ne!(hashed(&hub("o/n"), &located), hashed(&hub("o/m"), &located));
    }

    #[test]
    fn an_error_speaks_of_no_manifest() {
        let error = FetchError::WrongHash {
            url: "x".to_owned(),
            expected: "0".to_owned(),
            got: "1".to_owned(),
        };
        let text = told_to_user(&error, "civitai:7").full_text();
        assert!(text.contains("civitai:7") && !text.contains("manifest"), "{text}");
    }
}
