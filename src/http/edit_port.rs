//! The Edit Plus API at the root of a port of its own.
//!
//! Comfy API v2 is served there too: its clients look for a ComfyUI of one's own on that port, unless they are told another.
//!
//! Its routes are served under [`EDIT`] with everything else. A request to its own port becomes one to that path, so
//! there is one table of routes, and one shape of errors.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::Response;
use tower::ServiceExt as _;

use super::router;
use super::state::State;
use crate::dialect::comfy_v2;

/// What stands before the API's paths beside all the others.
pub(super) const EDIT: &str = "/edit";

/// Marks a request to the API's own port.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnPort;

/// The routes of that port.
pub fn edit_router(state: Arc<State>) -> Router {
    let everything = router(state);
    Router::new().fallback(async move |mut request: Request| -> Response {
        if !comfy_v2::is_own(request.uri().path())
            && let Some(uri) = below_edit(request.uri())
        {
            *request.uri_mut() = uri;
        }
        request.extensions_mut().insert(OwnPort);
        let answer: Result<Response, Infallible> = everything.oneshot(request).await;
        let Ok(answer) = answer;
        answer
    })
}

/// The address with [`EDIT`] before its path.
fn below_edit(uri: &Uri) -> Option<Uri> {
    let path = match uri.path() {
        "/" => "",
        path => path,
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{EDIT}{path}{query}").parse().ok();
    Uri::from_parts(parts).ok()
}

/// The path as the client wrote it.
pub(super) fn written_path(request: &Request) -> &str {
    let path = request.uri().path();
    match request.extensions().get::<OwnPort>() {
        Some(OwnPort) => below(path),
        None => path,
    }
}

/// What follows [`EDIT`] in a path.
pub(super) fn below(path: &str) -> &str {
    match path.strip_prefix(EDIT) {
        Some("") => "/",
        Some(rest) => rest,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_path_goes_below_and_comes_back() {
        for (written, below) in [
            ("/", "/edit"),
            ("/?a=b", "/edit?a=b"),
            ("/status/x?a=b%20c", "/edit/status/x?a=b%20c"),
            ("/edit", "/edit/edit"),
            ("http://127.0.0.1:8189/jobs", "http://127.0.0.1:8189/edit/jobs"),
        ] {
            let written: Uri = written.parse().unwrap();
            let uri = below_edit(&written).unwrap();
            assert_eq!(uri, below);
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = uri;
            request.extensions_mut().insert(OwnPort);
            assert_eq!(written_path(&request), written.path());
        }
    }
}
