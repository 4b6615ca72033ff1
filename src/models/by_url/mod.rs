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

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::Models;
use super::cache::Held;
use super::download::{Downloader, FetchError, Located, Settings, Source};
use super::locate::Places;
use crate::config::{HUGGING_FACE, ModelsConfig, Origin, UrlHosts};
use crate::disk::blocking;
use crate::display::Size;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Download;
use crate::net::guard::{AddressGuard, GuardedClient, Redirects};
use crate::workflow::{AddressedModel, ModelAddress, shown_address};
use fit::Fit;
use flights::{Flights, INCOMING, Wish, file_name, told_to_user};
use header::Header;

/// The folder in each kind's folder that such models lie in.
const FOLDER: &str = "qwen-image-worker-urls";
/// How long a server may be silent that is asked about a model.
const SILENCE: Duration = Duration::from_secs(15);
/// How many versions are remembered by what their servers call them.
const REMEMBERED: usize = 1_000;

/// What it takes to fetch them.
pub(super) struct ByUrl {
    /// Reaches only what the guard allows.
    downloader: Downloader,
    client: GuardedClient,
    guard: AddressGuard,
    flights: Flights,
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
    pub held: Vec<Arc<Held>>,
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
        let base = match base {
            Some((folder, name)) => {
                let places = Arc::clone(&store.places);
                blocking(move || base_header(&places, folder, &name)).await
            }
            None => None,
        };
        let by_url = &self.0.by_url;
        let failed = |error: FetchError| {
            let error = told_to_user(&error, &label);
            tracing::warn!("{}", error.full_text());
            error
        };
        let found = by_url.find(&address, &self.0.config).await.map_err(failed)?;
        let located = by_url.downloader.locate(&found.source).await.map_err(failed)?;
        let sha256 = agreed(&found, &located, &label).map_err(failed)?;
        let key = key_of(&found.source, &located);
        let known = sha256.clone().or_else(|| by_url.seen(key.as_ref()?));
        let folder = store.folder.join(place.folder).join(FOLDER);
        let judge = |header: &Header| match (&base, place.folder) {
            (Some(base), "loras") => judge(header, base, found.base.as_deref(), &label),
            _ => Ok(None),
        };
        if let Some(sha256) = known {
            let path = folder.join(file_name(&sha256));
            let held = Arc::new(self.0.in_use.hold(vec![path.clone()]));
            if let Some(header) = blocking(move || there(&path)).await {
                return Ok(UrlModel {
                    name: format!("{FOLDER}/{}", file_name(&sha256)),
                    warning: judge(&header).map_err(failed)?,
                    held: vec![held],
                });
            }
        }
        let limit = self.0.config.by_url.max_bytes;
        let limit = self.0.config.cache_max_bytes.map_or(limit, |cache| cache.min(limit));
        let fits = |size: u64| {
            let message = format!("it has {}, and the most is {}", Size(size), Size(limit));
            let hint = "URL_MODEL_MAX_GB and MODEL_CACHE_GB say how large a model by URL may be.";
            if size > limit {
                Err(FetchError::told(message, Some(hint)))
            } else {
                Ok(())
            }
        };
        located.size().map_or(Ok(()), fits).map_err(failed)?;
        let refused = |why: String| FetchError::told(format!("the file {why}"), Some("Name a .safetensors file."));
        let front = by_url
            .downloader
            .front(&found.source, &located, |front| header::wanted(front).map_err(refused))
            .await
            .map_err(failed)?;
        let header = header::parse(&front, located.size()).map_err(refused).map_err(failed)?;
        drop(front);
        fits(header.file_length).map_err(failed)?;
        let warning = judge(&header).map_err(failed)?;
        let on_its_way = sha256.clone().unwrap_or_else(|| hashed(&found.source, &located));
        let wish = Wish {
            source: found.source,
            label: label.clone(),
            incoming: folder.join(format!("{on_its_way}{INCOMING}")),
            header: Arc::new(header),
            sha256,
        };
        let (path, held) = by_url.flights.join(&self.0, store, wish, tell).await?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let (Some(key), Some(sha256)) = (key, name.strip_suffix(".safetensors")) {
            by_url.see(key, sha256.to_owned());
        }
        Ok(UrlModel {
            name: format!("{FOLDER}/{name}"),
            warning,
            held: vec![held],
        })
    }
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
fn there(path: &Path) -> Option<Header> {
    if !path.is_file() {
        return None;
    }
    let header = header::of_file(path);
    if let Err(why) = &header {
        tracing::warn!("model {} {why}; it is fetched again", path.display());
        let _ = super::cache::remove(path);
    }
    header.ok()
}

/// The header of a model that ComfyUI lists, where it is on this machine and has one. Blocking.
fn base_header(places: &Places, folder: &str, name: &str) -> Option<Header> {
    let path: PathBuf = places.listed(folder, name)?;
    header::of_file(&path).ok()
}

/// Whether a LoRA fits a model: what its user should know, or why it is refused.
fn judge(lora: &Header, base: &Header, said: Option<&str>, label: &str) -> Result<Option<String>, FetchError> {
    let said = said.map_or(String::new(), |said| format!(" (its page says: {said})"));
    match fit::judge(lora, base) {
        Fit::Fits => Ok(None),
        Fit::Unknown(why) => Ok(Some(format!("the LoRA {label}{said}: {why}"))),
        Fit::Wrong(why) => Err(FetchError::told(
            format!("the LoRA {why}{said}"),
            Some("Name a LoRA that is made for the model, or choose the model that it is made for."),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hashes_of_one_file_are_refused() {
        let origin = Origin::Url("https://models.example.com/x.safetensors".parse().unwrap());
        let source = Source { origin, token: None };
        assert_eq!(exactly(&source), "https://models.example.com/x.safetensors");
    }
}
