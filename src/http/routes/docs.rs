//! `GET /openapi.json` and `GET /docs`: what the routes are.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::header;
use axum::response::{Html, IntoResponse as _, Response};

use crate::http::{State, openapi};

/// What the page may load: what stands in it, and the document.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";

/// `GET /openapi.json`: the document.
pub async fn document(Shared(state): Shared<Arc<State>>) -> Response {
    Json(openapi::document(&state.health_path, state.api_keys.are_set())).into_response()
}

/// `GET /docs`: the document for people.
pub async fn page() -> Response {
    let page = Html(include_str!("docs.html"));
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], page).into_response()
}
