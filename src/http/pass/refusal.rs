//! What is said in ComfyUI's place, in its own words: `error` with a type, a message and details.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::Passed;
use crate::comfy::client::ClientError;
use crate::error::{ErrorKind, JobError};

/// When to ask again, in seconds.
const LATER: HeaderValue = HeaderValue::from_static("5");

/// The routes of ComfyUI-Manager are closed.
pub(super) fn manager() -> Response {
    let message = "ComfyUI-Manager's routes are closed on this worker, as they install code from the internet";
    let details =
        "CUSTOM_NODES installs node packs; COMFYUI_MANAGER=true opens these routes, on a machine that is yours alone.";
    refused(StatusCode::FORBIDDEN, "manager_closed", message, details)
}

/// An error in these words.
pub(super) fn error(error: &JobError) -> Response {
    let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = serde_json::to_value(error.kind).unwrap_or_default();
    let kind = kind.as_str().unwrap_or("error");
    let mut response = refused(status, kind, &error.message, error.hint.as_deref().unwrap_or_default());
    if error.kind == ErrorKind::ComfyUnavailable {
        response.headers_mut().insert(header::RETRY_AFTER, LATER);
    }
    response
}

/// ComfyUI did not answer.
pub(super) fn unreachable(failed: &ClientError) -> Response {
    tracing::debug!(error = %failed, "a request was not passed on");
    let unavailable = JobError::new(ErrorKind::ComfyUnavailable, "ComfyUI did not answer the request");
    error(&unavailable.hint("It is started again where it has ended; send the request again later."))
}

fn refused(status: StatusCode, kind: &str, message: &str, details: &str) -> Response {
    let body = json!({
        "error": {"type": kind, "message": message, "details": details, "extra_info": {}},
        "node_errors": {},
    });
    (status, Extension(Passed), Json(body)).into_response()
}
