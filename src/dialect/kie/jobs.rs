//! A task as KIE's `recordInfo` tells it, and as the call back of a task of `createTask` does.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use url::Url;
use utoipa::ToSchema;

use super::fields::{IMAGE, PICTURE};
use super::models::Model;
use super::record::{FAILED, error_of, urls};
use super::task_id;
use crate::dialect::answer::Answer;
use crate::dialect::field::{Object, names};
use crate::dialect::links::Links;
use crate::dialect::schema::Schema;
use crate::display::redacted;
use crate::echo;
use crate::job::{Asked, JobState, JobView};

/// A task as `recordInfo` answers.
#[derive(Serialize, ToSchema)]
pub struct JobAnswer<'a> {
    code: u16,
    msg: &'a str,
    /// KIE's documentation calls it so, its server `msg`.
    message: &'a str,
    data: JobRecord<'a>,
}

/// Times are milliseconds since 1970. `null` and an empty text are what KIE has where there is nothing.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct JobRecord<'a> {
    /// The task's id.
    task_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[schema(schema_with = states)]
    state: &'static str,
    /// What was asked, as JSON in a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
    /// `{"resultUrls": […]}` as a text; empty until the task has succeeded.
    result_json: String,
    #[schema(required)]
    fail_code: Option<String>,
    #[schema(required)]
    fail_msg: Option<&'a str>,
    /// Milliseconds of work.
    #[schema(required)]
    cost_time: Option<u64>,
    /// Milliseconds since 1970.
    #[schema(required)]
    complete_time: Option<u64>,
    /// Milliseconds since 1970.
    create_time: u64,
    /// Milliseconds since 1970.
    update_time: u64,
    /// Percent of the work.
    #[schema(maximum = 100)]
    progress: u8,
    /// Whether a moderation endpoint has looked at the pictures.
    safety_checked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    /// What of the request had no effect, and why.
    warnings: &'a [String],
}

fn states() -> Schema {
    Schema::one_of(["waiting", "queuing", "generating", "success", "fail"])
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    result_urls: Vec<String>,
}

/// The task as it is.
pub fn record_info(view: &JobView, links: &Links<'_>) -> Answer {
    answer(view, links, |_| (200, "success".to_owned()))
}

/// What `callBackUrl` is sent at the task's end: the record, under a code that tells how it ended.
pub(super) fn call_back(view: &JobView, links: &Links<'_>) -> Answer {
    answer(view, links, |error| match error {
        None => (200, "success".to_owned()),
        Some(message) => (FAILED, message.to_owned()),
    })
}

fn answer(view: &JobView, links: &Links<'_>, head: impl Fn(Option<&str>) -> (u16, String)) -> Answer {
    let error = error_of(view);
    let (code, msg) = head(error.as_deref());
    let body = JobAnswer {
        code,
        msg: &msg,
        message: &msg,
        data: record(view, links, error.as_deref()),
    };
    Answer::json(200, &body).of_job(view)
}

fn record<'a>(view: &'a JobView, links: &Links<'_>, error: Option<&'a str>) -> JobRecord<'a> {
    let outcome = view.result.as_ref().and_then(|result| result.as_ref().ok());
    let status = match &view.result {
        Some(Err(error)) => Some(error.kind.status().to_string()),
        _ => None,
    };
    let results = outcome.map(|outcome| {
        let results = Results {
            result_urls: urls(view, outcome, links),
        };
        serde_json::to_string(&results).unwrap_or_default()
    });
    let asked = view.policy.asked.as_ref();
    let end = millis(view.created + view.delay + view.execution);
    let is_over = view.state.is_final();
    JobRecord {
        task_id: task_id(&view.id),
        model: asked.map(|asked| asked.model.as_str()),
        state: state(view),
        param: asked.map(|asked| asked.param.as_str()),
        result_json: results.unwrap_or_default(),
        fail_code: status,
        fail_msg: error,
        cost_time: is_over.then(|| u64::try_from(view.execution.as_millis()).unwrap_or(u64::MAX)),
        complete_time: is_over.then_some(end),
        create_time: millis(view.created),
        update_time: end,
        progress: view.progress.percent,
        safety_checked: outcome.is_some_and(|outcome| outcome.safety_checked),
        seed: outcome.and_then(|outcome| outcome.seed),
        warnings: outcome.map_or(&[], |outcome| &outcome.warnings),
    }
}

/// KIE's words. A job without a place in the queue has been picked from it, and waits for ComfyUI.
fn state(view: &JobView) -> &'static str {
    match view.state {
        JobState::Queued if view.position.is_some() => "waiting",
        JobState::Queued => "queuing",
        JobState::Running => "generating",
        JobState::Completed => "success",
        JobState::Failed | JobState::Cancelled | JobState::TimedOut => "fail",
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What the record repeats of a request: the fields that are known. An image is told by its place alone, and the call back
/// not at all, as their addresses may hold secrets.
pub(super) fn asked(model: &Model, input: &Object) -> Asked {
    let known = names(PICTURE);
    let said = input
        .iter()
        .filter(|(name, value)| known.contains(&name.as_str()) && !value.is_null());
    let repeated = said.map(|(name, value)| {
        let value = match value {
            Value::String(text) if name == IMAGE.name => place(text),
            Value::Array(items) if name == IMAGE.name => items
                .iter()
                .map(|item| place(item.as_str().unwrap_or_default()))
                .collect(),
            other => other.clone(),
        };
        (name.clone(), value)
    });
    let input: Object = repeated.collect();
    Asked {
        model: model.name.to_owned(),
        param: json!({"model": model.name, "input": input}).to_string(),
    }
}

fn place(image: &str) -> Value {
    let is_address = image.contains("://");
    let url = Url::parse(image.trim()).ok().filter(|_| is_address);
    Value::from(url.map_or_else(
        || format!("({} characters)", image.len()),
        |url| echo::cut(&redacted(&url)),
    ))
}
