//! `GET /openapi.json`, `GET /docs` and the way there: what the routes are.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};

use crate::http::route::DOCS;
use crate::http::{State, body};

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
