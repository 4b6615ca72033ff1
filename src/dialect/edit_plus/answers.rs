//! The bodies of answers.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::input::is_image_field;
use crate::dialect::answer::Answer;
use crate::error::{ErrorKind, JobError};
use crate::job::{JobId, JobState, JobView, OutputFile};

/// The version of the API.
const VERSION: &str = "2.0.0";

/// What is known of a job beside what it tells itself.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The prompt in ComfyUI that carries it.
    pub prompt_id: Option<String>,
    /// What stands before the paths of this API: `/edit`, or nothing.
    pub base: &'static str,
    /// Where its picture lies.
    pub image_path: Option<String>,
    /// Whether the picture is there.
    pub image_ready: bool,
}

/// A file in the output folder.
#[derive(Debug, Clone, Serialize)]
pub struct DebugFile {
    /// Its path under the output folder.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, in seconds since 1970.
    pub modified: u64,
}

/// `GET /`
pub fn about(nunchaku: bool) -> Answer {
    let mut features = vec!["multi-image-support"];
    if nunchaku {
        features.push("nunchaku-optimization");
    }
    let body = json!({
        "message": "Qwen Image Edit Plus API",
        "status": "running",
        "version": VERSION,
        "features": features,
    });
    Answer::json(200, &body)
}

/// `POST /edit-image`
pub fn accepted(id: &JobId) -> Answer {
    Answer::json(
        200,
        &json!({"job_id": id.as_str(), "status": "queued", "message": "Image editing started"}),
    )
}

/// `GET /status/{id}`
pub fn status(view: &JobView, facts: &Facts) -> Answer {
    Answer::json(200, &status_body(view, facts))
}

fn status_body(view: &JobView, facts: &Facts) -> Map<String, Value> {
    let mut body = brief(view);
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    if let Some(prompt_id) = &facts.prompt_id {
        put("prompt_id", json!(prompt_id));
    }
    if let Some(position) = view.position {
        put("position", json!(position));
    }
    match &view.result {
        Some(Ok(outcome)) => {
            put("image_ready", json!(facts.image_ready));
            put("download_url", json!(format!("{}/download/{}", facts.base, view.id)));
            if let Some(path) = &facts.image_path {
                put("image_path", json!(path));
            }
            if let Some(seed) = outcome.seed {
                put("seed", json!(seed));
            }
            if !outcome.warnings.is_empty() {
                put("warnings", json!(outcome.warnings));
            }
        }
        Some(Err(error)) => put("error", json!(why_it_failed(error))),
        None => {}
    }
    body
}

/// What `/jobs` tells of each job.
fn brief(view: &JobView) -> Map<String, Value> {
    let status = match view.state {
        JobState::Queued => "queued",
        JobState::Running => "processing",
        JobState::Completed => "completed",
        JobState::Failed | JobState::Cancelled | JobState::TimedOut => "error",
    };
    let mut body = Map::new();
    body.insert("status".to_owned(), json!(status));
    body.insert("progress".to_owned(), json!(view.progress.percent));
    body
}

/// `GET /jobs`
pub fn jobs<'a>(views: impl IntoIterator<Item = &'a JobView>) -> Answer {
    let jobs = views
        .into_iter()
        .map(|view| (view.id.as_str().to_owned(), Value::Object(brief(view))));
    Answer::json(200, &json!({"jobs": jobs.collect::<Map<_, _>>()}))
}

/// `DELETE /jobs/{id}`
pub fn deleted() -> Answer {
    Answer::json(200, &json!({"message": "Job deleted"}))
}

/// `GET /debug/files`: what lies in the output folder, and whether that is all.
pub fn debug_files(folder: &str, files: &[DebugFile], complete: bool) -> Answer {
    let body = json!({"output_dir": folder, "files": files, "total": files.len(), "complete": complete});
    Answer::json(200, &body)
}

/// `GET /debug/job/{id}`: the job's status and its files, each with its size where it is there.
pub fn debug_job(view: &JobView, facts: &Facts, files: &[(&OutputFile, Option<u64>)]) -> Answer {
    let files = files.iter().map(|(file, size)| {
        let path = match file.subfolder.as_str() {
            "" => file.filename.clone(),
            folder => format!("{folder}/{}", file.filename),
        };
        json!({"path": path, "exists": size.is_some(), "size": size})
    });
    let created = view.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let body = json!({
        "job_id": view.id.as_str(),
        "job": status_body(view, facts),
        "created": created.as_secs(),
        "queued_ms": view.delay.as_millis(),
        "execution_ms": view.execution.as_millis(),
        "files": files.collect::<Vec<_>>(),
    });
    Answer::json(200, &body)
}

/// There is no such job here.
pub fn no_job() -> JobError {
    JobError::new(ErrorKind::NotFound, "Job not found")
}

/// The picture of a job that has none.
pub fn not_ready(view: &JobView) -> JobError {
    match &view.result {
        None => JobError::invalid("Image not ready").hint("Ask for the job's status until it is completed."),
        Some(Ok(_)) => JobError::new(ErrorKind::NotFound, "Image not found"),
        Some(Err(error)) => JobError::invalid(format!("Image not ready: {}", why_it_failed(error))),
    }
}

/// Any error.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    Answer::json(status, &json!({"detail": error.full_text()}))
}

/// Why a job failed: what is wrong with an image that was to be fetched comes after a sentence of its own.
fn why_it_failed(error: &JobError) -> String {
    let text = error.full_text();
    let of_image = error.field.as_deref().is_some_and(is_image_field);
    if of_image && matches!(error.kind, ErrorKind::InvalidRequest | ErrorKind::TooLarge) {
        return format!("Failed to download file from URL: {text}");
    }
    text
}
