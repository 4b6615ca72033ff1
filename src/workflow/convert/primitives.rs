//! `PrimitiveNode`: a value that the page writes into the widgets that it is linked to, before it sends a graph.

use std::borrow::Cow;

use serde_json::Value;

use super::Options;
use super::declared::{Declared, Kind};
use super::patterns::Names;
use super::widgets::Widget;
use super::world::{At, Is, World};

/// The property by which its text is a pattern, as that of a file's name.
const PATTERN: &str = "Run widget replace on values";

impl World<'_> {
    /// The slots that a primitive is linked to, in its order: (node, slot) on its own level.
    pub(super) fn primitive_targets(&self, at: At) -> Vec<(usize, usize)> {
        let wires = self.saved(at).outputs.first().map_or(&[][..], |output| &output.wires);
        wires.iter().filter_map(|wire| self.end_of(at.0, *wire)).collect()
    }

    /// Writes the values of all primitives, whatever their mode is.
    pub(super) fn apply_primitives(&mut self, options: &Options<'_>) {
        let mut primitives = Vec::new();
        for (level, nodes) in self.nodes.iter().enumerate() {
            let indexes = (0..nodes.len()).filter(|index| nodes[*index].kind == Is::Primitive);
            primitives.extend(indexes.map(|index| (level, index)));
        }
        if primitives.is_empty() {
            return;
        }
        // Levels are set up from the inside out; the root comes last there, and first here. No widget has two primitives.
        for at in primitives.iter().copied() {
            let targets = self.primitive_targets(at);
            let mut targets = targets.iter().copied();
            let first = targets.find_map(|(node, slot)| self.nodes[at.0][node].widget_of(slot));
            let Some(first) = first else { continue };
            let own = match self.saved(at).values {
                Some(Value::Array(values)) => values.first(),
                Some(Value::Object(values)) => values.get("value").or_else(|| values.get("0")),
                _ => None,
            };
            let value = own.map_or_else(|| first.value.clone(), Cow::Borrowed);
            let node = &mut self.nodes[at.0][at.1];
            // A named input may have set it.
            if node.widgets.is_empty() {
                node.widgets.push(Widget {
                    name: Cow::Borrowed("value"),
                    kind: Kind::Other,
                    declared: Declared::default(),
                    value,
                    is_given: true,
                    is_saved: true,
                    is_sent: false,
                });
            }
        }
        let names = Names::of(self);
        for at in primitives {
            let Some(widget) = self.node(at).widgets.first() else {
                continue;
            };
            let properties = self.saved(at).properties;
            let is_pattern = properties
                .and_then(|properties| properties.get(PATTERN))
                .is_some_and(|on| *on == Value::Bool(true));
            let value = match &*widget.value {
                Value::String(text) if is_pattern => Cow::Owned(Value::from(names.resolve(self, text, options.now))),
                _ => widget.value.clone(),
            };
            for (node, slot) in self.primitive_targets(at) {
                if let Some(target) = self.nodes[at.0][node].widget_of_mut(slot) {
                    target.value.clone_from(&value);
                }
            }
        }
    }
}
