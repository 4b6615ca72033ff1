//! Files that are broken, or made to break something: each is refused in words, and quickly.

use serde_json::{Value, json};

use super::Saved;
use super::tests::{convert, workflow};
use crate::error::ErrorKind;

fn refused(ui: Value) -> String {
    let error = convert(ui).expect_err("a refusal");
    assert_eq!(error.kind, ErrorKind::InvalidWorkflow);
    let text = error.full_text();
    assert!(text.len() < 10_000 && text.contains("Export (API)"), "{text}");
    text
}

fn told(ui: Value, parts: &[&str]) {
    let text = refused(ui);
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// A definition that holds these nodes.
fn definition(id: &str, nodes: &Value) -> Value {
    json!({"id": id, "name": format!("the {id}"), "nodes": nodes})
}

fn holding(nodes: &Value, definitions: &[Value]) -> Value {
    json!({"nodes": nodes, "links": [], "definitions": {"subgraphs": definitions}})
}

#[test]
fn what_is_no_workflow_is_told() {
    told(json!(7), &["it is a number, and should be an object"]);
    told(json!({}), &["`nodes` is missing"]);
    told(json!({"nodes": {}}), &["`nodes` is an object, and should be a list"]);
    told(json!({"nodes": []}), &["it has no nodes"]);
    told(
        json!({"nodes": [1, {"type": "A"}, {"id": 3}, {"id": {}}, {"id": 4, "type": "A", "mode": 9}, {"id": 5, "type": "A", "widgets_values": "abc"}],
            "links": [[1, 2], "x", {"id": 1}, null, [1, 4, -1, 5, 0, "X"]], "definitions": {"subgraphs": [3]}}),
        &[
            "a node is a number, and should be an object",
            "a node has no id",
            "node 3, type: is missing",
            "node 4 (A), mode: should be 0 to 4",
            "node 5 (A), widgets_values: is a string, and should be a list",
            "the link [1,2] should be [id, node, slot, node, slot, type]",
            "the link [1,4,-1,5,0,\"X\"]",
            "one of `definitions.subgraphs` is no object",
        ],
    );
    told(
        json!({"nodes": [{"id": 1, "type": "KSampler"}], "links": {}}),
        &["`links` is an object"],
    );
}

#[test]
fn ids_are_unique() {
    told(
        workflow(
            &json!([{"id": 1, "type": "VAELoader"}, {"id": "1", "type": "VAELoader"}]),
            &json!([]),
        ),
        &["node 1 (VAELoader): there are two nodes with this id"],
    );
    told(
        workflow(
            &json!([{"id": 1, "type": "VAELoader"}]),
            &json!([[1, 1, 0, 1], [1, 1, 1, 1]]),
        ),
        &["there are two links with the id 1"],
    );
    let twice = definition("a", &json!([]));
    told(
        holding(&json!([{"id": 1, "type": "a"}]), &[twice.clone(), twice]),
        &["there are two subgraphs with the id `a`"],
    );
}

#[test]
fn subgraphs_in_a_circle_are_refused() {
    let nodes = json!([{"id": 1, "type": "a"}]);
    let inner = |class: &str| json!([{"id": 2, "type": class}]);
    told(
        holding(&nodes, &[definition("a", &inner("b")), definition("b", &inner("a"))]),
        &["the subgraph `the a` holds itself"],
    );
    told(
        holding(&nodes, &[definition("a", &inner("a"))]),
        &["the subgraph `the a` holds itself"],
    );
}

#[test]
fn subgraphs_are_not_too_deep_and_not_too_many() {
    let count = 10_000;
    let chain: Vec<Value> = (0..count)
        .map(|index| definition(&index.to_string(), &json!([{"id": 1, "type": (index + 1).to_string()}])))
        .collect();
    told(
        holding(&json!([{"id": 1, "type": "0"}]), &chain[..9_000]),
        &["subgraphs lie more than 30 levels within each other"],
    );
    told(
        holding(&json!([{"id": 1, "type": "0"}]), &chain),
        &["it has more than 10000 nodes"],
    );

    // Each holds the next twice.
    let doubling: Vec<Value> = (0..30)
        .map(|index| {
            let next = (index + 1).to_string();
            definition(
                &index.to_string(),
                &json!([{"id": 1, "type": next}, {"id": 2, "type": next}]),
            )
        })
        .collect();
    told(
        holding(&json!([{"id": 1, "type": "0"}]), &doubling),
        &["its subgraphs become more than 10000 nodes"],
    );
}

#[test]
fn links_that_lead_nowhere_are_named() {
    let target =
        |wire: u64| json!({"id": 2, "type": "PreviewAny", "inputs": [{"name": "source", "type": "*", "link": wire}]});
    told(
        workflow(&json!([target(7)]), &json!([])),
        &["node 2 (PreviewAny), source: the link 7 into node 2 does not exist"],
    );
    told(
        workflow(&json!([target(7)]), &json!([[7, 99, 0, 2]])),
        &["node 2 (PreviewAny), source: the link 7 into node 2 comes from a node that does not exist"],
    );
    let knot =
        |id: u64, wire: u64| json!({"id": id, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": wire}]});
    told(
        workflow(
            &json!([target(1), knot(3, 2), knot(4, 3)]),
            &json!([[1, 3, 0, 2], [2, 4, 0, 3], [3, 3, 0, 4]]),
        ),
        &["node 2 (PreviewAny), source: its link goes round in a circle"],
    );
    let host = json!({"nodes": [{"id": 1, "type": "a"}, target(1)], "links": [[1, 1, 3, 2, 0, "X"]],
        "definitions": {"subgraphs": [definition("a", &json!([]))]}});
    told(host, &["node 1 (a) has no output 3"]);
}

#[test]
fn a_long_chain_of_reroutes_is_followed_and_a_broom_of_them_is_quick() {
    let knots: u64 = 5_000;
    let mut nodes = vec![json!({"id": 0, "type": "PrimitiveInt", "widgets_values": [5, "fixed"]})];
    let mut wires = Vec::new();
    for id in 1..=knots {
        nodes.push(json!({"id": id, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": id}]}));
        wires.push(json!([id, id - 1, 0, id]));
    }
    for id in knots + 1..knots + 100 {
        nodes.push(json!({"id": id, "type": "PreviewAny", "inputs": [{"name": "source", "type": "*", "link": id}]}));
        wires.push(json!([id, knots, 0, id]));
    }
    let made = convert(workflow(&json!(nodes), &json!(wires))).expect("a graph");
    assert_eq!(made.graph.nodes["5050"].inputs["source"], json!(["0", 0]));
    for id in knots + 100..knots + 4_000 {
        nodes.push(json!({"id": id, "type": "PreviewAny", "inputs": [{"name": "source", "type": "*", "link": id}]}));
        wires.push(json!([id, knots, 0, id]));
    }
    told(
        workflow(&json!(nodes), &json!(wires)),
        &["the links of the workflow are too long to follow"],
    );
}

#[test]
fn a_megabyte_of_widgets_is_refused_or_done() {
    let many = vec!["x".repeat(100); 10_000];
    told(
        workflow(
            &json!([{"id": 1, "type": "CustomCombo", "widgets_values": many}]),
            &json!([]),
        ),
        &["node 1 (CustomCombo), widgets_values: has 10000 values, the limit is 2000"],
    );
    let long = "{".repeat(1_000_000);
    told(
        workflow(
            &json!([{"id": 1, "type": "CLIPTextEncode", "widgets_values": [long]}]),
            &json!([]),
        ),
        &["node 1 (CLIPTextEncode), text: its text has braces within braces"],
    );
    let text = "a".repeat(1_000_000);
    let made = convert(workflow(
        &json!([{"id": 1, "type": "CLIPTextEncode", "widgets_values": [text]}]),
        &json!([]),
    ));
    assert!(made.is_ok());
    // One text of a megabyte in a definition that has a hundred hosts.
    let hosts: Vec<Value> = (0..100).map(|id| json!({"id": id, "type": "a"})).collect();
    let inner = json!([{"id": 1000, "type": "CLIPTextEncode", "widgets_values": [text]}]);
    told(
        holding(&json!(hosts), &[definition("a", &inner)]),
        &["take more than 64 MB"],
    );
}

#[test]
fn hosts_of_large_definitions_are_counted_before_they_are_made() {
    let ports: Vec<Value> = (0..1_000)
        .map(|port| json!({"name": port.to_string(), "type": "X", "linkIds": []}))
        .collect();
    let hosts: Vec<Value> = (0..9_000).map(|id| json!({"id": id, "type": "a"})).collect();
    let mut wide = definition("a", &json!([]));
    wide["inputs"] = json!(ports);
    told(
        holding(&json!(hosts), std::slice::from_ref(&wide)),
        &["its nodes have more than 300000 inputs"],
    );
    wide["outputs"] = json!(vec![json!({"name": "x", "type": "X", "linkIds": []}); 1_001]);
    told(
        holding(&json!(hosts), &[wide]),
        &["the subgraph `the a` has more than 1000 inputs or outputs"],
    );
}

#[test]
fn the_same_widget_promoted_over_and_over_is_quick() {
    let proxies: Vec<Value> = (0..900).map(|_| json!(["1000", "seed"])).collect();
    let hosts: Vec<Value> = (0..5)
        .map(|id| json!({"id": id, "type": "a", "properties": {"proxyWidgets": proxies}, "widgets_values": [1]}))
        .collect();
    let inner = json!([{"id": 1000, "type": "KSampler", "widgets_values": [7, "fixed", 4, 1, "euler", "simple", 1]}]);
    assert!(convert(holding(&json!(hosts), &[definition("a", &inner)])).is_ok());
    let proxies: Vec<Value> = (0..6_000).map(|_| json!(["1000", "seed"])).collect();
    let host = json!([{"id": 1, "type": "a", "properties": {"proxyWidgets": proxies}}]);
    told(
        holding(&host, &[definition("a", &inner)]),
        &["promote more than 5000 widgets"],
    );
}

#[test]
fn odd_values_in_odd_places_never_panic() {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!("x"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"0": {}}),
    ];
    let sound = json!({
        "id": "r", "last_node_id": 4, "state": {"lastNodeId": 4},
        "nodes": [
            {"id": 1, "type": "a", "mode": 0, "title": "t", "inputs": [{"name": "p", "type": "STRING", "link": null, "widget": {"name": "p"}}],
             "outputs": [{"name": "o", "type": "X", "links": [1]}], "properties": {"proxyWidgets": [["5", "text"], ["-1", "p"]]}, "widgets_values": ["v", "w"]},
            {"id": 2, "type": "PreviewAny", "inputs": [{"name": "source", "type": "*", "link": 1}]},
            {"id": 3, "type": "PrimitiveNode", "outputs": [{"type": "INT", "links": [2]}], "widgets_values": [1]},
        ],
        "links": [[1, 1, 0, 2, 0, "X"], {"id": 2, "origin_id": 3, "origin_slot": 0, "target_id": 1, "target_slot": 0}],
        "definitions": {"subgraphs": [{"id": "a", "name": "n", "inputs": [{"name": "p", "type": "STRING", "linkIds": [1]}],
            "outputs": [{"name": "o", "type": "X", "linkIds": [2]}],
            "nodes": [{"id": 5, "type": "CLIPTextEncode", "widgets_values": ["x"],
                "inputs": [{"name": "text", "type": "STRING", "link": 1, "widget": {"name": "text"}}]}],
            "links": [{"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0},
                      {"id": 2, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 0}]}]},
        "extra": {"linearData": {"inputs": [["1", "p"]]}},
    });
    assert!(convert(sound.clone()).is_ok());
    let mut places = Vec::new();
    pointers(&sound, String::new(), &mut places);
    for place in places {
        for value in &odd {
            let mut ui = sound.clone();
            *ui.pointer_mut(&place).expect("a place") = value.clone();
            if let Ok(saved) = Saved::from_value(ui.clone()) {
                saved.named_inputs();
                saved.classes();
            }
            // Whatever comes of it.
            let _ = convert(ui);
        }
    }
}

fn pointers(value: &Value, here: String, places: &mut Vec<String>) {
    match value {
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                pointers(value, format!("{here}/{index}"), places);
            }
        }
        Value::Object(fields) => {
            for (field, value) in fields {
                pointers(value, format!("{here}/{field}"), places);
            }
        }
        _ => {}
    }
    places.push(here);
}
