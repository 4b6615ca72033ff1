//! `GET /files/{job}/{index}/{name}`: a file of a job, for whoever has its link.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing;
use serde::Deserialize;

use super::view;
use crate::delivery::links::BadLink;
use crate::dialect::schema::{Operation, Schema};
use crate::error::{ErrorKind, JobError};
use crate::http::route::{GET, Route};
use crate::http::{State, error_response};
use crate::job::OutputFile;

/// `GET /files/{job}/{index}/{name}`.
pub(in crate::http) const FILE: Route = Route::new(
    GET,
    "/files/{job}/{index}/{name}",
    "A file of a job, by the link that an answer holds. The link's signature takes the place of a key.",
    || {
        let until = Schema::count().means("Until when the link works, in seconds since 1970.");
        Operation::default()
            .needs("expires", until)
            .needs("signature", Schema::text())
            .reply(200, "The file.", "*/*", Schema::file())
    },
    |_| routing::get(file),
);

/// What signs a link.
#[derive(Debug, Deserialize)]
pub struct Signed {
    #[serde(default)]
    expires: u64,
    #[serde(default)]
    signature: String,
}

/// Sends the file. 404: the link is none of ours; 410: it was, and its time is over.
pub async fn file(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    path: Result<Path<(String, String, String)>, PathRejection>,
    signed: Result<Query<Signed>, QueryRejection>,
) -> Response {
    let (Ok(Path((job, index, name))), Ok(Query(signed))) = (path, signed) else {
        return wrong(BadLink::Wrong);
    };
    let Ok(index) = index.parse() else {
        return wrong(BadLink::Wrong);
    };
    let checked = state
        .file_links
        .check(&job, index, &name, signed.expires, &signed.signature, SystemTime::now());
    if let Err(bad) = checked {
        return wrong(bad);
    }
    let Some(file) = find(&state, &job, index, &name).await else {
        return gone("The file is no longer kept");
    };
    match send(&state, &headers, &file).await {
        Ok(response) => response,
        Err(error) if error.kind == ErrorKind::NotFound => gone("The file is no longer there"),
        Err(error) => error_response(&error),
    }
}

async fn find(state: &State, job: &str, index: usize, name: &str) -> Option<OutputFile> {
    let view = state.queue.view(job).await.ok()?;
    let outcome = view.result?.ok()?;
    let file = outcome.wanted().nth(index)?;
    (file.filename == name).then(|| file.clone())
}

pub(super) async fn send(state: &State, headers: &HeaderMap, file: &OutputFile) -> Result<Response, JobError> {
    if let Some(folders) = state.comfy.folders() {
        return view::from_disk(folders, headers, file.folder, &file.subfolder, &file.filename).await;
    }
    let content = state.queue.content(file).await?;
    let mut response = Response::new(Body::from(content));
    view::describe(
        response.headers_mut(),
        view::media_type(std::path::Path::new(&file.filename)),
    );
    Ok(response)
}

fn wrong(bad: BadLink) -> Response {
    match bad {
        BadLink::Wrong => {
            let error = JobError::new(ErrorKind::NotFound, format!("There is no such file: {bad}"));
            error_response(&error.hint("Use the URL as the answer holds it, with its whole query."))
        }
        BadLink::Expired => gone("The link has expired"),
    }
}

fn gone(message: &str) -> Response {
    let error = JobError::new(ErrorKind::NotFound, message);
    let mut response = error_response(&error.hint("Ask for the picture again; save it while its link works."));
    *response.status_mut() = StatusCode::GONE;
    response
}
