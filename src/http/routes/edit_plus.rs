//! The Edit Plus API, under `/edit` and on a port of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Extension;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing;
use bytes::Bytes;

use super::{Answered, Id, files};
use crate::dialect::answer::Answer;
use crate::dialect::edit_plus::{self, DebugFile, Facts};
use crate::dialect::schema::{Operation, Schema};
use crate::disk::blocking;
use crate::error::{ErrorKind, JobError};
use crate::http::edit_port::{EDIT, OwnPort};
use crate::http::route::Route;
use crate::http::state::State;
use crate::job::{Dialect, FileKind, JobView, OutputFile};

/// The Edit Plus API's routes; its own port has them without what they begin with.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::get(
        "/edit",
        "The Edit Plus API: what it is. All of it is served at the root of `EDIT_PORT` too.",
        Operation::answers::<edit_plus::About>,
        |_| routing::get(about),
    ),
    Route::post(
        "/edit/edit-image",
        "Edit one to three images, named by URL: answers with the job's id.",
        || Operation::answers::<edit_plus::Accepted>().takes(edit_plus::request()),
        |_| routing::post(edit_image),
    ),
    Route::get(
        "/edit/status/{id}",
        "How far the job is, and where its picture is.",
        Operation::answers::<edit_plus::Job>,
        |_| routing::get(status),
    ),
    Route::get(
        "/edit/download/{id}",
        "The picture.",
        || Operation::default().reply(200, "The picture.", "image/*", Schema::file()),
        |_| routing::get(download),
    ),
    Route::get(
        "/edit/jobs",
        "The jobs of the Edit Plus API.",
        Operation::answers::<edit_plus::Jobs>,
        |_| routing::get(jobs),
    ),
    Route::new(
        &["DELETE"],
        "/edit/jobs/{id}",
        "Cancel the job and remove it with its files.",
        Operation::answers::<edit_plus::Deleted>,
        |_| routing::delete(delete),
    ),
    Route::get(
        "/edit/debug/files",
        "The files in the output folder.",
        Operation::answers::<edit_plus::DebugFiles>,
        |_| routing::get(debug_files),
    ),
    Route::get(
        "/edit/debug/job/{id}",
        "Everything about one job.",
        Operation::answers::<edit_plus::DebugJob>,
        |_| routing::get(debug_job),
    ),
];

/// The most jobs that are listed.
const MOST_JOBS: usize = 1_000;
/// The most files that are listed.
const MOST_FILES: usize = 1_000;
/// What the classes of Nunchaku's nodes begin with.
const NUNCHAKU: &str = "Nunchaku";

/// Whether the request came to the API's own port.
type Own = Option<Extension<OwnPort>>;

async fn about(Shared(state): Shared<Arc<State>>) -> Answer {
    edit_plus::about(state.executor().has_nodes(&state.edit.template, NUNCHAKU).await)
}

async fn edit_image(Shared(state): Shared<Arc<State>>, headers: HeaderMap, request: Body) -> Answered {
    state.queue.has_room()?;
    let received = state.bodies.read(&headers, request).await?;
    let place = state.queue.permit()?;
    let template = state.edit.template.clone();
    let parse = move |bytes: Bytes| edit_plus::parse(&bytes, &template);
    let (request, policy) = state.bodies.parsed(received, parse).await?;
    let id = state.queue.submit(place, request, policy).await?;
    Ok(edit_plus::accepted(&id))
}

async fn status(Shared(state): Shared<Arc<State>>, own: Own, Id(id): Id) -> Answered {
    let view = find(&state, &id).await?;
    let facts = facts(&state, &view, own).await?;
    Ok(edit_plus::status(&view, &facts))
}

async fn download(Shared(state): Shared<Arc<State>>, headers: HeaderMap, Id(id): Id) -> Result<Response, JobError> {
    let view = find(&state, &id).await?;
    let file = picture(&view).ok_or_else(|| edit_plus::not_ready(&view))?;
    let sent = files::send(&state, &headers, file).await;
    sent.map_err(|error| match error.kind {
        ErrorKind::NotFound => edit_plus::not_ready(&view),
        _ => error,
    })
}

