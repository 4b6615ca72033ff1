//! What a user should know of a graph that ComfyUI runs as it is: it may do something else than was meant.

use serde_json::Value;

use super::asset_refs::holds;
use super::graph::Graph;
use super::images::nfc;
use super::schema::{InputKind, Schemas};
use super::value::unwrapped;
use crate::echo;

/// The texts that people write for false; to Python each of them is true.
const FALSE: [&str; 6] = ["false", "0", "no", "off", "none", "null"];

/// Remarks on a graph whose images were given the names of their files: (name in the request, name in the graph).
pub fn remarks(graph: &Graph, schemas: &Schemas, images: &[(String, String)]) -> Vec<String> {
    let mut remarks = Vec::new();
    for (name, stored) in images {
        let mut values = graph.nodes.values().flat_map(|node| node.inputs.values());
        if !values.any(|value| holds(value, stored)) {
            remarks.push(unused(graph, name));
        }
    }
    for (id, node) in &graph.nodes {
        let Some(spec) = schemas.classes.get(&node.class_type) else {
            continue;
        };
        for (input, value) in &node.inputs {
            let is_truth = spec
                .inputs
                .get(input.as_str())
                .is_some_and(|input| input.kind == InputKind::Boolean);
            let text = unwrapped(value).as_str().filter(|_| is_truth);
            if let Some(text) = text.filter(|text| FALSE.contains(&&*text.trim().to_lowercase())) {
                remarks.push(format!(
                    "node {} ({}), {}: the text {} is true to ComfyUI, as every text is that is not empty; write false without quotes if that is meant",
                    echo::cut(id),
                    echo::cut(&node.class_type),
                    echo::cut(input),
                    echo::json(&Value::from(text)),
                ));
            }
        }
    }
    remarks
}

/// An image that nothing in the graph loads.
fn unused(graph: &Graph, name: &str) -> String {
    let shown = echo::cut(name);
    let mentions = |value: &Value| {
        let text = value.as_str().map(nfc);
        // With ComfyUI's mark for a file of another folder, or without.
        text.is_some_and(|text| {
            text.strip_prefix(name)
                .is_some_and(|mark| mark.is_empty() || mark.starts_with(" ["))
        })
    };
    let place = graph.nodes.iter().find_map(|(id, node)| {
        let (input, _) = node.inputs.iter().find(|(_, value)| mentions(value))?;
        Some(format!(
            "; node {} ({}) has it in `{}`, which does not take files of the request",
            echo::cut(id),
            echo::cut(&node.class_type),
            echo::cut(input)
        ))
    });
    let place = place.unwrap_or_default();
    format!("the image `{shown}` was not used: no node that loads images names it{place}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workflow::{ClassSpec, testing};

    #[test]
    fn an_image_that_no_node_loads_is_told() {
        let graph = Graph::parse(&json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "job/cat.png"}},
            "2": {"class_type": "SomethingUnknown", "inputs": {"path": "dog.png [output]"}},
        }))
        .expect("a graph");
        let image = |name: &str| (name.to_owned(), format!("job/{name}"));
        let images = [image("cat.png"), image("dog.png"), image("cow.png")];
        assert_eq!(
            remarks(&graph, &testing::schemas(), &images),
            [
                "the image `dog.png` was not used: no node that loads images names it; node 2 (SomethingUnknown) has it in `path`, which does not take files of the request",
                "the image `cow.png` was not used: no node that loads images names it",
            ]
        );
    }

    #[test]
    fn a_boolean_in_quotes_is_told_where_it_means_something_else() {
        let mut schemas = testing::schemas();
        let switch = json!({"input": {"required": {"switch": ["BOOLEAN", {}], "text": ["STRING", {}]}}});
        schemas
            .classes
            .insert("Switch".to_owned(), ClassSpec::parse("Switch", &switch).into());
        let told = |value: Value| {
            let graph = json!({"4": {"class_type": "Switch", "inputs": {"switch": value, "text": "false"}}});
            remarks(&Graph::parse(&graph).expect("a graph"), &schemas, &[])
        };
        assert_eq!(
            told(json!("False")),
            [
                "node 4 (Switch), switch: the text \"False\" is true to ComfyUI, as every text is that is not empty; write false without quotes if that is meant"
            ]
        );
        for right in [json!(false), json!("true"), json!(""), json!(0), json!("x")] {
            assert!(told(right.clone()).is_empty(), "{right}");
        }
    }
}
