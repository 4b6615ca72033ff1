//! The nodes as the page has them when it has opened a workflow: with widgets that hold values, and slots that know their
//! wires.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::app::Wanted;
use super::class::{as_saved, class_node};
use super::document::{Document, End, Saved, Wire};
use super::promoted::Behind;
use super::proxies::{MOST_PROXIES, PortNames};
use super::report::invalid;
use super::widgets::Widget;
use crate::error::JobError;

/// The input slots of all nodes. A thousand nodes have some ten thousand.
const MOST_SLOTS: usize = 300_000;

/// Where a node is: its level, and its index there.
pub(super) type At = (usize, usize);

/// A workflow that is open.
#[derive(Debug)]
pub(super) struct World<'a> {
    /// What was read. Promoted widgets of older files add inputs to definitions, and wires to them.
    pub document: Document<'a>,
    /// The nodes by level, as in the document.
    pub nodes: Vec<Vec<Node<'a>>>,
    /// The hosts of each level's definition that are set up.
    pub hosts: Vec<Vec<At>>,
    /// `/object_info` by class.
    described: &'a HashMap<String, Value>,
    /// The named inputs that are to be set.
    pub wanted: Vec<Wanted<'a>>,
    /// What is behind the inputs of each definition.
    pub behind: Vec<Vec<Behind>>,
    /// The names of the inputs of definitions that got more of them.
    pub port_names: HashMap<usize, PortNames<'a>>,
    /// How many slots there may still be.
    pub slots_left: usize,
    /// How many promoted widgets of older files there may still be.
    pub proxies_left: usize,
    /// The id of the next wire that is added.
    next_wire: i64,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// What it is.
    pub kind: Is<'a>,
    /// Its widgets.
    pub widgets: Vec<Widget<'a>>,
    /// Its input slots.
    pub slots: Vec<Slot<'a>>,
    /// The slot of each wire that ends here.
    by_wire: HashMap<i64, usize>,
    /// The types of its outputs.
    pub outputs: Vec<Cow<'a, str>>,
    /// What is to be said of it if it is sent.
    pub remarks: Vec<Remark>,
    /// The input of the definition that took this primitive's place.
    pub replaced_by: Option<usize>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Is<'a> {
    /// A node of a class, with its description.
    Class(&'a Value),
    /// The host of the definition at this level.
    Host(usize),
    /// A knot in a wire.
    Reroute,
    /// A value for the widgets of others.
    Primitive,
    /// A text for people.
    Note,
    /// A class that is not described.
    Unknown,
}

/// An input slot.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    /// The input's name.
    pub name: Cow<'a, str>,
    /// The type.
    pub kind: Cow<'a, str>,
    /// The wire that ends here.
    pub wire: Option<i64>,
    /// The widget of the node that it belongs to.
    pub widget: Option<Cow<'a, str>>,
    /// A host's own copy of the widget that the slot promotes.
    pub promoted: Option<Widget<'a>>,
}

/// What is to be said of a node if it is sent.
#[derive(Debug)]
pub(super) struct Remark {
    /// The widget, whose value does not matter where a link feeds it.
    pub widget: Option<String>,
    /// What there is to say.
    pub text: String,
    /// Whether it is a reason not to convert the workflow.
    pub is_refusal: bool,
}

impl Remark {
    pub(super) fn warning(widget: Option<String>, text: impl Into<String>) -> Self {
        Self {
            widget,
            text: text.into(),
            is_refusal: false,
        }
    }
}

impl<'a> Node<'a> {
    pub(super) fn new(kind: Is<'a>) -> Self {
        Self {
            kind,
            widgets: Vec::new(),
            slots: Vec::new(),
            by_wire: HashMap::new(),
            outputs: Vec::new(),
            remarks: Vec::new(),
            replaced_by: None,
        }
    }

    /// The slot in which a wire ends.
    pub(super) fn slot_of(&self, wire: i64) -> Option<usize> {
        self.by_wire.get(&wire).copied()
    }

    /// The widget of a slot.
    pub(super) fn widget_of(&self, slot: usize) -> Option<&Widget<'a>> {
        let slot = self.slots.get(slot)?;
        if matches!(self.kind, Is::Host(_)) {
            return slot.promoted.as_ref();
        }
        let name = slot.widget.as_deref()?;
        self.widgets.iter().find(|widget| widget.name == name)
    }

    /// The same, to change it.
    pub(super) fn widget_of_mut(&mut self, slot: usize) -> Option<&mut Widget<'a>> {
        let slot = self.slots.get_mut(slot)?;
        if matches!(self.kind, Is::Host(_)) {
            return slot.promoted.as_mut();
        }
        let name = slot.widget.as_deref()?;
        self.widgets.iter_mut().find(|widget| widget.name == name)
    }

    /// The widget with this name.
    pub(super) fn widget(&self, name: &str) -> Option<&Widget<'a>> {
        let own = self.widgets.iter().find(|widget| widget.name == name);
        own.or_else(|| {
            let slot = self.slots.iter().find(|slot| slot.name == name)?;
            slot.promoted.as_ref()
        })
    }

    /// Lets a wire end in a slot, and gives the one that did.
    pub(super) fn attach(&mut self, slot: usize, wire: i64) -> Option<i64> {
        let old = self.slots.get_mut(slot)?.wire.replace(wire);
        if let Some(old) = old {
            self.by_wire.remove(&old);
        }
        self.by_wire.insert(wire, slot);
        old
    }

    pub(super) fn index_wires(&mut self) {
        self.by_wire.clear();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(wire) = slot.wire {
                self.by_wire.entry(wire).or_insert(index);
            }
        }
    }
}

