//! The nodes and wires of one level out of JSON.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::{Map, Value};

use super::{End, LONGEST_ID, Level, MOST_PORTS, MOST_VALUES, Mode, Port, Saved, SavedOutput, SavedSlot, Wire, plain};
use crate::echo;
use crate::error::Problem;
use crate::workflow::graph::kind_of;

/// How a wire names the edge of a definition, where it begins and where it ends.
const INPUTS: &str = "-10";
const OUTPUTS: &str = "-20";

impl<'a> Level<'a> {
    /// Reads the root, or a definition.
    pub(super) fn read(object: &'a Map<String, Value>, is_root: bool, problems: &mut Vec<Problem>) -> Self {
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
        let mut level = Self::default();
        if !is_root {
            level.id = text("id");
            level.name = text("name");
            if level.id.is_empty() {
                problems.push(plain(format!("the subgraph `{}` has no id", echo::cut(level.name))));
            }
            level.inputs = ports(object.get("inputs"));
            level.outputs = ports(object.get("outputs"));
            if level.inputs.len().max(level.outputs.len()) > MOST_PORTS {
                let name = echo::cut(level.name);
                problems.push(plain(format!(
                    "the subgraph `{name}` has more than {MOST_PORTS} inputs or outputs"
                )));
            }
        }
        let state = object.get("state").and_then(|state| state.get("lastNodeId"));
        level.last_id = [object.get("last_node_id"), state]
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .max()
            .unwrap_or_default();
        match object.get("nodes") {
            Some(Value::Array(nodes)) => {
                for node in nodes {
                    level.add(node, problems);
                }
            }
            Some(other) if is_root => {
                problems.push(plain(format!("`nodes` is {}, and should be a list", kind_of(other))));
            }
            None if is_root => problems.push(plain("`nodes` is missing: the list of nodes")),
            _ => {}
        }
        level.read_wires(object.get("links"), problems);
        level
    }

    fn add(&mut self, node: &'a Value, problems: &mut Vec<Problem>) {
        let place = self.place();
        let Value::Object(fields) = node else {
            problems.push(plain(format!(
                "a node{place} is {}, and should be an object",
                kind_of(node)
            )));
            return;
        };
        let [id, class, mode, title, inputs, outputs, values, named, properties] = pick(
            fields,
            [
                "id",
                "type",
                "mode",
                "title",
                "inputs",
                "outputs",
                "widgets_values",
                "widgets_values_named",
                "properties",
            ],
        );
        let Some(id) = id.and_then(id_of) else {
            problems.push(plain(format!(
                "a node{place} has no id: it should be a number or a short text"
            )));
            return;
        };
        let class = class.and_then(Value::as_str);
        let mut complain = |input: Option<&str>, message: String| {
            problems.push(Problem {
                node_id: Some(id.clone().into_owned()),
                class_type: class.map(str::to_owned),
                input: input.map(str::to_owned),
                message,
                fault: None,
            });
        };
        let Some(class) = class else {
            complain(Some("type"), format!("is missing{place}: the name of the node's class"));
            return;
        };
        let values = values.filter(|values| !values.is_null());
        if let Some(values) = values.filter(|values| !values.is_array() && !values.is_object()) {
            complain(
                Some("widgets_values"),
                format!("is {}, and should be a list{place}", kind_of(values)),
            );
        }
        let count = match values {
            Some(Value::Array(values)) => values.len(),
            Some(Value::Object(values)) => values.len(),
            _ => 0,
        };
        if count > MOST_VALUES {
            complain(
                Some("widgets_values"),
                format!("has {count} values, the limit is {MOST_VALUES}{place}"),
            );
        }
        let mode = match mode.map_or(Some(0), whole) {
            Some(2) => Mode::Muted,
            Some(4) => Mode::Bypassed,
            Some(0 | 1 | 3) => Mode::Active,
            _ => {
                complain(Some("mode"), format!("should be 0 to 4{place}"));
                Mode::Active
            }
        };
        match self.by_id.entry(id.clone()) {
            Entry::Occupied(_) => complain(None, format!("there are two nodes with this id{place}")),
            Entry::Vacant(entry) => {
                entry.insert(self.nodes.len());
            }
        }
        self.nodes.push(Saved {
            id,
            class,
            host: None,
            title: title.and_then(Value::as_str).filter(|title| !title.is_empty()),
            mode,
            inputs: objects(inputs).map(slot).collect(),
            outputs: objects(outputs).map(output).collect(),
            values,
            named: named.and_then(Value::as_object),
            properties: properties.and_then(Value::as_object),
        });
    }

