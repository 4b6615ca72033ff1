//! Would ComfyUI run this graph? One answer that lists everything wrong, node by node.
//!
//! The rule above all others: what ComfyUI would run passes. So the check repeats what `validate_inputs` in ComfyUI's
//! `execution.py` enforces, and leaves to ComfyUI what cannot be known from `/object_info`:
//!
//! - ComfyUI looks at the nodes that its output nodes reach. Problems elsewhere are ignored, except a class that does not
//!   exist, which ComfyUI refuses anywhere.
//! - Inputs that a class does not have are tolerated. Links in them are followed when the graph runs, though: one to a
//!   missing node stops ComfyUI 0.30 from taking any further job, so it is refused here.
//! - Steps are not enforced. Numbers and booleans in quotes are converted as Python does it.
//! - Custom nodes may replace the check of ranges, option lists and link types by code of their own, unseen in
//!   `/object_info`; for them these three are left to ComfyUI.

mod constant;
mod faults;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::absence::Absence;
use super::graph::{Graph, INVALID_WORKFLOW, LISTED_PROBLEMS, Link, Node, shortened};
use super::models::ModelCatalog;
use super::schema::{ClassSpec, Schemas, types_meet};
use super::value::unwrapped;
use super::wording::{any_of, closest, expected, outputs_in_words, page_only_advice, remedy};
use crate::echo;
use crate::error::{ErrorKind, Fault, FaultKind, JobError, Problem};

/// Why a graph cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFailure {
    /// What the user is told.
    pub error: Box<JobError>,
    /// The model files that are missing, where nothing else is wrong: with them the graph could run.
    pub missing: Box<[MissingModel]>,
}

/// A model file that a graph names and that is not installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingModel {
    /// The folder of ComfyUI's models folder, where the input tells it.
    pub folder: Option<&'static str>,
    /// The name in the graph.
    pub name: String,
}

impl From<JobError> for CheckFailure {
    /// The graph could not be checked.
    fn from(error: JobError) -> Self {
        Self {
            error: Box::new(error),
            missing: Box::default(),
        }
    }
}

impl From<CheckFailure> for JobError {
    fn from(failure: CheckFailure) -> Self {
        *failure.error
    }
}

/// Checks a graph before it is submitted. `schemas` must know every class of [`Graph::classes`] that ComfyUI has.
///
/// The error is [`ErrorKind::ModelMissing`] and begins with `Failed to load model: NAME` when a model file is missing,
/// otherwise [`ErrorKind::InvalidWorkflow`].
pub fn check(graph: &Graph, schemas: &Schemas, models: &ModelCatalog) -> Result<(), CheckFailure> {
    Checker::new(graph, schemas, models).run()
}

/// The classes of a graph that ComfyUI lacks and that a pack of custom nodes may bring, in the order of the nodes.
pub fn absent_classes<'g>(graph: &'g Graph, schemas: &Schemas) -> Vec<&'g str> {
    let mut seen = HashSet::new();
    let classes = graph.nodes.values().map(|node| node.class_type.as_str());
    classes
        .filter(|class| !schemas.classes.contains_key(*class) && !schemas.replaced.contains(*class))
        .filter(|class| page_only_advice(class).is_none() && seen.insert(*class))
        .collect()
}

/// How many names are suggested instead of one that does not exist.
const SUGGESTIONS: usize = 3;

struct Checker<'a> {
    graph: &'a Graph,
    schemas: &'a Schemas,
    models: &'a ModelCatalog,
    problems: Vec<Problem>,
    missing_models: Vec<MissingModel>,
}

impl<'a> Checker<'a> {
    fn new(graph: &'a Graph, schemas: &'a Schemas, models: &'a ModelCatalog) -> Self {
        Self {
            graph,
            schemas,
            models,
            problems: Vec::new(),
            missing_models: Vec::new(),
        }
    }

