//! `POST /api/v2/jobs`: what is to run.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::refusal::{Code, Refusal};
use crate::config::Secret;
use crate::dialect::schema::Schema;
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, Dialect, InputImage, JobRequest, Policy, SavedRequest, V2Owner, Work};
use crate::json;
use crate::workflow::convert::Converted;
use crate::workflow::{Graph, Saved};

/// What a request looks like.
const SHAPE: &str = "send {\"workflow\": {…}} with a graph in API format";
/// The most labels of a job, as the documentation of this API has it.
pub(super) const MOST_LABELS: usize = 16;
/// The longest name of a label, in bytes. The documentation tells none.
const LONGEST_NAME: usize = 128;
/// The longest value of a label, in bytes.
const LONGEST_VALUE: usize = 1024;
/// How many unknown fields are named.
const LISTED: usize = 8;

/// Where comfy.org's key for API nodes stands in `extra_data`.
const API_KEY: &str = "api_key_comfy_org";

/// A workflow that somebody sends.
#[derive(Debug)]
pub struct Submission {
    /// What is to run.
    pub workflow: Workflow,
    /// Files that stood in its graph, or are named there by their ids.
    pub images: Vec<InputImage>,
    metadata: BTreeMap<String, String>,
    priority: i32,
    api_key: Option<Secret>,
    /// What was not understood of the request.
    strange: Vec<String>,
    /// What to know of a workflow that was converted.
    warnings: Vec<String>,
}

/// A workflow, in either form.
#[derive(Debug)]
pub enum Workflow {
    /// A graph in API format.
    Graph(Graph),
    /// One that ComfyUI's page saved. Other servers of this API refuse it.
    Saved(SavedRequest),
}

/// Reads the body.
pub fn parse(body: &[u8]) -> Result<Submission, Refusal> {
    let value = json::read(body).map_err(|error| {
        let error = error.of_request(|error| JobError::invalid(format!("The body is no JSON: {error}; {SHAPE}")));
        Refusal::from(&error)
    })?;
    let Value::Object(mut body) = value else {
        return Err(Refusal::new(
            Code::InvalidRequest,
            format!("The body is no JSON object; {SHAPE}"),
        ));
    };
    for reserved in ["webhook_url", "inputs"] {
        if body.get(reserved).is_some_and(|value| !value.is_null()) {
            let message = format!("`{reserved}` is not taken by this version of the API; leave it out");
            return Err(Refusal::new(Code::InvalidRequest, message).detail("field", reserved));
        }
        body.shift_remove(reserved);
    }
    let mut take = |name: &str| body.shift_remove(name).filter(|value| !value.is_null());
    let workflow = take("workflow");
    let extra_data = take("extra_data");
    let metadata = take("metadata");
    let priority = take("priority");
    let Some(workflow) = workflow else {
        return Err(
            Refusal::new(Code::InvalidRequest, format!("`workflow` is missing; {SHAPE}")).detail("field", "workflow"),
        );
    };
    let api_key = extra_data.map(api_key).transpose()?.flatten();
    let metadata = metadata.map(labels).transpose()?.unwrap_or_default();
    let priority = priority.map(|priority| level(&priority)).transpose()?.unwrap_or(0);
    let strange: Vec<String> = body.keys().take(LISTED).map(|name| echo::cut(name)).collect();
    let strange = match strange.len() {
        0 => Vec::new(),
        _ => vec![format!(
            "the request has fields that are not known here: {}",
            strange.join(", ")
        )],
    };
    Ok(Submission {
        workflow: workflow_of(workflow)?,
        images: Vec::new(),
        metadata,
        priority,
        api_key,
        strange,
        warnings: Vec::new(),
    })
}

fn workflow_of(workflow: Value) -> Result<Workflow, Refusal> {
    if !workflow.is_object() {
        let message = format!("`workflow` is no object; {SHAPE}");
        return Err(Refusal::new(Code::InvalidRequest, message).detail("field", "workflow"));
    }
    if !Saved::is_meant_by(&workflow) {
        return match Graph::from_value(workflow) {
            Ok(graph) => Ok(Workflow::Graph(graph)),
            Err(error) => Err(of_graph(&error)),
        };
    }
    let workflow = Saved::from_value(workflow).map_err(|error| not_converted(&error))?;
    Ok(Workflow::Saved(SavedRequest {
        workflow,
        inputs: Map::new(),
        seed: None,
    }))
}

/// What is wrong with a graph, or with the request around it.
pub fn of_graph(error: &JobError) -> Refusal {
    match error.kind {
        ErrorKind::InvalidRequest if error.field.as_deref() == Some("workflow") => {
            let error = JobError {
                kind: ErrorKind::InvalidWorkflow,
                ..error.clone()
            };
            Refusal::from(&error)
        }
        _ => Refusal::from(error),
    }
}

/// Why no graph can be made of a workflow that the page saved.
pub fn not_converted(error: &JobError) -> Refusal {
    match error.kind {
        ErrorKind::InvalidRequest | ErrorKind::InvalidWorkflow => Refusal::from(error).with(Code::WorkflowFormatUi),
        _ => Refusal::from(error),
    }
}

