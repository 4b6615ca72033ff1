//! What each route answers.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::output::{Output, output};
use crate::dialect::answer::{Answer, Splices};
use crate::dialect::links::Links;
use crate::dialect::schema::Schema;
use crate::error::{JobError, Problem};
use crate::job::progress::{Progress, Stage};
use crate::job::{JobId, JobState, JobView, OutputFile};

/// A state in RunPod's words (docs.runpod.io/serverless/endpoints/job-states).
pub fn status_word(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "IN_QUEUE",
        JobState::Running => "IN_PROGRESS",
        JobState::Completed => "COMPLETED",
        JobState::Failed => "FAILED",
        JobState::Cancelled => "CANCELLED",
        JobState::TimedOut => "TIMED_OUT",
    }
}

/// The states in RunPod's words.
pub fn status_words() -> Schema {
    Schema::one_of(JobState::ALL.map(status_word))
}

/// A job at one moment, as `/status` tells it.
#[derive(Serialize, ToSchema)]
pub struct Job<'a> {
    /// The job's id.
    id: &'a str,
    #[schema(schema_with = status_words)]
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Output<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The field of the request that is at fault; an image is named by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    details: &'a [Problem],
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Its place in the queue, from 1.
    position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// In seconds.
    execution_time: Option<f64>,
    /// In milliseconds. A `/runsync` whose wait is over before the job has only the id and the status.
    #[serde(rename = "delayTime")]
    #[schema(required = false)]
    delay_ms: u64,
    /// In milliseconds.
    #[serde(rename = "executionTime", skip_serializing_if = "Option::is_none")]
    execution_ms: Option<u64>,
}

impl<'a> Job<'a> {
    fn of(view: &'a JobView) -> Self {
        let begun = view.state != JobState::Queued;
        let over = view.state.is_final();
        Self {
            id: view.id.as_str(),
            status: status_word(view.state),
            output: None,
            error: None,
            field: None,
            details: &[],
            position: if begun { None } else { view.position },
            progress: ((begun || view.progress.download.is_some()) && !over)
                .then(|| ProgressBody::from(&view.progress)),
            execution_time: over.then(|| (view.execution.as_secs_f64() * 100.0).round() / 100.0),
            delay_ms: milliseconds(view.delay),
            execution_ms: begun.then(|| milliseconds(view.execution)),
        }
    }
}

/// How far a job is.
#[derive(Serialize, ToSchema)]
#[schema(as = Progress)]
pub(super) struct ProgressBody<'a> {
    #[schema(value_type = String)]
    stage: Stage,
    #[schema(maximum = 100)]
    percent: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u32>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    download: Option<DownloadBody<'a>>,
}

/// How far the models are that a job waits for.
#[derive(Serialize, ToSchema)]
#[schema(as = Download)]
struct DownloadBody<'a> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 100)]
    percent: Option<u8>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_s: Option<f64>,
}

/// Seconds with one decimal.
fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

impl<'a> From<&'a Progress> for ProgressBody<'a> {
    fn from(progress: &'a Progress) -> Self {
        Self {
            stage: progress.stage,
            percent: progress.percent,
            node_id: progress.node_id.as_deref(),
            class_type: progress.class_type.as_deref(),
            step: progress.step.map(|(step, _)| step),
            steps: progress.step.map(|(_, steps)| steps),
            eta_s: progress.eta.map(tenths),
            download: progress.download.as_ref().map(|download| DownloadBody {
                file: &download.file,
                percent: download.percent(),
                bytes: download.bytes,
                total_bytes: download.total_bytes,
                eta_s: download.eta.map(tenths),
            }),
        }
    }
}

/// The job as it is: what `/status` and `/status-sync` answer, and `/runsync` under `/v2`. Always 200, since the
/// question was answered; `status` says what became of the job.
/// Where there are `links`, one picture that was made alone has its address in the output.
pub fn status(view: &JobView, links: Option<&Links<'_>>) -> Answer {
    with_status(200, view, links)
}

/// The end of a job as `/runsync` at the root answers it: the specification's 400 or 500 where it failed.
pub fn render(view: &JobView, links: Option<&Links<'_>>) -> Answer {
    let status = match &view.result {
        // Somebody cancelled it, and nothing failed: as RunPod answers it.
        _ if view.state == JobState::Cancelled => 200,
        // A ComfyUI that is not there is 503 elsewhere.
        Some(Err(error)) => error.kind.status().min(500),
        _ if matches!(view.state, JobState::Failed | JobState::TimedOut) => 500,
        _ => 200,
    };
    with_status(status, view, links)
}

