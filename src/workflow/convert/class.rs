//! A node of a class: its widgets with the saved values, and its sockets with the saved wires.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::app::Wanted;
use super::declared::{is_core, outputs};
use super::document::{Saved, SavedSlot};
use super::fit;
use super::odd;
use super::values::Values;
use super::widgets::{Shape, Widget};
use super::world::{Is, Node, Remark, Slot};
use crate::echo;

/// A slot as it was saved.
pub(super) fn as_saved<'a>(slot: &SavedSlot<'a>) -> Slot<'a> {
    Slot {
        name: Cow::Borrowed(slot.name),
        kind: slot.kind.clone(),
        wire: slot.wire,
        widget: slot.widget.map(Cow::Borrowed),
        promoted: None,
    }
}

/// Sets a node up. Saved slots and sockets find each other by name.
pub(super) fn class_node<'w, 'a: 'w>(
    saved: &Saved<'a>,
    described: &'a Value,
    wanted: impl Iterator<Item = &'w mut Wanted<'a>>,
) -> Node<'a> {
    let mut node = Node::new(Is::Class(described));
    let mut shape = read_values(saved, described, &mut node.remarks);
    set_wanted(&mut shape, saved, described, wanted, &mut node.remarks);
    let by_name: HashMap<&str, &SavedSlot<'a>> = saved.inputs.iter().map(|slot| (slot.name, slot)).collect();
    let mut names = HashSet::with_capacity(shape.sockets.len());
    for socket in std::mem::take(&mut shape.sockets) {
        let slot = by_name.get(&*socket.name);
        let widget = if socket.is_widget {
            Some(socket.name.clone())
        } else {
            slot.and_then(|slot| slot.widget).map(Cow::Borrowed)
        };
        names.insert(socket.name.clone());
        node.slots.push(Slot {
            name: socket.name,
            kind: socket.kind,
            wire: slot.and_then(|slot| slot.wire),
            widget,
            promoted: None,
        });
    }
    for slot in &saved.inputs {
        let grown = slot.wire.and_then(|_| shape.connect(slot.name));
        if names.contains(slot.name) {
            continue;
        }
        if !shape.is_within_combo(slot.name) {
            node.slots.push(as_saved(slot));
        } else if let Some(kind) = grown {
            let mut grown = as_saved(slot);
            grown.kind = kind;
            grown.widget = None;
            node.slots.push(grown);
        }
    }
    node.outputs = outputs(described).collect();
    let more = saved.outputs.iter().skip(node.outputs.len());
    node.outputs.extend(more.map(|output| output.kind.clone()));
    node.widgets = shape.widgets;
    node
}

/// The widgets with the saved values, and what is to be said of these.
fn read_values<'a>(saved: &Saved<'a>, described: &'a Value, remarks: &mut Vec<Remark>) -> Shape<'a> {
    let mut values = Values::saved(described, saved.values);
    let mut shape = Shape::of(saved.class, described, &mut values);
    if odd::is_sampler(saved.class) {
        mend_sampler(&mut shape.widgets);
    }
    let mut misfits = fit::misfits(&shape);
    if let Some(named) = saved.named {
        let mut by_name = Values::named(named);
        let other = Shape::of(saved.class, described, &mut by_name);
        if misfits.is_empty() && saved.values.is_some() {
            remarks.extend(told_apart(&shape, &other));
        } else if fit::misfits(&other).is_empty() {
            remarks.push(Remark::warning(
                None,
                "its saved values do not fit its widgets by position, so those with names (`widgets_values_named`) were taken",
            ));
            (shape, values, misfits) = (other, by_name, Vec::new());
        }
    }
    let is_core = is_core(described);
    let first = remarks.len();
    for (widget, text) in misfits {
        remarks.push(Remark::warning(Some(widget), text));
    }
    let is_told = |widget: &&Widget<'_>| widget.is_saved && widget.is_sent && !widget.is_given;
    let lacking: Vec<String> = shape
        .widgets
        .iter()
        .filter(is_told)
        .map(|widget| echo::cut(&widget.name))
        .collect();
    if !lacking.is_empty() && saved.values.is_some_and(has_any) {
        let shown = lacking
            .iter()
            .take(8)
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        remarks.push(Remark::warning(
            None,
            format!("the file has no value for {shown}: what a new node has was taken"),
        ));
    }
    let unknown: Vec<&str> = values
        .names_left()
        .into_iter()
        .filter(|name| !is_decoration(name))
        .collect();
    if !unknown.is_empty() {
        let shown = unknown
            .iter()
            .take(8)
            .map(|name| format!("`{}`", echo::cut(name)))
            .collect::<Vec<_>>()
            .join(", ");
        remarks.push(Remark::warning(
            None,
            format!("has no widget for the saved {shown}: it was left out"),
        ));
    } else if values.names_left().is_empty() && values.left() > 0 && shape.saved() > 0 {
        remarks.push(Remark::warning(
            None,
            format!(
                "has {} saved values more than its {} widgets: the last were left out, and the others may belong to other fields",
                values.left(),
                shape.saved()
            ),
        ));
    }
    if !is_core {
        for remark in &mut remarks[first..] {
            remark.is_refusal = true;
            remark
                .text
                .push_str("; its widgets may be changed by a script of its custom node, which only the page runs");
        }
    }
    shape
}

