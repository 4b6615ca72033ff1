//! The page's JSON as nodes, slots and wires: the root and the definitions of subgraphs, each a [`Level`].
//!
//! What is read here is sound: ids are unique, definitions lie within each other without a circle and not too deep, and
//! there is not more of anything than we write out. Whether a wire leads somewhere is asked when it is followed.

mod level;
mod order;

pub(super) use level::{id_of, type_of};

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value};

use super::report::{invalid, refused};
use crate::echo;
use crate::error::{JobError, Problem};
use crate::workflow::graph::kind_of;
use crate::workflow::is_model_file;

/// The nodes of a workflow, and those of the graph that it becomes. A graph of a thousand is large.
pub(super) const MOST_NODES: usize = 10_000;
/// So many inputs, or outputs, a definition may have.
pub(super) const MOST_PORTS: usize = 1_000;
/// So many values a node's widgets may have.
const MOST_VALUES: usize = 2_000;
/// How deep subgraphs may lie within each other. Their ids are joined to the id of a node.
pub(super) const DEEPEST: usize = 30;
/// The longest id of a node, in bytes; [`DEEPEST`] of the usual ones make a path.
const LONGEST_ID: usize = 64;

/// A workflow.
#[derive(Debug)]
pub(super) struct Document<'a> {
    /// The root, then the definitions in the file's order.
    pub levels: Vec<Level<'a>>,
    /// All levels, those that others hold before them; the root is the last.
    pub order: Vec<usize>,
}

/// The root, or the definition of a subgraph.
#[derive(Debug, Default)]
pub(super) struct Level<'a> {
    /// The id of the definition, which is the type of its hosts.
    pub id: &'a str,
    /// Its name, for people.
    pub name: &'a str,
    /// The nodes in the file's order.
    pub nodes: Vec<Saved<'a>>,
    /// The nodes by the id that the file has.
    pub by_id: HashMap<Cow<'a, str>, usize>,
    /// The wires by id.
    pub wires: HashMap<i64, Wire>,
    /// The inputs of a definition.
    pub inputs: Vec<Port<'a>>,
    /// The outputs of a definition.
    pub outputs: Vec<Port<'a>>,
    /// What the file says of the last id in use.
    last_id: u64,
}

/// A node as it was saved.
#[derive(Debug)]
pub(super) struct Saved<'a> {
    /// The id, as the graph will have it: two definitions may use the same, and the page tells them apart.
    pub id: Cow<'a, str>,
    /// The class, or the id of a definition.
    pub class: &'a str,
    /// The definition, where the node is its host.
    pub host: Option<usize>,
    /// The title that somebody gave it.
    pub title: Option<&'a str>,
    /// Whether it is sent.
    pub mode: Mode,
    /// The input slots.
    pub inputs: Vec<SavedSlot<'a>>,
    /// The output slots.
    pub outputs: Vec<SavedOutput<'a>>,
    /// `widgets_values`: a list, or an object.
    pub values: Option<&'a Value>,
    /// `widgets_values_named` of newer pages.
    pub named: Option<&'a Map<String, Value>>,
    /// `properties`.
    pub properties: Option<&'a Map<String, Value>>,
}

/// Whether a node is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is.
    Active,
    /// It is not, and gives nothing.
    Muted,
    /// It is not, and passes on what it gets.
    Bypassed,
}

/// An input slot as it was saved.
#[derive(Debug)]
pub(super) struct SavedSlot<'a> {
    /// The input's name.
    pub name: &'a str,
    /// The type.
    pub kind: Cow<'a, str>,
    /// The id of the wire that ends here.
    pub wire: Option<i64>,
    /// The widget that the slot belongs to.
    pub widget: Option<&'a str>,
}

/// An output slot as it was saved.
#[derive(Debug)]
pub(super) struct SavedOutput<'a> {
    /// The type.
    pub kind: Cow<'a, str>,
    /// The ids of the wires that begin here.
    pub wires: Vec<i64>,
}

/// An input or output of a definition.
#[derive(Debug)]
pub(super) struct Port<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// The type.
    pub kind: Cow<'a, str>,
    /// The wires within the definition, in its order.
    pub wires: Vec<i64>,
}

