//! A graph out of JSON, or everything that is wrong with its structure.

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{Graph, INVALID_WORKFLOW, Node, kind_of, shortened};
use crate::echo;
use crate::error::{ErrorKind, Fault, FaultKind, JobError, Problem};
use crate::json;

/// The longest id of a node, in bytes. The page writes numbers, and `57:32` within a subgraph; progress, results and errors
/// name nodes by their ids.
const LONGEST_ID: usize = 255;

impl Graph {
    /// The JSON that stands in the text of a workflow.
    pub fn json_of(text: &str) -> Result<Value, JobError> {
        json::read(text.as_bytes())
            .map_err(|error| error.of_request(|error| invalid(&format!("the text holds no JSON: {error}"))))
    }

    /// Whether this is meant as a graph: one of its values has a class.
    pub fn is_meant_by(value: &Value) -> bool {
        value
            .as_object()
            .is_some_and(|nodes| is_page_format(nodes) || nodes.values().any(|node| node.get("class_type").is_some()))
    }

    /// Takes a graph out of JSON that is kept.
    pub fn parse(value: &Value) -> Result<Self, JobError> {
        Self::from_value(value.clone())
    }

    /// Takes a graph out of JSON, without a second copy of its values. The error lists every structural mistake; whether the
    /// graph can run is [`check`](crate::workflow::check())'s question.
    ///
    /// Each node needs `class_type` (a string) and `inputs` (an object). ComfyUI 0.30 lets a node without `inputs` pass
    /// where no output needs it, and then runs neither this job nor any other until it is restarted.
    pub fn from_value(value: Value) -> Result<Self, JobError> {
        let object = match value {
            Value::Object(object) => object,
            Value::String(_) => {
                return Err(
                    invalid("the graph is a string").hint("Send the JSON object itself, not its text between quotes.")
                );
            }
            other => {
                return Err(invalid(&format!(
                    "the graph is {}, and should be an object of nodes",
                    kind_of(&other)
                )));
            }
        };
        if object.is_empty() {
            return Err(invalid("the graph has no nodes").hint(
                "Export one from ComfyUI with Workflow > Export (API), or send `prompt` instead of `workflow`.",
            ));
        }
        if let Some(error) = other_format(&object) {
            return Err(error);
        }

        let mut problems = Vec::new();
        let mut nodes = IndexMap::with_capacity(object.len());
        for (id, value) in object {
            if let Some(node) = parse_node(&id, value, &mut problems) {
                nodes.insert(id, node);
            }
        }
        if problems.is_empty() {
            return Ok(Self { nodes });
        }
        Err(JobError::new(ErrorKind::InvalidWorkflow, INVALID_WORKFLOW)
            .problems(shortened(problems))
            .hint("Each node is {\"class_type\": \"KSampler\", \"inputs\": {…}}."))
    }
}

/// One node of a request, or its problems.
fn parse_node(id: &str, value: Value, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut complain = |input: Option<&str>, message: String, fault: Option<Fault>| {
        problems.push(Problem {
            node_id: Some(id.to_owned()),
            class_type: None,
            input: input.map(str::to_owned),
            message,
            fault: fault.map(Box::new),
        });
    };
    if id.len() > LONGEST_ID {
        complain(
            None,
            format!("has an id of {} bytes, the limit is {LONGEST_ID}", id.len()),
            None,
        );
        return None;
    }
    let mut fields = match value {
        Value::Object(fields) => fields,
        other => {
            complain(None, format!("is {}, and should be an object", kind_of(&other)), None);
            return None;
        }
    };
    // What is taken leaves null in its place.
    let class_type = match fields.get_mut("class_type").map(Value::take) {
        Some(Value::String(class_type)) => Some(class_type),
        Some(other) => {
            let found = kind_of(&other);
            complain(
                Some("class_type"),
                format!("is {found}, and should be the name of a node class"),
                None,
            );
            None
        }
        None => {
            complain(
                Some("class_type"),
                no_class(&fields),
                Some(fault_of_no_class(id, &fields)),
            );
            None
        }
    };
    let inputs = match fields.get_mut("inputs").map(Value::take) {
        Some(Value::Object(inputs)) => Some(inputs),
        Some(other) => {
            complain(
                Some("inputs"),
                format!("is {}, and should be an object", kind_of(&other)),
                None,
            );
            None
        }
        None => {
            complain(
                Some("inputs"),
                "is missing: write {} when the node has none".to_owned(),
                None,
            );
            None
        }
    };
    fields.retain(|field, value| !is_never_the_same(field, value));
    Some(Node {
        class_type: class_type?,
        inputs: inputs?,
        layout: fields,
    })
}

