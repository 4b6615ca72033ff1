//! A job, as every route of this API tells of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::BASE;
use super::outputs::{Output, Places};
use super::refusal::sentence;
use super::time::time;
use crate::dialect::answer::Answer;
use crate::dialect::schema::Schema;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::{Progress, Stage};
use crate::job::{JobState, JobView};

/// What a job is, in this API's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits.
    Queued,
    /// ComfyUI is at it.
    Running,
    /// It made what it should.
    Succeeded,
    /// Its owner wants it to end. A job of ours has ended when a client hears of that.
    Canceling,
    /// Its owner ended it.
    Canceled,
    /// It went wrong.
    Failed,
    /// Its time was over before it began.
    Expired,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Canceling,
        Self::Canceled,
        Self::Failed,
        Self::Expired,
    ];

    /// What a job is.
    pub fn of(view: &JobView) -> Self {
        match view.state {
            JobState::Queued => Self::Queued,
            JobState::Running => Self::Running,
            JobState::Completed => Self::Succeeded,
            JobState::Cancelled => Self::Canceled,
            JobState::TimedOut if !has_begun(view) => Self::Expired,
            JobState::TimedOut | JobState::Failed => Self::Failed,
        }
    }

    /// Whether a job in this state may be it.
    pub(super) fn may_be(self, state: JobState) -> bool {
        match state {
            JobState::Queued => self == Self::Queued,
            JobState::Running => self == Self::Running,
            JobState::Completed => self == Self::Succeeded,
            JobState::Cancelled => self == Self::Canceled,
            JobState::Failed => self == Self::Failed,
            JobState::TimedOut => matches!(self, Self::Failed | Self::Expired),
        }
    }

    /// As the wire has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Canceling => "canceling",
            Self::Canceled => "canceled",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

/// What a job may be.
pub fn statuses() -> Schema {
    Schema::one_of(Status::ALL.map(Status::as_str))
}

fn has_begun(view: &JobView) -> bool {
    view.state == JobState::Running || !view.execution.is_zero()
}

/// A job.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub struct V2Job<'a> {
    id: &'a str,
    #[schema(schema_with = statuses)]
    status: &'static str,
    /// RFC 3339, as all times are.
    created_at: String,
    #[schema(required)]
    started_at: Option<String>,
    #[schema(required)]
    completed_at: Option<String>,
    /// Until when it is there at least.
    expires_at: String,
    /// Its place in the queue, from 1.
    #[schema(required)]
    queue_position: Option<usize>,
    /// How far it is, while it runs.
    #[schema(required)]
    progress: Option<Snapshot<'a>>,
    /// What it has made so far, each with an id of its own.
    outputs: Vec<Output<'a>>,
    /// Why it failed.
    #[schema(required)]
    error: Option<Failure<'a>>,
    metrics: Metrics,
    urls: Urls,
    /// Its labels.
    metadata: BTreeMap<&'a str, &'a str>,
    /// Its priority: higher is sooner. Ours.
    priority: i32,
    /// What to know of it although it is well. Ours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'a str>,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Progress)]
pub(super) struct Snapshot<'a> {
    /// 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub(super) value: f64,
    nodes_done: u32,
    /// All nodes of the graph.
    nodes_total: u32,
    #[schema(required)]
    current_node: Option<&'a str>,
    #[schema(required)]
    current_node_class: Option<&'a str>,
    /// Of the node at work.
    #[schema(required)]
    step: Option<u32>,
    #[schema(required)]
    steps: Option<u32>,
    /// For people: `KSampler 21/50`.
    #[schema(required)]
    message: Option<String>,
}

impl<'a> Snapshot<'a> {
    /// `nodes` are all of the graph, as far as its progress does not tell yet.
    pub(super) fn of(progress: &'a Progress, nodes: u32) -> Self {
        let (done, total) = progress.nodes;
        let (step, steps) = progress.step.unzip();
        let class = progress.class_type.as_deref();
        let message = match (progress.stage, class, progress.step) {
            (Stage::Downloading, ..) => progress.download.as_ref().map(|download| {
                let percent = download.percent().map(|percent| format!(" {percent} %"));
                format!("downloading {}{}", download.file, percent.unwrap_or_default())
            }),
            (_, Some(class), Some((step, steps))) => Some(format!("{class} {step}/{steps}")),
            (_, class, _) => class.map(str::to_owned),
        };
        Self {
            value: f64::from(progress.percent) / 100.0,
            nodes_done: done,
            nodes_total: if total == 0 { nodes } else { total },
            current_node: progress.node_id.as_deref(),
            current_node_class: class,
            step,
            steps,
            message,
        }
    }

    /// All of it is done.
    pub(super) fn whole(nodes: u32) -> Self {
        Self {
            value: 1.0,
            nodes_done: nodes,
            nodes_total: nodes,
            current_node: None,
            current_node_class: None,
            step: None,
            steps: None,
            message: None,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Failure)]
struct Failure<'a> {
    /// For programs, such as `node_execution_error`.
    code: &'static str,
    message: String,
    /// The node that failed.
    #[schema(required)]
    node_id: Option<&'a str>,
    #[schema(required)]
    class_type: Option<&'a str>,
    /// Always null: it is in the worker's log.
    #[schema(required)]
    traceback: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Metrics)]
