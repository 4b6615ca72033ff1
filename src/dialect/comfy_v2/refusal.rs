//! Why a request is not done, in this API's words: `{"error": {"code", "message", "details"}}`. Clients go by the code.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::dialect::answer::Answer;
use crate::dialect::schema::Schema;
use crate::echo;
use crate::error::{ErrorKind, JobError, Problem};

/// What is wrong, as programs read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request itself is wrong.
    InvalidRequest,
    /// The labels of a job are.
    MetadataInvalid,
    /// What a list is to be filtered by is.
    InvalidMetadataFilter,
    /// The place in a list is none.
    InvalidCursor,
    /// The graph cannot run.
    InvalidWorkflow,
    /// The graph is a file of ComfyUI's page, and no graph can be made of it.
    WorkflowFormatUi,
    /// The graph names an asset that is not there.
    MissingAsset,
    /// The key of the request has been used.
    IdempotencyKeyReuse,
    /// The bytes are others than the client said.
    HashMismatch,
    /// The asset goes with its job.
    AssetInUse,
    /// There are no such bytes.
    BlobNotFound,
    /// There is no such job, or asset.
    NotFound,
    /// The bytes of an output are gone.
    OutputUnavailable,
    /// No key, or a wrong one.
    Unauthorized,
    /// It is not allowed here.
    Forbidden,
    /// It is larger than we take.
    PayloadTooLarge,
    /// No more jobs are taken at the moment.
    QueueFull,
    /// There is no room for it on the disk.
    StorageFull,
    /// Something else than the request is at fault.
    UpstreamError,
}

impl Code {
    /// As the wire has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::MetadataInvalid => "metadata_invalid",
            Self::InvalidMetadataFilter => "invalid_metadata_filter",
            Self::InvalidCursor => "invalid_cursor",
            Self::InvalidWorkflow => "invalid_workflow",
            Self::WorkflowFormatUi => "workflow_format_ui",
            Self::MissingAsset => "missing_asset",
            Self::IdempotencyKeyReuse => "idempotency_key_reuse",
            Self::HashMismatch => "hash_mismatch",
            Self::AssetInUse => "asset_in_use",
            Self::BlobNotFound => "blob_not_found",
            Self::NotFound => "not_found",
            Self::OutputUnavailable => "output_unavailable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::PayloadTooLarge => "payload_too_large",
            Self::QueueFull => "queue_full",
            Self::StorageFull => "storage_full",
            Self::UpstreamError => "upstream_error",
        }
    }

    /// Its HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::InvalidMetadataFilter | Self::InvalidCursor => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::BlobNotFound | Self::NotFound | Self::OutputUnavailable => 404,
            Self::HashMismatch | Self::AssetInUse => 409,
            Self::PayloadTooLarge => 413,
            Self::MetadataInvalid
            | Self::InvalidWorkflow
            | Self::WorkflowFormatUi
            | Self::MissingAsset
            | Self::IdempotencyKeyReuse => 422,
            Self::QueueFull => 429,
            Self::UpstreamError => 500,
            Self::StorageFull => 507,
        }
    }
}

/// An error of this API.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub struct V2Error<'a> {
    error: V2ErrorDetail<'a>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ErrorDetail)]
struct V2ErrorDetail<'a> {
    /// What is wrong, for programs, such as `invalid_workflow`.
    code: &'a str,
    /// The same for people, and what to do.
    message: &'a str,
    /// What exactly: `node_errors` by the ids of nodes, and the like.
    #[schema(schema_with = details)]
    details: Option<&'a Map<String, Value>>,
}

fn details() -> Schema {
    Schema::either([Schema::object(), Schema::any().with("type", "null")])
}

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    status: u16,
    code: Code,
    message: String,
    details: Map<String, Value>,
}

impl Refusal {
    /// A refusal with this code. `message` is a sentence that says what is wrong and what to do, without its last point: the
    /// SDKs show the first 256 characters of it, and nothing else.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            status: code.status(),
            code,
            message: message.into(),
            details: Map::new(),
        }
    }

    /// What programs can read beside the code.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The same under another code.
    pub(super) fn with(self, code: Code) -> Self {
        Self {
            status: code.status(),
            code,
            ..self
        }
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The answer.
    pub fn answer(&self) -> Answer {
        let body = V2Error {
            error: V2ErrorDetail {
                code: self.code.as_str(),
                message: &self.message,
                details: Some(&self.details).filter(|details| !details.is_empty()),
            },
        };
        Answer::json(self.status, &body)
    }
}