/// The same as ComfyUI says it.
fn fault_of_no_class(id: &str, fields: &Map<String, Value>) -> Fault {
    let title = fields.get("_meta").and_then(|meta| meta.get("title")?.as_str());
    let title = title.map(echo::cut);
    let name = title.clone().unwrap_or_else(|| format!("ID #{id}"));
    let message =
        format!("Node '{name}' has no class_type. The workflow may be corrupted or a custom node is missing.");
    Fault::new(FaultKind::MissingNodeType, message, format!("Node ID '#{id}'"))
        .with("node_id", id)
        .with("class_type", Value::Null)
        .with("node_title", title)
}

/// What is said of a node without a class. It has a title where the page wrote it.
fn no_class(fields: &Map<String, Value>) -> String {
    let title = fields.get("_meta").and_then(|meta| meta.get("title"));
    let Some(title) = title.filter(|title| title.is_string()) else {
        return "is missing: it names the node's class".to_owned();
    };
    format!(
        "is missing; the node is called {}. The page exports a node without its class where the custom node is not installed: install it there and choose Workflow > Export (API) again, or take the node out",
        echo::json(title)
    )
}

/// Whether this is the `[NaN]` by which `ComfyUI` notes, in the graph of a picture, that a node runs each time. It asks the
/// class again where there is no note; read as a text, the note would say that nothing has changed.
fn is_never_the_same(field: &str, value: &Value) -> bool {
    field == "is_changed"
        && value
            .as_array()
            .is_some_and(|notes| notes.iter().any(|note| note == "NaN"))
}

/// The complaint for the two things most often sent instead of an API graph, or none.
fn other_format(object: &Map<String, Value>) -> Option<JobError> {
    if is_page_format(object) {
        return Some(
            invalid("this is a workflow as the ComfyUI page saves it (it has `nodes` and `links`), not a graph in API format")
                .hint("Convert it once: `qwen-image-worker convert FILE`, POST /convert, or Workflow > Export (API) in ComfyUI."),
        );
    }
    for wrapper in ["prompt", "workflow", "input"] {
        let Some(Value::Object(inner)) = object.get(wrapper) else {
            continue;
        };
        let is_node = inner.contains_key("class_type") || inner.contains_key("inputs");
        let holds_graph = is_page_format(inner)
            || inner.contains_key("workflow")
            || inner.values().any(|node| node.get("class_type").is_some());
        if !is_node && holds_graph {
            return Some(
                invalid(&format!("the graph is wrapped once more, in `{wrapper}`"))
                    .hint(format!("Send the content of `{wrapper}` itself as the workflow.")),
            );
        }
    }
    None
}

/// Whether this is what the page's "Save" writes: lists of nodes and links, with positions and widget values.
fn is_page_format(object: &Map<String, Value>) -> bool {
    object.get("nodes").is_some_and(Value::is_array)
        || (object.contains_key("links") && object.contains_key("last_node_id"))
}

fn invalid(detail: &str) -> JobError {
    JobError::new(ErrorKind::InvalidWorkflow, format!("{INVALID_WORKFLOW}: {detail}"))
}
