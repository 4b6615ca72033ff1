//! What the check finds, in the words in which ComfyUI tells it.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::echo;
use crate::error::{Fault, FaultKind, Problem};
use crate::workflow::graph::{Graph, LISTED_PROBLEMS, Link, Node};
use crate::workflow::schema::{InputKind, InputSpec};
use crate::workflow::value::Refused;

/// ComfyUI repeats no longer list of options than this.
const MOST_OPTIONS: usize = 20;

/// Notes with each fault which output nodes cannot run for it: those of `ends` that need its node.
pub(super) fn name_outputs(problems: &mut [Problem], graph: &Graph, ends: &[&str]) {
    if problems.is_empty() {
        return;
    }
    let mut needed_by: HashMap<&str, Vec<&str>> = HashMap::new();
    for (id, node) in &graph.nodes {
        for link in node.links() {
            needed_by.entry(link.source).or_default().push(id);
        }
    }
    let ends: HashSet<&str> = ends.iter().copied().collect();
    for problem in problems.iter_mut().take(LISTED_PROBLEMS) {
        let Some(fault) = &mut problem.fault else { continue };
        let in_cycle = fault.extra.get("cycle_nodes").and_then(Value::as_array);
        let first = in_cycle.and_then(|nodes| nodes.first()?.as_str());
        let Some(begin) = problem.node_id.as_deref().or(first) else {
            continue;
        };
        let mut seen: HashSet<&str> = HashSet::new();
        let mut waiting: Vec<&str> = vec![begin];
        while let Some(id) = waiting.pop() {
            let Some((id, _)) = graph.nodes.get_key_value(id) else {
                continue;
            };
            if seen.insert(id) {
                waiting.extend(needed_by.get(id.as_str()).into_iter().flatten());
            }
        }
        let stopped = graph.nodes.keys().map(String::as_str);
        let stopped = stopped.filter(|id| ends.contains(id) && seen.contains(id));
        fault.outputs = stopped.map(str::to_owned).collect();
    }
}

pub(super) fn unknown_class(id: &str, node: &Node) -> Fault {
    let title = echo::cut(node.title().unwrap_or(&node.class_type));
    let message = format!("Node '{title}' not found. The custom node may not be installed.");
    Fault::new(
        FaultKind::MissingNodeType,
        message,
        format!("Node ID '#{}'", echo::cut(id)),
    )
    .with("node_id", id)
    .with("class_type", echo::cut(&node.class_type))
    .with("node_title", title)
}

pub(super) fn missing(input: &str) -> Fault {
    Fault::new(FaultKind::RequiredInputMissing, "Required input is missing", input).with("input_name", input)
}

pub(super) fn bad_link(input: &str, spec: Option<&InputSpec>, value: &Value) -> Fault {
    let message = "Bad linked input, must be a length-2 list of [node_id, slot_index]";
    of_input(Fault::new(FaultKind::BadLinkedInput, message, input), input, spec).with("received_value", received(value))
}

/// What ComfyUI stumbles over.
pub(super) fn exception(kind: &str, said: &str) -> Fault {
    Fault::new(FaultKind::Exception, "Exception when validating node", said)
        .with("exception_type", kind)
        .with("traceback", Vec::<Value>::new())
}

pub(super) fn mismatch(link: &Link<'_>, spec: Option<&InputSpec>, given: &str, wanted: &str) -> Fault {
    let details = format!(
        "{}, received_type({given}) mismatch input_type({wanted})",
        echo::cut(link.input)
    );
    let message = "Return type mismatch between linked nodes";
    of_input(
        Fault::new(FaultKind::ReturnTypeMismatch, message, details),
        link.input,
        spec,
    )
    .with("received_type", given)
    .with("linked_node", json!([echo::cut(link.source), link.slot]))
}

/// `nodes` in the order of the circle, which `path` shows.
pub(super) fn cycle(nodes: Vec<String>, path: String) -> Fault {
    Fault::new(FaultKind::DependencyCycle, "Dependency cycle detected", path).with("cycle_nodes", nodes)
}

/// What a class's own check refuses.
pub(super) fn custom(input: &str, said: &str) -> Fault {
    let details = format!("{} - {said}", echo::cut(input));
    Fault::new(
        FaultKind::CustomValidation,
        "Custom validation failed for node",
        details,
    )
    .with("input_name", input)
}

pub(super) fn not_in_list(input: &str, options: &[Box<str>], value: &Value) -> Fault {
    let list = if options.len() > MOST_OPTIONS {
        format!("(list of length {})", options.len())
    } else {
        python(&json!(options))
    };
    let details = format!("{}: {} not in {list}", echo::cut(input), python(&received(value)));
    Fault::new(FaultKind::NotInList, "Value not in list", details)
        .with("input_name", input)
        .with("input_config", config(&InputKind::Combo(options.into())))
        .with("received_value", received(value))
}

