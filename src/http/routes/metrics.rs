//! `GET /metrics`: what Prometheus reads.
//!
//! It tells how much is done here and by which templates, which is nothing for strangers: on the port of everything it is for this
//! machine and for those who bring a key. Who needs neither sets `METRICS_PORT`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Extension, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
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

/// What a proxy says that passes requests of others on, and how other such names begin. They are no requests of this machine,
/// whatever their connection is.
const PASSED_ON: [&str; 5] = ["forwarded", "via", "x-real-ip", "cf-connecting-ip", "x-forwarded-"];

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
    if !state.api_keys.are_set() {
        let is_ours = peer.is_some_and(|Extension(ConnectInfo(peer))| peer.ip().to_canonical().is_loopback());
        if is_ours && is_of_this_machine(&headers) {
            return open(Shared(state)).await;
        }
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

/// Whether a request that comes from this machine was made there: no proxy passed it on, and no page of another site had a browser
/// send it.
fn is_of_this_machine(headers: &HeaderMap) -> bool {
    let is_passed_on = |name: &str| {
        let mut known = PASSED_ON.iter();
        known.any(|known| name == *known || known.ends_with('-') && name.starts_with(known))
    };
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let is_of_a_page = headers.contains_key(header::ORIGIN) || site.is_some_and(|site| site != b"none");
    !is_of_a_page && !headers.keys().any(|name| is_passed_on(name.as_str()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_sent_is_not_of_this_machine() {
        let of = |name: &'static str, value: &'static str| {
            let headers = [(name, value)].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            is_of_this_machine(&headers.into_iter().collect())
        };
        assert!(is_of_this_machine(&HeaderMap::new()));
        assert!(of("host", "localhost:8188") && of("sec-fetch-site", "none"));
        for (name, value) in [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "api.example.com"),
            ("x-real-ip", "192.0.2.1"),
            ("via", "1.1 proxy"),
            ("forwarded", "for=192.0.2.1"),
            ("cf-connecting-ip", "192.0.2.1"),
            ("origin", "https://example.com"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert!(!of(name, value), "{name}");
        }
    }
}
