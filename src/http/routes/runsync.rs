//! `POST /runsync`: one job, answered when it is over.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;

use crate::dialect::runpod;
use crate::error::JobError;
use crate::http::{State, body, error_response};
use crate::job::JobRequest;
use crate::queue::Place;

/// Bodies of at least this many bytes are read on a blocking thread: they hold images to decode.
const LARGE: usize = 128 * 1024;

/// Runs one job. The content type does not matter: curl's `-d` sends another than JSON's.
pub async fn runsync(Shared(state): Shared<Arc<State>>, headers: HeaderMap, request: Body) -> Response {
    match accept(&state, &headers, request).await {
        Ok((place, request)) => body::response(runpod::render(&state.queue.submit(place, request).report().await)),
        Err(error) => error_response(&error),
    }
}

async fn accept(state: &State, headers: &HeaderMap, request: Body) -> Result<(Place, JobRequest), JobError> {
    let place = state.queue.place()?;
    let bytes = body::read(headers, request, state.max_body_bytes).await?;
    Ok((place, parse(bytes).await?))
}

async fn parse(bytes: Bytes) -> Result<JobRequest, JobError> {
    if bytes.len() < LARGE {
        return runpod::parse(&bytes);
    }
    let parsed = tokio::task::spawn_blocking(move || runpod::parse(&bytes)).await;
    parsed.map_err(|error| JobError::internal(format!("the request could not be read: {error}")))?
}
