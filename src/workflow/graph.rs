//! A graph in ComfyUI's API format: `{"<node id>": {"class_type": "KSampler", "inputs": {…}, …}, …}`.
//!
//! [`Graph::parse`] takes a graph out of a request and lists every structural mistake in one answer. What it does not
//! know (`_meta`, fields of a later ComfyUI) it keeps, and order is kept everywhere, so a graph that nobody changed is
//! sent to ComfyUI as it came.

mod parse;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use indexmap::IndexMap;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::is_model_file;
use crate::error::Problem;

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
    /// The values of its inputs that look like a model file's name.
    pub fn model_names(&self) -> impl Iterator<Item = &str> {
        let names = self.inputs.values().filter_map(Value::as_str);
        names.filter(|name| is_model_file(Path::new(name)))
    }

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

    /// The title that it has in the page.
    pub fn title(&self) -> Option<&str> {
        self.layout.get("_meta")?.get("title")?.as_str()
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

    /// The names of the classes of which a node has this text in one of its inputs.
    pub fn classes_that_name(&self, text: &str) -> impl Iterator<Item = &str> {
        let names_it = move |node: &&Node| node.inputs.values().any(|value| value.as_str() == Some(text));
        self.nodes
            .values()
            .filter(names_it)
            .map(|node| node.class_type.as_str())
    }

    /// Every value that looks like a model file's name.
    pub fn model_names(&self) -> Vec<String> {
        let names = self.nodes.values().flat_map(Node::model_names);
        names.map(str::to_owned).collect()
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