/// A number that is none, or out of its range.
pub(super) fn number(input: &str, spec: &InputSpec, value: &Value, refused: &Result<(), Refused>) -> Fault {
    let shown = received(value);
    let written = match &shown {
        Value::String(text) => text.clone(),
        other => python(other),
    };
    let fault = if let Err(Refused::Range(_)) = refused {
        let (min, max) = range(&spec.kind);
        let is_low = number_of(value)
            .zip(min.as_f64())
            .is_some_and(|(number, min)| number < min);
        if is_low {
            let message = format!("Value {written} smaller than min of {}", python(&min));
            Fault::new(FaultKind::SmallerThanMin, message, input)
        } else {
            let message = format!("Value {written} bigger than max of {}", python(&max));
            Fault::new(FaultKind::BiggerThanMax, message, input)
        }
    } else {
        let is_int = matches!(spec.kind, InputKind::Int { .. });
        let kind = if is_int { "INT" } else { "FLOAT" };
        let reason = no_number(&shown, is_int);
        let message = format!("Failed to convert an input value to a {kind} value");
        let details = format!("{}, {written}, {reason}", echo::cut(input));
        Fault::new(FaultKind::InvalidInputType, message, details).with("exception_message", reason)
    };
    of_input(fault, input, Some(spec)).with("received_value", shown)
}

fn of_input(fault: Fault, input: &str, spec: Option<&InputSpec>) -> Fault {
    let config = spec.map_or(Value::Null, |spec| config(&spec.kind));
    fault.with("input_name", input).with("input_config", config)
}

/// The input's entry in `/object_info`, as far as it is kept.
fn config(kind: &InputKind) -> Value {
    let ranged = |name: &str| {
        let (min, max) = range(kind);
        let mut options = json!({});
        for (field, value) in [("min", min), ("max", max)] {
            if !value.is_null() {
                options[field] = value;
            }
        }
        json!([name, options])
    };
    match kind {
        InputKind::Int { .. } => ranged("INT"),
        InputKind::Float { .. } => ranged("FLOAT"),
        InputKind::String => json!(["STRING", {}]),
        InputKind::Boolean => json!(["BOOLEAN", {}]),
        InputKind::Combo(options) if options.len() <= MOST_OPTIONS => json!([options, {}]),
        InputKind::Link(name) => json!([name, {}]),
        InputKind::Combo(_) | InputKind::Autogrow | InputKind::Unchecked => Value::Null,
    }
}

fn range(kind: &InputKind) -> (Value, Value) {
    let whole = |number: Option<i128>| {
        let number = number.and_then(serde_json::Number::from_i128);
        number.map_or(Value::Null, Value::Number)
    };
    match kind {
        InputKind::Int { min, max } => (whole(*min), whole(*max)),
        InputKind::Float { min, max } => (json!(min), json!(max)),
        _ => (Value::Null, Value::Null),
    }
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    }
}

/// What `int()` and `float()` say of it.
fn no_number(value: &Value, is_int: bool) -> String {
    let (function, takes) = if is_int {
        ("int()", "a string, a bytes-like object or a real number")
    } else {
        ("float()", "a string or a real number")
    };
    let kind = match value {
        Value::String(_) if is_int => return format!("invalid literal for int() with base 10: {}", python(value)),
        Value::Null => "NoneType",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
        _ => return format!("could not convert string to float: {}", python(value)),
    };
    format!("{function} argument must be {takes}, not '{kind}'")
}

/// The value as it is repeated: what is long becomes its beginning.
fn received(value: &Value) -> Value {
    match value {
        Value::String(text) => echo::cut(text).into(),
        Value::Array(_) | Value::Object(_) => {
            let shown = echo::json(value);
            serde_json::from_str(&shown).unwrap_or_else(|_| shown.into())
        }
        other => other.clone(),
    }
}

/// The value as Python's `repr` writes it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => {
            let quote = if text.contains('\'') && !text.contains('"') {
                '"'
            } else {
                '\''
            };
            let mut written = String::from(quote);
            for character in text.chars() {
                if character == quote || character == '\\' {
                    written.push('\\');
                }
                written.push(character);
            }
            written.push(quote);
            written
        }
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{}: {}", python(&name.as_str().into()), python(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        for (value, written) in [
            (json!(null), "None"),
            (json!([true, 1, 1.5, "a"]), "[True, 1, 1.5, 'a']"),
            (json!({"a": "it's"}), "{'a': \"it's\"}"),
            (json!("it's \"b\""), "'it\\'s \"b\"'"),
        ] {
            assert_eq!(python(&value), written);
        }
        assert_eq!(
            no_number(&json!("wide"), true),
            "invalid literal for int() with base 10: 'wide'"
        );
        assert_eq!(
            no_number(&json!(null), false),
            "float() argument must be a string or a real number, not 'NoneType'"
        );
    }
}