async fn jobs(Shared(state): Shared<Arc<State>>) -> Answered {
    let views = state.queue.list(None, Some(Dialect::EditPlus), MOST_JOBS).await?;
    Ok(edit_plus::jobs(views.iter()))
}

async fn delete(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Answered {
    find(&state, &id).await?;
    state.queue.remove(&id).await.map_err(no_job)?;
    Ok(edit_plus::deleted())
}

async fn debug_files(Shared(state): Shared<Arc<State>>) -> Answer {
    let Some(folders) = state.comfy.folders() else {
        // ComfyUI's folders are on another machine.
        return edit_plus::debug_files("", &[], false);
    };
    let output = folders.output.clone();
    blocking(move || {
        let mut files = Vec::new();
        let complete = list(&output, "", &mut files);
        edit_plus::debug_files(&output.display().to_string(), &files, complete)
    })
    .await
}

async fn debug_job(Shared(state): Shared<Arc<State>>, own: Own, Id(id): Id) -> Answered {
    let view = find(&state, &id).await?;
    let facts = facts(&state, &view, own).await?;
    let mut files = Vec::new();
    if let Some(Ok(outcome)) = &view.result {
        for file in &outcome.files {
            files.push((file, size(&state, file).await));
        }
    }
    Ok(edit_plus::debug_job(&view, &facts, &files))
}

/// The job, if it is one of this API's.
async fn find(state: &State, id: &str) -> Result<JobView, JobError> {
    let view = state.queue.view(id).await.map_err(no_job)?;
    if edit_plus::is_ours(&view) {
        Ok(view)
    } else {
        Err(edit_plus::no_job())
    }
}

fn no_job(error: JobError) -> JobError {
    match error.kind {
        ErrorKind::NotFound => edit_plus::no_job(),
        _ => error,
    }
}

/// The picture that a job made.
fn picture(view: &JobView) -> Option<&OutputFile> {
    let outcome = view.result.as_ref()?.as_ref().ok()?;
    outcome.wanted().find(|file| file.kind == FileKind::Image)
}

async fn facts(state: &State, view: &JobView, own: Own) -> Result<Facts, JobError> {
    let mut facts = Facts {
        prompt_id: state.queue.prompt_id(&view.id).await?,
        base: if own.is_some() { "" } else { EDIT },
        ..Facts::default()
    };
    if let Some(file) = picture(view) {
        facts.image_path = Some(path(state, file));
        // A ComfyUI elsewhere is asked when the picture is.
        facts.image_ready = state.comfy.folders().is_none() || size(state, file).await.is_some();
    }
    Ok(facts)
}

/// Where a file lies on this machine.
fn here(state: &State, file: &OutputFile) -> Option<PathBuf> {
    let folders = state.comfy.folders()?;
    folders.path(file.folder, &file.subfolder, &file.filename)
}

/// Where a file lies: on this machine, or under the folder of a ComfyUI elsewhere.
fn path(state: &State, file: &OutputFile) -> String {
    if let Some(path) = here(state, file) {
        return path.display().to_string();
    }
    let parts = [file.folder.as_str(), &file.subfolder, &file.filename];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("/")
}

/// The size of a file on this machine, in bytes.
async fn size(state: &State, file: &OutputFile) -> Option<u64> {
    Some(tokio::fs::metadata(here(state, file)?).await.ok()?.len())
}

/// Lists a folder with those below it, by their paths from the first one. Follows no links, so nothing outside is told.
/// Says whether that was all. Blocks.
fn list(folder: &Path, under: &str, files: &mut Vec<DebugFile>) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return true;
    };
    for entry in entries.flatten() {
        let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else {
            continue;
        };
        let path = if under.is_empty() {
            name
        } else {
            format!("{under}/{name}")
        };
        if kind.is_dir() {
            if !list(&entry.path(), &path, files) {
                return false;
            }
        } else if kind.is_file()
            && let Ok(facts) = entry.metadata()
        {
            if files.len() == MOST_FILES {
                return false;
            }
            let modified = facts.modified().ok();
            let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            files.push(DebugFile {
                path,
                size: facts.len(),
                modified: modified.unwrap_or_default().as_secs(),
            });
        }
    }
    true
}
