//! A workflow as ComfyUI's page saves it, and the API graph that the page would send for it.
//!
//! The page's format holds what the user sees: nodes with the values of their widgets by position, wires, subgraphs, notes.
//! What a widget is, and in which order they stand, is known to the page from `/object_info`; so is it here. Where the page
//! guesses, we do as it does and say so; where nothing is certain, the node is named and nothing is converted.
//!
//! ```text
//!  JSON ─► Document ─► World ─────────────────────────────► write ─► Graph + warnings
//!          levels,     nodes with widgets and slots          ▲
//!          wires,      (widgets, values, odd, fit),          │ links: what a slot is fed by
//!          limits      promoted widgets, named inputs,       │ prompts, patterns: texts as they are sent
//!                      primitives
//! ```

mod app;
mod class;
mod declared;
mod document;
mod fit;
mod links;
mod odd;
mod patterns;
mod primitives;
mod promoted;
mod prompts;
mod proxies;
mod report;
mod values;
mod widgets;
mod world;
mod write;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_bad_input;
#[cfg(test)]
mod tests_of_goldens;

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use self::document::Document;
use self::report::Report;
use self::world::World;
use super::Graph;
use crate::echo;
use crate::error::JobError;

/// A workflow as `ComfyUI`'s page saves it (`Workflow > Save`, the `workflow` in a picture, an `.app.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Saved {
    value: Value,
}

/// What a conversion needs beside the workflow and the classes.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The job's seed. It makes the choices of dynamic prompts (`{a|b}`); the seeds in the workflow stay as they are.
    pub seed: u64,
    /// Values for [`Saved::named_inputs`], by name.
    pub inputs: &'a Map<String, Value>,
    /// The time for `%date:yyyy-MM-dd%`, in the zone that it is to be told in.
    pub now: OffsetDateTime,
}

/// What a saved workflow became.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The graph that the page would send.
    pub graph: Graph,
    /// What the user should know of it: values that do not fit, choices that were made, things that were left out.
    pub warnings: Vec<String>,
    /// Whether the seed made a choice.
    pub chose: bool,
}

/// An input that an app names (`extra.linearData.inputs`), so that a request can set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedInput {
    /// The name in a request: the widget's, or `NODE.WIDGET` where two inputs have the same widget name. The long form is
    /// always taken.
    pub name: String,
    /// The id of the node; of one in a subgraph, where the file is older than promoted widgets.
    pub node: String,
    /// The widget of that node.
    pub widget: String,
}

impl Saved {
    /// Whether JSON is meant as one: it has a list `nodes`.
    pub fn is_meant_by(value: &Value) -> bool {
        value.get("nodes").is_some_and(Value::is_array)
    }

    /// Takes a workflow whose structure is sound: nodes, links, subgraphs, and no more of them than we take. The error lists
    /// what is wrong, node by node.
    pub fn from_value(value: Value) -> Result<Self, JobError> {
        Document::read(&value)?;
        Ok(Self { value })
    }

    /// The JSON it is.
    pub fn as_value(&self) -> &Value {
        &self.value
    }

    /// The classes that must be described for the conversion: of every node, in subgraphs too, but those that only the page
    /// has.
    pub fn classes(&self) -> BTreeSet<&str> {
        document::classes(&self.value)
    }

    /// The values of its nodes' widgets that end as a model's file does, in subgraphs too; not those of nodes that are off.
    pub fn model_names(&self) -> Vec<String> {
        document::model_names(&self.value)
    }

    /// The inputs that an app names, in its order. None where the workflow is no app.
    pub fn named_inputs(&self) -> Vec<NamedInput> {
        app::named_inputs(&self.value)
    }

    /// The graph that the page would send. `described` has `/object_info`'s entry of each of [`Saved::classes`], its keys in
    /// `ComfyUI`'s order; a class that is not there is not installed.
    pub fn convert(&self, described: &HashMap<String, Value>, options: &Options<'_>) -> Result<Converted, JobError> {
        let document = Document::read(&self.value)?;
        let mut report = Report::default();
        let wanted = app::wanted(&self.value, options.inputs)?;
        let mut world = World::new(document, described, wanted);
        world.configure()?;
        app::finish(&mut world, &mut report);
        report.refusal()?;
        world.apply_primitives(options);
        let graph = write::graph(&world, options, &mut report)?;
        Ok(Converted {
            graph: Graph::from_value(graph)?,
            chose: report.chose,
            warnings: echo::listed(report.into_warnings()),
        })
    }
}