    fn run(mut self) -> Result<(), CheckFailure> {
        let graph = self.graph;
        let mut outputs = Vec::new();
        let mut strangers = false;
        for (id, node) in &graph.nodes {
            match self.spec(node) {
                Some(spec) if spec.output_node => outputs.push(id.as_str()),
                Some(_) => {}
                None => {
                    strangers = true;
                    // An unknown class fails the graph in any case; it may well be an output.
                    if self.is_unknown(node) {
                        outputs.push(id.as_str());
                    }
                }
            }
        }
        let no_output = outputs.is_empty() && !strangers;
        let ends = outputs.clone();
        if no_output {
            // Nothing would run; then everything is worth a look. (A class that is replaced may become an output.)
            outputs = graph.nodes.keys().map(String::as_str).collect();
        }

        let validated = graph.reached(outputs.iter().copied(), |node, link| {
            self.spec(node)
                .map_or_else(|| self.is_unknown(node), |spec| spec.declares(link.input))
        });
        let executed = graph.reached(outputs, |node, _| self.spec(node).is_some() || self.is_unknown(node));

        let suggestions = self.names_for_suggestions();
        for (id, node) in &graph.nodes {
            let Some(spec) = self.spec(node) else {
                if self.is_unknown(node) {
                    self.unknown_class(id, node, suggestions);
                }
                continue;
            };
            if validated.contains(id.as_str()) {
                self.missing_inputs(id, node, spec);
            }
            if executed.contains(id.as_str()) {
                self.inputs(id, node, spec, validated.contains(id.as_str()));
            }
        }
        self.cycle(&executed);
        if no_output {
            self.problems.push(Problem {
                message: "no node saves or shows anything: add one, such as SaveImage, after the last node".to_owned(),
                fault: Some(Box::new(Fault::new(FaultKind::NoOutputs, "Prompt has no outputs", ""))),
                ..Problem::default()
            });
        }
        faults::name_outputs(&mut self.problems, graph, &ends);
        self.verdict()
    }

