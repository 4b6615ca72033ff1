//! Our HTTP server: one route table, errors in one shape, one log line a request.

mod body;
mod log;
pub mod routes;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::comfy::Comfy;
use crate::error::{ErrorKind, JobError};
use crate::queue::Queue;

/// What the routes share.
#[derive(Debug)]
pub struct State {
    /// Jobs in hand.
    pub queue: Queue,
    /// The ComfyUI they run on.
    pub comfy: Comfy,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// What every result warns of; shown by `/health` too.
    pub warnings: Vec<String>,
}

/// A route, for the table and for its documentation.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The HTTP method.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    /// What it does.
    pub meaning: &'static str,
    handler: fn() -> MethodRouter<Arc<State>>,
}

/// Every route we serve.
pub const ROUTES: &[Route] = &[
    Route {
        method: "POST",
        path: "/runsync",
        meaning: "Run one job and answer with its result: `{\"input\": {\"workflow\": …}}` or `{\"input\": {\"prompt\": …}}`.",
        handler: || post(routes::runsync::runsync),
    },
    Route {
        method: "GET",
        path: "/view",
        meaning: "The file that a result names: `?filename=&subfolder=&type=`.",
        handler: || get(routes::view::view),
    },
    Route {
        method: "GET",
        path: "/ping",
        meaning: "204 while ComfyUI starts, 200 when jobs can run, 503 when ComfyUI cannot be started.",
        handler: || get(routes::health::ping),
    },
    Route {
        method: "GET",
        path: "/health",
        meaning: "Jobs by state, and where ComfyUI stands.",
        handler: || get(routes::health::health),
    },
];

/// The routes as a Markdown table, as the README holds it.
pub fn routes_markdown() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("| route | what it does |\n| --- | --- |\n");
    for Route {
        method, path, meaning, ..
    } in ROUTES
    {
        let _ = writeln!(text, "| `{method} {path}` | {meaning} |");
    }
    text
}

/// The server's routes and what surrounds them.
pub fn router(state: Arc<State>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, (route.handler)());
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
        .layer(axum::middleware::from_fn(log::log_request))
        .with_state(state)
}

/// An error of ours as an answer.
pub(crate) fn error_response(error: &JobError) -> Response {
    let mut response = body::response(crate::dialect::runpod::render_error(error));
    if error.kind == ErrorKind::Busy {
        response.headers_mut().insert(
            axum::http::header::RETRY_AFTER,
            axum::http::HeaderValue::from_static("5"),
        );
    }
    response
}

async fn unknown_route(request: Request) -> Response {
    let routes: Vec<String> = ROUTES
        .iter()
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    let message = format!("There is no {} {}", request.method(), request.uri().path());
    error_response(&JobError::new(ErrorKind::NotFound, message).hint(format!("The routes are {}.", routes.join(", "))))
}

async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    let methods: Vec<&str> = ROUTES
        .iter()
        .filter(|route| route.path == path)
        .map(|route| route.method)
        .collect();
    let error = JobError::invalid(format!("{path} takes {}, not {}", methods.join(", "), request.method()));
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