/// What is to be said where the values with names are others than those by position, which the page takes.
fn told_apart(shape: &Shape<'_>, other: &Shape<'_>) -> Option<Remark> {
    let by_name: HashMap<&str, &Value> = other
        .widgets
        .iter()
        .filter(|widget| widget.is_given)
        .map(|widget| (&*widget.name, &*widget.value))
        .collect();
    let differs = |widget: &&Widget<'_>| {
        let named = by_name.get(&*widget.name);
        let is_same = |named: &&Value| {
            **named == *widget.value
                || named
                    .as_f64()
                    .is_some_and(|number| Some(number) == widget.value.as_f64())
        };
        widget.is_given && widget.is_sent && named.is_some_and(|named| !is_same(named))
    };
    let names: Vec<String> = shape
        .widgets
        .iter()
        .filter(differs)
        .take(8)
        .map(|widget| format!("`{}`", echo::cut(&widget.name)))
        .collect();
    (!names.is_empty()).then(|| {
        let names = names.join(", ");
        Remark::warning(
            None,
            format!("its saved values by position, which the page takes, are others than those with names for {names}"),
        )
    })
}

/// Mends the names that a sampler had long ago.
fn mend_sampler(widgets: &mut [Widget<'_>]) {
    for widget in widgets.iter_mut().filter(|widget| widget.name == "sampler_name") {
        if let Some(name) = widget.value.as_str().and_then(|name| name.strip_prefix("sample_")) {
            widget.value = Cow::Owned(Value::from(name));
        }
    }
}

fn has_any(values: &Value) -> bool {
    match values {
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        _ => false,
    }
}

/// Whether a saved widget is a player or a button of an extension, which is never sent.
fn is_decoration(name: &str) -> bool {
    name == "videopreview" || name == "upload" || name.starts_with("choose ")
}

/// Sets the named inputs of this node. A dynamic combo may get other widgets by it, so all are read anew, by name.
fn set_wanted<'w, 'a: 'w>(
    shape: &mut Shape<'a>,
    saved: &Saved<'a>,
    described: &'a Value,
    wanted: impl Iterator<Item = &'w mut Wanted<'a>>,
    remarks: &mut Vec<Remark>,
) {
    let mut wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        return;
    }
    let old = shape.widgets.iter().filter(|widget| widget.is_saved);
    let old = old.map(|widget| (widget.name.clone(), widget.value.clone()));
    let new = wanted
        .iter()
        .map(|wanted| (wanted.widget.clone(), Cow::Borrowed(wanted.value)));
    *shape = Shape::of(saved.class, described, &mut Values::by_name(old.chain(new)));
    for wanted in &mut wanted {
        let Some(widget) = shape.widgets.iter().find(|widget| widget.name == wanted.widget) else {
            continue;
        };
        wanted.is_set = true;
        wanted.misfit = fit::misfit(widget, wanted.value);
        remarks.retain(|remark| remark.widget.as_deref() != Some(&*wanted.widget));
        let slot = saved.inputs.iter().find(|slot| slot.name == wanted.widget);
        wanted.is_fed = slot.is_some_and(|slot| slot.wire.is_some());
    }
}
