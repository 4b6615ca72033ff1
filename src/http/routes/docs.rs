//! `GET /openapi.json`, `GET /docs` and the way there: what the routes are.
//!
//! The page is Scalar's (<https://github.com/scalar/scalar>): it shows the document, and sends what it shows as examples.

use std::sync::{Arc, LazyLock};

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing;
use sha2::{Digest as _, Sha256};

use crate::dialect::answer::Answer;
use crate::dialect::schema::{JSON, Operation, Schema};
use crate::http::route::{self, DOCS, Route};
use crate::http::state::State;
use crate::http::{openapi, pass};

/// `GET /`.
pub(in crate::http) const ROOT: Route = Route::get(
    route::ROOT,
    "ComfyUI's own page; without it (COMFYUI_PAGE), leads to `/play`.",
    || {
        Operation::default()
            .reply(200, "ComfyUI's page.", "text/html", Schema::text())
            .empty_reply(303, "Where the page for people is.")
    },
    |_| routing::get(root),
);

/// `GET /openapi.json`.
pub(in crate::http) const DOCUMENT: Route = Route::get(
    route::DOCUMENT,
    "These routes as an OpenAPI 3.1 document.",
    || Operation::default().reply(200, "This document.", JSON, Schema::object()),
    |_| routing::get(document),
);

/// `GET /docs`.
pub(in crate::http) const PAGE: Route = Route::get(
    DOCS,
    "The same as a page for people.",
    || Operation::default().reply(200, "The page.", "text/html", Schema::text()),
    |_| routing::get(page),
);

/// The page for people, from the root.
const PLAY: &str = "play";
/// What the page may load: its script, with the styles and pictures that it holds, and what this server answers.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' blob: data:; media-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";
/// How long a browser keeps the script without asking.
const KEPT: &str = "public, max-age=3600";

async fn document(Shared(state): Shared<Arc<State>>) -> Answer {
    let make = || {
        Answer::json(
            200,
            &openapi::document(&state.http.health_path, state.api_keys.are_set()),
        )
    };
    state.document.get_or_init(make).clone()
}

async fn root(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    if state.page {
        return pass::pass(&state, request).await;
    }
    // Relative, since a proxy may serve us below a folder.
    (StatusCode::SEE_OTHER, [(header::LOCATION, PLAY)]).into_response()
}

async fn page() -> Response {
    let page = Html(include_str!("docs.html"));
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], page).into_response()
}

/// `GET /docs/scalar.js`: the page's script, packed, which every browser takes.
pub async fn script(headers: HeaderMap) -> Response {
    static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/scalar.js.gz"));
    static ETAG: LazyLock<String> = LazyLock::new(|| format!("\"{}\"", hex::encode(Sha256::digest(PACKED))));
    let kept = [(header::ETAG, ETAG.as_str()), (header::CACHE_CONTROL, KEPT)];
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known == ETAG.as_str())
    {
        return (StatusCode::NOT_MODIFIED, kept).into_response();
    }
    let form = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CONTENT_ENCODING, "gzip"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (kept, form, PACKED).into_response()
}
