//! What the routes share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use url::Url;

use super::auth::ApiKeys;
use super::body::Bodies;
use super::cors::host_url;
use super::route::PING;
use super::routes::comfyui::Prompts;
use super::routes::comfyui::hub::Hub;
use super::routes::gradio::Gradio;
use super::sessions::Sessions;
use crate::assets::Assets;
use crate::comfy::Comfys;
use crate::comfy::memory::MemoryLimit;
use crate::config::{EditConfig, HttpConfig, ReturnImagesAs};
use crate::delivery::Results;
use crate::delivery::links::FileLinks;
use crate::dialect::answer::Answer;
use crate::dialect::links::Links;
use crate::error::JobError;
use crate::executor::Executor;
use crate::member::Member;
use crate::models::Models;
use crate::net::guard::AddressGuard;
use crate::queue::Queue;
use crate::warm_up::Warming;

/// What the routes share.
#[derive(Debug)]
pub struct State {
    /// The jobs.
    pub queue: Queue,
    /// What was uploaded for them.
    pub assets: Assets,
    /// What they made.
    pub results: Arc<Results>,
    /// Run them, one on each ComfyUI.
    pub executors: Vec<Arc<Executor>>,
    /// The ComfyUIs they run on.
    pub comfy: Comfys,
    /// The memory limit of the container that the worker runs in.
    pub memory_limit: Option<MemoryLimit>,
    /// The models, and what is being fetched.
    pub models: Models,
    /// Whether the worker warms up, before which it is not ready.
    pub warming: Warming,
    /// The keys that let a request in.
    pub api_keys: ApiKeys,
    /// The browsers that have brought one.
    pub sessions: Sessions,
    /// Judges the URLs that users send.
    pub guard: AddressGuard,
    /// The bodies of all requests.
    pub bodies: Bodies,
    /// The Gradio dialect's sessions and quotas.
    pub gradio: Gradio,
    /// Tells the clients of ComfyUI's own API what is for all of them.
    pub hub: Hub,
    /// What takes jobs of a fleet, where this worker is of one.
    pub member: Option<Member>,
    /// What prompts of ComfyUI's own API have in common.
    pub prompts: Prompts,
    /// What the routes are, as an `OpenAPI` document: made when somebody first asks, for it takes megabytes to make.
    pub document: OnceLock<Answer>,
    /// What every result warns of; shown by `/health` too.
    pub warnings: Vec<String>,
    /// Makes links to files, and knows them again.
    pub file_links: FileLinks,
    /// How long jobs that have ended are kept.
    pub result_ttl: Duration,
    /// The form of results that are answered by URL.
    pub url_form: ReturnImagesAs,
    /// Whether ComfyUI's page is served.
    pub page: bool,
    /// Whether the routes of ComfyUI-Manager are.
    pub manager: bool,
    /// How all of it is served.
    pub http: HttpConfig,
    /// How the Edit Plus API is served.
    pub edit: EditConfig,
    /// Whether `b64_json` of OpenAI's Images API holds a data URI.
    pub b64_data_uri: bool,
}

impl State {
    /// What a ComfyUI that takes prompts at this moment is asked by; the first, where none does.
    pub(super) fn executor(&self) -> &Arc<Executor> {
        let mut ready = self.executors.iter().filter(|executor| executor.comfy().is_ready());
        // There is always one.
        ready.next().unwrap_or(&self.executors[0])
    }

    /// Whether the health check is served at `path`.
    pub(super) fn is_health_check(&self, path: &str) -> bool {
        path == PING || path == self.http.health_path
    }

    /// Where the links of an answer begin.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Result<Url, JobError> {
        origin(self.http.public_url.as_ref(), headers).ok_or_else(|| {
            JobError::invalid("The request names no host").hint("Send a Host header, or set PUBLIC_URL.")
        })
    }

    /// Links that work for `lifetime` after a job's end.
    pub(super) fn links<'a>(&'a self, base: &'a Url, lifetime: Duration) -> Links<'a> {
        Links {
            files: &self.file_links,
            base,
            lifetime,
        }
    }
}

/// Where clients see this server: the configured address, else the one that the request was sent to. A proxy tells the latter in
/// `X-Forwarded-Host` and `X-Forwarded-Proto`; who forges them gets links that do not work. [`None`]: the request does not say.
fn origin(configured: Option<&Url>, headers: &HeaderMap) -> Option<Url> {
    if let Some(url) = configured {
        return Some(url.clone());
    }
    let first = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        // Proxies in a row each add theirs; the first is the client's.
        value.split(',').next().map(str::trim).filter(|text| !text.is_empty())
    };
    let scheme = first("x-forwarded-proto").filter(|scheme| matches!(*scheme, "http" | "https"));
    let host = first("x-forwarded-host").or_else(|| first(header::HOST.as_str()));
    host.and_then(|host| host_url(scheme.unwrap_or("http"), host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        origin(None, &headers.collect()).map(Into::into)
    }

    #[test]
    fn links_lead_where_the_client_asked() {
        assert_eq!(told(&[("host", "127.0.0.1:8188")]).unwrap(), "http://127.0.0.1:8188/");
        let proxied = [
            ("host", "10.0.0.7:8188"),
            ("x-forwarded-host", "api.example.com, inner"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(told(&proxied).unwrap(), "https://api.example.com/");
        assert_eq!(
            told(&[("host", "a"), ("x-forwarded-proto", "javascript")]).unwrap(),
            "http://a/"
        );
        for wrong in ["", "a/b", "user@a", "a?b", "a b"] {
            assert_eq!(told(&[("host", wrong)]), None, "{wrong}");
        }
        let configured = "https://public.example.com/images".parse().unwrap();
        assert_eq!(origin(Some(&configured), &HeaderMap::new()), Some(configured));
    }
}
