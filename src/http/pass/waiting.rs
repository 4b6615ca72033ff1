//! What is answered while there is no ComfyUI: an error to programs, a page that waits to people.

use axum::extract::Request;
use axum::http::header::{self, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{Html, IntoResponse as _, Response};

use super::Passed;
use crate::comfy::ComfyState;
use crate::error::{ErrorKind, JobError};
use crate::http::paths::EndsWithSlash;
use crate::http::state::State;

/// The script of the page, beside that of the documentation.
pub(in crate::http) const SCRIPT: &str = "/docs/waiting.js";

/// What the page may do: run its script, and ask this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";
/// Where the page names its script.
const SCRIPT_PLACE: &str = "{script}";

/// Why no request can be passed on.
pub(super) async fn reason(state: &State) -> JobError {
    let message = match state.comfy.state().await {
        ComfyState::Elsewhere => {
            return match state.comfy.connection().await {
                Err(error) => error,
                Ok(_) => JobError::internal("there is a ComfyUI after all"),
            };
        }
        ComfyState::Failed { reason } => format!("ComfyUI cannot be started: {reason}"),
        ComfyState::Suspended { .. } => "ComfyUI was stopped from outside".to_owned(),
        ComfyState::Stopping => "The worker stops".to_owned(),
        ComfyState::Starting | ComfyState::Ready { .. } => "ComfyUI is being installed or started".to_owned(),
    };
    let error = JobError::new(ErrorKind::ComfyUnavailable, message);
    error.hint("Send the request again later; /health says how far it is.")
}

/// The page that waits; [`None`]: no person asks.
pub(super) fn page_for(request: &Request) -> Option<Response> {
    let accepted = request.headers().get(header::ACCEPT)?.as_bytes();
    let is_person = request.method() == Method::GET && memchr::memmem::find(accepted, b"text/html").is_some();
    let path = request.uri().path();
    let ends_with_slash = path != "/" && request.extensions().get::<EndsWithSlash>().is_some();
    is_person.then(|| page(path.matches('/').count() + usize::from(ends_with_slash)))
}

/// The page, for a path with so many slashes.
fn page(slashes: usize) -> Response {
    // Relative, since a proxy may serve us below a folder.
    let up = "../".repeat(slashes.saturating_sub(1));
    let page = include_str!("waiting.html").replace(SCRIPT_PLACE, &format!("{up}{}", SCRIPT.trim_start_matches('/')));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::RETRY_AFTER, HeaderValue::from_static("5")),
    ];
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, headers, Html(page)).into_response();
    response.extensions_mut().insert(Passed);
    response
}

/// `GET /docs/waiting.js`.
pub(in crate::http) async fn script() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, include_str!("waiting.js")).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};

    use super::*;

    #[tokio::test]
    async fn the_page_finds_its_script_from_every_path() {
        for (path, ends_with_slash, script) in [
            ("/", true, "docs/waiting.js"),
            ("/a", false, "docs/waiting.js"),
            ("/a", true, "../docs/waiting.js"),
            ("/a/b", false, "../docs/waiting.js"),
            ("/a/b", true, "../../docs/waiting.js"),
        ] {
            let asked = Request::builder().uri(path).header("accept", "text/html");
            let mut request = asked.body(Body::empty()).unwrap();
            if ends_with_slash {
                request.extensions_mut().insert(EndsWithSlash);
            }
            let page = page_for(&request).unwrap();
            let page = to_bytes(page.into_body(), usize::MAX).await.unwrap();
            let named = format!("src=\"{script}\"");
            assert!(String::from_utf8(page.to_vec()).unwrap().contains(&named), "{path}");
        }
    }
}
