//! The one public error of a job: what a user is told, with which status, and what to do next.
//!
//! Modules have their own error enums; where one of them reaches a job it becomes a [`JobError`] by `From`. Every
//! dialect dresses a [`JobError`] in its own wire shape.

mod fault;

use serde::{Deserialize, Serialize};

use crate::echo;

pub use fault::{Fault, FaultKind};

/// The most bytes of one sentence or two. What a message quotes is cut before; this is for what nobody thought of.
const LONGEST_MESSAGE: usize = 2_500;
/// The most bytes of an error's whole text.
const LONGEST_TEXT: usize = 8_000;
/// The most bytes of the name of a field.
const LONGEST_FIELD: usize = 256;
/// The most bytes of what is wrong at one place.
const LONGEST_PROBLEM: usize = 1_500;
/// The most bytes of all problems of an error; those beyond are counted.
const ROOM_FOR_PROBLEMS: usize = 24_000;

/// What kind of thing went wrong, in terms a client can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: no JSON, a field out of range, an image that is none.
    InvalidRequest,
    /// The request did not come to its end in time.
    TooSlow,
    /// The body, or a part of it, is larger than we take.
    TooLarge,
    /// The graph cannot run as it is: unknown class, missing input, no output node.
    InvalidWorkflow,
    /// A model file that the graph names is not installed, or cannot be loaded.
    ModelMissing,
    /// A node raised while the graph ran.
    NodeFailed,
    /// The GPU, or the host, ran out of memory.
    OutOfMemory,
    /// The graph asks for more memory than there is at all.
    AsksTooMuch,
    /// The GPU refuses everything after an error, until ComfyUI is another process.
    GpuFailed,
    /// Somebody stopped the job.
    Interrupted,
    /// The owner cancelled the job.
    Cancelled,
    /// The job's time was over.
    TimedOut,
    /// The thing asked for does not exist.
    NotFound,
    /// We take no more jobs at the moment.
    Busy,
    /// What is asked for does not fit what the job is now.
    Conflict,
    /// The worker is being stopped.
    Stopping,
    /// Jobs cannot be stored at the moment: the disk is full, or somebody holds the database.
    StoreUnavailable,
    /// ComfyUI is not there, has died, or answers nonsense.
    ComfyUnavailable,
    /// The result was made, and cannot be given back as it should: too large, or no bucket takes it.
    Undeliverable,
    /// Our own fault.
    Internal,
}

impl ErrorKind {
    /// The HTTP status of this kind.
    pub fn status(self) -> u16 {
        match self {
            // The graph, or what it asks of the machine, is at fault: the same request will fail again.
            Self::InvalidRequest
            | Self::InvalidWorkflow
            | Self::ModelMissing
            | Self::NodeFailed
            | Self::AsksTooMuch => 400,
            Self::NotFound => 404,
            Self::TooSlow => 408,
            // Somebody cancelled the job: nothing failed, and the request is as good as before.
            Self::Conflict | Self::Cancelled => 409,
            Self::TooLarge => 413,
            Self::Busy => 429,
            // Nothing is wrong with the request, and nothing with us: it may be sent again.
            Self::Stopping | Self::StoreUnavailable | Self::ComfyUnavailable => 503,
            Self::OutOfMemory
            | Self::GpuFailed
            | Self::Interrupted
            | Self::TimedOut
            | Self::Undeliverable
            | Self::Internal => 500,
        }
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::TooSlow => "too_slow",
            Self::TooLarge => "too_large",
            Self::InvalidWorkflow => "invalid_workflow",
            Self::ModelMissing => "model_missing",
            Self::NodeFailed => "node_failed",
            Self::OutOfMemory => "out_of_memory",
            Self::AsksTooMuch => "asks_too_much",
            Self::GpuFailed => "gpu_failed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::NotFound => "not_found",
            Self::Busy => "busy",
            Self::Conflict => "conflict",
            Self::Stopping => "stopping",
            Self::StoreUnavailable => "store_unavailable",
            Self::ComfyUnavailable => "comfy_unavailable",
            Self::Undeliverable => "undeliverable",
            Self::Internal => "internal",
        }
    }

    /// Whether the same request may succeed later.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::Busy
                | Self::TooSlow
                | Self::Stopping
                | Self::StoreUnavailable
                | Self::ComfyUnavailable
                | Self::OutOfMemory
                | Self::GpuFailed
                | Self::Interrupted
                | Self::Internal
        )
    }
}

/// One thing that is wrong at one place of a graph or a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Problem {
    /// The node's id in the graph, when a node is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// The node's class, when it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_type: Option<String>,
    /// The input of the node, or the field of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// What is wrong and what to do about it; one sentence or two.
    #[schema(required)]
    pub message: String,
    /// The same as ComfyUI's own check tells it, where a graph is at fault. It is for ComfyUI's own API, and kept nowhere.
    #[serde(skip)]
    #[schema(ignore)]
    pub fault: Option<Box<Fault>>,
}

