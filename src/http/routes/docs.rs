//! `GET /openapi.json`, `GET /docs` and the way there: what the routes are.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing;

use crate::dialect::schema::{JSON, Operation, Schema};
use crate::http::route::{self, DOCS, GET, Route};
use crate::http::{State, body};

/// `GET /`.
pub(in crate::http) const ROOT: Route = Route::new(
    GET,
    route::ROOT,
    "Leads to `/docs`.",
    || Operation::default().empty_reply(303, "The page."),
    |_| routing::get(root),
);

/// `GET /openapi.json`.
pub(in crate::http) const DOCUMENT: Route = Route::new(
    GET,
    route::DOCUMENT,
    "These routes as an OpenAPI 3.1 document.",
    || Operation::default().reply(200, "This document.", JSON, Schema::object()),
    |_| routing::get(document),
);

/// `GET /docs`.
pub(in crate::http) const PAGE: Route = Route::new(
    GET,
    DOCS,
    "The same as a page for people.",
    || Operation::default().reply(200, "The page.", "text/html", Schema::text()),
    |_| routing::get(page),
);

/// What the page may load: what stands in it, and the document.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";

/// `GET /openapi.json`: the document.
pub async fn document(Shared(state): Shared<Arc<State>>) -> Response {
    body::response(state.document.clone())
}

/// `GET /`: leads whoever opens the address in a browser to the page.
pub async fn root() -> Response {
    // Relative, since a proxy may serve us below a folder.
    (
        StatusCode::SEE_OTHER,
        [(header::LOCATION, DOCS.trim_start_matches('/'))],
    )
        .into_response()
}

/// `GET /docs`: the document for people.
pub async fn page() -> Response {
    let page = Html(include_str!("docs.html"));
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], page).into_response()
}
