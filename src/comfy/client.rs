//! ComfyUI's HTTP API, as far as a worker needs it. Routes and shapes as recorded from ComfyUI 0.30.0 (`server.py`).

use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use url::Url;

use super::answers;
pub use super::message::{HistoryEntry, PromptEnd, PromptReply, PromptRequest, QueuePlace, Rejection, RejectionReason};
use crate::disk::blocking;
use crate::display::error_chain;
use crate::error::{ErrorKind, JobError};
use crate::fleet::Classes;
use crate::json::{lenient, lenient_by};
use crate::telemetry::traces;
use crate::workflow::schema::{class_names, custom_classes};

/// The longest that ComfyUI may take to answer. Its event loop shares the interpreter with the running graph, so an
/// answer can take seconds while a model is being loaded.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// The same for `/history` and `/queue`, which are asked again and again: a ComfyUI that hangs is to be seen in the log.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that ComfyUI may take to accept a connection on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection for what is passed on is kept for the next: less than ComfyUI keeps one, which is an hour (aiohttp
/// 3.14), or 75 seconds with older ones.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// The longest name of a class that is asked for, in bytes. Percent-encoding makes three of each.
const LONGEST_CLASS: usize = 1024;

/// What can go wrong between us and ComfyUI.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No answer came.
    #[error("ComfyUI did not answer {path}")]
    Unreachable {
        /// The route.
        path: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// An answer began to come, and then nothing more.
    #[error("ComfyUI fell silent in the midst of its answer to {0}")]
    Silent(&'static str),
    /// An answer came that we did not expect.
    #[error("ComfyUI answered {path} with status {status}: {body}")]
    Status {
        /// The route.
        path: &'static str,
        /// The HTTP status.
        status: u16,
        /// The begin of the body.
        body: String,
    },
    /// It numbers prompts by itself, so that ours cannot be found again. This one is in its queue under that number.
    #[error("this ComfyUI is too old: it does not take ids for prompts")]
    OwnIds(String),
    /// An answer came that is not what the route answers.
    #[error("ComfyUI's answer to {path} is not understood")]
    Shape {
        /// The route.
        path: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl ClientError {
    /// No answer, or no more of it. The address is left out, since it may hold a password.
    pub(super) fn unreachable(path: &'static str, error: reqwest::Error) -> Self {
        let source = error.without_url();
        Self::Unreachable { path, source }
    }

    /// Whether ComfyUI itself answered a look, and would answer the same again. It says 200 or 500 there and nothing else:
    /// the rest is a proxy's, before a ComfyUI that is away (404, 502 to 504) or in a hurry (429).
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Shape { .. } | Self::Status { status: 200 | 500, .. })
    }

    /// Whether ComfyUI itself refused a prompt. 500 is its answer to a graph that its own checks stumble over; 404 and 429
    /// are a proxy's.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status, .. } if (400..=500).contains(status) && !matches!(status, 404 | 429))
    }
}

impl From<ClientError> for JobError {
    fn from(error: ClientError) -> Self {
        let causes = error
            .source()
            .map_or_else(String::new, |source| format!(" ({})", error_chain(source)));
        let hint = match error {
            ClientError::OwnIds(_) => "Take a newer ComfyUI: COMFYUI_VERSION, COMFYUI_DIR or COMFYUI_URL.",
            _ => "See what ComfyUI itself says in the log, and try again.",
        };
        Self::new(ErrorKind::ComfyUnavailable, format!("{error}{causes}")).hint(hint)
    }
}

/// A connection to one ComfyUI. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ComfyClient {
    pub(super) http: reqwest::Client,
    /// For requests of others, which take the time that they take and lead where they lead.
    pub(super) passing: reqwest::Client,
    base: Url,
}

