//! What ComfyUI's websocket says to its clients, where we say it in its place: `status`, how a prompt ended, and previews for
//! clients that know only their old form. Recorded from ComfyUI 0.30.0 (`server.py`, `main.py`, `execution.py`).

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::entry::word_of;
use super::{End, end_of, has_entry};
use crate::comfy::Frame;
use crate::job::JobView;
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
pub struct Ended {
    /// How it ended.
    pub result: Frame,
    /// That it is over.
    pub over: Frame,
    /// Whether it is told in any case. Of a prompt that was taken out of the queue before it began ComfyUI tells nothing but
    /// `status`; a client that was told something of it all the same would wait for its end.
    pub due: bool,
}

/// How a prompt ended, for its client.
pub fn end(view: &JobView) -> Ended {
    let End { event, data } = end_of(view);
    let told = view.entry.as_deref().and_then(|entry| word_of(entry, event));
    let data = told.unwrap_or_else(|| data.to_string().into());
    Ended {
        result: Frame::Text(format!(r#"{{"type":"{event}","data":{data}}}"#).into()),
        over: message("executing", json!({"node": null, "prompt_id": view.id.as_str()})),
        due: has_entry(view.state, view.execution),
    }
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

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
