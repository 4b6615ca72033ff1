//! What ComfyUI says, typed: the messages of its websocket, and what its HTTP API answers to a prompt. Recorded from
//! ComfyUI 0.30.0 (`server.py`, `protocol.py`, `execution.py`, `comfy_execution/progress.py`).

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::lenient;
use crate::workflow::Graph;

/// Messages after which a prompt's entry is about to be written.
pub(crate) const ENDS: [&str; 3] = ["execution_success", "execution_error", "execution_interrupted"];

/// One message of the websocket.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Message {
    /// The queue has changed; sent to every socket.
    Status {},
    /// These nodes will not run, since their results are cached.
    ExecutionCached {
        /// Our id of the prompt.
        prompt_id: String,
        /// Ids of the nodes.
        #[serde(default, deserialize_with = "texts")]
        nodes: Vec<String>,
    },
    /// A node begins.
    Executing {
        /// Absent right after a reconnection under a known client id.
        prompt_id: Option<String>,
        /// The node's id; [`None`]: the prompt is over, and its history entry is written.
        node: Option<String>,
    },
    /// Where every node of the prompt stands; cumulative.
    ProgressState {
        /// Our id of the prompt.
        prompt_id: String,
        /// By node id.
        #[serde(default, deserialize_with = "understood")]
        nodes: HashMap<String, NodeProgress>,
    },
    /// One step of a node. [`Message::ProgressState`] tells the same and more.
    Progress {
        /// Our id of the prompt.
        prompt_id: Option<String>,
    },
    /// An output node is done. The history entry has the same output.
    Executed {
        /// Our id of the prompt.
        prompt_id: String,
        /// The node's id.
        node: String,
        /// What it left behind; null for nothing.
        #[serde(default)]
        output: Value,
    },
    /// A picture of the work in progress.
    #[serde(skip)]
    Preview(Preview),
    /// Text that a node shows while it runs.
    #[serde(skip)]
    Text {
        /// The node's id.
        node_id: String,
        /// What it says.
        text: String,
    },
    /// A message of another kind, or one of an unexpected shape.
    #[serde(skip)]
    Unknown {
        /// Its type, or `binary N`.
        kind: String,
        /// Its data; null for a binary one.
        data: Value,
    },
}

/// Where one node stands.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NodeProgress {
    /// Steps done.
    #[serde(default, deserialize_with = "number_or_zero")]
    pub value: f64,
    /// Steps in all.
    #[serde(default, deserialize_with = "number_or_zero")]
    pub max: f64,
    /// `pending`, `running` or `finished`.
    #[serde(default)]
    pub state: String,
}

/// A number that Python wrote as NaN came as null.
fn number_or_zero<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_f64().unwrap_or_default())
}

/// The texts of a list, whatever else is in it.
fn texts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(items) => items.iter().filter_map(id_in_words).collect(),
        _ => Vec::new(),
    })
}

/// The nodes that are described as we know it, whatever else is told of others.
fn understood<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<HashMap<String, NodeProgress>, D::Error> {
    let nodes = object_or_nothing(deserializer)?.into_iter();
    Ok(nodes
        .filter_map(|(id, node)| Some((id, NodeProgress::deserialize(node).ok()?)))
        .collect())
}

/// An id of a node, which is text today.
fn id_in_words(id: &Value) -> Option<String> {
    match id {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// A node raised: `execution_error` of the history's messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecutionError {
    /// Our id of the prompt.
    pub prompt_id: String,
    /// The node's id.
    pub node_id: String,
    /// The node's class.
    pub node_type: String,
    /// What the exception says; ComfyUI ends it with a line break.
    pub exception_message: String,
    /// The exception's class, `torch.OutOfMemoryError` for one.
    pub exception_type: String,
}

impl ExecutionError {
    /// Reads as much of it as there is.
    pub fn read(data: &Value) -> Self {
        let text = |key: &str| data.get(key).and_then(id_in_words).unwrap_or_default();
        Self {
            prompt_id: text("prompt_id"),
            node_id: text("node_id"),
            node_type: text("node_type"),
            exception_message: text("exception_message"),
            exception_type: text("exception_type"),
        }
    }
}

/// A picture of the work in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Our id of the prompt; absent in the old form of the frame.
    pub prompt_id: Option<String>,
    /// The node's id; absent in the old form of the frame.
    pub node_id: Option<String>,
    /// `image/jpeg` or `image/png`.
    pub media_type: String,
    /// The encoded picture.
    pub image: Bytes,
}

