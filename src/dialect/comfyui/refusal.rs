//! Errors in ComfyUI's shape: `{"error": {"type", "message", "details", "extra_info"}, "node_errors"}`.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::described::ErrorBody;
use crate::dialect::answer::Answer;
use crate::error::{ErrorKind, FaultKind, JobError, Problem};

/// Our word for a node that cannot be converted; ComfyUI has none.
const NOT_CONVERTED: &str = "saved_workflow_not_converted";

/// The faults of nodes by their ids, as ComfyUI tells them.
pub(super) type NodeErrors = IndexMap<String, Value>;

/// A request that is not done, with its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal(Box<ErrorBody>);

impl Refusal {
    pub(super) fn new(kind: &str, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self(Box::new(ErrorBody::new(kind, message, details)))
    }

    /// A body, or a field of it, that is wrong.
    pub(super) fn request(message: impl Into<String>, details: impl Into<String>) -> Self {
        Self::new("invalid_request", message, details)
    }

    pub(super) fn no_prompt() -> Self {
        let said = "No prompt provided";
        Self::new("no_prompt", said, said)
    }

    pub(super) fn no_outputs() -> Self {
        Self::new(FaultKind::NoOutputs.as_str(), "Prompt has no outputs", "")
    }

    pub(super) fn prompt_id() -> Self {
        Self::new(
            "invalid_prompt_id",
            "prompt_id must be a valid UUID",
            "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one",
        )
    }

    /// There is a job of this id already, which may be somebody else's.
    pub fn taken() -> Self {
        Self::new(
            "invalid_prompt_id",
            "prompt_id is taken",
            "a prompt of this id waits, runs or is somebody else's; omit it to let the server generate one",
        )
    }

    /// A graph that is none, or that no output of can run.
    pub(super) fn graph(error: &JobError, node_errors: NodeErrors) -> Self {
        let fault_of = |kind: FaultKind| {
            let mut faults = error.problems.iter().filter_map(|problem| problem.fault.as_deref());
            faults.find(|fault| fault.kind == kind)
        };
        if let Some(fault) = fault_of(FaultKind::MissingNodeType) {
            let mut refusal = Self::new(fault.kind.as_str(), fault.message.clone(), fault.details.clone());
            refusal.0.error.extra_info.clone_from(&fault.extra);
            // What ComfyUI does not know: where the class can be had.
            let extra = &mut refusal.0.error.extra_info;
            extra.insert("advice".to_owned(), error.full_text().into());
            return refusal;
        }
        if node_errors.is_empty() && fault_of(FaultKind::NoOutputs).is_some() {
            return Self::no_outputs();
        }
        if node_errors.is_empty() {
            return Self::new("invalid_prompt", error.message.clone(), details(error));
        }
        let mut refusal = Self::new(
            "prompt_outputs_failed_validation",
            "Prompt outputs failed validation",
            error.full_text(),
        );
        refusal.0.node_errors = node_errors;
        refusal
    }

    /// A workflow that the page saved, and that no graph can be made of.
    pub fn saved(error: &JobError) -> Self {
        let mut refusal = Self::from(error.clone());
        let of_nodes = error
            .problems
            .iter()
            .filter_map(|problem| Some((problem.node_id.as_ref()?, problem)));
        for (id, problem) in of_nodes {
            let told = match problem.fault.as_deref() {
                Some(fault) => json!({
                    "type": fault.kind.as_str(),
                    "message": fault.message,
                    "details": fault.details,
                    "extra_info": with_advice(&fault.extra, problem),
                }),
                None => json!({
                    "type": NOT_CONVERTED,
                    "message": problem.message,
                    "details": problem.input.clone().unwrap_or_default(),
                    "extra_info": problem.input.as_ref().map_or_else(|| json!({}), |input| json!({"input_name": input})),
                }),
            };
            let node = refusal.0.node_errors.entry(id.clone()).or_insert_with(
                || json!({"errors": [], "dependent_outputs": [], "class_type": problem.class_type.as_deref().unwrap_or_default()}),
            );
            if let Some(told_before) = node["errors"].as_array_mut() {
                told_before.push(told);
            }
        }
        refusal
    }

    /// The answer.
    pub fn answer(&self) -> Answer {
        Answer::json(400, &self.0)
    }
}

impl From<JobError> for Refusal {
    fn from(error: JobError) -> Self {
        let kind = match error.kind {
            ErrorKind::InvalidWorkflow => return Self::graph(&error, NodeErrors::new()),
            kind => word(kind),
        };
        Self::new(&kind, error.message.clone(), details(&error))
    }
}

/// Adds the faults of nodes to those that are known.
pub(super) fn collect(errors: &mut NodeErrors, graph: &crate::workflow::Graph, problems: &[Problem]) {
    for problem in problems {
        let Some(fault) = problem.fault.as_deref() else {
            continue;
        };
        let circle = fault.extra.get("cycle_nodes").and_then(Value::as_array);
        let circle = circle.into_iter().flatten().filter_map(Value::as_str);
        for id in problem.node_id.as_deref().into_iter().chain(circle) {
            let mut extra = with_advice(&fault.extra, problem);
            if fault.kind == FaultKind::DependencyCycle {
                extra.insert("node_id".to_owned(), id.into());
            }
            let told = json!({
                "type": fault.kind.as_str(),
                "message": fault.message,
                "details": fault.details,
                "extra_info": extra,
            });
            let class_type = graph.get(id).map(|node| crate::echo::cut(&node.class_type));
            let node = errors
                .entry(id.to_owned())
                .or_insert_with(|| json!({"errors": [], "dependent_outputs": fault.outputs, "class_type": class_type}));
            if let Some(told_before) = node["errors"].as_array_mut() {
                told_before.push(told);
            }
        }
    }
}

/// What a fault says to programs. Ours say more: what is meant, where it can be had.
fn with_advice(extra: &Map<String, Value>, problem: &Problem) -> Map<String, Value> {
    let mut extra = extra.clone();
    extra.insert("advice".to_owned(), problem.message.clone().into());
    extra
}

/// What more an error says than its sentence.
fn details(error: &JobError) -> String {
    let text = error.full_text();
    let rest = text.strip_prefix(error.message.as_str()).unwrap_or(&text);
    rest.trim_start_matches(['.', '\n', ' ']).to_owned()
}

fn word(kind: ErrorKind) -> String {
    let word = serde_json::to_value(kind).ok();
    word.and_then(|word| word.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// An error of any route of this API. Clients look into `error` for its `message`, and some break where it is a text.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    let body = ErrorBody::new(&word(error.kind), error.message.clone(), details(error));
    Answer::json(status, &body)
}
