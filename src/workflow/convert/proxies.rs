//! Promoted widgets of older files: `properties.proxyWidgets = [[node, widget], …]` of a host, whose values go by position
//! over that list. The page turns each into an input of the definition when it opens the file, and so do we: the first host
//! changes the definition for all.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::document::{MOST_PORTS, Port, id_of};
use super::fit;
use super::report::invalid;
use super::world::{At, Is, Remark, Slot, World};
use crate::echo;
use crate::error::JobError;

/// So many promoted widgets a workflow of the older kind may have.
pub(super) const MOST_PROXIES: usize = 5_000;
/// The node that stands for the inputs themselves.
const INPUTS: &str = "-1";

/// The names of a definition's inputs, and the number that the next of a name gets.
#[derive(Debug, Default)]
pub(super) struct PortNames<'a> {
    taken: HashSet<Cow<'a, str>>,
    next: HashMap<&'a str, usize>,
}

/// An entry of the list: the node, the widget, and which of several widgets of that name it is.
struct Entry<'a> {
    node: Cow<'a, str>,
    widget: &'a str,
    origin: Option<Cow<'a, str>>,
}

/// What becomes of an entry.
enum Plan {
    /// An input of the definition has the widget already.
    Input(usize),
    /// A slot that gets an input of its own.
    Slot(usize, usize),
    /// The targets of a primitive.
    Primitive(usize),
    /// It is not found, or a preview.
    Nothing,
}

impl<'a> World<'a> {
    /// Turns the proxies of a host into inputs, and gives these their values.
    pub(super) fn migrate_promotions(&mut self, at: At) -> Result<(), JobError> {
        let saved = self.saved(at);
        let proxies: Option<&'a Value> = saved.properties.and_then(|properties| properties.get("proxyWidgets"));
        let Some(proxies) = proxies.and_then(Value::as_array) else {
            return Ok(());
        };
        let values = saved.values;
        let Some(left) = self.proxies_left.checked_sub(proxies.len()) else {
            return Err(invalid(&format!(
                "its subgraphs promote more than {MOST_PROXIES} widgets"
            )));
        };
        self.proxies_left = left;
        let values: &'a [Value] = values.and_then(Value::as_array).map_or(&[], Vec::as_slice);
        // Here null is no value.
        let given = |index: usize| values.get(index).filter(|value| !value.is_null());
        let Is::Host(level) = self.node(at).kind else {
            return Ok(());
        };
        let mut inputs = HashMap::new();
        for port in 0..self.document.levels[level].inputs.len() {
            if let Some(source) = self.source(level, port) {
                inputs.entry(source).or_insert(port);
            }
        }
        let entries: Vec<Option<Entry<'a>>> = proxies.iter().map(|proxy| self.entry(level, proxy)).collect();
        let plans: Vec<Plan> = entries
            .iter()
            .map(|entry| {
                entry
                    .as_ref()
                    .map_or(Plan::Nothing, |entry| self.plan(level, entry, &inputs))
            })
            .collect();
        let mut primitives: Vec<(usize, Vec<usize>)> = Vec::new();
        for (index, (plan, entry)) in plans.iter().zip(&entries).enumerate() {
            let Some(entry) = entry else { continue };
            let port = match *plan {
                Plan::Input(port) => port,
                Plan::Slot(node, slot) => {
                    let kind = self.nodes[level][node].slots[slot].kind.clone();
                    self.add_input(level, entry.widget, kind, &[(node, slot)])?
                }
                Plan::Primitive(node) => {
                    match primitives.iter_mut().find(|(other, _)| *other == node) {
                        Some((_, entries)) => entries.push(index),
                        None => primitives.push((node, vec![index])),
                    }
                    continue;
                }
                Plan::Nothing => {
                    let is_preview = entry.widget.starts_with("$$");
                    if given(index).is_some() && !is_preview {
                        let text = format!(
                            "promotes `{}` of node {}, which is not there: its value was left out",
                            echo::cut(entry.widget),
                            echo::cut(&entry.node)
                        );
                        self.remark(at, Remark::warning(None, text));
                    }
                    continue;
                }
            };
            self.set(at, port, given(index));
        }
        for (node, indexes) in primitives {
            let ends = self.primitive_targets((level, node));
            if ends.is_empty() {
                continue;
            }
            if !self.can_be_replaced((level, node), &ends, &indexes, &entries) {
                let text = format!(
                    "promotes node {}, which cannot stand for all that it is linked to: its value was left out",
                    echo::cut(&self.saved((level, node)).id)
                );
                self.remark(at, Remark::warning(None, text));
                continue;
            }
            let saved = self.saved((level, node));
            let first = entries[indexes[0]].as_ref().map_or("value", |entry| entry.widget);
            let name = saved.title.filter(|title| *title != "PrimitiveNode").unwrap_or(first);
            let kind = saved
                .outputs
                .first()
                .map_or(Cow::Borrowed("*"), |output| output.kind.clone());
            let own = saved.values.and_then(|values| values.get(0));
            let port = self.add_input(level, name, kind, &ends)?;
            self.nodes[level][node].replaced_by = Some(port);
            let value = indexes.iter().find_map(|index| given(*index)).or(own);
            self.set(at, port, value);
        }
        Ok(())
    }

