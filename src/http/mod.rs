//! Our HTTP server: one route table, errors in one shape, one log line a request.

pub mod auth;
mod body;
mod edit_port;
mod errors;
mod leave;
mod log;
mod origin;
pub mod routes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use url::Url;

use crate::comfy::Comfy;
use crate::config::ReturnImagesAs;
use crate::delivery::links::FileLinks;
use crate::dialect::links::Links;
use crate::error::{ErrorKind, JobError};
use crate::models::Models;
use crate::net::guard::AddressGuard;
use crate::queue::Queue;
use edit_port::{EDIT, OwnPort, below, written_path};

pub use edit_port::edit_router;

/// What the routes share.
#[derive(Debug)]
pub struct State {
    /// Jobs in hand.
    pub queue: Queue,
    /// The ComfyUI they run on.
    pub comfy: Comfy,
    /// The models, and what is being fetched.
    pub models: Models,
    /// The keys that let a request in.
    pub api_keys: auth::ApiKeys,
    /// Where the health check is served, beside [`PING`].
    pub health_path: String,
    /// Judges the URLs that users send.
    pub guard: AddressGuard,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// The Gradio dialect's sessions and quotas.
    pub gradio: routes::gradio::Gradio,
    /// What every result warns of; shown by `/health` too.
    pub warnings: Vec<String>,
    /// Makes links to files, and knows them again.
    pub file_links: FileLinks,
    /// Where clients see this server, if it is configured.
    pub public_url: Option<Url>,
    /// The form of results that are answered by URL.
    pub url_form: ReturnImagesAs,
    /// The template of Edit Plus requests that name no model.
    pub edit_template: String,
    /// Whether `b64_json` holds a data URI.
    pub b64_data_uri: bool,
}

impl State {
    /// Whether the health check is served at `path`.
    fn is_health_check(&self, path: &str) -> bool {
        path == PING || path == self.health_path
    }

    /// Where the links of an answer begin.
    fn origin(&self, headers: &HeaderMap) -> Result<Url, JobError> {
        origin::origin(self.public_url.as_ref(), headers).ok_or_else(|| {
            JobError::invalid("The request names no host").hint("Send a Host header, or set PUBLIC_URL.")
        })
    }

    /// Links that work for `lifetime` after a job's end.
    fn links<'a>(&'a self, base: &'a Url, lifetime: Duration) -> Links<'a> {
        Links {
            files: &self.file_links,
            base,
            lifetime,
        }
    }
}

/// Where the health check is always served.
pub const PING: &str = "/ping";

/// Where a route is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// At the root.
    Root,
    /// Under [`V2`].
    V2,
}

/// What RunPod's clients put before the path. Any endpoint id will do: there is one worker here.
pub const V2: &str = "/v2/{endpoint_id}";

/// A route, for the table and for its documentation.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The HTTP methods.
    pub methods: &'static [&'static str],
    /// The path.
    pub path: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Whether it is served under [`V2`] too.
    pub v2: bool,
    handler: fn(Base) -> MethodRouter<Arc<State>>,
}

