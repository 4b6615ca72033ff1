//! What an input is fed by: links followed through reroutes, bypassed nodes and the edges of subgraphs, to a node that is
//! sent or to the value of a promoted widget.

use super::document::{End, Mode, Saved};
use super::widgets::Widget;
use super::world::{At, Is, Node, World};
use crate::echo;

/// So many steps a link may take, two for each reroute or bypassed node in a row.
const LONGEST: usize = 2 * super::document::MOST_NODES;
/// So many steps all links may take together.
const MOST_STEPS: usize = 2_000_000;

/// What feeds an input.
#[derive(Debug)]
pub(super) enum Feed<'w, 'a> {
    /// The output of a node that is sent: its id in the graph, and the slot.
    Node(String, usize),
    /// The widget of a host.
    Widget(&'w Widget<'a>),
}

/// Follows links.
#[derive(Debug)]
pub(super) struct Links<'w, 'a> {
    world: &'w World<'a>,
    steps_left: usize,
}

/// A slot on the way: that of an input, or of an output.
#[derive(Debug, Clone, Copy)]
enum Side {
    Input,
    Output,
}

impl<'w, 'a> Links<'w, 'a> {
    pub(super) fn new(world: &'w World<'a>) -> Self {
        Self {
            world,
            steps_left: MOST_STEPS,
        }
    }

    /// What feeds the input `slot` of a node that stands within the hosts `path`; `None` where nothing does. The error says
    /// where the way is broken.
    pub(super) fn feed(&mut self, path: &[At], at: At, slot: usize) -> Result<Option<Feed<'w, 'a>>, String> {
        let world = self.world;
        if world.node(at).slots.get(slot).is_none_or(|slot| slot.wire.is_none()) {
            return Ok(None);
        }
        let mut path = path.to_vec();
        let (mut at, mut slot, mut side) = (at, slot, Side::Input);
        // The type of the input that asks. It stays the same through a reroute.
        let mut wanted: Option<&str> = None;
        for _ in 0..LONGEST {
            self.steps_left = self
                .steps_left
                .checked_sub(1)
                .ok_or("the links of the workflow are too long to follow")?;
            let (node, saved) = (world.node(at), world.saved(at));
            match side {
                Side::Input => {
                    let Some(input) = node.slots.get(slot) else {
                        return Ok(None);
                    };
                    let Some(id) = input.wire else { return Ok(None) };
                    let level = &world.document.levels[at.0];
                    let wire = level
                        .wires
                        .get(&id)
                        .ok_or_else(|| format!("the link {id} into node {} does not exist", echo::cut(&saved.id)))?;
                    match wire.from {
                        End::Edge => {
                            let host = path.pop().ok_or("a link begins at the edge of the workflow")?;
                            slot = wire.slot;
                            let outer = world.node(host).slots.get(slot).ok_or_else(|| {
                                format!("the subgraph of node {} has no input {slot}", world.saved(host).id)
                            })?;
                            if outer.wire.is_none() {
                                return Ok(outer.promoted.as_ref().map(Feed::Widget));
                            }
                            (at, wanted) = (host, None);
                        }
                        End::Node(from) => {
                            wanted = wanted.or(Some(&*input.kind));
                            (at, slot, side) = ((at.0, from), wire.slot, Side::Output);
                        }
                        End::Nowhere => {
                            return Err(format!(
                                "the link {id} into node {} comes from a node that does not exist",
                                echo::cut(&saved.id)
                            ));
                        }
                    }
                }
                Side::Output if saved.mode == Mode::Muted => return Ok(None),
                Side::Output if saved.mode == Mode::Bypassed => {
                    self.steps_left = self.steps_left.saturating_sub(node.slots.len());
                    let Some(passed) = passed_on(node, saved, slot, wanted.unwrap_or("*"))? else {
                        return Ok(None);
                    };
                    (slot, side, wanted) = (passed, Side::Input, None);
                }
                Side::Output => match node.kind {
                    Is::Host(inner) => {
                        let definition = &world.document.levels[inner];
                        let port = definition.outputs.get(slot).ok_or_else(|| no_output(saved, slot))?;
                        let wire = port.wires.iter().find_map(|id| definition.wires.get(id));
                        let Some(wire) = wire else { return Ok(None) };
                        let End::Node(from) = wire.from else {
                            return Err(format!(
                                "the output `{}` of node {} leads to no node within its subgraph",
                                echo::cut(&port.name),
                                echo::cut(&saved.id)
                            ));
                        };
                        path.push(at);
                        (at, slot) = ((inner, from), wire.slot);
                    }
                    Is::Reroute => {
                        if node.slots.get(slot).is_none_or(|slot| slot.wire.is_none()) {
                            return Ok(None);
                        }
                        side = Side::Input;
                    }
                    Is::Primitive | Is::Note => return Ok(None),
                    Is::Class(_) | Is::Unknown => return Ok(Some(Feed::Node(id_in_graph(world, &path, at), slot))),
                },
            }
        }
        Err("its link goes round in a circle, or through too many nodes".to_owned())
    }
}

/// The id of a node in the graph: those of the hosts around it, and its own.
pub(super) fn id_in_graph(world: &World<'_>, path: &[At], at: At) -> String {
    let mut id = String::new();
    for host in path {
        id.push_str(&world.saved(*host).id);
        id.push(':');
    }
    id.push_str(&world.saved(at).id);
    id
}

fn no_output(saved: &Saved<'_>, slot: usize) -> String {
    format!(
        "node {} ({}) has no output {slot}",
        echo::cut(&saved.id),
        echo::cut(saved.class)
    )
}

/// Which input a bypassed node passes on at an output.
fn passed_on(node: &Node<'_>, saved: &Saved<'_>, slot: usize, wanted: &str) -> Result<Option<usize>, String> {
    let slots = &node.slots;
    let output = node.outputs.get(slot).ok_or_else(|| no_output(saved, slot))?;
    if wanted == "*" || wanted.is_empty() {
        let index = if slot < slots.len() { slot } else { 0 };
        return Ok(Some(index).filter(|index| *index < slots.len()));
    }
    let fits = |kind: &str| fits(kind, output) && fits(kind, wanted);
    if slots.get(slot).is_some_and(|opposite| fits(&opposite.kind)) {
        return Ok(Some(slot));
    }
    let exact = slots.iter().position(|slot| slot.kind == wanted);
    Ok(exact.or_else(|| slots.iter().position(|slot| fits(&slot.kind))))
}

/// Whether the page connects these types. Case does not count; `*` and nothing fit all; a comma divides choices.
fn fits(a: &str, b: &str) -> bool {
    let is_any = |kind: &str| kind.is_empty() || kind == "*";
    if is_any(a) || is_any(b) || a.eq_ignore_ascii_case(b) {
        return true;
    }
    a.split(',').any(|a| {
        b.split(',')
            .any(|b| is_any(a) || is_any(b) || a.eq_ignore_ascii_case(b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_fit_as_the_page_connects_them() {
        for (a, b) in [("IMAGE", "image"), ("*", "X"), ("", "X"), ("A,B", "b"), ("A,*", "X")] {
            assert!(fits(a, b) && fits(b, a), "{a} {b}");
        }
        for (a, b) in [("IMAGE", "MASK"), ("A,B", "C"), ("A,B", "AB")] {
            assert!(!fits(a, b), "{a} {b}");
        }
    }
}
