//! What `input.workflow` holds, in either form; and files that stand for a request: a graph, a workflow that ComfyUI's page
//! saved, a picture or a video that holds one.

use serde_json::{Map, Value, json};

use super::fields::{INPUT, INPUTS, PROMPT, WORKFLOW};
use super::{SHAPE, envelope, input};
use crate::dialect::field::Object;
use crate::dialect::fields::{Fields, object_of};
use crate::echo;
use crate::error::JobError;
use crate::job::{JobRequest, Policy, SavedRequest, Work};
use crate::workflow::{Embedded, Graph, Saved};

/// How many names of inputs a message lists.
const LISTED_NAMES: usize = 40;

/// A workflow, in either form.
#[derive(Debug, Clone)]
pub enum Workflow {
    /// A graph in API format.
    Graph(Graph),
    /// One that ComfyUI's page saved.
    Saved(SavedRequest),
}

impl From<Workflow> for Work {
    fn from(workflow: Workflow) -> Self {
        match workflow {
            Workflow::Graph(graph) => Self::Workflow(graph),
            Workflow::Saved(saved) => Self::Saved(saved),
        }
    }
}

/// Reads a workflow, given as JSON or as a text that holds it: a graph, or what the page saves. `inputs` are for the latter
/// alone; what is wrong with them goes to `fields`.
pub(super) fn read(workflow: Value, inputs: Map<String, Value>, fields: &mut Fields<'_>) -> Result<Workflow, JobError> {
    let workflow = match workflow {
        Value::String(text) => Graph::json_of(&text)?,
        other => other,
    };
    if !Saved::is_meant_by(&workflow) {
        if !inputs.is_empty() {
            let message = "stands beside a graph in API format, whose inputs have no names: set them in the graph, or send the workflow that ComfyUI's page saved as an app";
            fields.problem(INPUTS.name, message);
        }
        return Graph::from_value(workflow).map(Workflow::Graph);
    }
    let workflow = Saved::from_value(workflow)?;
    check_names(&workflow, &inputs, fields);
    Ok(Workflow::Saved(SavedRequest {
        workflow,
        inputs,
        seed: None,
    }))
}

/// Complains about inputs that the workflow does not name, with those that it names.
fn check_names(workflow: &Saved, inputs: &Map<String, Value>, fields: &mut Fields<'_>) {
    if inputs.is_empty() {
        return;
    }
    let named = workflow.named_inputs();
    let is_named = |name: &str| {
        let mut inputs = named.iter();
        // The long form is unmistakable.
        inputs.any(|input| input.name == name || name.split_once('.') == Some((&input.node, &input.widget)))
    };
    for name in inputs.keys().filter(|name| !is_named(name)) {
        let there_are = if named.is_empty() {
            "the workflow names no inputs; one that is saved as an app (.app.json) does".to_owned()
        } else {
            let mut listed: Vec<String> = named
                .iter()
                .take(LISTED_NAMES)
                .map(|input| format!("`{}`", echo::cut(&input.name)))
                .collect();
            if named.len() > LISTED_NAMES {
                listed.push(format!("and {} more", named.len() - LISTED_NAMES));
            }
            format!("the inputs are {}", listed.join(", "))
        };
        fields.problem(
            &format!("{}.{}", INPUTS.name, echo::cut(name)),
            format!("is no input of this workflow; {there_are}"),
        );
    }
}

/// Reads a file that stands for a request: a request as `/runsync` takes it or its `input` alone, a graph, a workflow that the
/// page saved, or a picture or a video that holds one of these. Decodes images, so a large one belongs on a blocking thread.
pub fn parse_file(content: &[u8]) -> Result<(JobRequest, Policy), JobError> {
    if Embedded::is_file(content) {
        let mut workflow = Object::new();
        workflow.insert(WORKFLOW.name.to_owned(), Embedded::read(content)?.into_workflow(false));
        let (request, _) = input::parse(workflow)?;
        return Ok((request, Policy::default()));
    }
    let object = object_of(content, SHAPE)?;
    if object.contains_key(INPUT.name) {
        return envelope::parse(content);
    }
    let is_input = object.contains_key(WORKFLOW.name) || object.get(PROMPT.name).is_some_and(Value::is_string);
    let value = Value::Object(object);
    let input = if Graph::is_meant_by(&value) || Saved::is_meant_by(&value) {
        json!({ WORKFLOW.name: value })
    } else if is_input {
        value
    } else {
        return envelope::parse(content);
    };
    match input {
        Value::Object(input) => input::parse(input).map(|(request, _)| (request, Policy::default())),
        _ => envelope::parse(content),
    }
}

#[cfg(test)]
#[path = "saved_tests.rs"]
mod tests;