impl From<&JobError> for Refusal {
    fn from(error: &JobError) -> Self {
        of_status(error.kind.status(), error)
    }
}

/// An error of any route of this API.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    of_status(status, error).answer()
}

fn of_status(status: u16, error: &JobError) -> Refusal {
    let code = match (error.kind, status) {
        (_, 401) => Code::Unauthorized,
        (_, 403) => Code::Forbidden,
        (ErrorKind::InvalidWorkflow | ErrorKind::ModelMissing | ErrorKind::AsksTooMuch, _) => Code::InvalidWorkflow,
        (_, 404) => Code::NotFound,
        (_, 413) => Code::PayloadTooLarge,
        (_, 429) => Code::QueueFull,
        (_, 400..500) => Code::InvalidRequest,
        _ => Code::UpstreamError,
    };
    // The clients of this API know no 400 for a graph.
    let status = match code {
        Code::InvalidWorkflow => code.status(),
        _ => status,
    };
    let mut refusal = Refusal {
        status,
        ..Refusal::new(code, sentence(error))
    };
    if let Some(field) = &error.field {
        refusal = refusal.detail("field", echo::cut(field));
    }
    if !error.problems.is_empty() {
        refusal = refusal.detail("node_errors", node_errors(&error.problems));
        let others: Vec<_> = error
            .problems
            .iter()
            .filter(|problem| problem.node_id.is_none())
            .collect();
        if !others.is_empty() {
            let others: Vec<_> = others.iter().map(|problem| problem.message.as_str()).collect();
            refusal = refusal.detail("problems", others);
        }
    }
    refusal
}

/// What is wrong, and what to do: of several problems of a graph the first.
pub(super) fn sentence(error: &JobError) -> String {
    let is_of_graph = matches!(
        error.kind,
        ErrorKind::InvalidRequest | ErrorKind::InvalidWorkflow | ErrorKind::ModelMissing
    );
    let message = match error.problems.first() {
        Some(problem) if is_of_graph => problem.to_string(),
        _ => error.message.clone(),
    };
    match &error.hint {
        Some(hint) => {
            let end = if message.ends_with(['.', '?', '!']) { "" } else { "." };
            format!("{message}{end} {hint}")
        }
        None => message,
    }
}

/// What is wrong with the nodes of a graph, by their ids.
fn node_errors(problems: &[Problem]) -> Value {
    let mut errors = Map::new();
    for problem in problems {
        let Some(id) = &problem.node_id else { continue };
        let reason = problem.fault.as_ref().map_or("invalid", |fault| fault.kind.as_str());
        let told = json!({
            "field": problem.input,
            "reason": reason,
            "message": problem.message,
            "class_type": problem.class_type,
        });
        let of_node = errors.entry(id.clone()).or_insert_with(|| json!([]));
        if let Some(of_node) = of_node.as_array_mut() {
            of_node.push(told);
        }
    }
    Value::Object(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(answer: &Answer) -> Value {
        serde_json::from_slice(&answer.to_vec()).unwrap()
    }

    #[test]
    fn an_error_of_a_graph_is_told_by_its_nodes() {
        let problem = Problem {
            node_id: Some("12".to_owned()),
            class_type: Some("KSampler".to_owned()),
            input: Some("model".to_owned()),
            message: "the input is not connected".to_owned(),
            fault: None,
        };
        let error = JobError::new(ErrorKind::InvalidWorkflow, "The graph cannot run")
            .problems(vec![problem])
            .hint("Connect it.");
        let answer = render_error(400, &error);
        assert_eq!(answer.status, 422);
        let body = body(&answer);
        assert_eq!(body["error"]["code"], "invalid_workflow");
        assert_eq!(
            body["error"]["message"],
            "node 12 (KSampler), model: the input is not connected. Connect it."
        );
        assert_eq!(body["error"]["details"]["node_errors"]["12"][0]["field"], "model");
    }

    #[test]
    fn the_status_of_a_layer_stays() {
        let error = JobError::invalid("The request brings no key");
        let answer = render_error(401, &error);
        assert_eq!(
            (answer.status, body(&answer)["error"]["code"].clone()),
            (401, "unauthorized".into())
        );
        assert_eq!(body(&answer)["error"]["details"], Value::Null);
        let busy = JobError::new(ErrorKind::Busy, "full");
        assert_eq!(body(&render_error(429, &busy))["error"]["code"], "queue_full");
        let away = JobError::new(ErrorKind::Stopping, "The worker is stopping");
        let answer = render_error(503, &away);
        assert_eq!(
            (answer.status, body(&answer)["error"]["code"].clone()),
            (503, "upstream_error".into())
        );
    }
}