/// Every route we serve.
pub const ROUTES: &[Route] = &[
    Route {
        methods: &["POST"],
        path: "/runsync",
        meaning: "Run one job and answer with its result: `{\"input\": {\"workflow\": …}}` or `{\"input\": {\"prompt\": …}}`. `?wait=` (ms) limits the wait.",
        v2: true,
        handler: |base| match base {
            Base::Root => post(routes::runpod::runsync),
            Base::V2 => post(routes::runpod::runsync_v2),
        },
    },
    Route {
        methods: &["POST"],
        path: "/run",
        meaning: "Take one job in and answer with its id at once.",
        v2: true,
        handler: |_| post(routes::runpod::run),
    },
    Route {
        methods: &["GET", "POST"],
        path: "/status/{id}",
        meaning: "The job as it is: status, place in the queue, progress, output.",
        v2: true,
        handler: |_| get(routes::runpod::status).post(routes::runpod::status),
    },
    Route {
        methods: &["GET"],
        path: "/status-sync/{id}",
        meaning: "The same at the job's end, or when `?wait=` (ms) is over.",
        v2: true,
        handler: |_| get(routes::runpod::status_sync),
    },
    Route {
        methods: &["GET", "POST"],
        path: "/stream/{id}",
        meaning: "The progress since the last time: each chunk is handed out once.",
        v2: true,
        handler: |_| get(routes::runpod::stream).post(routes::runpod::stream),
    },
    Route {
        methods: &["POST"],
        path: "/cancel/{id}",
        meaning: "Call the job off, queued or running.",
        v2: true,
        handler: |_| post(routes::runpod::cancel),
    },
    Route {
        methods: &["POST"],
        path: "/retry/{id}",
        meaning: "Queue a job again that failed or ran out of time.",
        v2: true,
        handler: |_| post(routes::runpod::retry),
    },
    Route {
        methods: &["POST"],
        path: "/purge-queue",
        meaning: "Remove every queued job.",
        v2: true,
        handler: |_| post(routes::runpod::purge_queue),
    },
    Route {
        methods: &["GET"],
        path: "/requests",
        meaning: "Jobs, newest first: `?status=FAILED&limit=20`.",
        v2: true,
        handler: |_| get(routes::runpod::requests),
    },
    Route {
        methods: &["GET"],
        path: "/health",
        meaning: "Jobs by state, and where ComfyUI stands.",
        v2: true,
        handler: |_| get(routes::health::health),
    },
    Route {
        methods: &["GET"],
        path: "/events/{id}",
        meaning: "The job's progress as server-sent events; the last one, `status`, holds the answer.",
        v2: false,
        handler: |_| get(routes::events::events),
    },
    Route {
        methods: &["GET"],
        path: "/view",
        meaning: "The file that a result names: `?filename=&subfolder=&type=`.",
        v2: false,
        handler: |_| get(routes::view::view),
    },
    Route {
        methods: &["GET"],
        path: "/files/{job}/{index}/{name}",
        meaning: "A file of a job, by the link that an answer holds. The link's signature takes the place of a key.",
        v2: false,
        handler: |_| get(routes::files::file),
    },
    Route {
        methods: &["POST"],
        path: "/v1/images/generations",
        meaning: "OpenAI's Images API: pictures from text, or from text and `image`. JSON or a form; `stream` for events.",
        v2: false,
        handler: |_| post(routes::openai::generations),
    },
    Route {
        methods: &["POST"],
        path: "/v1/images/edits",
        meaning: "Pictures from one to three pictures and text, with `mask` only where that is transparent.",
        v2: false,
        handler: |_| post(routes::openai::edits),
    },
    Route {
        methods: &["POST"],
        path: "/v1/images/variations",
        meaning: "Pictures like a picture.",
        v2: false,
        handler: |_| post(routes::openai::variations),
    },
    Route {
        methods: &["GET"],
        path: "/v1/models",
        meaning: "The models that OpenAI's API takes.",
        v2: false,
        handler: |_| get(routes::openai::models),
    },
    Route {
        methods: &["POST"],
        path: "/api/v1/qwen/generate",
        meaning: "KIE's tasks: take one in and answer with its `taskId`.",
        v2: false,
        handler: |_| post(routes::kie::generate),
    },
    Route {
        methods: &["GET"],
        path: "/api/v1/qwen/record-info",
        meaning: "The task as it is: `?taskId=`.",
        v2: false,
        handler: |_| get(routes::kie::record_info),
    },
    Route {
        methods: &["GET"],
        path: "/edit",
        meaning: "The Edit Plus API: what it is. All of it is served at the root of `EDIT_PORT` too.",
        v2: false,
        handler: |_| get(routes::edit_plus::about),
    },
    Route {
        methods: &["POST"],
        path: "/edit/edit-image",
        meaning: "Edit one to three images, named by URL: answers with the job's id.",
        v2: false,
        handler: |_| post(routes::edit_plus::edit_image),
    },
    Route {
        methods: &["GET"],
        path: "/edit/status/{id}",
        meaning: "How far the job is, and where its picture is.",
        v2: false,
        handler: |_| get(routes::edit_plus::status),
    },
    Route {
        methods: &["GET"],
        path: "/edit/download/{id}",
        meaning: "The picture.",
        v2: false,
        handler: |_| get(routes::edit_plus::download),
    },
    Route {
        methods: &["GET"],
        path: "/edit/jobs",
        meaning: "The jobs of the Edit Plus API.",
        v2: false,
        handler: |_| get(routes::edit_plus::jobs),
    },
    Route {
        methods: &["DELETE"],
        path: "/edit/jobs/{id}",
        meaning: "Call the job off and remove it with its files.",
        v2: false,
        handler: |_| delete(routes::edit_plus::delete),
    },
    Route {
        methods: &["GET"],
        path: "/edit/debug/files",
        meaning: "The files in the output folder.",
        v2: false,
        handler: |_| get(routes::edit_plus::debug_files),
    },
    Route {
        methods: &["GET"],
        path: "/edit/debug/job/{id}",
        meaning: "Everything about one job.",
        v2: false,
        handler: |_| get(routes::edit_plus::debug_job),
    },
    Route {
        methods: &["GET"],
        path: PING,
        meaning: "The health check: 204 while ComfyUI starts, 200 when jobs can run, 503 when ComfyUI cannot be started or was suspended, and while the worker stops.",
        v2: false,
        handler: |_| get(routes::health::ping),
    },
    Route {
        methods: &["GET"],
        path: "/config",
        meaning: "Gradio: what a client asks for first, so `Client.connect(\"http://HOST:PORT\")` finds `/infer`.",
        v2: false,
        handler: |_| get(routes::gradio::config),
    },
    Route {
        methods: &["GET"],
        path: "/gradio_api/info",
        meaning: "Gradio: the parameters of `/infer`.",
        v2: false,
        handler: |_| get(routes::gradio::info),
    },
    Route {
        methods: &["GET"],
        path: "/gradio_api/heartbeat/{session_hash}",
        meaning: "Gradio: a stream that tells a client that the worker is alive.",
        v2: false,
        handler: |_| get(routes::gradio::heartbeat),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/queue/join",
        meaning: "Gradio: `{\"data\": [prompt, seed, …], \"session_hash\": …}` joins the queue; answers `event_id`, which is the job's id.",
        v2: false,
        handler: |_| post(routes::gradio::join),
    },
    Route {
        methods: &["GET"],
        path: "/gradio_api/queue/data",
        meaning: "Gradio: the events of a session, `?session_hash=`. A client that leaves cancels its jobs.",
        v2: false,
        handler: |_| get(routes::gradio::data),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/cancel",
        meaning: "Gradio: call an event off.",
        v2: false,
        handler: |_| post(routes::gradio::cancel),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/reset",
        meaning: "Gradio: what clients send after a cancel; there is nothing to do.",
        v2: false,
        handler: |_| post(routes::gradio::reset),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/call/infer",
        meaning: "Gradio, for curl: `{\"data\": [prompt, seed, …]}`; answers `event_id`.",
        v2: false,
        handler: |_| post(routes::gradio::call),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/call/v2/infer",
        meaning: "The same, with values by name: `{\"prompt\": …, \"seed\": …}`.",
        v2: false,
        handler: |_| post(routes::gradio::named_call),
    },
    Route {
        methods: &["GET"],
        path: "/gradio_api/call/infer/{event_id}",
        meaning: "Gradio, for curl: the result as a server-sent event.",
        v2: false,
        handler: |_| get(routes::gradio::call_result),
    },
];