impl Problem {
    /// The same, as short as answers, logs and the store have it.
    fn short(self) -> Self {
        let name = |name: Option<String>| name.map(|name| echo::cut(&name));
        Self {
            node_id: name(self.node_id),
            class_type: name(self.class_type),
            input: name(self.input),
            message: echo::at_most(self.message, LONGEST_PROBLEM),
            fault: self.fault,
        }
    }
}

impl std::fmt::Display for Problem {
    /// `node 3 (KSampler), steps: …`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        if let Some(id) = &self.node_id {
            write!(f, "node {id}")?;
            if let Some(class) = &self.class_type {
                write!(f, " ({class})")?;
            }
            separator = ", ";
        }
        if let Some(input) = &self.input {
            write!(f, "{separator}{input}")?;
            separator = ", ";
        }
        if !separator.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

/// Why a job, or a request that should have become one, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct JobError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// One sentence for the user. Holds no secret and no path outside the user's business.
    pub message: String,
    /// The next step for the user.
    pub hint: Option<String>,
    /// Everything that is wrong, place by place, where there is more to say than [`JobError::message`].
    pub problems: Vec<Problem>,
    /// The field of the request that is at fault, for APIs that name it apart from the message. An image is named by
    /// its [`ImageName`](crate::job::ImageName).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Box<str>>,
}

impl JobError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: echo::at_most(message.into(), LONGEST_MESSAGE),
            hint: None,
            problems: Vec::new(),
            field: None,
        }
    }

    /// A request that is wrong in itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// Something on our side.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(echo::at_most(hint.into(), LONGEST_MESSAGE));
        self
    }

    /// Names the field of the request that is at fault.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(echo::at_most(field.into(), LONGEST_FIELD).into_boxed_str());
        self
    }

    /// Adds the list of everything that is wrong.
    #[must_use]
    pub fn problems(mut self, problems: Vec<Problem>) -> Self {
        let all = problems.len();
        let mut room = ROOM_FOR_PROBLEMS;
        let mut short = Vec::new();
        for problem in problems.into_iter().map(Problem::short) {
            let Some(left) = room.checked_sub(problem.to_string().len()) else {
                let message = format!("and {} more", all - short.len());
                short.push(Problem {
                    message,
                    ..Problem::default()
                });
                break;
            };
            room = left;
            short.push(problem);
        }
        self.problems = short;
        self
    }

    /// The whole text: message, each problem, hint. What goes into `error` of an answer and into a log. It has an end:
    /// problems that it has no room for are counted.
    pub fn full_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = echo::at_most(self.message.clone(), LONGEST_MESSAGE);
        for (told, problem) in self.problems.iter().enumerate() {
            let line = format!("\n- {problem}");
            if text.len() + line.len() > LONGEST_TEXT {
                let _ = write!(text, "\n- and {} more", self.problems.len() - told);
                break;
            }
            text.push_str(&line);
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "{}{hint}", if self.problems.is_empty() { ". " } else { "\n" });
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_written_as_it_is_stored() {
        for kind in [
            ErrorKind::InvalidRequest,
            ErrorKind::AsksTooMuch,
            ErrorKind::GpuFailed,
            ErrorKind::StoreUnavailable,
            ErrorKind::Internal,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn full_text_lists_every_problem_with_its_place() {
        let error = JobError::new(ErrorKind::InvalidWorkflow, "Invalid workflow JSON structure")
            .problems(vec![
                Problem {
                    node_id: Some("3".into()),
                    class_type: Some("KSampler".into()),
                    input: Some("steps".into()),
                    message: "0 is below the minimum 1".into(),
                    fault: None,
                },
                Problem {
                    message: "no output node".into(),
                    ..Problem::default()
                },
            ])
            .hint("Add a SaveImage node.");
        assert_eq!(
            error.full_text(),
            "Invalid workflow JSON structure\n- node 3 (KSampler), steps: 0 is below the minimum 1\n- no output node\nAdd a SaveImage node."
        );
    }

    #[test]
    fn hint_follows_a_plain_message_as_a_sentence() {
        assert_eq!(
            JobError::invalid("`input` is missing")
                .hint("Send {\"input\": …}.")
                .full_text(),
            "`input` is missing. Send {\"input\": …}."
        );
    }

    #[test]
    fn no_error_is_longer_than_people_read() {
        let long = "x\n".repeat(10_000);
        let problem = Problem {
            node_id: Some(long.clone()),
            class_type: Some(long.clone()),
            input: Some(long.clone()),
            message: long.clone(),
            fault: None,
        };
        let error = JobError::new(ErrorKind::InvalidWorkflow, long.clone())
            .hint(long.clone())
            .at(long)
            .problems(vec![problem; 200]);
        let text = error.full_text();
        assert!(text.len() < 11_000, "{}", text.len());
        assert!(text.contains("\n- and "), "{}", &text[text.len() - 3_000..]);
        assert!(
            error
                .problems
                .iter()
                .all(|problem| !problem.to_string().starts_with("node x\n"))
        );
        assert!(error.problems.last().unwrap().message.ends_with(" more"));
        assert!(serde_json::to_string(&error).unwrap().len() < 50_000);
    }
}
