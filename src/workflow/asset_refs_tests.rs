//! References at every depth, and what only looks like one.

use super::*;

const A: &str = "0192f0c1-7d5e-7c3a-9f10-0123456789ab";
const B: &str = "0192f0c1-7d5e-7c3a-9f10-0123456789ac";

fn asset(id: &str) -> Value {
    json!({"__type": "core/ASSET", "info": {"id": id, "hash": "blake3:00", "file_path": "cat.png"}})
}

fn graph(inputs: &Value) -> Graph {
    Graph::from_value(json!({"7": {"class_type": "X", "inputs": inputs, "_meta": {"title": asset(B)}}})).unwrap()
}

#[test]
fn references_are_found_at_any_depth_and_each_once() {
    let mut graph = graph(&json!({
        "image": asset(A),
        "list": [[asset(B)], {"deep": {"deeper": [1, asset(&A.to_uppercase())]}}],
        "link": ["7", 0],
        "text": "core/ASSET",
        "other": {"__type": "core/OTHER", "info": {"id": "x"}},
        "value": {"__value__": [asset(B), 2]},
    }));
    assert_eq!(asset_ids(&graph), Ok(vec![A.to_owned(), B.to_owned()]));
    put_names(&mut graph, |id| Some(format!("{id}/cat.png")));
    let (a, b) = (format!("{A}/cat.png"), format!("{B}/cat.png"));
    let node = &graph.nodes["7"];
    assert_eq!(
        Value::from(node.inputs.clone()),
        json!({
            "image": a,
            "list": [[b], {"deep": {"deeper": [1, a]}}],
            "link": ["7", 0],
            "text": "core/ASSET",
            "other": {"__type": "core/OTHER", "info": {"id": "x"}},
            "value": {"__value__": [b, 2]},
        })
    );
    assert_eq!(node.links().count(), 1);
    assert_eq!(asset_ids(&graph), Ok(Vec::new()));
}

#[test]
fn what_says_it_is_a_reference_and_names_nothing_is_told_by_its_place() {
    for wrong in [
        json!({"__type": "core/ASSET"}),
        json!({"__type": "core/ASSET", "info": null}),
        json!({"__type": "core/ASSET", "info": [A]}),
        json!({"__type": "core/ASSET", "info": {"hash": "blake3:00"}}),
        asset(""),
        asset("cat.png"),
        asset(&format!("{{{A}}}")),
        asset(&A.replace('-', "")),
        json!({"__type": "core/ASSET", "info": {"id": 7}}),
    ] {
        let bad = asset_ids(&graph(&json!({"good": asset(A), "list": [{"x": wrong}]}))).unwrap_err();
        let [bad] = &bad[..] else { panic!("{bad:?}") };
        assert_eq!(
            (&*bad.node, &*bad.class, &*bad.input),
            ("7", "X", "list"),
            "{}",
            bad.why
        );
    }
    let bad = asset_ids(&graph(&json!({"a": asset(&"x".repeat(5000)), "b": asset("y")}))).unwrap_err();
    assert_eq!(bad.len(), 2);
    assert!(bad[0].why.len() < 500, "{}", bad[0].why);
}

#[test]
fn a_name_makes_no_link() {
    for (list, is_bad) in [
        (json!([asset(A), 0]), true),
        (json!([asset(A), true]), true),
        (json!([asset(A), "0"]), false),
        (json!([asset(A), 0, 0]), false),
        (json!([[asset(A), 0]]), false),
        (json!([0, asset(A)]), false),
    ] {
        assert_eq!(asset_ids(&graph(&json!({"x": list}))).is_err(), is_bad, "{list}");
    }
}

#[test]
fn one_that_has_no_name_stays() {
    let mut graph = graph(&json!({"a": asset(A), "b": [asset(B)]}));
    put_names(&mut graph, |id| (id == B).then(|| "b".to_owned()));
    assert_eq!(graph.nodes["7"].inputs["a"], asset(A));
    assert_eq!(graph.nodes["7"].inputs["b"], json!(["b"]));
}

#[test]
fn texts_are_replaced_where_they_are_equal_alone() {
    let mut graph = graph(&json!({"a": "x/y", "b": [{"c": "x/y"}, "x/y ", 1], "d": ["x/y", 0]}));
    replace_texts(&mut graph, |text| (text == "x/y").then(|| "z".to_owned()));
    assert_eq!(
        Value::from(graph.nodes["7"].inputs.clone()),
        json!({"a": "z", "b": [{"c": "z"}, "x/y ", 1], "d": ["x/y", 0]})
    );
    assert!(holds(&graph.nodes["7"].inputs["b"], "z"));
    assert!(!holds(&graph.nodes["7"].inputs["b"], "x/y"));
}

#[test]
fn a_reference_is_written_as_it_is_read() {
    assert_eq!(reference(A, "blake3:00", Some("cat.png")), asset(A));
    assert_eq!(
        reference(A, "h", None),
        json!({"__type": "core/ASSET", "info": {"id": A, "hash": "h"}})
    );
}
