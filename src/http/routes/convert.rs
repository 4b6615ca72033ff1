//! `POST /convert`: the graph that ComfyUI's page would send of a workflow that it saved.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::routing;
use bytes::Bytes;

use super::{Answered, form};
use crate::dialect::runpod::{self, Conversion, ConversionBody, Workflow};
use crate::dialect::schema::{FORM, Operation, Schema};
use crate::error::JobError;
use crate::http::route::Route;
use crate::http::state::State;

/// `POST /convert`.
pub(in crate::http) const CONVERT: Route = Route::post(
    "/convert",
    "The graph in API format that ComfyUI's page would send of a workflow that it saved, without running it: the file, \
     `{\"workflow\", \"inputs\"}`, or a PNG, WebP, MP4 or WebM that holds one.",
    || {
        let operation = Operation::answers::<runpod::Converted>()
            .takes(runpod::conversion())
            .body(FORM, runpod::conversion_form());
        FILES.iter().fold(operation, |operation, media_type| {
            operation.body(media_type, Schema::file())
        })
    },
    |_| routing::post(convert),
);

/// The media types of files that hold workflows.
const FILES: [&str; 4] = ["image/png", "image/webp", "video/mp4", "video/webm"];

/// What a body is, its first bytes tell; only a form is told by its content type.
async fn convert(Shared(state): Shared<Arc<State>>, headers: HeaderMap, request: Body) -> Answered {
    let received = state.bodies.read(&headers, request).await?;
    let received = received.and_then(async |bytes| read(&headers, bytes).await).await?;
    let conversion = state.bodies.parsed(received, runpod::parse_conversion).await?;
    let Conversion { workflow, mut warnings } = conversion;
    let graph = match workflow {
        Workflow::Graph(graph) => graph,
        Workflow::Saved(saved) => {
            let converted = state.executor().convert(saved).await?;
            warnings.extend(converted.warnings);
            converted.graph
        }
    };
    Ok(runpod::converted(&graph, &warnings))
}

async fn read(headers: &HeaderMap, bytes: Bytes) -> Result<ConversionBody, JobError> {
    match form::kind(headers) {
        Some(kind) => Ok(ConversionBody::Form(form::parts(kind, bytes).await?)),
        None => Ok(ConversionBody::Whole(bytes)),
    }
}
