use serde_json::json;

use super::*;
use crate::error::ErrorKind;

fn refused(value: &Value) -> String {
    let error = Graph::parse(value).expect_err("a structural mistake");
    assert_eq!(error.kind, ErrorKind::InvalidWorkflow);
    assert!(error.message.starts_with(INVALID_WORKFLOW), "{}", error.message);
    error.full_text()
}

#[test]
fn a_graph_comes_back_byte_for_byte() {
    let text = r#"{"9":{"inputs":{"shift":3.1000000000000005,"model":["4",0]},"class_type":"ModelSamplingAuraFlow","_meta":{"title":"x"}},"4":{"later":[1],"class_type":"UNETLoader","inputs":{"seed":18446744073709551615}}}"#;
    let graph = Graph::parse(&serde_json::from_str(text).expect("JSON")).expect("a graph");
    assert_eq!(serde_json::to_string(&graph).expect("JSON"), text);
    assert_eq!(graph.nodes["9"].layout.get("_meta"), Some(&json!({"title": "x"})));
    assert_eq!(graph.classes(), BTreeSet::from(["ModelSamplingAuraFlow", "UNETLoader"]));
}

#[test]
fn every_structural_mistake_is_listed_at_once() {
    let value = json!({
        "1": "KSampler",
        "2": {"inputs": {}},
        "3": {"class_type": 7, "inputs": []},
        "4": {"class_type": "VAEDecode"},
        "5": {"class_type": "VAEDecode", "inputs": {}},
    });
    insta::assert_snapshot!(refused(&value));
}

#[test]
fn what_is_no_graph_at_all_is_named() {
    let page = json!({"last_node_id": 9, "nodes": [{"id": 1, "type": "KSampler"}], "links": []});
    let node = json!({"class_type": "KSampler", "inputs": {}});
    let all = [
        json!({}),
        json!([]),
        json!(null),
        json!("{\"1\": {}}"),
        page.clone(),
        json!({"prompt": {"1": node}, "client_id": "x"}),
        json!({"workflow": {"1": node}}),
        json!({"workflow": page}),
        json!({"input": {"workflow": {"1": node}}}),
    ]
    .iter()
    .map(refused)
    .collect::<Vec<_>>()
    .join("\n\n");
    insta::assert_snapshot!(all);
}

#[test]
fn a_node_may_be_called_prompt() {
    let value = json!({"prompt": {"class_type": "CLIPTextEncode", "inputs": {"text": {"class_type": 1}}}});
    assert!(Graph::parse(&value).is_ok());
}

#[test]
fn a_long_list_of_mistakes_is_cut() {
    let object = (0..1000).map(|id| (id.to_string(), json!(1))).collect();
    let error = Graph::parse(&Value::Object(object)).expect_err("mistakes");
    assert_eq!(error.problems.len(), LISTED_PROBLEMS + 1);
    assert_eq!(error.problems[LISTED_PROBLEMS].message, "and 950 more");
}

fn graph(links: &[(&str, &[&str])]) -> Graph {
    let nodes = links.iter().map(|(id, sources)| {
        let inputs = sources
            .iter()
            .map(|source| ((*source).to_owned(), json!([source, 0])))
            .collect();
        ((*id).to_owned(), Node::new("X", inputs))
    });
    Graph { nodes: nodes.collect() }
}

#[test]
fn links_are_what_comfyui_takes_for_links() {
    let node = json!({"class_type": "X", "inputs": {
        "a": ["1", 0], "b": [1, 0], "c": ["1"], "d": ["1", "0"], "e": "1", "f": ["1", 0.0], "g": ["1", true]}});
    let graph = Graph::parse(&json!({"n": node})).expect("a graph");
    let inputs: Vec<_> = graph
        .nodes
        .values()
        .flat_map(Node::links)
        .map(|link| link.input)
        .collect();
    assert_eq!(inputs, ["a", "f", "g"]);
}

#[test]
fn cycles_are_found_and_diamonds_are_none() {
    let diamond = graph(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]);
    let all = |graph: &Graph| -> Vec<String> { graph.nodes.keys().cloned().collect() };
    let ids = all(&diamond);
    assert_eq!(diamond.cycle(&ids.iter().map(String::as_str).collect()), None);

    let ring = graph(&[("out", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"])]);
    let ids = all(&ring);
    let within = ids.iter().map(String::as_str).collect();
    assert_eq!(ring.cycle(&within), Some(vec!["a", "b", "c"]));

    let itself = graph(&[("a", &["a"])]);
    assert_eq!(itself.cycle(&HashSet::from(["a"])), Some(vec!["a"]));
    assert_eq!(itself.cycle(&HashSet::new()), None);
}

#[test]
fn a_very_deep_graph_needs_no_deep_stack() {
    let count = 100_000;
    let nodes = (0..count).map(|id: usize| {
        let inputs = Map::from_iter([("x".to_owned(), json!([((id + 1) % count).to_string(), 0]))]);
        (id.to_string(), Node::new("X", inputs))
    });
    let graph = Graph { nodes: nodes.collect() };
    let reached = graph.reached(["0"], |_, _| true);
    assert_eq!(reached.len(), count);
    assert_eq!(graph.cycle(&reached).map(|cycle| cycle.len()), Some(count));
}

#[test]
fn removing_a_node_removes_the_inputs_that_need_it() {
    let mut graph = graph(&[("a", &["b", "c"]), ("b", &[]), ("c", &[])]);
    graph.remove("b");
    assert_eq!(graph.nodes.keys().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(graph.nodes["a"].inputs.keys().collect::<Vec<_>>(), ["c"]);
    assert_eq!(graph.free_id("b"), "b");
    assert_eq!(graph.free_id("a"), "a-2");
}

#[test]
fn a_node_without_a_class_is_named_by_its_title() {
    let error =
        Graph::parse(&json!({"70": {"inputs": {}, "_meta": {"title": "Power Lora Loader (rgthree)"}}})).unwrap_err();
    let text = error.full_text();
    for word in [
        "node 70",
        "\"Power Lora Loader (rgthree)\"",
        "is not installed",
        "Export (API)",
    ] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn an_id_is_no_longer_than_an_id() {
    let node = json!({"class_type": "A", "inputs": {}});
    let error = Graph::parse(&json!({ "1\n".repeat(500_000): node }))
        .unwrap_err()
        .full_text();
    assert!(
        error.contains("has an id of 1000000 bytes, the limit is 255"),
        "{error}"
    );
    assert!(error.len() < 600 && error.lines().count() < 4, "{error}");
    assert!(Graph::parse(&json!({ "1".repeat(255): node })).is_ok());
}