    fn read_wires(&mut self, wires: Option<&'a Value>, problems: &mut Vec<Problem>) {
        let place = self.place();
        let wires = match wires {
            None | Some(Value::Null) => return,
            Some(Value::Array(wires)) => wires,
            Some(other) => {
                problems.push(plain(format!(
                    "`links`{place} is {}, and should be a list",
                    kind_of(other)
                )));
                return;
            }
        };
        self.wires = HashMap::with_capacity(wires.len());
        // Old files have null where a link was.
        for value in wires.iter().filter(|wire| !wire.is_null()) {
            let Some((id, wire)) = self.wire(value) else {
                problems.push(plain(format!(
                    "the link {}{place} should be [id, node, slot, node, slot, type] or an object of these",
                    echo::json(value)
                )));
                continue;
            };
            if self.wires.insert(id, wire).is_some_and(|other| other != wire) {
                problems.push(plain(format!("there are two links with the id {id}{place}")));
            }
        }
    }

    /// A wire out of either form.
    fn wire(&self, value: &Value) -> Option<(i64, Wire)> {
        let [id, from, slot, to] = match value {
            Value::Array(parts) => [parts.first(), parts.get(1), parts.get(2), parts.get(3)],
            Value::Object(parts) => pick(parts, ["id", "origin_id", "origin_slot", "target_id"]),
            _ => return None,
        };
        let end = |id: &Value, edge: &str| {
            let id = id_of(id)?;
            Some(match self.by_id.get(&*id) {
                _ if !self.id.is_empty() && id == edge => End::Edge,
                Some(node) => End::Node(*node),
                None => End::Nowhere,
            })
        };
        let wire = Wire {
            from: end(from?, INPUTS)?,
            slot: usize::try_from(whole(slot?)?).ok()?,
            to: end(to?, OUTPUTS)?,
        };
        Some((whole(id?)?, wire))
    }
}

fn objects(list: Option<&Value>) -> impl Iterator<Item = &Map<String, Value>> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
}

/// The fields with these names. Objects here are small and many, so they are looked through once, without hashing.
fn pick<'a, const N: usize>(object: &'a Map<String, Value>, names: [&str; N]) -> [Option<&'a Value>; N] {
    let mut picked = [None; N];
    for (name, value) in object {
        if let Some(index) = names.iter().position(|wanted| wanted == name) {
            picked[index] = Some(value);
        }
    }
    picked
}

fn slot(fields: &Map<String, Value>) -> SavedSlot<'_> {
    let [name, kind, link, widget] = pick(fields, ["name", "type", "link", "widget"]);
    SavedSlot {
        name: name.and_then(Value::as_str).unwrap_or_default(),
        kind: type_of(kind),
        wire: link.and_then(whole),
        widget: widget.and_then(|widget| widget.get("name")?.as_str()),
    }
}

fn output(fields: &Map<String, Value>) -> SavedOutput<'_> {
    let [kind, links] = pick(fields, ["type", "links"]);
    SavedOutput {
        kind: type_of(kind),
        wires: ids(links),
    }
}

fn ports(list: Option<&Value>) -> Vec<Port<'_>> {
    objects(list)
        .map(|fields| {
            let [name, kind, links] = pick(fields, ["name", "type", "linkIds"]);
            Port {
                name: Cow::Borrowed(name.and_then(Value::as_str).unwrap_or_default()),
                kind: type_of(kind),
                wires: ids(links),
            }
        })
        .collect()
}

fn ids(list: Option<&Value>) -> Vec<i64> {
    let list = list.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(whole).collect()
}

/// The type of a slot. A list is one of options; 0 is how the page once wrote `*`.
pub(in crate::workflow::convert) fn type_of(kind: Option<&Value>) -> Cow<'_, str> {
    match kind {
        Some(Value::String(kind)) => Cow::Borrowed(kind),
        Some(Value::Array(_)) => Cow::Borrowed("COMBO"),
        Some(Value::Number(number)) if number.as_i64() != Some(0) => Cow::Owned(number.to_string()),
        _ => Cow::Borrowed("*"),
    }
}

/// The id of a node: a number, or a text.
pub(in crate::workflow::convert) fn id_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(id) if (1..=LONGEST_ID).contains(&id.len()) => Some(Cow::Borrowed(id)),
        Value::Number(_) => whole(value).map(|id| Cow::Owned(id.to_string())),
        _ => None,
    }
}

/// A whole number, however it is written.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
            (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}
