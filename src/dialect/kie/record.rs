//! What the routes answer, and what `callBackUrl` is sent.

use serde::Serialize;

use super::{jobs, task_id};
use crate::dialect::answer::Answer;
use crate::dialect::links::{Links, pictures};
use crate::dialect::time::rfc3339;
use crate::error::JobError;
use crate::job::{JobId, JobState, JobView, Outcome};

/// KIE's code for a task that failed, in what its `callBackUrl` is sent.
pub(super) const FAILED: u16 = 501;

/// KIE's envelope. `flat` stands beside it.
#[derive(Serialize)]
struct Envelope<'a, T, F> {
    code: u16,
    msg: &'a str,
    data: T,
    #[serde(flatten)]
    flat: F,
}

/// Nothing beside the envelope.
#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TaskId {
    task_id: String,
}

/// What the specification shows of a record.
#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Brief {
    task_id: String,
    success_flag: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_url: Option<String>,
    create_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete_time: Option<String>,
}

/// A record with everything that is known.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    #[serde(flatten)]
    brief: Brief,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Pictures>,
    /// Percent of the work.
    progress: u8,
    safety_checked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pictures {
    result_urls: Vec<String>,
}

/// A task was taken in.
pub fn accepted(job: &JobId) -> Answer {
    let data = TaskId { task_id: task_id(job) };
    Answer::json(200, &envelope(200, "success", data))
}

/// The task as it is.
pub fn record(view: &JobView, links: &Links<'_>) -> Answer {
    let error = error_of(view);
    let record = of(view, links, error.as_deref());
    let flat = record.brief.clone();
    let body = Envelope {
        code: 200,
        msg: "success",
        data: record,
        flat,
    };
    Answer::json(200, &body)
}

/// What a task's `callBackUrl` is sent at its end, in the words of the API that took it in: the record, under a code that tells
/// how it ended.
pub fn call_back(view: &JobView, links: &Links<'_>) -> Answer {
    if view.policy.asked.is_some() {
        return jobs::call_back(view, links);
    }
    let error = error_of(view);
    let record = of(view, links, error.as_deref());
    let flat = record.brief.clone();
    let (code, msg) = match &error {
        None => (200, "success"),
        Some(message) => (FAILED, message.as_str()),
    };
    let body = Envelope {
        code,
        msg,
        data: record,
        flat,
    };
    Answer::json(200, &body)
}

/// The answer to a request that never became a task, or that asks for one that is not there.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    Answer::json(status, &envelope(status, &error.full_text(), None::<Nothing>))
}

fn envelope<T>(code: u16, msg: &str, data: T) -> Envelope<'_, T, Nothing> {
    Envelope {
        code,
        msg,
        data,
        flat: Nothing {},
    }
}

pub(super) fn error_of(view: &JobView) -> Option<String> {
    match &view.result {
        Some(Err(error)) => Some(error.full_text()),
        _ => None,
    }
}

/// Where the task's pictures are.
pub(super) fn urls(view: &JobView, outcome: &Outcome, links: &Links<'_>) -> Vec<String> {
    pictures(outcome)
        .map(|(index, file)| links.of(view, index, file))
        .collect()
}

fn of<'a>(view: &'a JobView, links: &Links<'_>, error: Option<&'a str>) -> Record<'a> {
    let outcome = view.result.as_ref().and_then(|result| result.as_ref().ok());
    let urls = outcome.map(|outcome| urls(view, outcome, links)).unwrap_or_default();
    let end = view.created + view.delay + view.execution;
    let kind = match &view.result {
        Some(Err(error)) => Some(error.kind.status()),
        _ => None,
    };
    Record {
        brief: Brief {
            task_id: task_id(&view.id),
            success_flag: success_flag(view),
            image_url: urls.first().cloned(),
            create_time: rfc3339(view.created),
            complete_time: view.state.is_final().then(|| rfc3339(end)),
        },
        response: (!urls.is_empty()).then_some(Pictures { result_urls: urls }),
        progress: view.progress.percent,
        safety_checked: outcome.is_some_and(|outcome| outcome.safety_checked),
        seed: outcome.and_then(|outcome| outcome.seed),
        error_code: kind,
        error_message: error,
        warnings: outcome.map_or(&[], |outcome| &outcome.warnings),
    }
}

/// The specification's codes: 0 generating, 1 success, 2 failed, 3 creation failed, which is a task that never began.
fn success_flag(view: &JobView) -> u8 {
    match view.state {
        JobState::Queued | JobState::Running => 0,
        JobState::Completed => 1,
        JobState::Failed if view.execution.is_zero() => 3,
        JobState::Failed | JobState::Cancelled | JobState::TimedOut => 2,
    }
}
