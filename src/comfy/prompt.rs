//! A prompt on its way through ComfyUI's HTTP API: what is sent, what is answered, what is left of it. Shapes as recorded
//! from ComfyUI 0.30.0 (`server.py`, `execution.py`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::message::ExecutionError;
use crate::workflow::Graph;

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
    pub error: Option<RejectionReason>,
    /// What is wrong, node by node.
    #[serde(deserialize_with = "object_or_nothing")]
    pub node_errors: Map<String, Value>,
}

/// One reason of a [`Rejection`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RejectionReason {
    /// `prompt_outputs_failed_validation`, `value_not_in_list` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
    /// Names the input and the value.
    pub details: String,
    /// `input_name` and the like.
    pub extra_info: Value,
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
