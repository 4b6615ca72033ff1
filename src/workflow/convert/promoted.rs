//! Hosts of subgraphs, and what their inputs promote: the first widget behind each.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::document::End;
use super::fit;
use super::widgets::Widget;
use super::world::{At, Is, Node, Remark, Slot, World};
use crate::error::JobError;

/// What is behind an input of a definition: (node, slot).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Behind {
    /// The first slot that belongs to a widget.
    widget: Option<(usize, usize)>,
    /// The slot by which older files name it: the first that belongs to a widget, or to a host.
    source: Option<(usize, usize)>,
}

impl<'a> World<'a> {
    /// The host of a definition: an input for each of the definition's, and a copy of the widgets behind them.
    pub(super) fn host(&mut self, at: At, level: usize) -> Result<Node<'a>, JobError> {
        let mut node = Node::new(Is::Host(level));
        let saved = self.saved(at);
        let wires: HashMap<&str, Option<i64>> = saved.inputs.iter().map(|slot| (slot.name, slot.wire)).collect();
        let values = saved.values;
        let has_proxies = has_proxies(saved.properties);
        let definition = &self.document.levels[level];
        if definition.inputs.len() > self.slots_left {
            // The error.
            self.take_slots(definition.inputs.len())?;
            return Ok(node);
        }
        node.outputs = definition.outputs.iter().map(|port| port.kind.clone()).collect();
        let mut position = 0;
        for (index, port) in definition.inputs.iter().enumerate() {
            let mut promoted = self.promoted(level, index);
            if let Some(widget) = &mut promoted {
                let given = match values {
                    Some(Value::Array(values)) => values.get(position),
                    Some(Value::Object(values)) => {
                        values.get(&*port.name).or_else(|| values.get(&position.to_string()))
                    }
                    _ => None,
                };
                position += 1;
                if let Some(given) = given {
                    widget.value = Cow::Borrowed(given);
                    let misfit = fit::misfit(widget, given).filter(|_| !has_proxies);
                    node.remarks
                        .extend(misfit.map(|text| Remark::warning(Some(port.name.to_string()), text)));
                }
            }
            node.slots.push(Slot {
                name: port.name.clone(),
                kind: port.kind.clone(),
                wire: wires.get(&*port.name).copied().flatten(),
                widget: None,
                promoted,
            });
        }
        let given = values.and_then(Value::as_array).map_or(0, Vec::len);
        if given > position && !has_proxies {
            node.remarks.push(Remark::warning(
                None,
                format!("has {given} values, and {position} of its inputs belong to widgets: the last were left out, and the others may have moved"),
            ));
        }
        node.index_wires();
        Ok(node)
    }

    /// Looks behind all inputs of a definition whose nodes are set up.
    pub(super) fn look_behind_all(&mut self, level: usize) {
        let ports = 0..self.document.levels[level].inputs.len();
        self.behind[level] = ports.map(|port| self.look_behind(level, port)).collect();
    }

    /// Looks behind an input of a definition.
    pub(super) fn look_behind(&self, level: usize, port: usize) -> Behind {
        let mut behind = Behind::default();
        let Some(port) = self.document.levels[level].inputs.get(port) else {
            return behind;
        };
        for end in port.wires.iter().filter_map(|wire| self.end_of(level, *wire)) {
            let node = &self.nodes[level][end.0];
            let has_widget = node.widget_of(end.1).is_some();
            if has_widget || matches!(node.kind, Is::Host(_)) {
                behind.source.get_or_insert(end);
            }
            if has_widget {
                behind.widget = Some(end);
                break;
            }
        }
        behind
    }

    /// The slot in which a wire ends: (node, slot).
    pub(super) fn end_of(&self, level: usize, wire: i64) -> Option<(usize, usize)> {
        let End::Node(node) = self.document.levels[level].wires.get(&wire)?.to else {
            return None;
        };
        let slot = self.nodes[level].get(node)?.slot_of(wire)?;
        Some((node, slot))
    }

    /// A copy of the widget that an input of a definition promotes, with the value that it has inside.
    pub(super) fn promoted(&self, level: usize, port: usize) -> Option<Widget<'a>> {
        let (node, slot) = self.behind[level].get(port)?.widget?;
        self.nodes[level][node].widget_of(slot).cloned()
    }

    /// Which widget that is, as older files name it: the node, and the name there. A host inside is named by its input.
    pub(super) fn source(&self, level: usize, port: usize) -> Option<(usize, Cow<'a, str>)> {
        let (index, slot) = self.behind[level].get(port)?.source?;
        let node = &self.nodes[level][index];
        let name = match node.kind {
            Is::Host(_) => node.slots.get(slot)?.name.clone(),
            _ => node.widget_of(slot)?.name.clone(),
        };
        Some((index, name))
    }
}

/// Whether a host's values go by a list in its properties.
fn has_proxies(properties: Option<&Map<String, Value>>) -> bool {
    let proxies = properties.and_then(|properties| properties.get("proxyWidgets")?.as_array());
    proxies.is_some_and(|proxies| !proxies.is_empty())
}
