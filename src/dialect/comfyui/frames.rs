//! What ComfyUI's websocket says to its clients, where we say it in its place: `status`, how a prompt ended, and previews for
//! clients that know only their old form. Recorded from ComfyUI 0.30.0 (`server.py`, `main.py`, `execution.py`).

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::comfy::Frame;
use crate::error::JobError;
use crate::job::{JobState, JobView};
use crate::json::lenient;

/// A preview, after the number of its format: 1 is JPEG, 2 is PNG.
const PREVIEW: u32 = 1;
/// A preview, after JSON that says of which node it is.
const PREVIEW_WITH_METADATA: u32 = 4;

/// How many prompts wait or run. The first one that a client gets has its id.
pub fn status(remaining: u64, sid: Option<&str>) -> Frame {
    let mut data = json!({"status": {"exec_info": {"queue_remaining": remaining}}});
    if let Some(sid) = sid {
        data["sid"] = sid.into();
    }
    message("status", data)
}

/// The server's flags, which answer a client's own.
pub fn feature_flags(flags: &Value) -> Frame {
    message("feature_flags", flags)
}

/// The flags of a ComfyUI that cannot be asked for them: those of 0.30.0.
pub fn usual_flags() -> Value {
    json!({
        "supports_preview_metadata": true,
        "supports_model_type_tags": true,
        "max_upload_size": 100 * 1024 * 1024,
        "extension": {"manager": {"supports_v4": true}},
        "node_replacements": true,
        "assets": false,
    })
}

/// The node at work, for a client that comes while its prompt runs.
pub fn executing(node_id: &str) -> Frame {
    message("executing", json!({"node": node_id}))
}

/// What the client of a prompt that has ended is told: something before the new `status`, and something after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub result: Frame,
    /// That it is over.
    pub over: Frame,
}

/// How a prompt ended, for its client. `began`: ComfyUI had begun with it. [`None`]: it was taken out of the queue before, and ComfyUI
/// says nothing more than `status` then.
pub fn end(view: &JobView, began: bool, now: SystemTime) -> Option<End> {
    let kind = match view.state {
        JobState::Queued | JobState::Running => return None,
        JobState::Cancelled if !began => return None,
        JobState::Completed => "execution_success",
        JobState::Cancelled => "execution_interrupted",
        JobState::Failed | JobState::TimedOut => "execution_error",
    };
    let id = view.id.as_str();
    let told = view.entry.as_deref().and_then(|entry| told(entry, kind));
    let data = told.unwrap_or_else(|| {
        let data = match view.state {
            JobState::Completed => json!({"prompt_id": id, "timestamp": milliseconds(now)}),
            JobState::Cancelled => json!({
                "prompt_id": id,
                "node_id": "",
                "node_type": "",
                "executed": [],
                "timestamp": milliseconds(now),
            }),
            _ => failure(view, now),
        };
        data.to_string().into()
    });
    Some(End {
        result: Frame::Text(format!(r#"{{"type":"{kind}","data":{data}}}"#).into()),
        over: message("executing", json!({"node": null, "prompt_id": id})),
    })
}

/// The data of `execution_error` for a job that failed before, or after, its graph ran.
pub fn failure(view: &JobView, now: SystemTime) -> Value {
    let error = match &view.result {
        Some(Err(error)) => Cow::Borrowed(error.as_ref()),
        _ => Cow::Owned(JobError::internal("the job failed")),
    };
    // Where nodes are at fault, the first is as good as any.
    let at = error.problems.iter().find(|problem| problem.node_id.is_some());
    let kind = serde_json::to_value(error.kind).unwrap_or_default();
    json!({
        "prompt_id": view.id.as_str(),
        "node_id": at.and_then(|problem| problem.node_id.as_deref()).unwrap_or_default(),
        "node_type": at.and_then(|problem| problem.class_type.as_deref()).unwrap_or_default(),
        "executed": [],
        "exception_message": format!("{}\n", error.full_text()),
        "exception_type": kind,
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": milliseconds(now),
    })
}

/// What ComfyUI itself said of a prompt's end, as JSON, by its entry in the history.
fn told(entry: &str, kind: &str) -> Option<Box<str>> {
    #[derive(Deserialize)]
    struct Entry {
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        messages: Vec<(String, Box<RawValue>)>,
    }
    let entry: Entry = lenient(entry.as_bytes()).ok()?;
    let mut messages = entry.status.messages.into_iter();
    messages.find_map(|(name, data)| (name == kind).then(|| data.get().into()))
}

/// The frame for a client that did not say that it knows previews with metadata.
pub fn without_metadata(frame: Frame) -> Frame {
    let plain = match &frame {
        Frame::Binary(bytes) => plain_preview(bytes),
        Frame::Text(_) => None,
    };
    plain.map_or(frame, Frame::Binary)
}

/// A preview in its old form; [`None`]: this is none with metadata.
fn plain_preview(frame: &Bytes) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        image_type: String,
    }
    if number(frame)? != PREVIEW_WITH_METADATA {
        return None;
    }
    let rest = frame.get(4..)?;
    let length = usize::try_from(number(rest)?).ok()?;
    let (metadata, image) = rest.get(4..)?.split_at_checked(length)?;
    let metadata: Metadata = lenient(metadata).ok()?;
    let mut plain = BytesMut::with_capacity(8 + image.len());
    plain.put_u32(PREVIEW);
    plain.put_u32(if metadata.image_type == "image/png" { 2 } else { 1 });
    plain.extend_from_slice(image);
    Some(plain.freeze())
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|number| u32::from_be_bytes(*number))
}

fn message(kind: &str, data: impl serde::Serialize) -> Frame {
    Frame::Text(json!({"type": kind, "data": data}).to_string().into())
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
