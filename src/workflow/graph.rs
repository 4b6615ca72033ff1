//! A graph in ComfyUI's API format: `{"<node id>": {"class_type": "KSampler", "inputs": {…}, …}, …}`.
//!
//! [`Graph::parse`] takes a graph out of a request and lists every structural mistake in one answer. What it does not
//! know (`_meta`, fields of a later ComfyUI) it keeps, and order is kept everywhere, so a graph that nobody changed is
//! sent to ComfyUI as it came.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use indexmap::IndexMap;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::is_model_file;
use crate::error::{ErrorKind, JobError, Problem};

/// The sentence that every complaint about a graph begins with.
pub const INVALID_WORKFLOW: &str = "Invalid workflow JSON structure";

/// How many problems one answer lists; a request of a hundred thousand broken nodes gets no longer text than this.
pub(super) const LISTED_PROBLEMS: usize = 50;

/// One node: its class, its inputs, and whatever else was written beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The class, as in `/object_info`.
    pub class_type: String,
    /// Input name to constant, or to a link `["<node id>", <output slot>]`.
    pub inputs: Map<String, Value>,
    /// All fields in their order; the values of `class_type` and `inputs` stand above, here they are null.
    layout: Map<String, Value>,
}

impl Node {
    /// A node of `class_type` with `inputs`.
    pub fn new(class_type: impl Into<String>, inputs: Map<String, Value>) -> Self {
        let layout = ["class_type", "inputs"]
            .map(|field| (field.to_owned(), Value::Null))
            .into_iter()
            .collect();
        Self {
            class_type: class_type.into(),
            inputs,
            layout,
        }
    }

    /// A field beside `class_type` and `inputs`, such as `_meta`.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match name {
            "class_type" | "inputs" => None,
            _ => self.layout.get(name),
        }
    }

    /// The links among the inputs, in order.
    pub fn links(&self) -> impl Iterator<Item = Link<'_>> {
        self.inputs
            .iter()
            .filter_map(|(input, value)| Link::parse(input, value))
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.layout.len()))?;
        for (field, value) in &self.layout {
            match field.as_str() {
                "class_type" => map.serialize_entry(field, &self.class_type)?,
                "inputs" => map.serialize_entry(field, &self.inputs)?,
                _ => map.serialize_entry(field, value)?,
            }
        }
        map.end()
    }
}

/// An input that is fed by another node's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link<'a> {
    /// The input that is fed.
    pub input: &'a str,
    /// The id of the node it is fed by.
    pub source: &'a str,
    /// Which output of that node, from 0: a number as it stands in the graph, or a boolean, which Python counts as one.
    pub slot: &'a Value,
}

impl<'a> Link<'a> {
    /// Reads a value as a link exactly where ComfyUI's executor does (`is_link` in `comfy_execution/graph_utils.py`):
    /// a list of two, a string and a number. `[38, 0]` is no link to it, `["38", true]` is one.
    pub fn parse(input: &'a str, value: &'a Value) -> Option<Self> {
        match value.as_array().map(Vec::as_slice) {
            Some([Value::String(source), slot @ (Value::Number(_) | Value::Bool(_))]) => {
                Some(Self { input, source, slot })
            }
            _ => None,
        }
    }

    /// The slot as a whole number; `None` for a fraction, which indexes nothing.
    pub fn index(&self) -> Option<i64> {
        self.slot.as_i64().or_else(|| self.slot.as_bool().map(i64::from))
    }
}

/// A whole graph in API format.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    /// Node id to node, in the order of the request.
    pub nodes: IndexMap<String, Node>,
}

impl Serialize for Graph {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.nodes)
    }
}

