//! What ComfyUI's websocket says, typed. Recorded from ComfyUI 0.30.0 (`server.py`, `protocol.py`,
//! `comfy_execution/progress.py`); what we do not know is kept as [`Message::Unknown`].

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::lenient;

/// One message of the websocket.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// Length of the queue; sent to every socket.
    Status {
        /// Prompts that wait or run.
        queue_remaining: u64,
    },
    /// The server's answer to our feature flags.
    FeatureFlags(Value),
    /// The prompt leaves the queue.
    ExecutionStart {
        /// Our id of the prompt.
        prompt_id: String,
    },
    /// These nodes will not run, since their results are cached.
    ExecutionCached {
        /// Our id of the prompt.
        prompt_id: String,
        /// Ids of the nodes.
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
        nodes: HashMap<String, NodeProgress>,
    },
    /// One step of a node. [`Message::ProgressState`] tells the same and more.
    Progress {
        /// Our id of the prompt.
        prompt_id: Option<String>,
        /// The node's id.
        node: Option<String>,
        /// Steps done.
        value: f64,
        /// Steps in all.
        max: f64,
    },
    /// An output node is done. The history entry has the same output.
    Executed {
        /// Our id of the prompt.
        prompt_id: String,
        /// The node's id.
        node: String,
        /// What it left behind; null for nothing.
        output: Value,
    },
    /// All nodes are done; the history entry is not yet written.
    ExecutionSuccess {
        /// Our id of the prompt.
        prompt_id: String,
    },
    /// A node raised; the history entry is not yet written.
    ExecutionError(ExecutionError),
    /// The prompt was interrupted; the history entry is not yet written.
    ExecutionInterrupted {
        /// Our id of the prompt.
        prompt_id: String,
        /// The node that noticed.
        node_id: Option<String>,
    },
    /// A picture of the work in progress.
    Preview(Preview),
    /// Text that a node shows while it runs.
    Text {
        /// The node's id.
        node_id: String,
        /// What it says.
        text: String,
    },
    /// A message that we do not know, or one of an unexpected shape.
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
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A node raised: `execution_error` of the websocket and of the history's messages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(default)]
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
        #[derive(Deserialize)]
        struct Envelope {
            #[serde(rename = "type")]
            kind: String,
            #[serde(default)]
            data: Value,
        }
        match lenient::read::<Envelope>(text.as_bytes()) {
            Ok(Envelope { kind, data }) => Self::from_data(&kind, &data).unwrap_or(Self::Unknown { kind, data }),
            Err(_) => Self::Unknown {
                kind: "no JSON message".to_owned(),
                data: Value::String(text.chars().take(200).collect()),
            },
        }
    }

    fn from_data(kind: &str, data: &Value) -> Option<Self> {
        let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(match kind {
            "status" => Self::Status {
                queue_remaining: data.pointer("/status/exec_info/queue_remaining")?.as_u64()?,
            },
            "feature_flags" => Self::FeatureFlags(data.clone()),
            "execution_start" => Self::ExecutionStart {
                prompt_id: text("prompt_id")?,
            },
            "execution_cached" => Self::ExecutionCached {
                prompt_id: text("prompt_id")?,
                nodes: data
                    .get("nodes")?
                    .as_array()?
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            },
            "executing" => Self::Executing {
                prompt_id: text("prompt_id"),
                node: text("node"),
            },
            "progress_state" => Self::ProgressState {
                prompt_id: text("prompt_id")?,
                nodes: HashMap::deserialize(data.get("nodes")?).ok()?,
            },
            "progress" => Self::Progress {
                prompt_id: text("prompt_id"),
                node: text("node"),
                value: data.get("value")?.as_f64()?,
                max: data.get("max")?.as_f64()?,
            },
            "executed" => Self::Executed {
                prompt_id: text("prompt_id")?,
                node: text("node")?,
                output: data.get("output").cloned().unwrap_or_default(),
            },
            "execution_success" => Self::ExecutionSuccess {
                prompt_id: text("prompt_id")?,
            },
            "execution_error" => Self::ExecutionError(ExecutionError::deserialize(data).ok()?),
            "execution_interrupted" => Self::ExecutionInterrupted {
                prompt_id: text("prompt_id")?,
                node_id: text("node_id"),
            },
            _ => return None,
        })
    }

    /// Reads a binary frame: a big-endian u32 says which event it is.
    pub fn from_binary(frame: &Bytes) -> Self {
        let unknown = || Self::Unknown {
            kind: format!("binary of {} bytes", frame.len()),
            data: Value::Null,
        };
        let Some((event, body)) = split_u32(frame) else {
            return unknown();
        };
        let message = match event {
            1 => preview_plain(&body),
            3 => text_frame(&body),
            4 => preview_with_metadata(&body),
            _ => None,
        };
        message.unwrap_or_else(unknown)
    }

    /// The prompt that the message speaks of.
    pub fn prompt_id(&self) -> Option<&str> {
        match self {
            Self::ExecutionStart { prompt_id }
            | Self::ExecutionCached { prompt_id, .. }
            | Self::ProgressState { prompt_id, .. }
            | Self::Executed { prompt_id, .. }
            | Self::ExecutionSuccess { prompt_id }
            | Self::ExecutionInterrupted { prompt_id, .. } => Some(prompt_id),
            Self::ExecutionError(error) => Some(&error.prompt_id),
            Self::Executing { prompt_id, .. } | Self::Progress { prompt_id, .. } => prompt_id.as_deref(),
            Self::Preview(preview) => preview.prompt_id.as_deref(),
            Self::Unknown { data, .. } => data.get("prompt_id").and_then(Value::as_str),
            Self::Status { .. } | Self::FeatureFlags(_) | Self::Text { .. } => None,
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

fn split_u32(frame: &Bytes) -> Option<(u32, Bytes)> {
    let (head, _) = frame.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*head), frame.slice(4..)))
}

