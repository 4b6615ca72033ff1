//! Apps: workflows that name some of their widgets as inputs (`extra.linearData.inputs`), so that others need not know the
//! nodes.
//!
//! An entry is `[node, widget]` or `[node, widget, {…}]`. The node is its id; newer pages write `GRAPH:NODE:WIDGET`, and for
//! a widget that a subgraph promotes `SUBGRAPH:NODE`.

use std::borrow::Cow;
use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::NamedInput;
use super::declared::{Declared, Kind};
use super::document::id_of;
use super::fit;
use super::report::{Place, Report, invalid, refused};
use super::widgets::Widget;
use super::world::{Is, World};
use crate::echo;
use crate::error::{JobError, Problem};

/// So many of them one request may set; an app names some dozens.
const MOST_INPUTS: usize = 200;

/// A named input that is to be set.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The name in the request.
    pub name: &'a str,
    /// The node.
    pub node: Cow<'a, str>,
    /// The widget.
    pub widget: Cow<'a, str>,
    /// The value.
    pub value: &'a Value,
    /// Whether the node was found, and has it.
    pub is_set: bool,
    /// Why the value does not fit.
    pub misfit: Option<String>,
    /// Whether a link feeds the widget, so that its value does not matter.
    pub is_fed: bool,
}

/// The inputs that an app names.
pub(super) fn named_inputs(value: &Value) -> Vec<NamedInput> {
    let entries = value
        .pointer("/extra/linearData/inputs")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let targets: Vec<(Cow<'_, str>, Cow<'_, str>)> = entries.iter().filter_map(target).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (_, widget) in &targets {
        *counts.entry(widget).or_default() += 1;
    }
    targets
        .iter()
        .map(|(node, widget)| NamedInput {
            name: if counts[&**widget] == 1 {
                widget.to_string()
            } else {
                format!("{node}.{widget}")
            },
            node: node.to_string(),
            widget: widget.to_string(),
        })
        .collect()
}

/// The node and the widget of an entry.
fn target(entry: &Value) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let widget = entry.get(1)?.as_str()?;
    let stored = entry.get(0)?;
    let parts: Vec<&str> = stored.as_str().map_or_else(Vec::new, |id| id.split(':').collect());
    match parts.as_slice() {
        [_, node, widget] => Some((decoded(node), decoded(widget))),
        [_, node] => Some((Cow::Borrowed(node), Cow::Borrowed(widget))),
        _ => Some((id_of(stored)?, Cow::Borrowed(widget))),
    }
}

fn decoded(part: &str) -> Cow<'_, str> {
    percent_decode_str(part).decode_utf8().unwrap_or(Cow::Borrowed(part))
}

/// What a request sets, or the names that there are.
pub(super) fn wanted<'a>(value: &'a Value, inputs: &'a Map<String, Value>) -> Result<Vec<Wanted<'a>>, JobError> {
    if inputs.is_empty() {
        return Ok(Vec::new());
    }
    if inputs.len() > MOST_INPUTS {
        return Err(invalid(&format!("more than {MOST_INPUTS} inputs are to be set")));
    }
    let named = named_inputs(value);
    let mut by_name = HashMap::with_capacity(2 * named.len());
    for input in &named {
        let long = format!("{}.{}", input.node, input.widget);
        by_name.entry(Cow::Borrowed(&*input.name)).or_insert(input);
        by_name.entry(Cow::Owned(long)).or_insert(input);
    }
    let mut problems = Vec::new();
    let mut wanted = Vec::with_capacity(inputs.len());
    for (name, value) in inputs {
        match by_name.get(name.as_str()) {
            Some(input) => wanted.push(Wanted {
                name,
                node: Cow::Owned(input.node.clone()),
                widget: Cow::Owned(input.widget.clone()),
                value,
                is_set: false,
                misfit: None,
                is_fed: false,
            }),
            None => problems.push(Problem {
                input: Some(format!("inputs.{name}")),
                message: unknown_name(&named),
                ..Problem::default()
            }),
        }
    }
    if problems.is_empty() {
        Ok(wanted)
    } else {
        Err(refused(problems).hint("Send the inputs that the app names, or none."))
    }
}

