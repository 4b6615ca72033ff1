//! The Comfy Registry: where a version of a pack is downloaded, and which pack has a class.
//!
//! The routes and their answers are those of the Registry's own API description, as comfy-cli 1.23 carries it
//! (`command/generate/spec/openapi.yml`); its `registry/api.py` and `common/cnr_utils.py` of comfyui-manager 4.3 use them:
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /nodes/{id}/install?version=` | `{"id", "node_id", "version", "downloadUrl", "dependencies", "deprecated", …}`; 404 for an unknown id and for an unknown version |
//! | `GET /nodes/{id}/versions` | a list of the same |
//! | `GET /nodes/search?search=` | `{"nodes": [{"id", …}], …}` |
//! | `GET /comfy-nodes/{class}/node` | `{"id", "latest_version": {"version", …}, …}`; 404 for a class that no pack has |

mod error;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use url::Url;

pub use self::error::RegistryError;
use self::wire::{RawNode, RawNodes, RawVersion, RawVersionName, is_plain, numbers, said, same};
use crate::config::is_registry_id;
use crate::display::{error_chain, redacted};
use crate::echo;
use crate::net::guard::read_limited;
use crate::net::retry::RetryPolicy;
use crate::net::segment;
use crate::workflow::closest;

/// The largest answer that is read, in bytes: all versions of a pack with what changed in each.
const LARGEST: usize = 16_000_000;
/// The longest that one question may take, when a pack is to be installed.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that one question may take, when somebody waits for an error's text.
const SHORT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a Registry that could not be reached is not asked for classes again.
const PAUSE: Duration = Duration::from_mins(5);
/// The longest class name that is asked for, in bytes.
const LONGEST_CLASS: usize = 300;
/// The most classes whose pack is remembered.
const MOST_CLASSES: usize = 10_000;
/// How many ids or versions an error names.
const SUGGESTIONS: usize = 5;

/// A version of a pack that can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Release {
    /// The pack's id as the Registry writes it, which may differ in capital letters from what was asked for.
    pub id: String,
    /// Its version.
    pub version: String,
    /// A zip archive of it, at an http or https address.
    pub download: Url,
    /// What its publisher says that it requires, as in a `requirements.txt`. The archive says so too.
    pub dependencies: Vec<String>,
    /// Whether its publisher advises against it.
    pub deprecated: bool,
}

/// A pack that has a class, at its newest version where the Registry tells it. Prints as an entry of `CUSTOM_NODES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassPack {
    /// The pack's id.
    pub id: String,
    /// Its newest version.
    pub version: Option<String>,
}

impl fmt::Display for ClassPack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        match &self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }
}

/// A client of the Registry.
#[derive(Debug)]
pub struct Registry {
    /// Or why there is none.
    client: Result<reqwest::Client, String>,
    url: Url,
    retry: RetryPolicy,
    classes: Mutex<Classes>,
}

/// What is known of classes.
#[derive(Debug, Default)]
struct Classes {
    packs: HashMap<String, Option<ClassPack>>,
    /// When the Registry may be asked again.
    pause_ends: Option<Instant>,
}

/// Why a question has no answer.
enum Failure {
    /// An answer of another status, with what it says.
    Status(StatusCode, String),
    Unreachable(String),
    Strange(String),
}

impl Registry {
    /// A client of the Registry at this address, such as `https://api.comfy.org`.
    pub fn new(url: &Url) -> Self {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build();
        Self {
            client: client.map_err(|error| error_chain(&error)),
            url: url.clone(),
            retry: RetryPolicy::AT_START,
            classes: Mutex::default(),
        }
    }

