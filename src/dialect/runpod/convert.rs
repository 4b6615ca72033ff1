//! `POST /convert`: a workflow that ComfyUI's page saved in, the graph that the page would send of it out.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::fields::{INPUTS, WORKFLOW};
use super::saved::{self, Workflow};
use crate::dialect::answer::Answer;
use crate::dialect::field::{Described, Object, Seed, fields, seed, shaped, text};
use crate::dialect::fields::{Fields, object_of};
use crate::dialect::part::Part;
use crate::dialect::schema::Schema;
use crate::echo;
use crate::error::JobError;
use crate::workflow::{Embedded, Graph, Saved};

/// What to send.
const SHAPE: &str = "Send a workflow as ComfyUI's page saves it, {\"workflow\": {…}, \"inputs\": {…}}, or a picture or a video that holds one.";

fields! {
    /// The fields of a form.
    FORM:
    FILE: Value = shaped("file", Schema::file).required()
        .means("The workflow, as the page saves it; or a PNG, WebP, MP4 or WebM that holds one.");
    FORM_INPUTS: String = text(INPUTS.name).means("As JSON: the inputs that it names (an app's `.app.json`), by their names.");
    CHOICES: Seed = seed(0..=u64::MAX)
        .means("The seed by which its dynamic prompts (`{a|b}`) are chosen; without it, or with -1, a random one.");
}

/// The fields of a body that holds a workflow and is none.
const FIELDS: &[&dyn Described] = &[&WORKFLOW, &INPUTS, &CHOICES];

/// What is to be converted.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// The workflow; a graph is answered as it is.
    pub workflow: Workflow,
    /// What the user should know about the request itself.
    pub warnings: Vec<String>,
}

/// The body of the request.
#[derive(Debug)]
pub enum Body {
    /// A file alone: JSON, a picture or a video.
    Whole(Bytes),
    /// A form.
    Form(Vec<Part>),
}

/// The graph.
#[derive(Serialize, ToSchema)]
pub struct Converted<'a> {
    /// The graph, in API format.
    #[schema(schema_with = graph)]
    workflow: &'a Graph,
    /// What to know of it.
    warnings: &'a [String],
}

fn graph() -> Schema {
    Schema::object()
}

/// Reads the body.
pub fn parse_conversion(body: Body) -> Result<Conversion, JobError> {
    let mut object = match body {
        Body::Whole(content) => whole(&content, false)?,
        Body::Form(parts) => form(parts)?,
    };
    let mut fields = Fields::new(&mut object, FIELDS);
    let inputs = fields.read(&INPUTS).unwrap_or_default();
    let seed = fields.read(&CHOICES).and_then(|seed| seed.0);
    let Some(workflow) = fields.read(&WORKFLOW) else {
        return Err(JobError::invalid("The request has no workflow").hint(SHAPE));
    };
    let mut workflow = saved::read(workflow, inputs, &mut fields)?;
    if let Workflow::Saved(saved) = &mut workflow {
        saved.seed = seed;
    }
    let warnings = fields.unknown();
    fields.finish()?;
    Ok(Conversion { workflow, warnings })
}

/// What a body that is no form holds, as [`FIELDS`]. `has_inputs`: there are inputs for what it names.
fn whole(content: &[u8], has_inputs: bool) -> Result<Object, JobError> {
    let workflow = if Embedded::is_file(content) {
        Embedded::read(content)?.into_workflow(has_inputs)
    } else {
        match Value::Object(object_of(content, SHAPE)?) {
            workflow if Saved::is_meant_by(&workflow) || Graph::is_meant_by(&workflow) => workflow,
            Value::Object(object) => return Ok(object),
            other => other,
        }
    };
    Ok(Map::from_iter([(WORKFLOW.name.to_owned(), workflow)]))
}

/// What a form holds, as [`FIELDS`]. A file is what a body that is no form would be; the fields beside it count for more than
/// those within it.
fn form(parts: Vec<Part>) -> Result<Object, JobError> {
    let (mut object, mut files) = (Object::new(), Vec::new());
    for Part { name, is_file, content } in parts {
        // What nobody filled in.
        if content.is_empty() {
            continue;
        }
        if is_file || name == FILE.name || name == WORKFLOW.name {
            files.push(content);
            continue;
        }
        let text = String::from_utf8_lossy(&content).into_owned();
        let holds_json = name == INPUTS.name || name == CHOICES.name;
        let value = match serde_json::from_str::<Value>(&text) {
            Ok(value) if holds_json && !value.is_null() => value,
            _ => Value::String(text),
        };
        if object.contains_key(&name) {
            let message = format!("The form has the field `{}` more than once", echo::cut(&name));
            return Err(JobError::invalid(message).hint("Send each field once."));
        }
        object.insert(name, value);
    }
    if files.len() > 1 {
        let message = format!("The form has {} files", files.len());
        return Err(JobError::invalid(message).hint("Send one workflow a request."));
    }
    for file in files {
        let has_inputs = object.contains_key(INPUTS.name);
        for (name, value) in whole(&file, has_inputs)? {
            object.entry(name).or_insert(value);
        }
    }
    Ok(object)
}

/// The answer.
pub fn converted(graph: &Graph, warnings: &[String]) -> Answer {
    Answer::json(
        200,
        &Converted {
            workflow: graph,
            warnings,
        },
    )
}

/// The body, as JSON.
pub fn conversion() -> Schema {
    // A workflow itself is an object of any fields.
    Schema::object()
        .means("A workflow as ComfyUI's page saves it, or an object that holds one.")
        .fields(FIELDS)
        .example(json!({ WORKFLOW.name: example() }))
        .named("Conversion")
}

/// The body, as a form.
pub fn conversion_form() -> Schema {
    Schema::object()
        .fields(FORM)
        .example(json!({ FILE.name: example().to_string() }))
        .named("ConversionForm")
}

/// A workflow with an empty picture, as the page saves it.
fn example() -> Value {
    json!({
        "version": 0.4,
        "last_node_id": 2,
        "last_link_id": 1,
        "nodes": [
            {
                "id": 1, "type": "EmptyImage", "mode": 0, "inputs": [],
                "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
                "widgets_values": [64, 64, 1, 255],
            },
            {
                "id": 2, "type": "SaveImage", "mode": 0,
                "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
                "outputs": [], "widgets_values": ["example"],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    })
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
