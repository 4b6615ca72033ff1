//! `GET /metrics`: what Prometheus reads.
//!
//! It tells how much is done here and by which templates, which is nothing for strangers: on the port of everything it is for this
//! machine and for those who bring a key. Who needs neither sets `METRICS_PORT`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Extension, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing;

use crate::dialect::schema::{JSON, Operation, Schema};
use crate::error::JobError;
use crate::http::route::{self, Route};
use crate::http::routes::health;
use crate::http::state::State;
use crate::http::{cors, log, paths};
use crate::telemetry::metrics::{Now, TEXT, metrics};

/// `GET /metrics`.
pub(in crate::http) const METRICS: Route = Route::get(
    route::METRICS,
    "What is measured, as Prometheus reads it: for this machine, for those who bring a key, and without either on `METRICS_PORT`.",
    || {
        Operation::default()
            .reply(
                200,
                "The metrics in Prometheus' text format.",
                "text/plain",
                Schema::text(),
            )
            .reply(401, "The request brings no key of API_KEY.", JSON, Schema::object())
            .reply(
                403,
                "It is from another machine, and no API_KEY is set.",
                JSON,
                Schema::object(),
            )
    },
    |_| routing::get(guarded),
);

/// What a proxy says that passes requests of others on. They are no requests of this machine, whatever their connection is.
const PASSED_ON: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

/// The routes of a port for the metrics alone.
pub fn metrics_router(state: Arc<State>) -> Router {
    let lenient_state = Arc::clone(&state);
    let routes = Router::new()
        .route(route::METRICS, routing::get(open))
        .layer(from_fn(cors::refuse_unclear))
        .layer(from_fn_with_state(Arc::clone(&state), log::log_request))
        .with_state(state);
    paths::lenient(routes, &lenient_state)
}

async fn guarded(
    Shared(state): Shared<Arc<State>>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
) -> Response {
    let is_ours = peer.is_some_and(|Extension(ConnectInfo(peer))| peer.ip().to_canonical().is_loopback());
    let is_passed_on = PASSED_ON.iter().any(|name| headers.contains_key(*name));
    if is_ours && !is_passed_on {
        return open(Shared(state)).await;
    }
    if !state.api_keys.are_set() {
        let error = JobError::invalid("The metrics are for this machine alone while no API_KEY is set");
        let error = error.hint(
            "Set METRICS_PORT, and let Prometheus ask there; or API_KEY, and let it send `Authorization: Bearer KEY`.",
        );
        return (StatusCode::FORBIDDEN, error).into_response();
    }
    match state.api_keys.admit(&headers, None) {
        Ok(_) => open(Shared(state)).await,
        Err(reason) => {
            let error = JobError::invalid(reason).hint(
                "Send `Authorization: Bearer KEY` with one of the keys of API_KEY, or set METRICS_PORT and ask there.",
            );
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
        }
    }
}

async fn open(Shared(state): Shared<Arc<State>>) -> Response {
    let ready = health::ping(Shared(Arc::clone(&state))).await.status() == StatusCode::OK;
    let (waiting, running) = state.queue.counts_of_jobs();
    let text = metrics().text(Now {
        waiting,
        running,
        limit: state.queue.limit(),
        ready,
        uptime: state.comfy.clock().elapsed(),
    });
    let headers = [(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, "no-store")];
    (headers, text).into_response()
}
