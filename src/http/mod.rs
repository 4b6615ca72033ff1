//! Our HTTP server: one route table, errors in one shape, one log line a request.

pub mod auth;
mod body;
mod cors;
mod edit_port;
mod errors;
mod host;
mod leave;
mod log;
pub mod openapi;
mod origin;
mod paths;
mod rest;
mod route;
pub mod routes;
pub mod server;
mod sse;
mod table;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use url::Url;

use crate::comfy::Comfy;
use crate::config::{Origins, ReturnImagesAs};
use crate::delivery::links::FileLinks;
use crate::dialect::answer::Answer;
use crate::dialect::links::Links;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::models::Models;
use crate::net::guard::AddressGuard;
use crate::queue::Queue;
use edit_port::{OwnPort, written_path};
use table::Served;

pub use body::Bodies;
pub use edit_port::edit_router;
pub use route::{Base, DOCS, DOCUMENT, PING, Route, V2};
pub use table::{every_route, routes_markdown};

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
    /// The bodies of all requests.
    pub bodies: Bodies,
    /// The Gradio dialect's sessions and quotas.
    pub gradio: routes::gradio::Gradio,
    /// What the routes are, as an `OpenAPI` document.
    pub document: Answer,
    /// What every result warns of; shown by `/health` too.
    pub warnings: Vec<String>,
    /// Makes links to files, and knows them again.
    pub file_links: FileLinks,
    /// Where clients see this server, if it is configured.
    pub public_url: Option<Url>,
    /// The pages that may use the API from a browser.
    pub cors_origins: Origins,
    /// Whether nobody but this machine can connect.
    pub is_local: bool,
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

/// The server's routes and what surrounds them.
pub fn router(state: Arc<State>) -> Router {
    let lenient_state = Arc::clone(&state);
    let mut table = Router::new();
    for Served { path, base, route } in table::served(&state.health_path) {
        table = table.route(&path, (route.handler)(base));
    }
    let routes = table
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
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&state),
            cors::refuse_strangers,
        ))
        .layer(axum::middleware::from_fn(host::refuse_unclear))
        .layer(axum::middleware::from_fn(errors::dress))
        .layer(cors::layer(&state))
        .layer(axum::middleware::from_fn(rest::read_rest))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&state),
            log::log_request,
        ))
        .with_state(state);
    paths::lenient(routes, &lenient_state)
}

/// The routes of a port for the health check alone.
pub fn health_router(state: Arc<State>) -> Router {
    let lenient_state = Arc::clone(&state);
    let routes = Router::new()
        .route(&state.health_path, get(routes::health::ping))
        .layer(axum::middleware::from_fn(host::refuse_unclear))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&state),
            log::log_request,
        ))
        .with_state(state);
    paths::lenient(routes, &lenient_state)
}

/// An error of ours as an answer: in RunPod's shape, until [`errors`] dresses it for its path.
pub(crate) fn error_response(error: &JobError) -> Response {
    let mut response = body::response(crate::dialect::runpod::render_error(error));
    response.extensions_mut().insert(errors::Behind(error.clone()));
    if matches!(
        error.kind,
        ErrorKind::Busy | ErrorKind::Stopping | ErrorKind::StoreUnavailable | ErrorKind::ComfyUnavailable
    ) {
        response.headers_mut().insert(
            axum::http::header::RETRY_AFTER,
            axum::http::HeaderValue::from_static("5"),
        );
    }
    response
}

async fn unknown_route(request: Request) -> Response {
    let own_port = request.extensions().get::<OwnPort>().is_some();
    let path = written_path(&request);
    let message = format!("There is no {} {}", cut(request.method().as_str()), cut(path));
    let error = JobError::new(ErrorKind::NotFound, message).hint(paths::hint(path, own_port));
    error_response(&error)
}

async fn wrong_method(request: Request) -> Response {
    let matched = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", |path| path.as_str().trim_start_matches(V2));
    let route = every_route().find(|route| route.path == matched);
    // A health check at a path of its own is not in the table.
    let methods = route.map_or_else(|| "GET".to_owned(), |route| route.methods.join(" or "));
    let path = cut(written_path(&request));
    let method = cut(request.method().as_str());
    let error = JobError::invalid(format!("{path} takes {methods}, not {method}"));
    let mut response = error_response(&error);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}