/// Event 1, sent to clients that did not announce `supports_preview_metadata`.
fn preview_plain(body: &Bytes) -> Option<Message> {
    let (format, image) = split_u32(body)?;
    let media_type = if format == 2 { "image/png" } else { "image/jpeg" };
    Some(Message::Preview(Preview {
        prompt_id: None,
        node_id: None,
        media_type: media_type.to_owned(),
        image,
    }))
}

/// Event 3: length of the node id, node id, text.
fn text_frame(body: &Bytes) -> Option<Message> {
    let (length, rest) = split_u32(body)?;
    let (node_id, text) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some(Message::Text {
        node_id: String::from_utf8_lossy(node_id).into_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

/// Event 4: length of a JSON object, the object, the image.
fn preview_with_metadata(body: &Bytes) -> Option<Message> {
    #[derive(Deserialize)]
    struct Metadata {
        prompt_id: Option<String>,
        node_id: Option<String>,
        image_type: Option<String>,
    }
    let (length, rest) = split_u32(body)?;
    let length = usize::try_from(length).ok()?;
    let metadata: Metadata = lenient::read(rest.get(..length)?).ok()?;
    Some(Message::Preview(Preview {
        prompt_id: metadata.prompt_id,
        node_id: metadata.node_id,
        media_type: metadata.image_type.unwrap_or_else(|| "image/jpeg".to_owned()),
        image: rest.slice(length..),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prompt_has_no_node() {
        let message = Message::from_text(r#"{"type":"executing","data":{"node":null,"prompt_id":"p"}}"#);
        assert_eq!(
            message,
            Message::Executing {
                prompt_id: Some("p".into()),
                node: None
            }
        );
        assert_eq!(message.prompt_id(), Some("p"));
    }

    #[test]
    fn after_a_reconnection_executing_has_no_prompt() {
        let message = Message::from_text(r#"{"type":"executing","data":{"node":"3"}}"#);
        assert_eq!(
            message,
            Message::Executing {
                prompt_id: None,
                node: Some("3".into())
            }
        );
    }

    #[test]
    fn progress_state_keeps_each_node() {
        let text = r#"{"type":"progress_state","data":{"prompt_id":"p","nodes":{"3":{"value":2,"max":8.0,"state":"running","node_id":"3"}}}}"#;
        let Message::ProgressState { nodes, .. } = Message::from_text(text) else {
            panic!("{text}")
        };
        assert_eq!(
            nodes["3"],
            NodeProgress {
                value: 2.0,
                max: 8.0,
                state: "running".into()
            }
        );
    }

    #[test]
    fn what_python_writes_is_understood() {
        let text = r#"{"type":"execution_error","data":{"prompt_id":"p","exception_message":"caf\udce9","current_inputs":{"x":[NaN]}}}"#;
        let Message::ExecutionError(error) = Message::from_text(text) else {
            panic!("{text}")
        };
        assert_eq!(error.exception_message, "caf\u{fffd}");
        let text = r#"{"type":"progress_state","data":{"prompt_id":"p","nodes":{"3":{"value":NaN,"max":8,"state":"running"}}}}"#;
        let Message::ProgressState { nodes, .. } = Message::from_text(text) else {
            panic!("{text}")
        };
        assert_eq!((nodes["3"].value, nodes["3"].max), (0.0, 8.0));
    }

    #[test]
    fn a_message_of_another_kind_tells_its_prompt_all_the_same() {
        let of = |text: &str| Message::from_text(text).prompt_id().map(str::to_owned);
        assert_eq!(
            of(r#"{"type":"something_new","data":{"prompt_id":"p"}}"#).as_deref(),
            Some("p")
        );
        assert_eq!(of(r#"{"type":"crystools.monitor","data":{"cpu":1}}"#), None);
    }

    #[test]
    fn what_an_output_node_left_is_told_before_the_prompt_is_over() {
        let text =
            r#"{"type":"executed","data":{"prompt_id":"p","node":"9","display_node":"9","output":{"images":[]}}}"#;
        let Message::Executed { output, .. } = Message::from_text(text) else {
            panic!("{text}")
        };
        assert_eq!(output, serde_json::json!({"images": []}));
        let nothing = Message::from_text(r#"{"type":"executed","data":{"prompt_id":"p","node":"9","output":null}}"#);
        assert!(
            matches!(
                nothing,
                Message::Executed {
                    output: Value::Null,
                    ..
                }
            ),
            "{nothing:?}"
        );
    }

    #[test]
    fn unknown_types_and_shapes_are_kept() {
        let strange = Message::from_text(r#"{"type":"crystools.monitor","data":{"cpu":1}}"#);
        assert_eq!(
            strange,
            Message::Unknown {
                kind: "crystools.monitor".into(),
                data: serde_json::json!({"cpu": 1})
            }
        );
        let misshapen = Message::from_text(r#"{"type":"execution_start","data":[]}"#);
        assert!(
            matches!(misshapen, Message::Unknown { ref kind, .. } if kind == "execution_start"),
            "{misshapen:?}"
        );
        assert!(matches!(Message::from_text("hello"), Message::Unknown { .. }));
    }

    #[test]
    fn binary_previews_in_both_forms() {
        let plain = Bytes::from_static(b"\0\0\0\x01\0\0\0\x02PNG");
        assert_eq!(
            Message::from_binary(&plain),
            Message::Preview(Preview {
                prompt_id: None,
                node_id: None,
                media_type: "image/png".into(),
                image: Bytes::from_static(b"PNG")
            })
        );
        let metadata = br#"{"node_id":"3","prompt_id":"p","image_type":"image/jpeg"}"#;
        let mut frame = vec![0, 0, 0, 4];
        frame.extend(u32::try_from(metadata.len()).unwrap().to_be_bytes());
        frame.extend(metadata);
        frame.extend(b"JPEG");
        let Message::Preview(preview) = Message::from_binary(&frame.into()) else {
            panic!("no preview")
        };
        assert_eq!(
            (
                preview.node_id.as_deref(),
                preview.prompt_id.as_deref(),
                &preview.image[..]
            ),
            (Some("3"), Some("p"), &b"JPEG"[..])
        );
    }

    #[test]
    fn truncated_binary_frames_are_unknown_not_a_panic() {
        for frame in [
            &b""[..],
            b"\0\0",
            b"\0\0\0\x04\xff\xff\xff\xff{}",
            b"\0\0\0\x03\0\0\0\x09abc",
            b"\0\0\0\x09",
        ] {
            assert!(
                matches!(
                    Message::from_binary(&Bytes::copy_from_slice(frame)),
                    Message::Unknown { .. }
                ),
                "{frame:?}"
            );
        }
    }
}
