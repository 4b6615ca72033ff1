//! References to uploaded files in a graph: `{"__type": "core/ASSET", "info": {"id": …}}` in the place of a file's name, which
//! may stand at any depth of an input, in lists and objects too. `hash` and `file_path` beside the id are hints, and are not
//! looked at.

use indexmap::IndexSet;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::graph::{Graph, Link};
use crate::echo;

/// The key that says what an object of a graph stands for, and the word of a reference.
const TYPE: &str = "__type";
const ASSET: &str = "core/ASSET";

/// What says that it is a reference, and names no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadReference {
    /// The node's id in the graph.
    pub node: String,
    /// Its class.
    pub class: String,
    /// The input in which it stands, at whichever depth.
    pub input: String,
    /// What is wrong with it, and what to do about it.
    pub why: String,
}

/// The ids of the files that a graph refers to, each once, in the order in which they stand there; or everything that
/// says it is a reference and is none. ComfyUI would take that for a value of the node.
pub fn asset_ids(graph: &Graph) -> Result<Vec<String>, Vec<BadReference>> {
    let (mut ids, mut bad) = (IndexSet::new(), Vec::new());
    for (node_id, node) in &graph.nodes {
        for (input, value) in &node.inputs {
            let mut complain = |why: String| {
                bad.push(BadReference {
                    node: node_id.clone(),
                    class: node.class_type.clone(),
                    input: input.clone(),
                    why,
                });
            };
            if becomes_a_link(value) {
                complain(
                    "stands before a number in a list of two, which ComfyUI takes for a link to another node: write the list within {\"__value__\": …}"
                        .to_owned(),
                );
                continue;
            }
            for_each_reference(value, &mut |reference| match id_of(reference) {
                Ok(id) => drop(ids.insert(id)),
                Err(why) => complain(why),
            });
        }
    }
    if bad.is_empty() {
        Ok(ids.into_iter().collect())
    } else {
        Err(bad)
    }
}

/// Puts a text in the place of each reference, by the id that it names. One for which there is no text stays.
pub fn put_names(graph: &mut Graph, name_of: impl Fn(&str) -> Option<String>) {
    for value in graph.nodes.values_mut().flat_map(|node| node.inputs.values_mut()) {
        put_name(value, &name_of);
    }
}

fn put_name(value: &mut Value, name_of: &impl Fn(&str) -> Option<String>) {
    if is_reference(value) {
        if let Some(name) = id_of(value).ok().and_then(|id| name_of(&id)) {
            *value = Value::from(name);
        }
        return;
    }
    for part in parts_mut(value) {
        put_name(part, name_of);
    }
}

/// A reference to a file, as a graph has it.
pub fn reference(id: &str, hash: &str, file_path: Option<&str>) -> Value {
    let mut info = Map::new();
    info.insert("id".to_owned(), id.into());
    info.insert("hash".to_owned(), hash.into());
    if let Some(path) = file_path {
        info.insert("file_path".to_owned(), path.into());
    }
    json!({ TYPE: ASSET, "info": info })
}

/// Puts other texts in the places of those that `instead` knows, wherever they stand in the inputs.
pub fn replace_texts(graph: &mut Graph, instead: impl Fn(&str) -> Option<String>) {
    let instead = |text: &str| instead(text).map(Value::from);
    for node in graph.nodes.values_mut() {
        replace_in(&mut node.inputs, &instead);
    }
}

/// The same with the JSON of a graph, and with any value in a text's place.
pub fn replace_in_json(graph: &mut Value, instead: impl Fn(&str) -> Option<Value>) {
    for node in graph.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(Value::Object(inputs)) = node.get_mut("inputs") {
            replace_in(inputs, &instead);
        }
    }
}

fn replace_in(inputs: &mut Map<String, Value>, instead: &impl Fn(&str) -> Option<Value>) {
    for (input, value) in inputs {
        // The id of a node is no name of a file, whatever it is.
        if Link::parse(input, value).is_none() {
            replace(value, instead);
        }
    }
}

fn replace(value: &mut Value, instead: &impl Fn(&str) -> Option<Value>) {
    if let Value::String(text) = value {
        if let Some(found) = instead(text) {
            *value = found;
        }
        return;
    }
    for part in parts_mut(value) {
        replace(part, instead);
    }
}

/// Whether a value is this text, or holds it at some depth.
pub(super) fn holds(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Array(list) => list.iter().any(|part| holds(part, wanted)),
        Value::Object(object) => object.values().any(|part| holds(part, wanted)),
        _ => false,
    }
}

/// Whether a text in the reference's place would make a link of the value.
fn becomes_a_link(value: &Value) -> bool {
    let Some([first, slot]) = value.as_array().map(Vec::as_slice) else {
        return false;
    };
    is_reference(first) && Link::parse("", &json!(["", slot])).is_some()
}

fn for_each_reference(value: &Value, each: &mut impl FnMut(&Value)) {
    match value {
        _ if is_reference(value) => each(value),
        Value::Array(list) => list.iter().for_each(|part| for_each_reference(part, each)),
        Value::Object(object) => object.values().for_each(|part| for_each_reference(part, each)),
        _ => {}
    }
}

fn is_reference(value: &Value) -> bool {
    value.get(TYPE).is_some_and(|kind| kind == ASSET)
}

/// The id in a reference, as we write it; or what is wrong with it.
fn id_of(reference: &Value) -> Result<String, String> {
    const ADVICE: &str = "write {\"__type\": \"core/ASSET\", \"info\": {\"id\": …}} with the id of an uploaded asset";
    let Some(id) = reference.get("info").and_then(|info| info.get("id")) else {
        return Err(format!("is a reference to an asset without `info.id`: {ADVICE}"));
    };
    let parsed = id.as_str().filter(|id| id.len() == 36).map(Uuid::try_parse);
    match parsed {
        Some(Ok(id)) => Ok(id.to_string()),
        _ => Err(format!(
            "is a reference to an asset whose id is {}, and an id is a UUID: {ADVICE}",
            echo::json(id)
        )),
    }
}

/// The values of a list or an object.
fn parts_mut(value: &mut Value) -> Box<dyn Iterator<Item = &mut Value> + '_> {
    match value {
        Value::Array(list) => Box::new(list.iter_mut()),
        Value::Object(object) => Box::new(object.values_mut()),
        _ => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
#[path = "asset_refs_tests.rs"]
mod tests;
