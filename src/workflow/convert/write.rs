//! The graph: each node that is sent, with the values of its widgets and what feeds its inputs.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::Options;
use super::declared::Kind;
use super::document::{Mode, is_group_node};
use super::links::{Feed, Links, id_in_graph};
use super::odd;
use super::patterns::Names;
use super::prompts;
use super::report::{Place, Report, invalid};
use super::widgets::Widget;
use super::world::{At, Is, World};
use crate::echo;
use crate::error::JobError;

/// So many bytes the values of a graph may take. A definition's values are written for each of its hosts.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Writes a graph.
struct Writer<'w, 'a, 'r> {
    world: &'w World<'a>,
    links: Links<'w, 'a>,
    names: Option<Names>,
    options: &'r Options<'r>,
    report: &'r mut Report,
    graph: Map<String, Value>,
    /// The nodes of which everything is said.
    told: HashSet<At>,
    bytes_left: usize,
}

/// The graph that the page would send.
pub(super) fn graph(world: &World<'_>, options: &Options<'_>, report: &mut Report) -> Result<Value, JobError> {
    let mut writer = Writer {
        world,
        links: Links::new(world),
        names: None,
        options,
        report,
        graph: Map::new(),
        told: HashSet::new(),
        bytes_left: MOST_BYTES,
    };
    for index in 0..world.nodes[0].len() {
        let at = (0, index);
        // What is in a muted host of the root is not sent; further in, the page does not look.
        if !matches!(world.node(at).kind, Is::Host(_)) || world.saved(at).mode == Mode::Active {
            writer.node(&mut Vec::new(), at)?;
        }
    }
    writer.drop_loose_links();
    let graph = writer.graph;
    report.refusal()?;
    if graph.is_empty() {
        return Err(invalid(
            "none of its nodes would be sent: they are notes, muted or bypassed",
        ));
    }
    Ok(Value::Object(graph))
}

impl<'a> Writer<'_, 'a, '_> {
    fn node(&mut self, path: &mut Vec<At>, at: At) -> Result<(), JobError> {
        let world = self.world;
        let (node, saved) = (world.node(at), world.saved(at));
        if let Is::Host(level) = node.kind {
            self.tell(path, at, &Map::new());
            path.push(at);
            for index in 0..world.nodes[level].len() {
                self.node(path, (level, index))?;
            }
            path.pop();
            return Ok(());
        }
        if saved.mode != Mode::Active {
            return Ok(());
        }
        match node.kind {
            Is::Class(_) => {}
            Is::Unknown => {
                self.refuse(path, at, None, unknown_class(saved.class));
                return Ok(());
            }
            _ => return Ok(()),
        }
        if odd::is_of_the_browser(saved.class) && self.told.insert(at) {
            let why = "what it sends is made by the browser (a rendered scene, a recording), and is not in the file";
            self.refuse(path, at, None, why.to_owned());
            return Ok(());
        }
        if let Some(view) = odd::view_of_the_browser(saved.class).filter(|_| !self.told.contains(&at)) {
            let id = id_in_graph(world, path, at);
            let place = Place {
                id: &id,
                class: saved.class,
                input: Some(view),
            };
            self.report
                .warn(place, "the page would render it anew; what was saved is sent");
        }
        let mut inputs = Map::with_capacity(node.widgets.len() + node.slots.len());
        for widget in node.widgets.iter().filter(|widget| widget.is_sent) {
            let value = self.value(path, at, widget)?;
            inputs.insert(widget.name.to_string(), value);
        }
        for (index, slot) in node.slots.iter().enumerate() {
            let value = match self.links.feed(path, at, index) {
                Ok(None) => continue,
                Ok(Some(Feed::Node(id, output))) => Value::Array(vec![Value::String(id), Value::from(output)]),
                Ok(Some(Feed::Widget(widget))) => self.written(&widget.value)?,
                Err(why) => {
                    self.refuse(path, at, Some(&slot.name), why);
                    continue;
                }
            };
            inputs.insert(slot.name.to_string(), value);
        }
        self.tell(path, at, &inputs);
        // By hand: `json!` would copy the inputs.
        let mut written = Map::with_capacity(3);
        written.insert("inputs".to_owned(), Value::Object(inputs));
        written.insert("class_type".to_owned(), Value::from(saved.class));
        written.insert("_meta".to_owned(), json!({"title": world.title(at)}));
        self.graph.insert(id_in_graph(world, path, at), Value::Object(written));
        Ok(())
    }

    /// The value of a widget as it is sent.
    fn value(&mut self, path: &[At], at: At, widget: &Widget<'a>) -> Result<Value, JobError> {
        let class = self.world.saved(at).class;
        let is_prompt = widget.kind == Kind::Text && widget.declared.is("dynamicPrompts");
        let is_pattern = widget.name == "filename_prefix" && odd::has_pattern(class);
        let text = match &*widget.value {
            Value::String(text) if is_prompt => self.prompt(path, at, &widget.name, text),
            Value::String(text) if is_pattern && text.contains('%') => {
                let names = self.names.get_or_insert_with(|| Names::of(self.world));
                names.resolve(self.world, text, self.options.now)
            }
            value @ Value::Array(_) if widget.declared.kind == "CURVE" => {
                let mut curve = self.written(value)?;
                curve["__type__"] = Value::from("CURVE");
                return Ok(curve);
            }
            value => return self.written(value),
        };
        self.count(text.len())?;
        Ok(Value::String(text))
    }