impl Route {
    /// `GET, POST /status/{id}`
    fn name(&self) -> String {
        format!("{} {}", self.methods.join(", "), self.path)
    }
}

/// The routes as a Markdown table, as the README holds it.
pub fn routes_markdown() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("| route | what it does |\n| --- | --- |\n");
    for route in ROUTES {
        let _ = writeln!(text, "| `{}` | {} |", route.name(), route.meaning);
    }
    let only_root: Vec<String> = ROUTES
        .iter()
        .filter(|route| !route.v2)
        .map(|route| format!("`{}`", route.path))
        .collect();
    let _ = write!(
        text,
        "\nAll but {} are served under `{V2}` too, with any id, as RunPod's clients ask for them.\n",
        only_root.join(", ")
    );
    text
}

/// The server's routes and what surrounds them.
pub fn router(state: Arc<State>) -> Router {
    let mut router = Router::new();
    let health_check = Some(state.health_path.as_str()).filter(|path| *path != PING);
    for route in ROUTES {
        let gives_way = health_check == Some(route.path) && route.methods.contains(&"GET");
        if !gives_way {
            router = router.route(route.path, (route.handler)(Base::Root));
        }
        if route.path == EDIT {
            router = router.route("/edit/", (route.handler)(Base::Root));
        }
        if route.v2 {
            router = router.route(&format!("{V2}{}", route.path), (route.handler)(Base::V2));
        }
    }
    if let Some(path) = health_check {
        router = router.route(path, get(routes::health::ping));
    }
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            // The panic hook has logged it.
            error_response(&JobError::internal(
                "the worker stumbled over this request; the log has the reason",
            ))
        }))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&state),
            auth::require_key,
        ))
        .layer(axum::middleware::from_fn(errors::dress))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&state),
            log::log_request,
        ))
        .with_state(state)
}