    /// Where a version of a pack is downloaded; the newest, where none is named.
    pub async fn release(&self, id: &str, version: Option<&str>) -> Result<Release, RegistryError> {
        let query: Vec<_> = version.map(|version| ("version", version)).into_iter().collect();
        let url = self.route(&["nodes", id, "install"], &query);
        let failure = match self.asked_again::<RawVersion>(&url).await {
            Ok(raw) => return self.checked(id, version, raw),
            Err(failure) => failure,
        };
        match failure {
            // It says the same of an unknown pack and of an unknown version.
            Failure::Status(StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST, said) => {
                Err(self.unknown(id, version, &said).await)
            }
            other => Err(self.error(id, other)),
        }
    }

    /// The pack that has a class, with its newest version. What was answered once is remembered, and a Registry that cannot
    /// be reached is left alone for some minutes.
    pub async fn entry_with_class(&self, class: &str) -> Option<ClassPack> {
        if class.is_empty() || class.len() > LONGEST_CLASS {
            return None;
        }
        {
            let classes = self.classes.lock();
            if let Some(known) = classes.packs.get(class) {
                return known.clone();
            }
            if classes.pause_ends.is_some_and(|end| Instant::now() < end) {
                return None;
            }
        }
        let url = self.route(&["comfy-nodes", class, "node"], &[]);
        let found = match self.asked::<RawNode>(&url, SHORT_TIMEOUT).await {
            Ok(node) => is_registry_id(&node.id).then(|| ClassPack {
                id: node.id,
                version: node
                    .latest_version
                    .map(|latest| latest.version)
                    .filter(|version| is_plain(version)),
            }),
            Err(Failure::Status(StatusCode::NOT_FOUND, _)) => None,
            Err(failure) => {
                tracing::debug!(error = %self.error(class, failure), "the Registry does not say which pack has a class");
                self.classes.lock().pause_ends = Some(Instant::now() + PAUSE);
                return None;
            }
        };
        let mut classes = self.classes.lock();
        if classes.packs.len() >= MOST_CLASSES {
            classes.packs.clear();
        }
        classes.packs.insert(class.to_owned(), found.clone());
        found
    }

