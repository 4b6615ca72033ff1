//! The one public error of a job: what a user is told, with which status, and what to do next.
//!
//! Modules have their own error enums; where one of them reaches a job it becomes a [`JobError`] by `From`. Every
//! dialect dresses a [`JobError`] in its own wire shape.

use serde::{Deserialize, Serialize};

/// What kind of thing went wrong, in terms a client can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: no JSON, a field out of range, an image that is none.
    InvalidRequest,
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
    /// The owner called the job off.
    Cancelled,
    /// The job's time was over.
    TimedOut,
    /// The thing asked for does not exist.
    NotFound,
    /// We take no more jobs at the moment.
    Busy,
    /// The worker is being stopped.
    Stopping,
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
            Self::TooLarge => 413,
            Self::Busy => 429,
            // Nothing is wrong with the request, and nothing with us: it may be sent again.
            Self::Stopping | Self::ComfyUnavailable => 503,
            Self::OutOfMemory
            | Self::GpuFailed
            | Self::Interrupted
            | Self::Cancelled
            | Self::TimedOut
            | Self::Undeliverable
            | Self::Internal => 500,
        }
    }

    /// Whether the same request may succeed later.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::Busy
                | Self::Stopping
                | Self::ComfyUnavailable
                | Self::OutOfMemory
                | Self::GpuFailed
                | Self::Interrupted
                | Self::Internal
        )
    }
}

/// One thing that is wrong at one place of a graph or a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    pub message: String,
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
            message: message.into(),
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
        self.hint = Some(hint.into());
        self
    }

    /// Names the field of the request that is at fault.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into().into_boxed_str());
        self
    }

    /// Adds the list of everything that is wrong.
    #[must_use]
    pub fn problems(mut self, problems: Vec<Problem>) -> Self {
        self.problems = problems;
        self
    }

    /// The whole text: message, each problem, hint. What goes into `error` of an answer and into a log.
    pub fn full_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = self.message.clone();
        for problem in &self.problems {
            let _ = write!(text, "\n- {problem}");
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
    fn full_text_lists_every_problem_with_its_place() {
        let error = JobError::new(ErrorKind::InvalidWorkflow, "Invalid workflow JSON structure")
            .problems(vec![
                Problem {
                    node_id: Some("3".into()),
                    class_type: Some("KSampler".into()),
                    input: Some("steps".into()),
                    message: "0 is below the minimum 1".into(),
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
}