    fn verdict(self) -> Result<(), CheckFailure> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let error = match self.missing_models.first() {
            Some(missing) => {
                let message = format!("Failed to load model: {}", echo::cut(&missing.name));
                JobError::new(ErrorKind::ModelMissing, message).hint(
                    "Install the file in its folder, name one that is installed, or tell the worker where it can be had (MODELS, MODEL_MANIFEST).",
                )
            }
            None => JobError::new(ErrorKind::InvalidWorkflow, INVALID_WORKFLOW),
        };
        let is_all = self.missing_models.len() == self.problems.len();
        Err(CheckFailure {
            error: Box::new(error.problems(shortened(self.problems))),
            missing: if is_all {
                self.missing_models.into()
            } else {
                Box::default()
            },
        })
    }

    fn spec(&self, node: &Node) -> Option<&'a ClassSpec> {
        self.schemas.classes.get(&node.class_type).map(Arc::as_ref)
    }

    /// Whether ComfyUI will refuse the class of this node.
    fn is_unknown(&self, node: &Node) -> bool {
        self.spec(node).is_none() && !self.schemas.replaced.contains(&node.class_type)
    }

    fn complain(&mut self, (id, node): (&str, &Node), input: &str, message: String, fault: Fault) {
        self.problems.push(Problem {
            node_id: Some(id.to_owned()),
            class_type: Some(node.class_type.clone()),
            input: Some(input.to_owned()),
            message,
            fault: Some(Box::new(fault)),
        });
    }

    /// All class names, if one will have to be suggested.
    fn names_for_suggestions(&self) -> &'a [String] {
        if self.graph.nodes.values().any(|node| self.is_unknown(node)) {
            &self.schemas.names
        } else {
            &[]
        }
    }

    /// How many names to suggest. None for a problem that the answer will not list: to compare thousands of names with
    /// thousands takes seconds.
    fn suggestions(&self) -> usize {
        if self.problems.len() < LISTED_PROBLEMS {
            SUGGESTIONS
        } else {
            0
        }
    }

    fn unknown_class(&mut self, id: &str, node: &Node, names: &[String]) {
        let likely = closest(&node.class_type, names.iter().map(String::as_str), self.suggestions());
        let absence = self.schemas.absent.get(&node.class_type);
        let remedy = absence.map_or_else(|| "install the custom node that provides it".to_owned(), remedy);
        let advice = match (page_only_advice(&node.class_type), absence) {
            (Some(advice), _) => advice.to_owned(),
            // Nothing but a name is known of what is in the registry, or in somebody's sources, and another may have been
            // meant.
            (
                None,
                None
                | Some(
                    Absence::NotAsked { .. }
                    | Absence::Broken { sure: false, .. }
                    | Absence::LeftOut { sure: false, .. },
                ),
            ) if !likely.is_empty() => {
                format!("did you mean {}? If not, {remedy}", any_of(&likely))
            }
            (None, _) => remedy,
        };
        let class = echo::json(&Value::from(node.class_type.as_str()));
        self.problems.push(Problem {
            node_id: Some(id.to_owned()),
            class_type: None,
            input: Some("class_type".to_owned()),
            message: format!("ComfyUI has no node class {class}: {advice}"),
            fault: Some(Box::new(faults::unknown_class(id, node))),
        });
    }

    fn missing_inputs(&mut self, id: &str, node: &Node, spec: &ClassSpec) {
        let missing = spec
            .inputs
            .iter()
            .filter(|(name, input)| input.required && !node.inputs.contains_key(&***name));
        for (name, input) in missing {
            let fault = faults::missing(name);
            let unknown = node
                .inputs
                .keys()
                .map(String::as_str)
                .filter(|name| !spec.inputs.contains_key(*name));
            let message = match closest(name, unknown, self.suggestions().min(1)).first() {
                Some(written) => format!(
                    "is missing: did you mean it by `{written}`? It takes {}",
                    expected(&input.kind)
                ),
                None => format!("is missing: it takes {}", expected(&input.kind)),
            };
            self.complain((id, node), name, message, fault);
        }
    }

    fn inputs(&mut self, id: &str, node: &'a Node, spec: &ClassSpec, validated: bool) {
        for (name, value) in &node.inputs {
            let declared = validated && spec.declares(name);
            if let Some(link) = Link::parse(name, value) {
                self.link(id, node, spec, link, declared);
            } else if !declared {
                // ComfyUI does not look at it.
            } else if let Value::Array(list) = value {
                let message = match list.as_slice() {
                    [Value::Number(source), slot] => {
                        let slot = echo::json(slot);
                        format!("is no link: node ids are strings, so write [\"{source}\", {slot}]")
                    }
                    _ => format!("{} is no link: write [\"<node id>\", <output slot>]", echo::json(value)),
                };
                let fault = faults::bad_link(name, spec.inputs.get(name.as_str()), value);
                self.complain((id, node), name, message, fault);
            } else if let Some(input) = spec.inputs.get(name.as_str()) {
                self.constant(id, node, spec, name, input, unwrapped(value));
            }
        }
    }

    fn link(&mut self, id: &str, node: &Node, spec: &ClassSpec, link: Link<'a>, declared: bool) {
        let Some(source) = self.graph.get(link.source) else {
            let message = format!("links to node {}, which is not in the graph", echo::cut(link.source));
            let fault = faults::exception("KeyError", &format!("'{}'", echo::cut(link.source)));
            self.complain((id, node), link.input, message, fault);
            return;
        };
        let Some(source_spec) = self.spec(source) else { return };
        let outputs = &source_spec.outputs;
        // Python counts negative slots from the end; floats are no index.
        let slot = match link.index() {
            Some(slot) if slot < 0 => usize::try_from(slot.unsigned_abs())
                .ok()
                .and_then(|back| outputs.len().checked_sub(back)),
            Some(slot) => usize::try_from(slot).ok().filter(|slot| *slot < outputs.len()),
            None if declared => None,
            None => return,
        };
        let Some(slot) = slot else {
            // What is not known to be wrong is ComfyUI's to judge.
            if source_spec.open_outputs && link.index().is_some() {
                return;
            }
            let message = format!(
                "links to output {} of node {} ({}), which has {}",
                link.slot,
                echo::cut(link.source),
                echo::cut(&source.class_type),
                outputs_in_words(outputs)
            );
            let fault = faults::exception("IndexError", "tuple index out of range");
            self.complain((id, node), link.input, message, fault);
            return;
        };
        if !declared || !spec.core || !source_spec.core {
            return;
        }
        let wanted = spec.inputs.get(link.input).and_then(|input| input.kind.type_name());
        if let (Some(given), Some(wanted)) = (&outputs[slot], wanted)
            && !types_meet(given, wanted)
        {
            let message = format!(
                "takes {wanted}, but output {slot} of node {} ({}) is {given}",
                echo::cut(link.source),
                echo::cut(&source.class_type)
            );
            let fault = faults::mismatch(&link, spec.inputs.get(link.input), given, wanted);
            self.complain((id, node), link.input, message, fault);
        }
    }

    fn cycle(&mut self, executed: &HashSet<&'a str>) {
        let Some(cycle) = self.graph.cycle(executed) else {
            return;
        };
        let first = cycle.first().copied();
        let nodes: Vec<String> = cycle.iter().map(|id| (*id).to_owned()).collect();
        let path: Vec<_> = cycle
            .iter()
            .copied()
            .chain(first)
            .map(|id| {
                let class = self.graph.get(id).map_or("", |node| node.class_type.as_str());
                format!("{} ({})", echo::cut(id), echo::cut(class))
            })
            .collect();
        let message = if path.len() > 12 {
            format!("{} -> … -> {}", path[..10].join(" -> "), path[path.len() - 1])
        } else {
            path.join(" -> ")
        };
        self.problems.push(Problem {
            message: format!("these nodes need each other in a circle: {message}"),
            fault: Some(Box::new(faults::cycle(nodes, message))),
            ..Problem::default()
        });
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "check_of_classes_tests.rs"]
mod tests_of_classes;