impl Message {
    /// Reads a text frame. Never fails: what is not understood is [`Message::Unknown`].
    pub fn from_text(text: &str) -> Self {
        let mut message: Value = lenient(text.as_bytes()).unwrap_or_default();
        Self::deserialize(&message).unwrap_or_else(|_| Self::Unknown {
            kind: message["type"].as_str().unwrap_or("no JSON message").to_owned(),
            data: message.get_mut("data").map(Value::take).unwrap_or_default(),
        })
    }

    /// Reads a binary frame. What is not understood is [`Message::Unknown`].
    pub fn from_binary(frame: &Bytes) -> Self {
        binary(frame).unwrap_or_else(|| Self::Unknown {
            kind: format!("binary of {} bytes", frame.len()),
            data: Value::Null,
        })
    }

    /// The prompt that the message speaks of.
    pub fn prompt_id(&self) -> Option<&str> {
        match self {
            Self::ExecutionCached { prompt_id, .. }
            | Self::ProgressState { prompt_id, .. }
            | Self::Executed { prompt_id, .. } => Some(prompt_id),
            Self::Executing { prompt_id, .. } | Self::Progress { prompt_id } => prompt_id.as_deref(),
            Self::Preview(preview) => preview.prompt_id.as_deref(),
            Self::Unknown { data, .. } => data.get("prompt_id").and_then(Value::as_str),
            Self::Status {} | Self::Text { .. } => None,
        }
    }

    /// Whether it tells how a prompt ended.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Executing {
                prompt_id: Some(_),
                node: None,
            } => true,
            Self::Unknown { kind, .. } => ENDS.contains(&kind.as_str()),
            _ => false,
        }
    }

    /// Whether it is about the websocket that it came on, or about ComfyUI's own queue.
    pub fn is_for_one_connection(&self) -> bool {
        match self {
            Self::Status {} | Self::Executing { .. } => true,
            Self::Unknown { kind, .. } => kind == "feature_flags",
            _ => false,
        }
    }

    /// Whether a node that runs says so, though not for which prompt: the texts that API nodes show while they wait, and
    /// what older versions send. Only one prompt runs at a time.
    pub fn is_of_a_running_node(&self) -> bool {
        match self {
            Self::Text { .. } | Self::Preview(_) | Self::Progress { .. } => true,
            Self::Executing { node, .. } => node.is_some(),
            _ => false,
        }
    }
}

/// A big-endian u32 says which event it is.
fn binary(frame: &Bytes) -> Option<Message> {
    #[derive(Default, Deserialize)]
    struct Metadata {
        prompt_id: Option<String>,
        node_id: Option<String>,
        image_type: Option<String>,
    }
    let (event, body) = split_u32(frame)?;
    let (first, rest) = split_u32(&body)?;
    let length = usize::try_from(first).ok()?;
    let (metadata, image) = match event {
        // The format and the image, for clients that did not announce `supports_preview_metadata`.
        1 => {
            let image_type = (first == 2).then(|| "image/png".to_owned());
            let metadata = Metadata {
                image_type,
                ..Metadata::default()
            };
            (metadata, rest)
        }
        // Length of the node id, node id, text.
        3 => {
            let (node_id, text) = rest.split_at_checked(length)?;
            return Some(Message::Text {
                node_id: String::from_utf8_lossy(node_id).into_owned(),
                text: String::from_utf8_lossy(text).into_owned(),
            });
        }
        // Length of a JSON object, the object, the image.
        4 => (lenient(rest.get(..length)?).ok()?, rest.slice(length..)),
        _ => return None,
    };
    Some(Message::Preview(Preview {
        prompt_id: metadata.prompt_id,
        node_id: metadata.node_id,
        media_type: metadata.image_type.unwrap_or_else(|| "image/jpeg".to_owned()),
        image,
    }))
}