/// A wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wire {
    /// Where it begins.
    pub from: End,
    /// The slot there.
    pub slot: usize,
    /// Where it ends.
    pub to: End,
}

/// An end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The node with this index.
    Node(usize),
    /// The edge of the definition: its inputs, or its outputs.
    Edge,
    /// A node that does not exist.
    Nowhere,
}

impl<'a> Document<'a> {
    /// Reads a workflow, or says what is wrong with its structure.
    pub(super) fn read(value: &'a Value) -> Result<Self, JobError> {
        let Value::Object(root) = value else {
            return Err(invalid(&format!("it is {}, and should be an object", kind_of(value))));
        };
        if root.get("nodes").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            return Err(invalid("it has no nodes"));
        }
        let definitions = definitions(value);
        let mut problems = Vec::new();
        let mut levels = Vec::with_capacity(definitions.len() + 1);
        let mut nodes = 0;
        for object in std::iter::once(root).chain(definitions.iter().filter_map(Value::as_object)) {
            let count = object.get("nodes").and_then(Value::as_array).map_or(0, Vec::len);
            nodes += count;
            if nodes > MOST_NODES {
                return Err(invalid(&format!("it has more than {MOST_NODES} nodes")));
            }
            levels.push(Level::read(object, levels.is_empty(), &mut problems));
        }
        if definitions.iter().any(|definition| !definition.is_object()) {
            problems.push(plain("one of `definitions.subgraphs` is no object"));
        }
        if !problems.is_empty() {
            return Err(refused(problems));
        }
        let mut document = Self {
            levels,
            order: Vec::new(),
        };
        document.find_hosts()?;
        document.put_in_order()?;
        document.make_ids_unique();
        Ok(document)
    }
}

/// The classes of all nodes, but those that only the page has.
pub(super) fn classes(value: &Value) -> BTreeSet<&str> {
    let definitions = definitions(value);
    let hosts: BTreeSet<&str> = definitions
        .iter()
        .filter_map(|level| level.get("id")?.as_str())
        .collect();
    std::iter::once(value)
        .chain(definitions)
        .filter_map(|level| level.get("nodes")?.as_array())
        .flatten()
        .filter_map(|node| node.get("type")?.as_str())
        .filter(|class| !hosts.contains(class) && !is_of_the_page(class))
        .collect()
}

/// The values of widgets that end as a model's file does, of all nodes that are neither muted nor bypassed.
pub(super) fn model_names(value: &Value) -> Vec<String> {
    fn collect(value: &Value, names: &mut Vec<String>) {
        match value {
            Value::String(text) if is_model_file(Path::new(text)) => names.push(text.clone()),
            Value::Array(values) => values.iter().for_each(|value| collect(value, names)),
            Value::Object(values) => values.values().for_each(|value| collect(value, names)),
            _ => {}
        }
    }
    let levels = std::iter::once(value).chain(definitions(value));
    let nodes = levels.filter_map(|level| level.get("nodes")?.as_array()).flatten();
    let is_on = |node: &&Value| !matches!(node.get("mode").and_then(Value::as_u64), Some(2 | 4));
    let mut names = Vec::new();
    for values in nodes.filter(is_on).filter_map(|node| node.get("widgets_values")) {
        collect(values, &mut names);
    }
    names
}

/// Whether the page itself has this kind of node, and `ComfyUI` has not.
pub(super) fn is_of_the_page(class: &str) -> bool {
    matches!(class, "Note" | "MarkdownNote" | "Reroute" | "PrimitiveNode") || is_group_node(class)
}

/// Whether this is a group node, the forerunner of subgraphs.
pub(super) fn is_group_node(class: &str) -> bool {
    class.starts_with("workflow>") || class.starts_with("workflow/")
}

fn definitions(value: &Value) -> &[Value] {
    value
        .pointer("/definitions/subgraphs")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A problem that is no node's.
fn plain(message: impl Into<String>) -> Problem {
    Problem {
        message: message.into(),
        ..Problem::default()
    }
}

impl Level<'_> {
    /// Which level this is, in words that follow a sentence.
    pub(super) fn place(&self) -> String {
        if self.id.is_empty() {
            String::new()
        } else {
            format!(" in the subgraph `{}`", echo::cut(self.name))
        }
    }
}