    /// A text with its choices made.
    fn prompt(&mut self, path: &[At], at: At, widget: &str, text: &str) -> String {
        let id = id_in_graph(self.world, path, at);
        let place = format!("{id}.{widget}");
        let Some(resolved) = prompts::resolve(text, self.options.seed, &place) else {
            let why = "its text has braces within braces that are too deep to be choices".to_owned();
            self.refuse(path, at, Some(widget), why);
            return String::new();
        };
        let place = Place {
            id: &id,
            class: self.world.saved(at).class,
            input: Some(widget),
        };
        if !resolved.choices.is_empty() {
            self.report.chose = true;
            let choices = resolved
                .choices
                .iter()
                .take(5)
                .map(|choice| format!("`{}`", echo::cut(choice)));
            let choices = choices.collect::<Vec<_>>().join(", ");
            self.report.warn(
                place,
                &format!("its text has choices in braces; by the job's seed they became {choices}"),
            );
        }
        if resolved.is_cut {
            self.report.warn(
                place,
                "what stands in its text behind `//` or within `/* */` is a comment to the page, and was left out",
            );
        } else if resolved.choices.is_empty() && resolved.text != text {
            self.report.warn(
                place,
                "the braces and backslashes in its text were resolved as the page does",
            );
        }
        resolved.text
    }

    /// A value as a graph has it: a list is wrapped, so that it is not taken for a link.
    fn written(&mut self, value: &Value) -> Result<Value, JobError> {
        self.count(weight(value))?;
        Ok(if value.is_array() {
            json!({ "__value__": value })
        } else {
            value.clone()
        })
    }

    fn count(&mut self, bytes: usize) -> Result<(), JobError> {
        self.bytes_left = self
            .bytes_left
            .checked_sub(bytes)
            .ok_or_else(|| invalid("the values in its graph take more than 64 MB"))?;
        Ok(())
    }

    fn refuse(&mut self, path: &[At], at: At, input: Option<&str>, why: String) {
        let id = id_in_graph(self.world, path, at);
        let class = self.world.saved(at).class;
        self.report.problem(Place { id: &id, class, input }, why);
    }

    /// Says once what is to be said of a node. A value that a link replaces does not matter.
    fn tell(&mut self, path: &[At], at: At, inputs: &Map<String, Value>) {
        let node = self.world.node(at);
        if node.remarks.is_empty() || !self.told.insert(at) {
            return;
        }
        let id = id_in_graph(self.world, path, at);
        let class = match node.kind {
            Is::Host(level) => self.world.document.levels[level].name,
            _ => self.world.saved(at).class,
        };
        for remark in &node.remarks {
            let input = remark.widget.as_deref();
            if input.and_then(|input| inputs.get(input)).is_some_and(Value::is_array) {
                continue;
            }
            let place = Place { id: &id, class, input };
            if remark.is_refusal {
                self.report.problem(place, remark.text.clone());
            } else {
                self.report.warn(place, &remark.text);
            }
        }
    }

    /// Takes out the inputs that name a node which is not sent.
    fn drop_loose_links(&mut self) {
        let ids: HashSet<String> = self.graph.keys().cloned().collect();
        for (id, node) in &mut self.graph {
            let Some(inputs) = node.get_mut("inputs").and_then(Value::as_object_mut) else {
                continue;
            };
            inputs.retain(|input, value| {
                let source = value.as_array().and_then(|link| link.first()?.as_str());
                let stays = source.is_none_or(|source| ids.contains(source));
                if !stays {
                    let place = Place {
                        id,
                        class: "",
                        input: Some(input),
                    };
                    self.report.warn(place, "what feeds it is not sent, so it was left out");
                }
                stays
            });
        }
    }
}

/// What is said of a class that is not described.
fn unknown_class(class: &str) -> String {
    if is_group_node(class) {
        return "is a group node, which is not converted: turn it into a subgraph in ComfyUI, or export the graph"
            .to_owned();
    }
    match class {
        "GetNode" | "SetNode" => {
            "is not known: it belongs to an extension of the page, which alone can tell what it stands for".to_owned()
        }
        _ => "is a class that this ComfyUI does not have: install its custom node, or take the node out".to_owned(),
    }
}

/// The bytes that a value takes, roughly.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 32,
        Value::Array(values) => values.iter().map(weight).sum::<usize>() + 32,
        Value::Object(fields) => {
            fields
                .iter()
                .map(|(name, value)| name.len() + weight(value))
                .sum::<usize>()
                + 64
        }
        _ => 32,
    }
}
