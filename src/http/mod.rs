//! Our HTTP server: one route table, errors in one shape, one log line a request.

pub mod auth;
mod body;
mod cookies;
mod cors;
mod edit_port;
mod errors;
mod log;
mod multipart;
pub mod openapi;
mod pass;
mod paths;
mod route;
pub mod routes;
pub mod server;
pub mod sessions;
mod state;
mod table;
mod visitors;
mod websocket;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;

use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use edit_port::written_path;
use route::{API, SCRIPT};
use table::Served;

pub use body::Bodies;
pub use edit_port::edit_router;
pub use route::{Base, DOCS, DOCUMENT, METRICS, PING, Route, V2};
pub use routes::metrics::metrics_router;
pub use state::State;
pub use table::every_route;

/// The server's routes and what surrounds them.
pub fn router(state: Arc<State>) -> Router {
    let lenient_state = Arc::clone(&state);
    let mut table = Router::new();
    for Served { path, base, route } in table::served(&state.http.health_path) {
        table = table.route(&path, (route.handler)(base));
    }
    // A part of the page, not a route of the API. A health check may have any path.
    if state.http.health_path != SCRIPT {
        table = table.route(SCRIPT, get(routes::docs::script));
    }
    if state.page && state.http.health_path != pass::WAITING_SCRIPT {
        table = table.route(pass::WAITING_SCRIPT, get(pass::waiting_script));
    }
    for part in routes::play::PARTS {
        if state.http.health_path != part.path {
            table = table.route(part.path, get(async move |headers: HeaderMap| part.answer(&headers)));
        }
    }
    let routes = table
        .fallback(unrouted)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            // The panic hook has logged it.
            JobError::internal("the worker stumbled over this request; the log has the reason").into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(&state), visitors::know_visitor))
        .layer(from_fn_with_state(Arc::clone(&state), auth::require_key))
        .layer(from_fn_with_state(Arc::clone(&state), cors::refuse_strangers))
        .layer(from_fn(paths::refuse_unclear))
        .layer(from_fn(cors::refuse_unclear))
        .layer(from_fn(errors::render_errors))
        .layer(cors::layer(&state))
        .layer(from_fn(body::drain_body))
        .layer(from_fn_with_state(Arc::clone(&state), log::log_request))
        .with_state(state);
    paths::lenient(routes, &lenient_state)
}

/// The routes of a port for the health check alone.
pub fn health_router(state: Arc<State>) -> Router {
    let lenient_state = Arc::clone(&state);
    let routes = Router::new()
        .route(&state.http.health_path, get(routes::health::ping))
        .layer(from_fn(cors::refuse_unclear))
        .layer(from_fn_with_state(Arc::clone(&state), log::log_request))
        .with_state(state);
    paths::lenient(routes, &lenient_state)
}

/// What is no route of ours may be one of ComfyUI's.
async fn unrouted(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, JobError> {
    pass::fall_through(&state, request).await
}

/// There is no such route. `own_port`: on the port of the Edit Plus API.
fn unknown(method: &Method, path: &str, own_port: bool) -> JobError {
    let message = format!("There is no {} {}", cut(method.as_str()), cut(path));
    JobError::new(ErrorKind::NotFound, message).hint(paths::hint(path, own_port))
}

async fn wrong_method(request: Request) -> (StatusCode, JobError) {
    let matched = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", |path| path.as_str().trim_start_matches(V2));
    let is_meant =
        |route: &&Route| route.path == matched || (route.api && matched.strip_prefix(API) == Some(route.path));
    let methods = every_route().filter(is_meant).flat_map(|route| route.methods);
    let mut methods = methods.copied().collect::<Vec<_>>().join(" or ");
    if methods.is_empty() {
        // A health check at a path of its own is not in the table.
        methods.push_str("GET");
    }
    let path = cut(written_path(&request));
    let method = cut(request.method().as_str());
    let error = JobError::invalid(format!("{path} takes {methods}, not {method}"));
    (StatusCode::METHOD_NOT_ALLOWED, error)
}