struct Metrics {
    /// Milliseconds of waiting.
    #[schema(required)]
    queue_ms: Option<u64>,
    /// Milliseconds of running.
    #[schema(required)]
    execution_ms: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Urls)]
struct Urls {
    /// The job itself.
    #[serde(rename = "self")]
    this: String,
    /// Its stream of events.
    events: String,
    /// Where it is cancelled.
    cancel: String,
}

/// A job, with this status of the answer.
pub fn job(status: u16, view: &JobView, places: &Places) -> Answer {
    Answer::json(status, &body(view, places)).of_job(view)
}

fn body<'a>(view: &'a JobView, places: &Places) -> V2Job<'a> {
    let owner = view.policy.v2.as_deref();
    let has_begun = has_begun(view);
    let is_over = view.state.is_final();
    let this = format!("{}{BASE}/jobs/{}", places.prefix, view.id);
    let error = match &view.result {
        // Its owner wanted that.
        Some(Err(_)) if view.state == JobState::Cancelled => None,
        Some(Err(error)) => Some(failure(error, view.state)),
        _ => None,
    };
    let of_request = owner.into_iter().flat_map(|owner| &owner.warnings);
    let of_result = match &view.result {
        Some(Ok(outcome)) => outcome.warnings.as_slice(),
        _ => &[],
    };
    let metadata = owner.into_iter().flat_map(|owner| &owner.metadata);
    V2Job {
        id: view.id.as_str(),
        status: Status::of(view).as_str(),
        created_at: time(view.created),
        started_at: has_begun.then(|| time(view.created + view.delay)),
        completed_at: is_over.then(|| time(view.created + view.delay + view.execution)),
        expires_at: time(places.expires(view)),
        queue_position: view.position.filter(|_| view.state == JobState::Queued),
        progress: progress(view),
        outputs: view
            .outputs
            .iter()
            .map(|output| Output::of(view, output, places))
            .collect(),
        error,
        metrics: Metrics {
            queue_ms: (has_begun || is_over).then(|| millis(view.delay)),
            execution_ms: has_begun.then(|| millis(view.execution)),
        },
        urls: Urls {
            events: format!("{this}/events"),
            cancel: format!("{this}/cancel"),
            this,
        },
        metadata: metadata.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        priority: view.policy.priority,
        warnings: of_request.chain(of_result).map(String::as_str).collect(),
    }
}

/// How far a job is, while it runs.
pub(super) fn progress(view: &JobView) -> Option<Snapshot<'_>> {
    let is_at_work = view.state == JobState::Running || view.progress.stage == Stage::Downloading;
    (is_at_work && !view.state.is_final()).then(|| Snapshot::of(&view.progress, nodes(view)))
}

/// The nodes of a job's graph, as far as they are known.
pub(super) fn nodes(view: &JobView) -> u32 {
    match view.progress.nodes {
        (_, 0) => view.policy.v2.as_ref().map_or(0, |owner| owner.nodes),
        (_, total) => total,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn failure(error: &JobError, state: JobState) -> Failure<'_> {
    let problem = error.problems.first();
    let code = match error.kind {
        _ if state == JobState::TimedOut => "timed_out",
        ErrorKind::NodeFailed => "node_execution_error",
        ErrorKind::InvalidRequest | ErrorKind::InvalidWorkflow => "invalid_workflow",
        ErrorKind::ModelMissing => "model_missing",
        ErrorKind::OutOfMemory | ErrorKind::AsksTooMuch => "out_of_memory",
        ErrorKind::Interrupted => "interrupted",
        _ => "upstream_error",
    };
    Failure {
        code,
        message: sentence(error),
        node_id: problem.and_then(|problem| problem.node_id.as_deref()),
        class_type: problem.and_then(|problem| problem.class_type.as_deref()),
        traceback: None,
    }
}

/// What `GET /api/v2/jobs/{id}/workflow` answers.
#[derive(Serialize, ToSchema)]
#[schema(as = Workflow)]
pub struct V2Workflow<'a> {
    #[schema(schema_with = Schema::object)]
    workflow: &'a Value,
    /// `api`: a graph; `save`: what ComfyUI's page saved, of which a graph is made in its turn.
    #[schema(schema_with = formats)]
    format: &'static str,
}

fn formats() -> Schema {
    Schema::one_of(["api", "save"])
}

/// The graph of a job.
pub fn graph(workflow: &Value) -> Answer {
    Answer::json(
        200,
        &V2Workflow {
            workflow,
            format: "api",
        },
    )
}

/// The workflow of a job, as ComfyUI's page saved it.
pub fn saved(workflow: &Value) -> Answer {
    Answer::json(
        200,
        &V2Workflow {
            workflow,
            format: "save",
        },
    )
}