impl<'a> World<'a> {
    pub(super) fn new(document: Document<'a>, described: &'a HashMap<String, Value>, wanted: Vec<Wanted<'a>>) -> Self {
        let levels = document.levels.len();
        Self {
            document,
            nodes: (0..levels).map(|_| Vec::new()).collect(),
            hosts: vec![Vec::new(); levels],
            described,
            wanted,
            behind: vec![Vec::new(); levels],
            port_names: HashMap::new(),
            slots_left: MOST_SLOTS,
            proxies_left: MOST_PROXIES,
            next_wire: i64::MIN,
        }
    }

    /// The node as it was saved.
    pub(super) fn saved(&self, at: At) -> &Saved<'a> {
        &self.document.levels[at.0].nodes[at.1]
    }

    /// The node.
    pub(super) fn node(&self, at: At) -> &Node<'a> {
        &self.nodes[at.0][at.1]
    }

    /// The title that the page shows.
    pub(super) fn title(&self, at: At) -> &str {
        let saved = self.saved(at);
        if let Some(title) = saved.title {
            return title;
        }
        match self.node(at).kind {
            Is::Host(level) => self.document.levels[level].name,
            Is::Class(described) => {
                let name = described.get("display_name").and_then(Value::as_str);
                name.filter(|name| !name.is_empty()).unwrap_or(saved.class)
            }
            _ => saved.class,
        }
    }

    /// Sets up all nodes, those of the innermost definitions first: a host takes over the values of what it promotes.
    pub(super) fn configure(&mut self) -> Result<(), JobError> {
        for level in self.document.order.clone() {
            let count = self.document.levels[level].nodes.len();
            for index in 0..count {
                let node = self.set_up((level, index))?;
                self.take_slots(node.slots.len())?;
                self.nodes[level].push(node);
            }
            for index in 0..count {
                if let Is::Host(_) = self.nodes[level][index].kind {
                    self.migrate_promotions((level, index))?;
                }
            }
            self.look_behind_all(level);
        }
        for node in self.nodes.iter_mut().flatten() {
            finish(node);
        }
        for level in 1..self.nodes.len() {
            self.look_behind_all(level);
        }
        Ok(())
    }

    /// Counts slots, so that hosts of large definitions do not fill the memory.
    pub(super) fn take_slots(&mut self, count: usize) -> Result<(), JobError> {
        self.slots_left = self
            .slots_left
            .checked_sub(count)
            .ok_or_else(|| invalid(&format!("its nodes have more than {MOST_SLOTS} inputs")))?;
        Ok(())
    }

    /// Adds a wire from an input of a definition to a slot of a node in it.
    pub(super) fn add_wire(&mut self, level: usize, port: usize, node: usize, slot: usize) -> i64 {
        let id = self.next_wire;
        self.next_wire += 1;
        let wire = Wire {
            from: End::Edge,
            slot: port,
            to: End::Node(node),
        };
        self.document.levels[level].wires.insert(id, wire);
        let old = self.nodes[level][node].attach(slot, id);
        let loser = old.and_then(|old| self.document.levels[level].wires.get(&old));
        if let Some(loser) = loser.filter(|loser| loser.from == End::Edge).map(|loser| loser.slot) {
            let behind = self.look_behind(level, loser);
            if let Some(known) = self.behind[level].get_mut(loser) {
                *known = behind;
            }
        }
        id
    }

    fn set_up(&mut self, at: At) -> Result<Node<'a>, JobError> {
        let saved = self.saved(at);
        if let Some(level) = saved.host {
            self.hosts[level].push(at);
            return self.host(at, level);
        }
        let kind = match saved.class {
            "Note" | "MarkdownNote" => Is::Note,
            "Reroute" => Is::Reroute,
            "PrimitiveNode" => Is::Primitive,
            class => self.described.get(class).map_or(Is::Unknown, Is::Class),
        };
        let mut node = match kind {
            Is::Class(described) => {
                let wanted = self
                    .wanted
                    .iter_mut()
                    .filter(|wanted| at.0 == 0 && wanted.node == saved_id(&self.document, at));
                class_node(&self.document.levels[at.0].nodes[at.1], described, wanted)
            }
            kind => {
                let mut node = Node::new(kind);
                if matches!(kind, Is::Reroute | Is::Unknown) {
                    node.slots.extend(saved.inputs.iter().map(as_saved));
                }
                node.outputs = saved.outputs.iter().map(|output| output.kind.clone()).collect();
                node
            }
        };
        node.index_wires();
        Ok(node)
    }
}

/// The id that the file has, by which others name the node.
fn saved_id<'d>(document: &'d Document<'_>, at: At) -> &'d str {
    &document.levels[at.0].nodes[at.1].id
}

/// Takes out the sockets of widgets that the node does not have. The page goes on behind the one that follows, so of two
/// in a row the second stays.
fn finish(node: &mut Node<'_>) {
    if !matches!(node.kind, Is::Class(_)) {
        return;
    }
    let names: HashSet<&str> = node.widgets.iter().map(|widget| &*widget.name).collect();
    let mut is_after_one = false;
    let mut stay = Vec::with_capacity(node.slots.len());
    for slot in &node.slots {
        let goes = !is_after_one && slot.widget.as_deref().is_some_and(|widget| !names.contains(widget));
        is_after_one = goes;
        stay.push(!goes);
    }
    if stay.iter().all(|stays| *stays) {
        return;
    }
    let mut stay = stay.into_iter();
    node.slots.retain(|_| stay.next().unwrap_or(true));
    node.index_wires();
}
