//! The entry of `/history`: `{"prompt", "outputs", "status", "meta"}`.
//!
//! ComfyUI's own one is kept with the job, as text, and goes out as it is; of a job that ended in another way, such as by its
//! time, with the end that it had. One is made here of a job that ended without.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::tuple::tuple;
use crate::error::{ErrorKind, JobError};
use crate::job::{FileKind, JobRequest, JobState, JobView, Outcome};
use crate::json;
use crate::workflow::Graph;

/// The end of a prompt that made what it was asked for.
pub const EXECUTION_SUCCESS: &str = "execution_success";
/// The end of one that failed.
pub const EXECUTION_ERROR: &str = "execution_error";
/// The end of one that was interrupted.
pub const EXECUTION_INTERRUPTED: &str = "execution_interrupted";

const ENDS: [&str; 3] = [EXECUTION_SUCCESS, EXECUTION_ERROR, EXECUTION_INTERRUPTED];

/// How a prompt ended, as ComfyUI tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// [`EXECUTION_SUCCESS`], [`EXECUTION_ERROR`] or [`EXECUTION_INTERRUPTED`].
    pub event: &'static str,
    /// Its data.
    pub data: Value,
}

/// Whether the job has an entry: ended, and not taken out of the queue before it began, which leaves none in ComfyUI.
pub fn has_entry(state: JobState, execution: Duration) -> bool {
    match state {
        JobState::Queued | JobState::Running => false,
        JobState::Cancelled => !execution.is_zero(),
        JobState::Completed | JobState::Failed | JobState::TimedOut => true,
    }
}

/// A time as ComfyUI tells it: milliseconds since 1970.
pub fn timestamp(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// The job's end as an event, made from what is known of the job alone.
pub fn end_of(view: &JobView) -> End {
    let prompt_id = view.id.as_str();
    let timestamp = timestamp(view.created + view.delay + view.execution);
    let error = match &view.result {
        Some(Err(error)) => error.as_ref(),
        _ if view.state == JobState::Completed => {
            let data = json!({"prompt_id": prompt_id, "timestamp": timestamp});
            let event = EXECUTION_SUCCESS;
            return End { event, data };
        }
        _ => &JobError::internal("the job's result is not known any more"),
    };
    let at_fault = error.problems.iter().find(|problem| problem.node_id.is_some());
    let node_id = at_fault
        .and_then(|problem| problem.node_id.as_deref())
        .unwrap_or_default();
    let node_type = at_fault
        .and_then(|problem| problem.class_type.as_deref())
        .unwrap_or_default();
    let mut data = json!({
        "prompt_id": prompt_id,
        "node_id": node_id,
        "node_type": node_type,
        "executed": [],
    });
    let event = if view.state == JobState::Cancelled {
        EXECUTION_INTERRUPTED
    } else {
        data["exception_message"] = error.full_text().into();
        data["exception_type"] = exception_type(error.kind).into();
        data["traceback"] = json!([]);
        data["current_inputs"] = json!({});
        data["current_outputs"] = json!([]);
        EXECUTION_ERROR
    };
    data["timestamp"] = timestamp.into();
    End { event, data }
}

/// What Python would have raised.
fn exception_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::OutOfMemory => "torch.OutOfMemoryError",
        ErrorKind::AsksTooMuch => "MemoryError",
        ErrorKind::TimedOut => "TimeoutError",
        ErrorKind::ModelMissing => "FileNotFoundError",
        ErrorKind::InvalidRequest | ErrorKind::InvalidWorkflow => "ValueError",
        ErrorKind::ComfyUnavailable => "ConnectionError",
        _ => "RuntimeError",
    }
}

/// The entry of a job that [`has_entry`]. `request` and `outputs` are asked where ComfyUI has left none, as in [`tuple()`].
pub fn entry(
    view: &JobView,
    request: Option<JobRequest>,
    outputs: impl FnOnce(&Graph) -> Vec<String>,
) -> Box<RawValue> {
    let kept = view.entry.as_deref().and_then(|entry| kept(entry, view));
    kept.unwrap_or_else(|| to_raw_value(&made(view, request, outputs)).unwrap_or_else(|_| RawValue::NULL.to_owned()))
}

/// ComfyUI's entry, which the executor has put the job's id and number into; [`None`]: it is damaged.
fn kept(entry: &str, view: &JobView) -> Option<Box<RawValue>> {
    let end = end_of(view);
    if tells(entry, end.event) {
        return serde_json::from_str(entry)
            .or_else(|_| json::lenient(entry.as_bytes()))
            .ok();
    }
    let mut whole: Map<String, Value> = json::lenient(entry.as_bytes()).ok()?;
    let status = whole.entry("status").or_insert_with(|| json!({}));
    let mut messages = match status.get_mut("messages").map(Value::take) {
        Some(Value::Array(messages)) => messages,
        _ => Vec::new(),
    };
    messages.retain(|message| !message[0].as_str().is_some_and(|name| ENDS.contains(&name)));
    messages.push(json!([end.event, end.data]));
    *status = status_of(end.event, &messages.into());
    to_raw_value(&whole).ok()
}

/// Whether an entry tells this end. A version of ComfyUI may keep no word of a success.
fn tells(entry: &str, event: &str) -> bool {
    let no_other = || event == EXECUTION_SUCCESS && ENDS.iter().all(|end| word_of(entry, end).is_none());
    word_of(entry, event).is_some() || no_other()
}

/// What ComfyUI itself said with `event` of a prompt, as JSON, by its entry in the history.
pub(super) fn word_of(entry: &str, event: &str) -> Option<Box<str>> {
    #[derive(Deserialize)]
    struct Entry {
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        messages: Vec<(String, Box<RawValue>)>,
    }
    let entry: Entry = json::lenient(entry.as_bytes()).ok()?;
    let mut messages = entry.status.messages.into_iter();
    messages.find_map(|(name, data)| (name == event).then(|| data.get().into()))
}

fn status_of(event: &str, messages: &Value) -> Value {
    let completed = event == EXECUTION_SUCCESS;
    json!({
        "status_str": if completed { "success" } else { "error" },
        "completed": completed,
        "messages": messages,
    })
}

/// The entry of a job that ComfyUI has left none of: it never had it, or was asked no more.
fn made(view: &JobView, request: Option<JobRequest>, outputs: impl FnOnce(&Graph) -> Vec<String>) -> Value {
    let end = end_of(view);
    let start = json!({"prompt_id": view.id.as_str(), "timestamp": timestamp(view.created + view.delay)});
    let files = match &view.result {
        Some(Ok(outcome)) => files(outcome),
        _ => json!({}),
    };
    json!({
        "prompt": tuple(view, request, outputs),
        "outputs": files,
        "status": status_of(end.event, &json!([["execution_start", start], [end.event, end.data]])),
        "meta": {},
    })
}

/// The files of an outcome, node by node.
fn files(outcome: &Outcome) -> Value {
    let mut nodes: Map<String, Value> = Map::new();
    for file in &outcome.files {
        let kind = match file.kind {
            FileKind::Image => "images",
            FileKind::Video => "video",
            FileKind::Audio => "audio",
            FileKind::Model3d => "3d",
            FileKind::Text | FileKind::Other => "files",
        };
        let node = nodes.entry(file.node_id.clone()).or_insert_with(|| json!({}));
        let list = &mut node[kind];
        if list.is_null() {
            *list = json!([]);
        }
        if let Some(list) = list.as_array_mut() {
            list.push(json!({
                "filename": file.filename,
                "subfolder": file.subfolder,
                "type": file.folder.as_str(),
            }));
        }
    }
    nodes.into()
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
