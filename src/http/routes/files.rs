//! Files: `GET /view`, the one that a result names, under ComfyUI's own route and parameters; and
//! `GET /files/{job}/{index}/{name}`, for whoever has its link.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path as InPath, Query, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use serde::Deserialize;
use tokio_util::io::ReaderStream;

use crate::comfy::client::ClientError;
use crate::comfy::{Comfy, Folders};
use crate::delivery::links::BadLink;
use crate::dialect::schema::{Operation, Schema};
use crate::disk::blocking;
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::http::route::Route;
use crate::http::state::State;
use crate::job::{OutputFile, OutputFolder};

/// `GET /view`.
pub(in crate::http) const VIEW: Route = Route::get(
    "/view",
    "The file that a result names: `?filename=&subfolder=&type=`.",
    || {
        Operation::default()
            .needs("filename", Schema::said())
            .query("subfolder", Schema::text().or(""))
            .query("type", Schema::one_of(["output", "temp", "input"]).or("output"))
            .reply(200, "The file.", "*/*", Schema::file())
    },
    |_| routing::get(view),
);

/// How much of a file is read at once, in bytes.
const CHUNK: usize = 256 * 1024;

/// What to ask for.
const SHAPE: &str = "Ask for /view?filename=…&subfolder=…&type=output as a result names them.";

/// ComfyUI's parameters.
#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    subfolder: String,
    #[serde(default, rename = "type")]
    folder: Option<String>,
}

/// Sends a file of ComfyUI's folders.
async fn view(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, JobError> {
    let Query(parameters) = parameters.map_err(|rejected| {
        let why = rejected.body_text();
        JobError::invalid(format!("The query cannot be read: {}", echo::cut(&why))).hint(SHAPE)
    })?;
    find(&state.comfy, &headers, parameters).await
}

async fn find(comfy: &Comfy, headers: &HeaderMap, parameters: Parameters) -> Result<Response, JobError> {
    let Parameters {
        filename,
        subfolder,
        folder,
    } = parameters;
    if filename.is_empty() {
        return Err(JobError::invalid("`filename` is missing").hint(SHAPE));
    }
    let folder = match folder.as_deref() {
        None | Some("" | "output") => OutputFolder::Output,
        Some("temp") => OutputFolder::Temp,
        Some("input") => OutputFolder::Input,
        Some(other) => {
            return Err(JobError::invalid(format!(
                "`type` is `{}`; it must be output, temp or input",
                echo::cut(other)
            )));
        }
    };
    match comfy.folders() {
        Some(folders) => from_disk(folders, headers, folder, &subfolder, &filename).await,
        None => from_comfy(comfy, folder, &subfolder, &filename).await,
    }
}

async fn from_disk(
    folders: &Folders,
    headers: &HeaderMap,
    folder: OutputFolder,
    subfolder: &str,
    filename: &str,
) -> Result<Response, JobError> {
    if folders.path(folder, subfolder, filename).is_none() {
        return Err(
            JobError::invalid("`filename` or `subfolder` leads out of ComfyUI's folders")
                .hint("Use the names as a result gives them."),
        );
    }
    let (folders, subfolder, name) = (folders.clone(), subfolder.to_owned(), filename.to_owned());
    let found = blocking(move || folders.existing(folder, &subfolder, &name)).await;
    let path = found.ok_or_else(|| not_found(filename))?;
    let unreadable = |error: std::io::Error| {
        JobError::internal(format!("the file `{}` cannot be read: {error}", echo::cut(filename)))
    };
    let file = tokio::fs::File::open(&path).await.map_err(unreadable)?;
    let facts = file.metadata().await.map_err(unreadable)?;
    let changed = facts
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    let etag = format!("\"{:x}-{:x}\"", changed.as_nanos(), facts.len());
    if headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) == Some(&etag) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let mut response = Response::new(Body::from_stream(ReaderStream::with_capacity(file, CHUNK)));
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_LENGTH, facts.len().into());
    if let Ok(etag) = etag.parse() {
        answer.insert(header::ETAG, etag);
    }
    describe(answer, media_type(&path));
    Ok(response)
}

async fn from_comfy(
    comfy: &Comfy,
    folder: OutputFolder,
    subfolder: &str,
    filename: &str,
) -> Result<Response, JobError> {
    let client = comfy.connection().await?.client;
    let file = client
        .view(filename, subfolder, folder.as_str())
        .await
        .map_err(|error| match error {
            ClientError::Status { status: 400..=499, .. } => not_found(filename),
            other => other.into(),
        })?;
    let length = file.length();
    let mut response = Response::new(Body::from_stream(file.pieces()));
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    describe(response.headers_mut(), media_type(Path::new(filename)));
    Ok(response)
}

fn not_found(filename: &str) -> JobError {
    JobError::new(
        ErrorKind::NotFound,
        format!("There is no file `{}` here", echo::cut(filename)),
    )
    .hint("Use filename, subfolder and type as a result names them; previews (`temp`) go when ComfyUI starts again.")
}

/// `GET /files/{job}/{index}/{name}`.
pub(in crate::http) const FILE: Route = Route::get(
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
struct Signed {
    #[serde(default)]
    expires: u64,
    #[serde(default)]
    signature: String,
}

/// Sends the file. 404: the link is none of ours; 410: it was, and its time is over.
async fn file(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    path: Result<InPath<(String, String, String)>, PathRejection>,
    signed: Result<Query<Signed>, QueryRejection>,
) -> Response {
    let (Ok(InPath((job, index, name))), Ok(Query(signed))) = (path, signed) else {
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
    let Some(file) = find_linked(&state, &job, index, &name).await else {
        return gone("The file is no longer kept");
    };
    match send(&state, &headers, &file).await {
        Ok(response) => response,
        Err(error) if error.kind == ErrorKind::NotFound => gone("The file is no longer there"),
        Err(error) => error.into_response(),
    }
}

async fn find_linked(state: &State, job: &str, index: usize, name: &str) -> Option<OutputFile> {
    let view = state.queue.view(job).await.ok()?;
    let outcome = view.result?.ok()?;
    let file = outcome.wanted().nth(index)?;
    (file.filename == name).then(|| file.clone())
}

pub(super) async fn send(state: &State, headers: &HeaderMap, file: &OutputFile) -> Result<Response, JobError> {
    if let Some(folders) = state.comfy.folders() {
        return from_disk(folders, headers, file.folder, &file.subfolder, &file.filename).await;
    }
    let content = state.results.content(file).await?;
    let mut response = Response::new(Body::from(content));
    describe(response.headers_mut(), media_type(Path::new(&file.filename)));
    Ok(response)
}

fn wrong(bad: BadLink) -> Response {
    match bad {
        BadLink::Wrong => {
            let error = JobError::new(ErrorKind::NotFound, format!("There is no such file: {bad}"));
            let hint = "Use the URL as the answer holds it, with its whole query.";
            error.hint(hint).into_response()
        }
        BadLink::Expired => gone("The link has expired"),
    }
}

fn gone(message: &str) -> Response {
    let error = JobError::new(ErrorKind::NotFound, message);
    let error = error.hint("Ask for the picture again; save it while its link works.");
    (StatusCode::GONE, error).into_response()
}

fn describe(headers: &mut HeaderMap, media_type: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// What a browser may show. Anything that it could run as a page of ours goes as bytes, as ComfyUI does it too.
fn media_type(path: &Path) -> &'static str {
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    match ending.as_str() {
        "png" | "apng" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "avif" => "image/avif",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "ogg" | "opus" => "audio/ogg",
        "txt" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "glb" => "model/gltf-binary",
        _ => "application/octet-stream",
    }
}