fn split_u32(frame: &Bytes) -> Option<(u32, Bytes)> {
    let (head, _) = frame.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*head), frame.slice(4..)))
}

/// What `/prompt` is given.
#[derive(Debug, Serialize)]
pub struct PromptRequest<'a> {
    /// The graph in API format.
    pub prompt: &'a Graph,
    /// Our own id: a canonical lower-case hyphenated UUID.
    pub prompt_id: &'a str,
    /// The websocket that gets the events.
    pub client_id: &'a str,
    /// Kept in the history; holds comfy.org's key for API nodes.
    pub extra_data: &'a Value,
}

/// What `/prompt` answered.
#[derive(Debug)]
pub enum PromptReply {
    /// The prompt is in ComfyUI's queue.
    Queued,
    /// The graph is at fault.
    Rejected(Box<Rejection>),
}

/// Why ComfyUI does not take a graph, or not all of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Rejection {
    /// The sentence for the whole graph.
    #[serde(deserialize_with = "reason")]
    pub error: Option<RejectionReason>,
    /// What is wrong, node by node.
    #[serde(deserialize_with = "object_or_nothing")]
    pub node_errors: Map<String, Value>,
    /// The id under which the prompt was taken.
    #[serde(deserialize_with = "text_or_nothing")]
    pub(super) prompt_id: Option<String>,
}

/// One reason of a [`Rejection`].
#[derive(Debug, Clone, Default)]
pub struct RejectionReason {
    /// `prompt_outputs_failed_validation`, `value_not_in_list` and so on.
    pub kind: String,
    /// For people.
    pub message: String,
    /// Names the input and the value.
    pub details: String,
    /// `input_name` and the like.
    pub extra_info: Value,
}

/// An object, or a sentence alone.
fn reason<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<RejectionReason>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Object(mut reason) => {
            let mut text = |key: &str| match reason.remove(key) {
                Some(Value::String(text)) => text,
                _ => String::new(),
            };
            Some(RejectionReason {
                kind: text("type"),
                message: text("message"),
                details: text("details"),
                extra_info: reason.remove("extra_info").unwrap_or_default(),
            })
        }
        Value::String(message) => Some(RejectionReason {
            message,
            ..RejectionReason::default()
        }),
        _ => None,
    })
}

fn text_or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_str().map(str::to_owned))
}

/// A finished prompt, from `/history/{prompt_id}`.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// What the output nodes left behind, by node id.
    pub outputs: Map<String, Value>,
    /// How it ended.
    pub end: PromptEnd,
    /// Ids of the nodes that were not run because their results were cached.
    pub cached: Vec<String>,
    /// All of it as ComfyUI wrote it, with nothing in its `outputs`.
    pub rest: Map<String, Value>,
}

/// How a prompt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptEnd {
    /// All nodes ran or were cached.
    Success,
    /// A node raised.
    Error(ExecutionError),
    /// Somebody interrupted it.
    Interrupted,
}

/// Where a prompt is that has no history yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuePlace {
    /// It runs.
    Running,
    /// It waits behind another one that runs.
    Pending,
    /// It waits although nothing runs: so for a moment between two prompts, and for ever when ComfyUI's worker thread
    /// is dead.
    Stuck,
    /// ComfyUI does not know it.
    Unknown,
}

/// ComfyUI's Python writes an empty map as `[]` in some answers and leaves it out in others.
pub(super) fn object_or_nothing<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Map<String, Value>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Object(map) => map,
        _ => Map::new(),
    })
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