impl ComfyClient {
    /// A client for the ComfyUI at `base`.
    pub fn new(base: Url) -> Result<Self, reqwest::Error> {
        let builder = || {
            let builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT);
            if base.host_str().is_some_and(is_loopback) {
                // A proxy of the environment knows no loopback addresses of ours.
                builder.no_proxy()
            } else {
                builder
            }
        };
        let passing = builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // Websockets begin as HTTP/1.1.
            .http1_only()
            .pool_idle_timeout(KEPT_FOR);
        Ok(Self {
            http: builder().timeout(ANSWER_TIMEOUT).build()?,
            passing: passing.build()?,
            base,
        })
    }

    /// A client for the ComfyUI at the URL `base`.
    pub(super) fn at(base: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self::new(base.parse()?)?)
    }

    /// Where this ComfyUI is.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The address of its websocket for `client_id`.
    pub fn websocket_url(&self, client_id: &str) -> Url {
        let mut url = self.url(&["ws"]);
        // The schemes are special ones on both sides, so this cannot be refused.
        let _ = url.set_scheme(if self.base.scheme() == "https" { "wss" } else { "ws" });
        url.query_pairs_mut().append_pair("clientId", client_id);
        url
    }

    pub(super) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn get(&self, segments: &[&str]) -> RequestBuilder {
        self.http.get(self.url(segments))
    }

    pub(super) fn post(&self, segments: &[&str]) -> RequestBuilder {
        self.http.post(self.url(segments))
    }

    /// Whether ComfyUI answers: `/system_stats`.
    pub async fn system_stats(&self) -> Result<Value, ClientError> {
        self.json(self.get(&["system_stats"]), "/system_stats").await
    }

    /// The model files of one of ComfyUI's folders, as it lists them: `/models/{folder}`. [`None`] when it does not know
    /// the folder.
    pub async fn models(&self, folder: &str) -> Result<Option<Vec<String>>, ClientError> {
        match self.json(self.get(&["models", folder]), "/models").await {
            Err(ClientError::Status { status: 404, .. }) => Ok(None),
            files => files.map(Some),
        }
    }

    /// Puts a graph into ComfyUI's queue. An error of the kind [`ClientError::Unreachable`] leaves open whether it is
    /// there: ask [`Self::queue_place`] and [`Self::history`] before it is sent again.
    pub async fn submit(&self, request: &PromptRequest<'_>) -> Result<PromptReply, ClientError> {
        const PATH: &str = "/prompt";
        let mut post = self.post(&["prompt"]).json(request);
        if let Some(traceparent) = traces::current() {
            post = post.header(traces::HEADER, traceparent);
        }
        let (status, body) = self.exchange(post, PATH).await?;
        if !(200..300).contains(&status) && status != 400 {
            return Err(unexpected(PATH, status, &body));
        }
        let reply: Rejection = lenient(&body).map_err(|source| ClientError::Shape { path: PATH, source })?;
        // 200 with errors: at least one output is valid, and only those would run.
        if status == 400 || !reply.node_errors.is_empty() {
            return Ok(PromptReply::Rejected(Box::new(reply)));
        }
        match reply.prompt_id.filter(|given| given != request.prompt_id) {
            Some(given) => Err(ClientError::OwnIds(given)),
            None => Ok(PromptReply::Queued),
        }
    }

    /// The history of a prompt; [`None`] while it is not finished, or when ComfyUI does not know it.
    pub async fn history(&self, prompt_id: &str) -> Result<Option<HistoryEntry>, ClientError> {
        const PATH: &str = "/history";
        let request = self.get(&["history", prompt_id]).timeout(LOOK_TIMEOUT);
        let answer = match self.json(request, PATH).await {
            // Whether it is ComfyUI that knows no such prompt is seen by its queue, which is asked next.
            Err(ClientError::Status { status: 404, .. }) => return Ok(None),
            answer => answer?,
        };
        answers::entry(answer, prompt_id).map_err(|source| ClientError::Shape { path: PATH, source })
    }

    /// Where a prompt is that has no history yet.
    pub async fn queue_place(&self, prompt_id: &str) -> Result<QueuePlace, ClientError> {
        let queue: Map<String, Value> = self.json(self.get(&["queue"]).timeout(LOOK_TIMEOUT), "/queue").await?;
        Ok(answers::place(&queue, prompt_id))
    }

    /// `/object_info/{class}`: the description of one class; [`None`] when it is not installed.
    pub async fn object_info(&self, class: &str) -> Result<Option<Value>, ClientError> {
        // No class has such a name, and no address can be made of it: dots are a step in a path, and aiohttp takes
        // addresses of 8 kB.
        if matches!(class, "" | "." | "..") || class.len() > LONGEST_CLASS {
            return Ok(None);
        }
        let answer = self.json(self.get(&["object_info", class]), "/object_info").await;
        let mut entries: Map<String, Value> = match answer {
            Err(ClientError::Status { status: 404, .. }) => return Ok(None),
            answer => answer?,
        };
        Ok(entries.remove(class))
    }

    /// The names of all installed classes. The answer has megabytes; it is read and dropped.
    pub async fn class_names(&self) -> Result<Vec<String>, ClientError> {
        const PATH: &str = "/object_info";
        let body = self.body(self.get(&["object_info"]), PATH).await?;
        lenient_by(&body, class_names).map_err(|source| ClientError::Shape { path: PATH, source })
    }

    /// What ComfyUI tells of its node classes, for those who cannot ask it.
    pub async fn classes(&self) -> Result<Classes, ClientError> {
        let text = |body: Bytes| String::from_utf8_lossy(&body).into_owned();
        let object_info = self.body(self.get(&["object_info"]), "/object_info").await?;
        let replacements = match self.body(self.get(&["node_replacements"]), "/node_replacements").await {
            Err(ClientError::Status { .. }) => None,
            body => Some(text(body?)),
        };
        Ok(Classes {
            object_info: text(object_info),
            node_replacements: replacements,
        })
    }

    /// The classes of custom nodes, by the module of their pack: `custom_nodes.NAME`. As much as [`Self::class_names`] for
    /// ComfyUI; the answer is read on a thread of its own.
    pub async fn custom_classes(&self) -> Result<IndexMap<String, Vec<String>>, ClientError> {
        const PATH: &str = "/object_info";
        let body = self.body(self.get(&["object_info"]), PATH).await?;
        let read = blocking(move || lenient_by(&body, custom_classes)).await;
        read.map_err(|source| ClientError::Shape { path: PATH, source })
    }

    /// The classes that ComfyUI replaces by newer ones before it looks at a graph; older versions have no such list.
    pub async fn replaced_classes(&self) -> Result<HashSet<String>, ClientError> {
        const PATH: &str = "/node_replacements";
        let body = match self.body(self.get(&["node_replacements"]), PATH).await {
            Err(ClientError::Status { .. }) => return Ok(HashSet::new()),
            body => body?,
        };
        // In another shape it tells us nothing, and ComfyUI itself replaces what it replaces.
        Ok(lenient_by(&body, class_names).unwrap_or_default().into_iter().collect())
    }

    /// Stops the prompt if it is the running one, and only then. One that waits may be taken out of the queue; see
    /// [`Self::dequeue`].
    pub async fn interrupt(&self, prompt_id: &str) -> Result<(), ClientError> {
        // `/interrupt` looks which prompt runs and stops whichever runs then, which may be the next one already; this one
        // does both at once (`interrupt_if_running` in ComfyUI's `execution.py`). Older versions have no such route.
        let cancel = self.post(&["api", "jobs", prompt_id, "cancel"]);
        let (status, _) = self.exchange(cancel, "/api/jobs/{job_id}/cancel").await?;
        if status == 200 {
            return Ok(());
        }
        let body = serde_json::json!({ "prompt_id": prompt_id });
        let done = self.body(self.post(&["interrupt"]).json(&body), "/interrupt").await;
        done.map(drop)
    }

    /// Takes the prompt out of the queue if it still waits there.
    pub async fn dequeue(&self, prompt_id: &str) -> Result<(), ClientError> {
        let body = serde_json::json!({ "delete": [prompt_id] });
        let done = self.body(self.post(&["queue"]).json(&body), "/queue").await;
        done.map(drop)
    }

    /// Has it give up models, or all that it keeps from earlier prompts, once no prompt runs.
    pub async fn free(&self, unload_models: bool, free_memory: bool) -> Result<(), ClientError> {
        let body = serde_json::json!({ "unload_models": unload_models, "free_memory": free_memory });
        let done = self.body(self.post(&["free"]).json(&body), "/free").await;
        done.map(drop)
    }

    async fn exchange(&self, request: RequestBuilder, path: &'static str) -> Result<(u16, Bytes), ClientError> {
        let unreachable = |error| ClientError::unreachable(path, error);
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        Ok((status, response.bytes().await.map_err(unreachable)?))
    }

    /// What is answered with status 200.
    async fn body(&self, request: RequestBuilder, path: &'static str) -> Result<Bytes, ClientError> {
        match self.exchange(request, path).await? {
            (200, body) => Ok(body),
            (status, body) => Err(unexpected(path, status, &body)),
        }
    }

    pub(super) async fn json<T>(&self, request: RequestBuilder, path: &'static str) -> Result<T, ClientError>
    where
        T: DeserializeOwned,
    {
        let body = self.body(request, path).await?;
        lenient(&body).map_err(|source| ClientError::Shape { path, source })
    }
}

fn unexpected(path: &'static str, status: u16, body: &[u8]) -> ClientError {
    let text = String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_owned();
    let is_page = text.starts_with('<');
    let body = if is_page { "an HTML page".to_owned() } else { text };
    ClientError::Status { path, status, body }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
