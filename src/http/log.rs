//! Request ids, and one log line a request.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::pass::Passed;
use super::route::METRICS;
use super::state::State;
use crate::telemetry::traces;

/// The id of a request, in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

const REQUEST_ID: &str = "x-request-id";
/// The longest id of a client's that we take over, in bytes.
const LONGEST_ID: usize = 128;

/// Gives the request an id (the client's, if it sent a decent one), returns it, and logs one line at the end.
pub(super) async fn log_request(Shared(state): Shared<Arc<State>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    // The matched path, so that nothing of a user's URL gets into the log.
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unknown route", MatchedPath::as_str)
        .to_owned();
    let id_text = id.to_str().unwrap_or_default().to_owned();
    request.extensions_mut().insert(RequestId(id_text.clone()));
    let span = tracing::info_span!("request", request.id = id_text);
    let traceparent = traceparent(request.headers());
    let answered = next.run(request).instrument(span);
    let mut response = traces::within(traceparent, answered).await;
    response.headers_mut().insert(REQUEST_ID, id);
    let (status, duration_ms) = (response.status().as_u16(), begun.elapsed().as_millis());
    let is_passed = response.extensions().get::<Passed>().is_some();
    // Nothing of its path is ours to tell.
    let path = if is_passed { "comfyui" } else { path.as_str() };
    let is_look = is_passed && matches!(method, Method::GET | Method::HEAD) && status < 400;
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                request.id = id_text,
                http.status = status,
                duration_ms,
                "{method} {path} {status} in {duration_ms} ms"
            )
        };
    }
    // Health checks and scrapes come every few seconds, and a page has a hundred parts.
    if is_look || state.is_health_check(path) || path.ends_with("/health") || path == METRICS {
        log!(debug);
    } else {
        log!(info);
    }
    response
}

/// The span of somebody else's trace that a request names; two of them name none.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut given = headers.get_all(traces::HEADER).iter();
    let only = given.next().filter(|_| given.next().is_none())?;
    traces::parse(only.to_str().ok()?)
}

fn request_id(request: &Request) -> HeaderValue {
    let theirs = request.headers().get(REQUEST_ID);
    let decent = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= LONGEST_ID
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
    };
    if let Some(theirs) = theirs.filter(decent) {
        return theirs.clone();
    }
    HeaderValue::from_str(&uuid::Uuid::now_v7().to_string()).unwrap_or_else(|_| HeaderValue::from_static("none"))
}
