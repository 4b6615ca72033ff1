//! What the routes answer, and what `callBackUrl` is sent.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use super::fields::LORA_URLS;
use super::{jobs, task_id};
use crate::dialect::answer::Answer;
use crate::dialect::links::{Links, pictures};
use crate::dialect::schema::Schema;
use crate::error::JobError;
use crate::job::{JobId, JobState, JobView, Outcome};

/// KIE's code for a task that failed, in what its `callBackUrl` is sent.
pub(super) const FAILED: u16 = 501;

/// A task was taken in.
#[derive(Serialize, ToSchema)]
pub struct Accepted {
    code: u16,
    msg: &'static str,
    data: TaskId,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TaskId {
    /// The task's id.
    task_id: String,
}

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody<'a> {
    code: u16,
    msg: &'a str,
    #[schema(schema_with = nothing)]
    data: (),
}

fn nothing() -> Schema {
    Schema::any().with("type", "null")
}

/// A task, with what the specification shows of a record beside KIE's envelope too.
#[derive(Serialize, ToSchema)]
pub struct RecordAnswer<'a> {
    code: u16,
    msg: &'a str,
    data: Record<'a>,
    #[serde(flatten)]
    brief: Brief,
}

/// What the specification shows of a record.
#[derive(Serialize, Clone, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Brief {
    /// The task's id.
    task_id: String,
    /// 0 generating, 1 success, 2 failed, 3 failed before it began.
    #[schema(maximum = 3)]
    success_flag: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_url: Option<String>,
    #[schema(format = DateTime)]
    create_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    complete_time: Option<String>,
}

/// A record with everything that is known.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    #[serde(flatten)]
    brief: Brief,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Pictures>,
    /// Percent of the work.
    #[schema(maximum = 100)]
    progress: u8,
    /// Whether a moderation endpoint has looked at the pictures.
    safety_checked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
    /// What of the request had no effect, and why.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Pictures {
    result_urls: Vec<String>,
}

/// A task was taken in.
pub fn accepted(job: &JobId) -> Answer {
    let data = TaskId { task_id: task_id(job) };
    let (code, msg) = (200, "success");
    Answer::json(200, &Accepted { code, msg, data })
}

/// The task as it is.
pub fn record(view: &JobView, links: &Links<'_>) -> Answer {
    let error = error_of(view);
    answer(200, "success", of(view, links, error.as_deref())).of_job(view)
}

/// What a task's `callBackUrl` is sent at its end, in the words of the API that took it in: the record, under a code that tells
/// how it ended.
pub fn call_back(view: &JobView, links: &Links<'_>) -> Answer {
    if view.policy.asked.is_some() {
        return jobs::call_back(view, links);
    }
    let error = error_of(view);
    let (code, msg) = match &error {
        None => (200, "success"),
        Some(message) => (FAILED, message.as_str()),
    };
    answer(code, msg, of(view, links, error.as_deref()))
}

fn answer(code: u16, msg: &str, data: Record<'_>) -> Answer {
    let brief = data.brief.clone();
    let body = RecordAnswer { code, msg, data, brief };
    Answer::json(200, &body)
}

/// The answer to a request that never became a task, or that asks for one that is not there.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    let body = ErrorBody {
        code: status,
        msg: &words_of(error),
        data: (),
    };
    Answer::json(status, &body)
}

pub(super) fn error_of(view: &JobView) -> Option<String> {
    match &view.result {
        Some(Err(error)) => Some(words_of(error)),
        _ => None,
    }
}

/// What is said of an error. Its field is told where the request calls it something else than the job does.
fn words_of(error: &JobError) -> String {
    let place = error.field.as_deref().and_then(|field| field.strip_prefix("loras["));
    match place {
        Some(place) => format!("{}[{place}: {}", LORA_URLS.name, error.full_text()),
        None => error.full_text(),
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

/// A time in whole seconds, as RFC 3339 writes it: `2025-12-07T10:00:00Z`.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = i64::try_from(seconds).map(OffsetDateTime::from_unix_timestamp);
    // It fails for years that four digits cannot say.
    let text = time
        .ok()
        .and_then(Result::ok)
        .and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_default()
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