impl Graph {
    /// Takes a graph out of JSON. The error lists every structural mistake; whether the graph can run is
    /// [`check`](crate::workflow::check())'s question.
    ///
    /// Each node needs `class_type` (a string) and `inputs` (an object). ComfyUI 0.30 lets a node without `inputs` pass
    /// where no output needs it, and then runs neither this job nor any other until it is restarted.
    pub fn parse(value: &Value) -> Result<Self, JobError> {
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
                    kind_of(other)
                )));
            }
        };
        if object.is_empty() {
            return Err(invalid("the graph has no nodes").hint(
                "Export one from ComfyUI with Workflow > Export (API), or send `prompt` instead of `workflow`.",
            ));
        }
        if let Some(error) = other_format(object) {
            return Err(error);
        }

        let mut problems = Vec::new();
        let mut nodes = IndexMap::with_capacity(object.len());
        for (id, value) in object {
            if let Some(node) = parse_node(id, value, &mut problems) {
                nodes.insert(id.clone(), node);
            }
        }
        if problems.is_empty() {
            return Ok(Self { nodes });
        }
        Err(JobError::new(ErrorKind::InvalidWorkflow, INVALID_WORKFLOW)
            .problems(shortened(problems))
            .hint("Each node is {\"class_type\": \"KSampler\", \"inputs\": {…}}."))
    }

    /// The node with this id.
    pub fn get(&self, id: &str) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The node with this id, to change it.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Node> {
        self.nodes.get_mut(id)
    }

    /// The names of all classes in use: what the caller fetches from `/object_info/{class}` before a check.
    pub fn classes(&self) -> BTreeSet<&str> {
        self.nodes.values().map(|node| node.class_type.as_str()).collect()
    }

    /// Every value that looks like a model file's name.
    pub fn model_names(&self) -> Vec<String> {
        let values = self.nodes.values().flat_map(|node| node.inputs.values());
        let names = values.filter_map(Value::as_str);
        let names = names.filter(|name| is_model_file(Path::new(name)));
        names.map(str::to_owned).collect()
    }

    /// Every link of the graph as (id of the node that is fed, link).
    pub fn links(&self) -> impl Iterator<Item = (&str, Link<'_>)> {
        self.nodes
            .iter()
            .flat_map(|(id, node)| node.links().map(move |link| (id.as_str(), link)))
    }

    /// `wanted`, or `wanted-2`, `wanted-3` …: an id that no node has.
    pub fn free_id(&self, wanted: &str) -> String {
        let mut id = wanted.to_owned();
        let mut number = 2;
        while self.nodes.contains_key(&id) {
            id = format!("{wanted}-{number}");
            number += 1;
        }
        id
    }

    /// Removes a node and the inputs that link to it.
    pub fn remove(&mut self, id: &str) {
        self.nodes.shift_remove(id);
        for node in self.nodes.values_mut() {
            node.inputs
                .retain(|input, value| Link::parse(input, value).is_none_or(|link| link.source != id));
        }
    }

    /// The nodes on which `roots` depend, themselves included, by the links that `follow` lets pass. Links to nodes
    /// that do not exist lead nowhere.
    pub fn reached<'a>(
        &'a self,
        roots: impl IntoIterator<Item = &'a str>,
        follow: impl Fn(&'a Node, &Link<'a>) -> bool,
    ) -> HashSet<&'a str> {
        let mut reached = HashSet::new();
        let mut waiting: Vec<&str> = roots.into_iter().collect();
        while let Some(id) = waiting.pop() {
            let Some(node) = self.nodes.get(id) else { continue };
            if !reached.insert(id) {
                continue;
            }
            waiting.extend(node.links().filter(|link| follow(node, link)).map(|link| link.source));
        }
        reached
    }

    /// A cycle among the nodes of `within`, each node once, as ComfyUI tells it: a node, what it needs, and so on.
    pub fn cycle<'a>(&'a self, within: &HashSet<&'a str>) -> Option<Vec<&'a str>> {
        // Depth first without recursion: a graph can be deeper than the stack.
        let mut on_path: HashMap<&str, bool> = HashMap::new();
        for (root, _) in &self.nodes {
            if !within.contains(root.as_str()) || on_path.contains_key(root.as_str()) {
                continue;
            }
            let mut path: Vec<(&str, Vec<&str>)> = Vec::new();
            let mut enter = Some(root.as_str());
            loop {
                if let Some(id) = enter.take() {
                    on_path.insert(id, true);
                    let sources = self
                        .nodes
                        .get(id)
                        .map_or_else(Vec::new, |node| node.links().map(|link| link.source).collect());
                    path.push((id, sources));
                }
                let Some((id, sources)) = path.last_mut() else { break };
                match sources.pop() {
                    None => {
                        on_path.insert(id, false);
                        path.pop();
                    }
                    Some(source) if !within.contains(source) => {}
                    Some(source) => match on_path.get(source) {
                        None => enter = Some(source),
                        Some(false) => {}
                        Some(true) => {
                            return Some(
                                path.into_iter()
                                    .map(|(id, _)| id)
                                    .skip_while(|id| *id != source)
                                    .collect(),
                            );
                        }
                    },
                }
            }
        }
        None
    }
}

/// One node of a request, or its problems.
fn parse_node(id: &str, value: &Value, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut complain = |input: Option<&str>, message: String| {
        problems.push(Problem {
            node_id: Some(id.to_owned()),
            class_type: None,
            input: input.map(str::to_owned),
            message,
        });
    };
    let Value::Object(fields) = value else {
        complain(None, format!("is {}, and should be an object", kind_of(value)));
        return None;
    };
    let class_type = match fields.get("class_type") {
        Some(Value::String(class_type)) => Some(class_type),
        Some(other) => {
            let found = kind_of(other);
            complain(
                Some("class_type"),
                format!("is {found}, and should be the name of a node class"),
            );
            None
        }
        None => {
            complain(Some("class_type"), "is missing: it names the node's class".to_owned());
            None
        }
    };
    let inputs = match fields.get("inputs") {
        Some(Value::Object(inputs)) => Some(inputs),
        Some(other) => {
            complain(
                Some("inputs"),
                format!("is {}, and should be an object", kind_of(other)),
            );
            None
        }
        None => {
            complain(Some("inputs"), "is missing: write {} when the node has none".to_owned());
            None
        }
    };
    let layout = fields
        .iter()
        .map(|(field, value)| {
            let kept = match field.as_str() {
                "class_type" | "inputs" => Value::Null,
                _ => value.clone(),
            };
            (field.clone(), kept)
        })
        .collect();
    Some(Node {
        class_type: class_type?.clone(),
        inputs: inputs?.clone(),
        layout,
    })
}

/// The complaint for the two things most often sent instead of an API graph, or none.
fn other_format(object: &Map<String, Value>) -> Option<JobError> {
    if is_page_format(object) {
        return Some(
            invalid("this is the format that the ComfyUI page saves (it has `nodes` and `links`), not the API format")
                .hint("In ComfyUI open the workflow, choose Workflow > Export (API), and send that file."),
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

/// Cuts a long list of problems and says how many are left out.
pub(super) fn shortened(mut problems: Vec<Problem>) -> Vec<Problem> {
    if problems.len() > LISTED_PROBLEMS {
        let rest = problems.len() - LISTED_PROBLEMS;
        problems.truncate(LISTED_PROBLEMS);
        problems.push(Problem {
            message: format!("and {rest} more"),
            ..Problem::default()
        });
    }
    problems
}

/// What a JSON value is, in words, with its article.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