    /// Whether an input can take a primitive's place: all entries mean the same of its widgets, and all its targets are of its
    /// type.
    fn can_be_replaced(
        &self,
        at: At,
        ends: &[(usize, usize)],
        indexes: &[usize],
        entries: &[Option<Entry<'a>>],
    ) -> bool {
        let mut names = indexes
            .iter()
            .filter_map(|index| entries[*index].as_ref())
            .map(|entry| entry.widget);
        let first = names.next();
        let outputs = &self.saved(at).outputs;
        let kind = outputs.first().map_or("*", |output| &*output.kind);
        let fits = |(node, slot): &(usize, usize)| {
            let target = &*self.nodes[at.0][*node].slots[*slot].kind;
            target == kind || target == "*" || kind == "*"
        };
        names.all(|name| Some(name) == first) && ends.iter().all(fits)
    }

    fn remark(&mut self, at: At, remark: Remark) {
        self.nodes[at.0][at.1].remarks.push(remark);
    }

    /// Gives the widget of a host's input a value.
    fn set(&mut self, at: At, port: usize, value: Option<&'a Value>) {
        let slot = self.nodes[at.0][at.1].slots.get_mut(port);
        let (Some(value), Some(slot)) = (value, slot) else {
            return;
        };
        let name = slot.name.to_string();
        let Some(widget) = &mut slot.promoted else { return };
        widget.value = Cow::Borrowed(value);
        if let Some(text) = fit::misfit(widget, value) {
            self.remark(
                at,
                Remark {
                    widget: Some(name),
                    text,
                    is_refusal: false,
                },
            );
        }
    }

    /// Reads an entry. Its widget may be written with ids before it (`12: text`), from within hosts of hosts.
    fn entry(&self, level: usize, proxy: &'a Value) -> Option<Entry<'a>> {
        let node = id_of(proxy.get(0)?)?;
        let mut widget = proxy.get(1)?.as_str()?;
        let mut origin = proxy.get(2).and_then(id_of);
        if !self.leads_to_widget(level, &node, widget) {
            while let Some((id, rest)) = prefix(widget) {
                origin = Some(Cow::Borrowed(id));
                widget = rest;
            }
        }
        Some(Entry { node, widget, origin })
    }

    /// Whether a node's widget, or that of a node within hosts, goes by this name.
    fn leads_to_widget(&self, mut level: usize, node: &str, widget: &str) -> bool {
        let Some(mut index) = self.document.levels[level].by_id.get(node).copied() else {
            return false;
        };
        let mut name = Cow::Borrowed(widget);
        // Definitions do not lie in a circle, so this comes to an end.
        while let Is::Host(inner) = self.nodes[level][index].kind {
            let port = self.document.levels[inner]
                .inputs
                .iter()
                .position(|port| port.name == name);
            let Some((next, widget)) = port.and_then(|port| self.source(inner, port)) else {
                return false;
            };
            (level, index, name) = (inner, next, Cow::Owned(widget.into_owned()));
        }
        self.nodes[level][index].widget(&name).is_some()
    }

    fn plan(&self, level: usize, entry: &Entry<'a>, inputs: &HashMap<(usize, Cow<'a, str>), usize>) -> Plan {
        let definition = &self.document.levels[level];
        if entry.node == INPUTS {
            let port = definition.inputs.iter().position(|port| port.name == entry.widget);
            return port.map_or(Plan::Nothing, Plan::Input);
        }
        let Some(index) = definition.by_id.get(&entry.node).copied() else {
            return Plan::Nothing;
        };
        if let Some(port) = inputs.get(&(index, Cow::Borrowed(entry.widget))) {
            return Plan::Input(*port);
        }
        let node = &self.nodes[level][index];
        if node.kind == Is::Primitive {
            return node.replaced_by.map_or(Plan::Primitive(index), Plan::Input);
        }
        if entry.widget.starts_with("$$") {
            return Plan::Nothing;
        }
        let slot = if let Is::Host(inner) = node.kind {
            self.slot_of_host(inner, node.slots.as_slice(), entry)
        } else {
            let named = |slot: &Slot<'_>| slot.widget.as_deref() == Some(entry.widget);
            node.slots
                .iter()
                .position(named)
                .filter(|_| node.widget(entry.widget).is_some())
        };
        slot.map_or(Plan::Nothing, |slot| Plan::Slot(index, slot))
    }

    /// The input of a host inside that has the widget.
    fn slot_of_host(&self, inner: usize, slots: &[Slot<'a>], entry: &Entry<'a>) -> Option<usize> {
        let by_id = &self.document.levels[inner].by_id;
        let origin = entry.origin.as_ref().map(|id| by_id.get(id).copied());
        let found = (0..slots.len()).find(|index| {
            let source = self.source(inner, *index);
            match &origin {
                Some(origin) => source.is_some_and(|(node, name)| name == entry.widget && Some(node) == *origin),
                None => slots[*index].name == entry.widget || source.is_some_and(|(_, name)| name == entry.widget),
            }
        })?;
        slots[found].promoted.as_ref().map(|_| found)
    }

    /// Adds an input to a definition, feeds these slots by it, and gives it to all hosts.
    fn add_input(
        &mut self,
        level: usize,
        name: &'a str,
        kind: Cow<'a, str>,
        ends: &[(usize, usize)],
    ) -> Result<usize, JobError> {
        let port = self.document.levels[level].inputs.len();
        if port >= MOST_PORTS {
            return Err(invalid(&format!("a subgraph has more than {MOST_PORTS} inputs")));
        }
        let unique = self.unique_name(level, name);
        self.take_slots(self.hosts[level].len())?;
        let wires: Vec<i64> = ends
            .iter()
            .map(|(node, slot)| self.add_wire(level, port, *node, *slot))
            .collect();
        let kind_of_hosts = kind.clone();
        self.document.levels[level].inputs.push(Port {
            name: unique.clone(),
            kind,
            wires,
        });
        let behind = self.look_behind(level, port);
        self.behind[level].push(behind);
        let promoted = self.promoted(level, port);
        for (holder, index) in self.hosts[level].clone() {
            // A level that is being set up has all its hosts before their proxies are looked at.
            if let Some(host) = self.nodes[holder].get_mut(index) {
                host.slots.push(Slot {
                    name: unique.clone(),
                    kind: kind_of_hosts.clone(),
                    wire: None,
                    widget: None,
                    promoted: promoted.clone(),
                });
            }
        }
        Ok(port)
    }

    /// `name`, or `name_1`, `name_2` …: one that no input of the definition has.
    fn unique_name(&mut self, level: usize, name: &'a str) -> Cow<'a, str> {
        let ports = &self.document.levels[level].inputs;
        let names = self.port_names.entry(level).or_insert_with(|| PortNames {
            taken: ports.iter().map(|port| port.name.clone()).collect(),
            next: HashMap::new(),
        });
        let mut unique = Cow::Borrowed(name);
        while names.taken.contains(&unique) {
            let number = names.next.entry(name).or_insert(1);
            unique = Cow::Owned(format!("{name}_{number}"));
            *number += 1;
        }
        names.taken.insert(unique.clone());
        unique
    }
}

/// `12: text` is node 12 and `text`.
fn prefix(widget: &str) -> Option<(&str, &str)> {
    let (id, rest) = widget.split_once(':')?;
    let (id, rest) = (id.trim(), rest.trim_start());
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    (is_id && !rest.is_empty()).then_some((id, rest))
}
