//! What is said in ComfyUI's place, in its own words, whatever the path.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::Passed;
use crate::comfy::client::ClientError;
use crate::dialect::comfyui;
use crate::error::{ErrorKind, JobError};

/// When to ask again, in seconds.
const LATER: HeaderValue = HeaderValue::from_static("5");

/// The routes of ComfyUI-Manager are closed.
pub(super) fn manager() -> Response {
    let error =
        JobError::invalid("ComfyUI-Manager's routes are closed on this worker: they install code from the internet");
    let hint =
        "CUSTOM_NODES installs node packs; COMFYUI_MANAGER=true opens these routes, on a machine that is yours alone.";
    with_status(StatusCode::FORBIDDEN, &error.hint(hint))
}

/// ComfyUI did not answer.
pub(super) fn unreachable(failed: &ClientError) -> JobError {
    tracing::debug!(error = %failed, "a request was not passed on");
    let error = JobError::new(ErrorKind::ComfyUnavailable, "ComfyUI did not answer the request");
    error.hint("It is started again where it has ended; send the request again later.")
}

/// An error as ComfyUI words it.
pub(super) fn answer(error: &JobError) -> Response {
    let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_status(status, error);
    if error.kind == ErrorKind::ComfyUnavailable {
        response.headers_mut().insert(header::RETRY_AFTER, LATER);
    }
    response
}

fn with_status(status: StatusCode, error: &JobError) -> Response {
    let mut response = comfyui::render_error(status.as_u16(), error).into_response();
    response.extensions_mut().insert(Passed);
    response
}