    /// An address of the Registry; each part is one segment of the path.
    fn route(&self, parts: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.url.clone();
        let path = parts.iter().map(|part| segment(part)).collect::<Vec<_>>().join("/");
        url.set_path(&format!("{}/{path}", self.url.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn checked(&self, id: &str, asked: Option<&str>, raw: RawVersion) -> Result<Release, RegistryError> {
        let strange = |reason: String| Err(self.error(id, Failure::Strange(reason)));
        if !is_plain(&raw.version) {
            return strange("it has no version".to_owned());
        }
        if asked.is_some_and(|asked| asked != raw.version) {
            return strange(format!("it is about version {}", raw.version));
        }
        let node_id = raw.node_id.unwrap_or_else(|| id.to_owned());
        if same(&node_id) != same(id) || !is_registry_id(&node_id) {
            return strange(format!("it is about the pack {}", echo::cut(&node_id)));
        }
        let download = raw.download_url.unwrap_or_default();
        let url = download.parse::<Url>().ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(url) = url else {
            return strange("it has no http or https address to download from".to_owned());
        };
        Ok(Release {
            id: node_id,
            version: raw.version,
            download: url,
            dependencies: raw.dependencies.unwrap_or_default(),
            deprecated: raw.deprecated.unwrap_or(false),
        })
    }

    /// What there is instead of a release that there is not.
    async fn unknown(&self, id: &str, version: Option<&str>, said: &str) -> RegistryError {
        // As ComfyUI-Manager asks: neither deleted nor banned.
        let statuses = [
            ("statuses", "NodeVersionStatusActive"),
            ("statuses", "NodeVersionStatusPending"),
        ];
        let url = self.route(&["nodes", id, "versions"], &statuses);
        match (self.asked_again::<Vec<RawVersionName>>(&url).await, version) {
            (Ok(versions), Some(version)) if !versions.iter().any(|known| known.version == version) => {
                let mut versions: Vec<_> = versions.into_iter().map(|known| known.version).collect();
                versions.retain(|version| is_plain(version));
                // The newest first, by their numbers.
                versions.sort_by_key(|version| std::cmp::Reverse(numbers(version)));
                versions.truncate(SUGGESTIONS);
                RegistryError::UnknownVersion {
                    id: id.to_owned(),
                    version: version.to_owned(),
                    versions,
                }
            }
            (Ok(versions), _) if versions.is_empty() || said.is_empty() => RegistryError::Refused {
                id: id.to_owned(),
                said: "it has no version that can be installed".to_owned(),
            },
            (Ok(_), _) => RegistryError::Refused {
                id: id.to_owned(),
                said: said.to_owned(),
            },
            (Err(Failure::Status(StatusCode::NOT_FOUND, _)), _) => RegistryError::UnknownPack {
                id: id.to_owned(),
                near: self.near(id).await,
            },
            (Err(failure), _) => self.error(id, failure),
        }
    }

    /// Ids that come near one, by the Registry's search.
    async fn near(&self, id: &str) -> Vec<String> {
        let url = self.route(&["nodes", "search"], &[("search", id), ("limit", "20")]);
        let Ok(RawNodes { nodes: Some(nodes) }) = self.asked::<RawNodes>(&url, SHORT_TIMEOUT).await else {
            return Vec::new();
        };
        let ids: Vec<_> = nodes
            .into_iter()
            .map(|node| node.id)
            .filter(|id| is_registry_id(id))
            .collect();
        let near = closest(id, ids.iter().map(String::as_str), SUGGESTIONS);
        // Its search goes by words of the description too: what it finds first is worth showing where no id is near.
        let near = if near.is_empty() {
            ids.iter().map(String::as_str).take(SUGGESTIONS).collect()
        } else {
            near
        };
        near.into_iter().map(str::to_owned).collect()
    }

    fn error(&self, id: &str, failure: Failure) -> RegistryError {
        let (id, url) = (id.to_owned(), redacted(&self.url));
        match failure {
            Failure::Status(StatusCode::FORBIDDEN, said) => RegistryError::Refused { id, said },
            Failure::Status(status, said) if said.is_empty() => RegistryError::Unreachable {
                id,
                url,
                reason: format!("it answers {status}"),
            },
            Failure::Status(status, said) => RegistryError::Unreachable {
                id,
                url,
                reason: format!("it answers {status}: {said}"),
            },
            Failure::Unreachable(reason) => RegistryError::Unreachable { id, url, reason },
            Failure::Strange(reason) => RegistryError::Strange { id, url, reason },
        }
    }

    /// Asks, and asks again where that may help.
    async fn asked_again<T: DeserializeOwned>(&self, url: &Url) -> Result<T, Failure> {
        let mut delays = self.retry.delays();
        loop {
            let failure = match self.asked(url, TIMEOUT).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let may_pass = match &failure {
                Failure::Status(status, _) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
                Failure::Unreachable(_) => true,
                Failure::Strange(_) => false,
            };
            if !may_pass || !delays.wait().await {
                return Err(failure);
            }
        }
    }

    async fn asked<T: DeserializeOwned>(&self, url: &Url, timeout: Duration) -> Result<T, Failure> {
        let unreachable = |error: reqwest::Error| Failure::Unreachable(error_chain(&error.without_url()));
        let client = self
            .client
            .as_ref()
            .map_err(|reason| Failure::Unreachable(reason.clone()))?;
        let response = client.get(url.clone()).timeout(timeout).send().await;
        let response = response.map_err(unreachable)?;
        let status = response.status();
        let body = read_limited(response, LARGEST).await;
        if !status.is_success() {
            return Err(Failure::Status(
                status,
                body.map_or_else(|_| String::new(), |body| said(&body)),
            ));
        }
        let body = body.map_err(|error| Failure::Unreachable(error_chain(&error)))?;
        serde_json::from_slice(&body).map_err(|error| Failure::Strange(error.to_string()))
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