fn unknown_name(named: &[NamedInput]) -> String {
    if named.is_empty() {
        return "is not known: the workflow is no app, and names no inputs (`extra.linearData`)".to_owned();
    }
    let shown = named
        .iter()
        .take(30)
        .map(|input| format!("`{}`", echo::cut(&input.name)));
    format!("is not known: the app names {}", shown.collect::<Vec<_>>().join(", "))
}

/// Sets those that are no widgets of a class: of hosts, of primitives. Then says of each what is wrong with it.
pub(super) fn finish(world: &mut World<'_>, report: &mut Report) {
    let mut all = std::mem::take(&mut world.wanted);
    for wanted in all.iter_mut().filter(|wanted| !wanted.is_set) {
        set(world, wanted);
    }
    for wanted in &all {
        let place = Place {
            id: &wanted.node,
            class: "",
            input: Some(&wanted.widget),
        };
        let name = echo::cut(wanted.name);
        if !wanted.is_set {
            report.problem(
                place,
                format!("is what the app calls `{name}`, and is not in the workflow"),
            );
        } else if let Some(misfit) = &wanted.misfit {
            report.problem(place, format!("`inputs.{name}` {misfit}"));
        } else if wanted.is_fed {
            report.problem(
                place,
                format!("`inputs.{name}` cannot be set: a link feeds it in the workflow"),
            );
        }
    }
    world.wanted = all;
}

/// Sets a named input of a host or a primitive.
fn set<'a>(world: &mut World<'a>, wanted: &mut Wanted<'a>) {
    let found = world.document.levels[0].by_id.get(&wanted.node).copied();
    if let Some(index) = found {
        let node = &mut world.nodes[0][index];
        if node.kind == Is::Primitive {
            node.widgets = vec![Widget {
                name: Cow::Borrowed("value"),
                kind: Kind::Other,
                declared: Declared::default(),
                value: Cow::Borrowed(wanted.value),
                is_given: true,
                is_saved: true,
                is_sent: false,
            }];
            wanted.is_set = true;
            wanted.misfit = world
                .primitive_targets((0, index))
                .into_iter()
                .find_map(|(node, slot)| {
                    world.nodes[0][node]
                        .widget_of(slot)
                        .map(|widget| fit::misfit(widget, wanted.value))
                })
                .flatten();
            return;
        }
        let slot = node
            .slots
            .iter()
            .position(|slot| slot.name == wanted.widget && slot.promoted.is_some());
        if let Some(slot) = slot {
            set_host(world, index, slot, wanted);
            return;
        }
    }
    // Files that are older than promoted widgets name the node in the subgraph.
    let mut slots = Vec::new();
    for (index, node) in world.nodes[0].iter().enumerate() {
        let Is::Host(level) = node.kind else { continue };
        let Some(inner) = world.document.levels[level].by_id.get(&wanted.node) else {
            continue;
        };
        for port in 0..node.slots.len() {
            let source = world.source(level, port);
            if source.is_some_and(|(node, widget)| node == *inner && widget == wanted.widget) {
                slots.push((index, port));
            }
        }
    }
    // Of two nobody knows which is meant.
    if let [(index, port)] = slots.as_slice() {
        set_host(world, *index, *port, wanted);
    }
}

fn set_host<'a>(world: &mut World<'a>, index: usize, slot: usize, wanted: &mut Wanted<'a>) {
    let slot = &mut world.nodes[0][index].slots[slot];
    let is_fed = slot.wire.is_some();
    if let Some(widget) = &mut slot.promoted {
        wanted.misfit = fit::misfit(widget, wanted.value);
        wanted.is_fed = is_fed;
        wanted.is_set = true;
        widget.value = Cow::Borrowed(wanted.value);
    }
}