fn with_status(status: u16, view: &JobView, links: Option<&Links<'_>>) -> Answer {
    let mut splices = Splices::default();
    let mut body = Job::of(view);
    match &view.result {
        Some(Ok(outcome)) => {
            let link = |index, file: &OutputFile| links.map(|links| links.of(view, index, file));
            body.output = Some(output(outcome, &mut splices, link));
        }
        // Who cancelled a job needs no reason; a client may take any `error` for a failure.
        Some(Err(_)) if view.state == JobState::Cancelled => {}
        Some(Err(error)) => {
            body.error = Some(error.full_text());
            body.field = error.field.as_deref();
            body.details = &error.problems;
        }
        None => {}
    }
    splices.answer(status, &body).of_job(view)
}

/// The id of a job, and its state.
#[derive(Serialize, ToSchema)]
pub struct Brief<'a> {
    /// The job's id.
    id: &'a str,
    #[schema(schema_with = status_words)]
    status: &'static str,
}

/// A job was taken in: what `/run` answers.
pub fn accepted(id: &JobId) -> Answer {
    let status = status_word(JobState::Queued);
    Answer::json(
        200,
        &Brief {
            id: id.as_str(),
            status,
        },
    )
}

/// The id and the state: what `/retry` answers, and `/runsync` when its wait is over before the job is.
pub fn brief(view: &JobView) -> Answer {
    let (id, status) = (view.id.as_str(), status_word(view.state));
    Answer::json(200, &Brief { id, status })
}

/// What `/cancel` answers: the state without its output.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cancelled<'a> {
    /// The job's id.
    id: &'a str,
    #[schema(schema_with = status_words)]
    status: &'static str,
    /// In milliseconds.
    delay_time: u64,
    /// In milliseconds.
    execution_time: u64,
}

/// A job was cancelled, or had ended.
pub fn cancelled(view: &JobView) -> Answer {
    Answer::json(
        200,
        &Cancelled {
            id: view.id.as_str(),
            status: status_word(view.state),
            delay_time: milliseconds(view.delay),
            execution_time: milliseconds(view.execution),
        },
    )
}

/// What `/purge-queue` answers.
#[derive(Serialize, ToSchema)]
pub struct Purged {
    /// How many jobs.
    removed: usize,
    /// Always `completed`.
    status: &'static str,
}

/// Queued jobs were removed.
pub fn purged(removed: usize) -> Answer {
    let status = "completed";
    Answer::json(200, &Purged { removed, status })
}

/// What `/requests` answers: jobs as `/status` tells them, without their outputs.
#[derive(Serialize, ToSchema)]
pub struct Requests<'a> {
    requests: Vec<Job<'a>>,
}

/// A list of jobs.
pub fn requests(views: &[JobView]) -> Answer {
    let requests = views.iter().map(Job::of).collect();
    Answer::json(200, &Requests { requests })
}

/// What `/stream` answers: the chunks that it has not handed out yet.
#[derive(Serialize, ToSchema)]
pub struct Streamed<'a> {
    #[schema(schema_with = status_words)]
    status: &'static str,
    stream: Vec<Chunk<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A chunk of a stream.
#[derive(Serialize, ToSchema)]
struct Chunk<'a> {
    output: ProgressBody<'a>,
}

/// `stream` is there in every answer, since the clients iterate it; they ask again until the state is final.
pub fn stream(view: &JobView, chunks: &[Progress]) -> Answer {
    let error = match (&view.state, &view.result) {
        (JobState::Failed | JobState::TimedOut, Some(Err(error))) => Some(error.full_text()),
        _ => None,
    };
    let chunk = |progress| Chunk {
        output: ProgressBody::from(progress),
    };
    Answer::json(
        200,
        &Streamed {
            status: status_word(view.state),
            stream: chunks.iter().map(chunk).collect(),
            error,
        },
    )
}

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody<'a> {
    error: String,
    /// The field of the request that is at fault; an image is named by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    details: &'a [Problem],
}

/// The answer to a request that never became a job, or that asks for one that is not there.
pub fn render_error(error: &JobError) -> Answer {
    Answer::json(
        error.kind.status(),
        &ErrorBody {
            error: error.full_text(),
            field: error.field.as_deref(),
            details: &error.problems,
        },
    )
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
