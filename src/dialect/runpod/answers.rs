//! What each route answers.

use std::time::Duration;

use serde::Serialize;

use super::output::{Output, output};
use crate::dialect::answer::{Answer, Places};
use crate::dialect::links::Links;
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

/// A job at one moment, as `/status` tells it.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Output<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    details: &'a [Problem],
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time: Option<f64>,
    #[serde(rename = "delayTime")]
    delay_ms: u64,
    #[serde(rename = "executionTime", skip_serializing_if = "Option::is_none")]
    execution_ms: Option<u64>,
}

impl<'a> Body<'a> {
    fn of(view: &'a JobView) -> Self {
        let begun = view.state != JobState::Queued;
        let over = view.state.is_final();
        Self {
            id: view.id.as_str(),
            status: status_word(view.state),
            output: None,
            error: None,
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
#[derive(Serialize)]
pub(super) struct ProgressBody<'a> {
    stage: Stage,
    percent: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    download: Option<DownloadBody<'a>>,
}

/// How far the models are that a job waits for.
#[derive(Serialize)]
struct DownloadBody<'a> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u8>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
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
        // Somebody called it off, and nothing failed: as RunPod answers it.
        _ if view.state == JobState::Cancelled => 200,
        // A ComfyUI that is not there is 503 elsewhere.
        Some(Err(error)) => error.kind.status().min(500),
        _ if matches!(view.state, JobState::Failed | JobState::TimedOut) => 500,
        _ => 200,
    };
    with_status(status, view, links)
}

fn with_status(status: u16, view: &JobView, links: Option<&Links<'_>>) -> Answer {
    let mut places = Places::default();
    let mut body = Body::of(view);
    match &view.result {
        Some(Ok(outcome)) => {
            let link = |index, file: &OutputFile| links.map(|links| links.of(view, index, file));
            body.output = Some(output(outcome, &mut places, link));
        }
        // Who called a job off needs no reason; a client may take any `error` for a failure.
        Some(Err(_)) if view.state == JobState::Cancelled => {}
        Some(Err(error)) => {
            body.error = Some(error.full_text());
            body.details = &error.problems;
        }
        None => {}
    }
    places.answer(status, &body)
}

#[derive(Serialize)]
struct Brief<'a> {
    id: &'a str,
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
pub fn cancelled(view: &JobView) -> Answer {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Cancelled<'a> {
        id: &'a str,
        status: &'static str,
        delay_time: u64,
        execution_time: u64,
    }
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
pub fn purged(removed: usize) -> Answer {
    Answer::json(200, &serde_json::json!({"removed": removed, "status": "completed"}))
}

/// What `/requests` answers: jobs as `/status` tells them, without their outputs.
pub fn requests(views: &[JobView]) -> Answer {
    #[derive(Serialize)]
    struct Requests<'a> {
        requests: Vec<Body<'a>>,
    }
    let requests = views.iter().map(Body::of).collect();
    Answer::json(200, &Requests { requests })
}

/// What `/stream` answers: the chunks that it has not handed out yet.
///
/// `stream` is there in every answer, since the clients iterate it; they ask again until the state is final.
pub fn stream(view: &JobView, chunks: &[Progress]) -> Answer {
    #[derive(Serialize)]
    struct Chunk<'a> {
        output: ProgressBody<'a>,
    }
    #[derive(Serialize)]
    struct Streamed<'a> {
        status: &'static str,
        stream: Vec<Chunk<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }
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

/// The answer to a request that never became a job, or that asks for one that is not there.
pub fn render_error(error: &JobError) -> Answer {
    #[derive(Serialize)]
    struct ErrorBody<'a> {
        error: String,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        details: &'a [Problem],
    }
    Answer::json(
        error.kind.status(),
        &ErrorBody {
            error: error.full_text(),
            details: &error.problems,
        },
    )
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
