//! The bodies of answers.

use std::time::SystemTime;

use indexmap::IndexMap;
use serde::Serialize;
use utoipa::ToSchema;

use super::input::is_image_field;
use crate::dialect::answer::Answer;
use crate::dialect::schema::Schema;
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
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DebugFile {
    /// Its path under the output folder.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, in seconds since 1970.
    pub modified: u64,
}

/// What `GET /` answers.
#[derive(Serialize, ToSchema)]
pub struct About {
    message: &'static str,
    status: &'static str,
    version: &'static str,
    features: Vec<&'static str>,
}

/// What the API is.
pub fn about(nunchaku: bool) -> Answer {
    let mut features = vec!["multi-image-support"];
    if nunchaku {
        features.push("nunchaku-optimization");
    }
    let body = About {
        message: "Qwen Image Edit Plus API",
        status: "running",
        version: VERSION,
        features,
    };
    Answer::json(200, &body)
}

/// What `POST /edit-image` answers.
#[derive(Serialize, ToSchema)]
pub struct Accepted<'a> {
    job_id: &'a str,
    /// Always `queued`.
    status: &'static str,
    message: &'static str,
}

/// A job was taken in.
pub fn accepted(id: &JobId) -> Answer {
    let body = Accepted {
        job_id: id.as_str(),
        status: "queued",
        message: "Image editing started",
    };
    Answer::json(200, &body)
}

/// What `/jobs` tells of each job.
#[derive(Serialize, ToSchema)]
struct Brief {
    #[schema(schema_with = states)]
    status: &'static str,
    /// Percent of the work.
    #[schema(maximum = 100)]
    progress: u8,
}

fn states() -> Schema {
    Schema::one_of(["queued", "processing", "completed", "error"])
}

impl Brief {
    fn of(view: &JobView) -> Self {
        let status = match view.state {
            JobState::Queued => "queued",
            JobState::Running => "processing",
            JobState::Completed => "completed",
            JobState::Failed | JobState::Cancelled | JobState::TimedOut => "error",
        };
        let progress = view.progress.percent;
        Self { status, progress }
    }
}

/// What `GET /status/{id}` answers.
#[derive(Serialize, ToSchema)]
pub struct Job<'a> {
    #[serde(flatten)]
    brief: Brief,
    /// The prompt in ComfyUI that carries the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_id: Option<&'a str>,
    /// Its place in the queue, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    download_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> Job<'a> {
    fn of(view: &'a JobView, facts: &'a Facts) -> Self {
        let outcome = view.result.as_ref().and_then(|result| result.as_ref().ok());
        let error = view.result.as_ref().and_then(|result| result.as_ref().err());
        Self {
            brief: Brief::of(view),
            prompt_id: facts.prompt_id.as_deref(),
            position: view.position,
            image_ready: outcome.map(|_| facts.image_ready),
            download_url: outcome.map(|_| format!("{}/download/{}", facts.base, view.id)),
            image_path: outcome.and(facts.image_path.as_deref()),
            seed: outcome.and_then(|outcome| outcome.seed),
            warnings: outcome.map_or(&[], |outcome| &outcome.warnings),
            error: error.map(|error| why_it_failed(error)),
        }
    }
}

/// The job as it is.
pub fn status(view: &JobView, facts: &Facts) -> Answer {
    Answer::json(200, &Job::of(view, facts)).of_job(view)
}

/// What `GET /jobs` answers.
#[derive(Serialize, ToSchema)]
pub struct Jobs<'a> {
    /// The jobs by their ids.
    #[schema(value_type = HashMap<String, Brief>)]
    jobs: IndexMap<&'a str, Brief>,
}

/// The jobs of this API.
pub fn jobs<'a>(views: impl IntoIterator<Item = &'a JobView>) -> Answer {
    let jobs = views.into_iter().map(|view| (view.id.as_str(), Brief::of(view)));
    Answer::json(200, &Jobs { jobs: jobs.collect() })
}

/// What `DELETE /jobs/{id}` answers.
#[derive(Serialize, ToSchema)]
pub struct Deleted {
    message: &'static str,
}

/// A job was removed.
pub fn deleted() -> Answer {
    let message = "Job deleted";
    Answer::json(200, &Deleted { message })
}

/// What `GET /debug/files` answers: what lies in the output folder.
#[derive(Serialize, ToSchema)]
pub struct DebugFiles<'a> {
    output_dir: &'a str,
    files: &'a [DebugFile],
    total: usize,
    /// Whether these are all files.
    complete: bool,
}

/// What lies in the output folder, and whether that is all.
pub fn debug_files(folder: &str, files: &[DebugFile], complete: bool) -> Answer {
    let body = DebugFiles {
        output_dir: folder,
        files,
        total: files.len(),
        complete,
    };
    Answer::json(200, &body)
}

/// What `GET /debug/job/{id}` answers.
#[derive(Serialize, ToSchema)]
pub struct DebugJob<'a> {
    job_id: &'a str,
    job: Job<'a>,
    /// Seconds since 1970.
    created: u64,
    queued_ms: u128,
    execution_ms: u128,
    files: Vec<JobFile>,
}

/// A file of a job.
#[derive(Serialize, ToSchema)]
struct JobFile {
    path: String,
    exists: bool,
    /// In bytes.
    #[schema(required)]
    size: Option<u64>,
}

/// The job's status and its files, each with its size where it is there.
pub fn debug_job(view: &JobView, facts: &Facts, files: &[(&OutputFile, Option<u64>)]) -> Answer {
    let files = files.iter().map(|(file, size)| JobFile {
        path: match file.subfolder.as_str() {
            "" => file.filename.clone(),
            folder => format!("{folder}/{}", file.filename),
        },
        exists: size.is_some(),
        size: *size,
    });
    let created = view.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let body = DebugJob {
        job_id: view.id.as_str(),
        job: Job::of(view, facts),
        created: created.as_secs(),
        queued_ms: view.delay.as_millis(),
        execution_ms: view.execution.as_millis(),
        files: files.collect(),
    };
    Answer::json(200, &body).of_job(view)
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

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    detail: String,
}

/// Any error.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    let detail = error.full_text();
    Answer::json(status, &ErrorBody { detail })
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
