//! What the tests of this room share: recorded schemas and a good graph.

use serde_json::Value;

use super::graph::Graph;
use super::schema::{ClassSpec, Schemas};

/// `/object_info` of ComfyUI 0.30.0 for the classes that the Qwen graphs use, with their model files "installed".
pub(crate) fn schemas() -> Schemas {
    described(include_str!("../../tests/data/object_info-qwen.json"))
}

/// The same for the classes of all templates, each with the models that these name. The two that ComfyUI 0.30.0 does not have are
/// written as the source of a later one declares them.
pub(crate) fn schemas_of_family() -> Schemas {
    described(include_str!("../../tests/data/object_info-family.json"))
}

fn described(text: &str) -> Schemas {
    let classes: serde_json::Map<String, Value> = serde_json::from_str(text).expect("JSON");
    let specs = classes
        .iter()
        .map(|(name, info)| (name.clone(), ClassSpec::parse(name, info).into()));
    Schemas {
        classes: specs.collect(),
        names: classes.keys().cloned().collect(),
        ..Schemas::default()
    }
}

/// The graph of `test_input.json`.
pub(crate) fn example() -> Value {
    let request: Value = serde_json::from_str(include_str!("../../test_input.json")).expect("JSON");
    request.pointer("/input/workflow").expect("a workflow").clone()
}

/// The graph of `test_input.json` after `change`.
pub(crate) fn changed(change: impl FnOnce(&mut Value)) -> Graph {
    let mut value = example();
    change(&mut value);
    Graph::parse(&value).expect("a graph")
}
