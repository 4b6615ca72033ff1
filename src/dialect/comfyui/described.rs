//! What the requests and answers look like, for the document.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::asked::Status;
use super::refusal::NodeErrors;
use crate::dialect::schema::{JOB, Schema};

/// A prompt was taken in.
#[derive(Serialize, ToSchema)]
pub struct Accepted<'a> {
    /// Its id.
    pub(super) prompt_id: &'a str,
    /// Its place in the queue: lower is sooner.
    pub(super) number: i64,
    /// What is wrong with nodes that do not run, by their ids.
    #[schema(schema_with = nodes)]
    pub(super) node_errors: &'a NodeErrors,
    /// What to know of a workflow that was converted. Ours.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) warnings: &'a [String],
}

/// An error.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    pub(super) error: ErrorDetail,
    /// What is wrong with nodes, by their ids.
    #[schema(schema_with = nodes)]
    pub(super) node_errors: NodeErrors,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct ErrorDetail {
    /// ComfyUI's word for it, such as `prompt_outputs_failed_validation`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// A sentence.
    pub(super) message: String,
    /// What exactly.
    pub(super) details: String,
    /// The same for programs.
    #[schema(schema_with = nodes)]
    pub(super) extra_info: Map<String, Value>,
}

impl ErrorBody {
    pub(super) fn new(kind: &str, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            error: ErrorDetail {
                kind: kind.to_owned(),
                message: message.into(),
                details: details.into(),
                extra_info: Map::new(),
            },
            node_errors: NodeErrors::new(),
        }
    }
}

/// How full the queue is.
#[derive(Serialize, ToSchema)]
pub struct QueueInfo {
    pub(super) exec_info: ExecInfo,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ExecInfo {
    /// Jobs of all APIs that wait or run.
    pub(super) queue_remaining: u64,
}

/// The prompts that run and those that wait, each as `[number, prompt_id, graph, extra_data, outputs_to_execute]`.
#[derive(Serialize, ToSchema)]
pub struct QueueLine {
    #[schema(schema_with = tuples)]
    queue_running: Value,
    #[schema(schema_with = tuples)]
    queue_pending: Value,
}

/// A job.
#[derive(Serialize, ToSchema)]
pub struct Job {
    /// Its id, which is the prompt's.
    id: String,
    /// How it is.
    #[schema(schema_with = one_status)]
    status: String,
    /// Its place in the queue.
    priority: i64,
    /// When it came, in milliseconds since 1970.
    create_time: u64,
    /// How many files it left.
    outputs_count: u64,
}

/// Jobs.
#[derive(Serialize, ToSchema)]
pub struct Jobs<'a> {
    #[schema(schema_with = jobs)]
    pub(super) jobs: &'a [Value],
    pub(super) pagination: Pagination,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Pagination {
    pub(super) offset: usize,
    #[schema(schema_with = maybe_count)]
    pub(super) limit: Option<usize>,
    /// How many there are.
    pub(super) total: usize,
    pub(super) has_more: bool,
}

/// Whether something was cancelled.
#[derive(Serialize, ToSchema)]
pub struct Cancelled {
    /// Whether a job waited or ran, and does no more.
    pub(super) cancelled: bool,
}

fn jobs() -> Schema {
    Schema::list(Schema::of::<Job>())
}

fn nodes() -> Schema {
    Schema::object()
}

fn maybe_count() -> Schema {
    Schema::either([Schema::count(), Schema::any().with("type", "null")])
}

fn tuples() -> Schema {
    Schema::list(Schema::list(Schema::any()))
}

fn one_status() -> Schema {
    Schema::one_of(Status::ALL.map(Status::as_str))
}

/// What `/history` answers.
pub fn history() -> Schema {
    nodes().means("Entries by prompt id: `{\"prompt\", \"outputs\", \"status\", \"meta\"}`.")
}

/// The words of `?status=`, joined by commas.
pub fn status_words() -> Schema {
    let one = Status::ALL.map(Status::as_str).join("|");
    Schema::text()
        .with("pattern", format!("^(({one})(,({one}))*)?$"))
        .means("pending, in_progress, completed, failed, cancelled; several with commas.")
}

fn ids() -> Schema {
    Schema::list(Schema::text())
}

/// The body of `POST /prompt`.
pub fn prompt_request() -> Schema {
    Schema::object()
        .needs(
            "prompt",
            Schema::object().means("The graph, in API format; or a workflow as the page saves it."),
        )
        .takes(
            "client_id",
            Schema::text().means("The `clientId` of the websocket that hears of it."),
        )
        .takes(
            "prompt_id",
            Schema::job_id().means("An id of the client's own: a UUID in lower case."),
        )
        .takes(
            "extra_data",
            Schema::object().means("What goes to ComfyUI beside the graph."),
        )
        .takes(
            "number",
            Schema::any()
                .with("type", "number")
                .means("Its place among the prompts of this API: lower is sooner. One below 0 is as `front`."),
        )
        .takes(
            "front",
            Schema::truth().means("Before all that wait, those of other APIs too."),
        )
        .takes(
            "partial_execution_targets",
            ids().means("The output nodes that are to run."),
        )
        .example(json!({
            "prompt": {
                "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "example"}},
            },
            "client_id": "example",
        }))
        .named("Prompt")
}

/// The body of `POST /queue` and `POST /history`.
pub fn removal_request() -> Schema {
    Schema::object()
        .takes("clear", Schema::truth().means("All of the caller's."))
        .takes("delete", ids().means("The prompts of these ids."))
        .takes("client_id", Schema::text().means("Of this client alone."))
        .example(json!({ "delete": [JOB] }))
        .named("Removal")
}

/// The body of `POST /interrupt`.
pub fn interrupt_request() -> Schema {
    Schema::object()
        .takes(
            "prompt_id",
            Schema::text().means("This prompt; else all of the caller's that run."),
        )
        .takes("client_id", Schema::text().means("Of this client alone."))
        .example(json!({ "prompt_id": JOB }))
        .named("Interrupt")
}

/// The body of `POST /free`.
pub fn freeing_request() -> Schema {
    Schema::object()
        .takes("unload_models", Schema::truth().means("The models in memory."))
        .takes(
            "free_memory",
            Schema::truth().means("What is kept from earlier prompts, too."),
        )
        .example(json!({ "unload_models": true }))
        .named("Freeing")
}

/// The body of `POST /api/jobs/cancel`.
pub fn cancel_request() -> Schema {
    Schema::object()
        .needs("job_ids", Schema::list(Schema::job_id()))
        .takes("client_id", Schema::text().means("Of this client alone."))
        .example(json!({ "job_ids": [JOB] }))
        .named("Cancel")
}