fn api_key(extra_data: Value) -> Result<Option<Secret>, Refusal> {
    let wrong = |message: String| Err(Refusal::new(Code::InvalidRequest, message).detail("field", "extra_data"));
    let Value::Object(extra_data) = extra_data else {
        return wrong(format!(
            "`extra_data` is no object; send {{\"{API_KEY}\": \"…\"}}, or leave it out"
        ));
    };
    if let Some(name) = extra_data.keys().find(|name| *name != API_KEY) {
        return wrong(format!(
            "`extra_data` takes `{API_KEY}` alone, and not `{}`",
            echo::cut(name)
        ));
    }
    match extra_data.get(API_KEY) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(key)) => Ok(Some(key).filter(|key| !key.is_empty()).map(Secret::new)),
        Some(_) => wrong(format!("`extra_data.{API_KEY}` is no text")),
    }
}

fn labels(metadata: Value) -> Result<BTreeMap<String, String>, Refusal> {
    let wrong = |message: String| Refusal::new(Code::MetadataInvalid, message);
    let Value::Object(metadata) = metadata else {
        return Err(wrong(
            "`metadata` is no object; send texts by names, {\"client\": \"acme\"}".to_owned(),
        ));
    };
    if metadata.len() > MOST_LABELS {
        let count = metadata.len();
        let refusal = wrong(format!("`metadata` has {count} pairs, and may have {MOST_LABELS}"));
        return Err(refusal.detail("count", count));
    }
    let mut labels = BTreeMap::new();
    for (name, value) in metadata {
        let shown = echo::cut(&name);
        let wrong = |why: String| wrong(format!("`metadata`: {why}")).detail("key", shown.as_str());
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(is_unseen) {
            return Err(wrong(format!(
                "the name `{shown}` is empty, has more than {LONGEST_NAME} bytes, or holds control characters"
            )));
        }
        let Value::String(value) = value else {
            return Err(wrong(format!("the value of `{shown}` is no text")));
        };
        if value.len() > LONGEST_VALUE {
            let message = format!(
                "the value of `{shown}` has {} bytes, the limit is {LONGEST_VALUE}",
                value.len()
            );
            return Err(wrong(message));
        }
        if value.chars().any(is_unseen) {
            return Err(wrong(format!(
                "the value of `{shown}` holds a control character, or one that turns the direction of the text"
            )));
        }
        labels.insert(name, value);
    }
    Ok(labels)
}

/// Control characters, and those that change the direction of what follows (Unicode's bidirectional formatting).
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn level(priority: &Value) -> Result<i32, Refusal> {
    let level = priority.as_i64().and_then(|level| i32::try_from(level).ok());
    level.ok_or_else(|| {
        let message = format!(
            "`priority` is {}, and must be a whole number; higher is sooner",
            echo::json(priority)
        );
        Refusal::new(Code::InvalidRequest, message).detail("field", "priority")
    })
}

impl Submission {
    /// Takes the graph that the page would send in place of the workflow that it saved.
    pub fn converted(&mut self, converted: Converted) {
        self.workflow = Workflow::Graph(converted.graph);
        self.warnings.extend(converted.warnings);
    }

    /// The job. `key` is the mark of the key that let its request in.
    pub fn job(self, key: Option<String>) -> (JobRequest, Policy) {
        let (work, nodes) = match self.workflow {
            Workflow::Graph(graph) => {
                let nodes = graph.nodes.len();
                (Work::Workflow(graph), nodes)
            }
            Workflow::Saved(saved) => (Work::Saved(saved), 0),
        };
        let request = JobRequest {
            work,
            images: self.images,
            delivery: Delivery::default(),
            org_api_key: self.api_key,
            extra_data: Map::new(),
            warnings: self.warnings,
        };
        let policy = Policy {
            dialect: Dialect::ComfyV2,
            priority: self.priority,
            v2: Some(Box::new(V2Owner {
                key,
                metadata: self.metadata,
                nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
                warnings: self.strange,
            })),
            ..Policy::default()
        };
        (request, policy)
    }
}

/// What the body of `POST /api/v2/jobs` looks like.
pub fn submission() -> Schema {
    let extra_data = Schema::object()
        .takes(
            API_KEY,
            Schema::text().means("comfy.org's key for API nodes. It is stored nowhere."),
        )
        .with("additionalProperties", false);
    let metadata = Schema::object()
        .with("maxProperties", MOST_LABELS)
        .with(
            "additionalProperties",
            json!({"type": "string", "maxLength": LONGEST_VALUE}),
        )
        .means("Labels, by which the job is found in the list.");
    Schema::object()
        .needs("workflow", Schema::object().means("A graph in API format. Where the name of a file stands, an asset may: `{\"__type\": \"core/ASSET\", \"info\": {\"id\": …}}`. A workflow as ComfyUI's page saves it is taken too. Ours."))
        .takes("extra_data", extra_data)
        .takes("metadata", metadata)
        .takes("priority", Schema::integer(&(i32::MIN..=i32::MAX)).or(0).means("Higher is sooner. Ours."))
        .example(json!({
            "workflow": {
                "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3_608_190}},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "fox"}},
            },
            "metadata": {"client": "acme"},
        }))
        .named("Submission")
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