/// The routes of a port for the health check alone.
pub fn health_router(state: Arc<State>) -> Router {
    Router::new()
        .route(&state.health_path, get(routes::health::ping))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&state),
            log::log_request,
        ))
        .with_state(state)
}

/// An error of ours as an answer: in RunPod's shape, until [`errors`] dresses it for its path.
pub(crate) fn error_response(error: &JobError) -> Response {
    let mut response = body::response(crate::dialect::runpod::render_error(error));
    response.extensions_mut().insert(errors::Behind(error.clone()));
    if matches!(error.kind, ErrorKind::Busy | ErrorKind::Stopping) {
        response.headers_mut().insert(
            axum::http::header::RETRY_AFTER,
            axum::http::HeaderValue::from_static("5"),
        );
    }
    response
}

async fn unknown_route(request: Request) -> Response {
    let own_port = request.extensions().get::<OwnPort>().is_some();
    let routes: Vec<String> = ROUTES
        .iter()
        .filter(|route| !own_port || route.path.starts_with(EDIT))
        .map(|route| {
            let path = if own_port { below(route.path) } else { route.path };
            format!("{} {path}", route.methods.join(", "))
        })
        .collect();
    let message = format!("There is no {} {}", request.method(), written_path(&request));
    let error = JobError::new(ErrorKind::NotFound, message).hint(format!("The routes are {}.", routes.join("; ")));
    error_response(&error)
}

async fn wrong_method(request: Request) -> Response {
    let matched = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", |path| path.as_str().trim_start_matches(V2));
    let route = ROUTES.iter().find(|route| route.path == matched);
    // A health check at a path of its own is not in the table.
    let methods = route.map_or_else(|| "GET".to_owned(), |route| route.methods.join(" or "));
    let path = written_path(&request);
    let error = JobError::invalid(format!("{path} takes {methods}, not {}", request.method()));
    let mut response = error_response(&error);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_route() {
        let page = include_str!("../../README.md");
        assert!(
            page.contains(&routes_markdown()),
            "README.md is out of date; its table must read:\n{}",
            routes_markdown()
        );
    }
}
