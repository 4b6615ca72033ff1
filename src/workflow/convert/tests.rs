use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::tests_of_goldens::unpacked;
use super::{Converted, Options, Saved};
use crate::error::{ErrorKind, JobError};

/// `/object_info` of `ComfyUI` 0.30.0, all classes.
pub(super) fn described() -> &'static HashMap<String, Value> {
    static DESCRIBED: OnceLock<HashMap<String, Value>> = OnceLock::new();
    DESCRIBED.get_or_init(|| serde_json::from_str(&unpacked("object_info.json.gz")).expect("JSON"))
}

/// 2026-03-07 08:05:09
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_772_870_709).expect("a time")
}

/// What a workflow becomes, with nothing set.
pub(super) fn convert(ui: Value) -> Result<Converted, JobError> {
    with(ui, described(), &json!({}))
}

fn with(ui: Value, described: &HashMap<String, Value>, inputs: &Value) -> Result<Converted, JobError> {
    let options = Options {
        seed: 5,
        inputs: inputs.as_object().expect("an object"),
        now: now(),
    };
    Saved::from_value(ui)?.convert(described, &options)
}

/// A workflow of the root only, whose wires are `[id, from, slot, to]`.
pub(super) fn workflow(nodes: &Value, wires: &Value) -> Value {
    let wires: Vec<Value> = wires
        .as_array()
        .expect("wires")
        .iter()
        .map(|wire| json!([wire[0], wire[1], wire[2], wire[3], 0, "*"]))
        .collect();
    json!({"nodes": nodes, "links": wires, "version": 0.4})
}

fn preview(id: u64, wire: u64) -> Value {
    json!({"id": id, "type": "PreviewAny", "inputs": [{"name": "source", "type": "*", "link": wire}]})
}

/// The inputs of the node `id` in what was made.
fn inputs<'m>(made: &'m Converted, id: &str) -> &'m Map<String, Value> {
    &made.graph.get(id).unwrap_or_else(|| panic!("node {id}")).inputs
}

fn refused(made: Result<Converted, JobError>) -> String {
    let error = made.expect_err("a refusal");
    assert_eq!(error.kind, ErrorKind::InvalidWorkflow);
    assert!(error.hint.is_some(), "{error:?}");
    error.full_text()
}

#[test]
fn integers_stay_exact() {
    let nodes = json!([{"id": 1, "type": "KSampler", "widgets_values":
        [18_446_744_073_709_551_615_u64, "fixed", 4, 1.0, "sample_euler", "simple", 1]}]);
    let made = convert(workflow(&nodes, &json!([]))).expect("a graph");
    let text = serde_json::to_string(&made.graph).expect("JSON");
    assert!(text.contains("\"seed\":18446744073709551615,"), "{text}");
    assert_eq!(inputs(&made, "1")["sampler_name"], "euler");
    assert!(made.warnings.is_empty(), "{:?}", made.warnings);
    assert!(text.contains(r#""_meta":{"title":"KSampler"}"#), "{text}");
}

#[test]
fn the_classes_are_those_that_comfyui_has() {
    let ui = json!({
        "nodes": [{"id": 1, "type": "Note"}, {"id": 2, "type": "KSampler"}, {"id": 3, "type": "abc"}, {"id": 4, "type": "Reroute"}],
        "links": [],
        "definitions": {"subgraphs": [{"id": "abc", "name": "x", "nodes": [{"id": 5, "type": "VAEDecode"}]}]},
    });
    assert!(Saved::is_meant_by(&ui));
    let saved = Saved::from_value(ui.clone()).expect("sound");
    assert_eq!(
        saved.classes().into_iter().collect::<Vec<_>>(),
        ["KSampler", "VAEDecode"]
    );
    assert_eq!(*saved.as_value(), ui);
    assert!(saved.named_inputs().is_empty());
    assert!(!Saved::is_meant_by(&json!({"1": {"class_type": "A", "inputs": {}}})));
}

#[test]
fn choices_follow_from_the_seed_and_are_told() {
    let nodes = json!([{"id": 4, "type": "CLIPTextEncode", "widgets_values": ["a {red|blue} fox // mine"]}]);
    let made = convert(workflow(&nodes, &json!([]))).expect("a graph");
    let text = inputs(&made, "4")["text"].as_str().expect("a text");
    assert!(["a red fox ", "a blue fox "].contains(&text), "{text}");
    let told = made.warnings.join("\n");
    assert!(
        told.contains("node 4 (CLIPTextEncode), text: its text has choices in braces"),
        "{told}"
    );
    assert!(told.contains("is a comment to the page"), "{told}");
    let again = convert(workflow(&nodes, &json!([]))).expect("a graph");
    assert_eq!(made, again);
}

#[test]
fn names_of_files_are_patterns() {
    let prefix = "%Sampler.steps%_%KSampler.seed%_%date:yyyy-MM-dd%_%width%_%nobody.x%_%KSampler.nothing%_100%";
    let nodes = json!([
        {"id": 1, "type": "KSampler", "title": "Sampler", "widgets_values": [7, "fixed", 4, 1, "eu/ler", "simple", 1]},
        {"id": 2, "type": "SaveImage", "widgets_values": [prefix], "inputs": [{"name": "images", "type": "IMAGE", "link": null}]},
        {"id": 3, "type": "SaveText", "widgets_values": ["%KSampler.seed%", "txt"]},
        {"id": 4, "type": "SaveLatent", "widgets_values": ["%Sampler.sampler_name%"]},
    ]);
    let made = convert(workflow(&nodes, &json!([]))).expect("a graph");
    assert_eq!(
        inputs(&made, "2")["filename_prefix"],
        "4_7_2026-03-07_%width%_%nobody.x%_%KSampler.nothing%_100%"
    );
    assert_eq!(inputs(&made, "3")["filename_prefix"], "%KSampler.seed%");
    assert_eq!(inputs(&made, "4")["filename_prefix"], "eu_ler");
}

#[test]
fn a_primitive_may_be_a_pattern_and_may_stand_in_a_loop_of_nothing() {
    let nodes = json!([
        {"id": 1, "type": "PrimitiveNode", "title": "P", "widgets_values": ["%KSampler.steps%"],
         "properties": {"Run widget replace on values": true}, "outputs": [{"type": "STRING", "links": [1]}]},
        {"id": 2, "type": "CLIPTextEncode", "widgets_values": ["old"],
         "inputs": [{"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": 1}]},
        {"id": 3, "type": "KSampler", "widgets_values": [7, "fixed", 4, 1, "euler", "simple", 1]},
        {"id": 4, "type": "SaveImage", "widgets_values": ["%P.value%"]},
    ]);
    let made = convert(workflow(&nodes, &json!([[1, 1, 0, 2]]))).expect("a graph");
    assert_eq!(inputs(&made, "2")["text"], "4");
    assert_eq!(inputs(&made, "4")["filename_prefix"], "%KSampler.steps%");
}

#[test]
fn values_with_names_mend_those_that_do_not_fit() {
    let nodes = json!([{"id": 1, "type": "KSampler", "widgets_values": [7, 4, 1, "euler", "simple", 1],
        "widgets_values_named": {"seed": 7, "steps": 4, "cfg": 1, "sampler_name": "euler", "scheduler": "simple", "denoise": 0.5}}]);
    let made = convert(workflow(&nodes, &json!([]))).expect("a graph");
    assert_eq!(inputs(&made, "1")["denoise"], 0.5);
    assert_eq!(inputs(&made, "1")["sampler_name"], "euler");
    assert!(
        made.warnings[0].contains("`widgets_values_named`"),
        "{:?}",
        made.warnings
    );

    let nodes = json!([{"id": 1, "type": "KSampler", "widgets_values": [7, 4, 1, "euler", "simple", 1]}]);
    let made = convert(workflow(&nodes, &json!([]))).expect("a graph");
    let told = made.warnings.join("\n");
    for part in [
        "node 1 (KSampler), control_after_generate: holds 4, and should hold what becomes of the number",
        "node 1 (KSampler), cfg: holds \"euler\", and should hold a number",
        "the file has no value for `denoise`",
    ] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
}

#[test]
fn a_class_that_is_not_there_is_named_where_it_would_be_sent() {
    let nodes = json!([
        {"id": 1, "type": "FancyLoader", "outputs": [{"name": "x", "type": "IMAGE", "links": [1]}]},
        preview(2, 1),
        {"id": 3, "type": "GetNode"},
        {"id": 4, "type": "workflow>old"},
    ]);
    let told = refused(convert(workflow(&nodes, &json!([[1, 1, 0, 2]]))));
    for part in [
        "node 1 (FancyLoader): is a class that this ComfyUI does not have",
        "node 3 (GetNode): is not known",
        "node 4 (workflow>old): is a group node",
        "Workflow > Export (API)",
    ] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    let muted = json!([{"id": 1, "type": "FancyLoader", "mode": 2, "outputs": [{"type": "IMAGE", "links": [1]}]}, preview(2, 1)]);
    let made = convert(workflow(&muted, &json!([[1, 1, 0, 2]]))).expect("a graph");
    assert!(inputs(&made, "2").is_empty());
}

#[test]
fn what_the_browser_makes_is_refused() {
    let told = refused(convert(workflow(&json!([{"id": 6, "type": "Load3D"}]), &json!([]))));
    assert!(
        told.contains("node 6 (Load3D): what it sends is made by the browser"),
        "{told}"
    );
}

#[test]
fn a_custom_node_is_converted_only_where_all_is_certain() {
    let class = |module: &str| {
        let class = json!({"python_module": module, "output": ["IMAGE"], "input": {
            "required": {"amount": ["INT", {}], "mode": [["a", "b"], {}]}}});
        HashMap::from([("Fancy".to_owned(), class)])
    };
    let one = |values: Value| {
        workflow(
            &json!([{"id": 1, "type": "Fancy", "widgets_values": values}]),
            &json!([]),
        )
    };
    let ours = class("custom_nodes.fancy");
    let made = with(one(json!([3, "a"])), &ours, &json!({})).expect("a graph");
    assert_eq!(inputs(&made, "1")["mode"], "a");
    assert!(made.warnings.is_empty());
    for values in [
        json!([3, "a", {"x": 1}]),
        json!([3]),
        json!(["a", 3]),
        json!({"amount": 3, "mode": "a", "x": 1}),
    ] {
        let told = refused(with(one(values.clone()), &ours, &json!({})));
        assert!(
            told.contains("node 1 (Fancy)") && told.contains("script of its custom node"),
            "{values}: {told}"
        );
        let made = with(one(values), &class("comfy_extras.fancy"), &json!({})).expect("a graph");
        assert!(!made.warnings.is_empty());
    }
}

#[test]
fn an_app_is_set_by_the_names_of_its_inputs() {
    let app = |entries: Value| {
        json!({
            "id": "00000000-0000-0000-0000-000000000001",
            "nodes": [
                {"id": 1, "type": "KSampler", "widgets_values": [7, "fixed", 4, 1, "euler", "simple", 1],
                 "inputs": [{"name": "cfg", "type": "FLOAT", "widget": {"name": "cfg"}, "link": 2}]},
                {"id": 2, "type": "ResizeImageMaskNode", "widgets_values": ["scale by multiplier", 1.5, "lanczos"]},
                {"id": 3, "type": "abc", "widgets_values": ["inside"]},
                {"id": 4, "type": "PrimitiveNode", "widgets_values": [3], "outputs": [{"type": "INT", "links": [1]}]},
                {"id": 5, "type": "EmptySD3LatentImage", "widgets_values": [64, 64, 1],
                 "inputs": [{"name": "width", "type": "INT", "widget": {"name": "width"}, "link": 1}]},
                {"id": 6, "type": "PrimitiveFloat", "widgets_values": [1.5]},
            ],
            "links": [[1, 4, 0, 5, 0, "INT"], [2, 6, 0, 1, 0, "FLOAT"]],
            "definitions": {"subgraphs": [{"id": "abc", "name": "x", "inputs": [{"name": "prompt", "type": "STRING", "linkIds": [1]}],
                "nodes": [{"id": 12, "type": "CLIPTextEncode", "widgets_values": ["?"],
                    "inputs": [{"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": 1}]}],
                "links": [{"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 12, "target_slot": 0, "type": "STRING"}]}]},
            "extra": {"linearData": {"inputs": entries, "outputs": []}},
        })
    };
    let entries = json!([
        [1, "steps", {"height": 3}], ["1", "cfg"], ["2", "resize_type"], ["3", "prompt"], ["4", "value"],
        ["00000000-0000-0000-0000-000000000001:5:height", "height"], ["99", "gone"], ["12", "text"], [5, "batch_size"],
        ["6", "value"], ["2", "resize_type.longer_size"],
    ]);
    let saved = Saved::from_value(app(entries.clone())).expect("sound");
    let names: Vec<String> = saved.named_inputs().into_iter().map(|input| input.name).collect();
    assert_eq!(
        names,
        [
            "steps",
            "cfg",
            "resize_type",
            "prompt",
            "4.value",
            "height",
            "gone",
            "text",
            "batch_size",
            "6.value",
            "resize_type.longer_size"
        ]
    );

    let made = with(
        app(entries.clone()),
        described(),
        &json!({"steps": 9, "resize_type": "scale longer dimension", "resize_type.longer_size": 99, "prompt": "a fox",
            "4.value": 32, "height": 96, "5.batch_size": 2}),
    )
    .expect("a graph");
    assert_eq!(inputs(&made, "1")["steps"], 9);
    assert_eq!(inputs(&made, "2")["resize_type"], "scale longer dimension");
    assert_eq!(inputs(&made, "2")["resize_type.longer_size"], 99);
    assert_eq!(inputs(&made, "2")["scale_method"], "lanczos");
    assert!(!inputs(&made, "2").contains_key("resize_type.multiplier"));
    assert_eq!(inputs(&made, "3:12")["text"], "a fox");
    assert_eq!(
        *inputs(&made, "5"),
        *json!({"width": 32, "height": 96, "batch_size": 2})
            .as_object()
            .expect("an object")
    );

    let older = with(app(entries.clone()), described(), &json!({"text": "an older name"})).expect("a graph");
    assert_eq!(inputs(&older, "3:12")["text"], "an older name");

    let told = refused(with(
        app(entries.clone()),
        described(),
        &json!({"steps": "many", "cfg": 2, "gone": 1, "4.value": "text"}),
    ));
    for part in [
        "`inputs.steps` holds \"many\", and should hold a whole number",
        "`inputs.cfg` cannot be set: a link feeds it",
        "is what the app calls `gone`, and is not in the workflow",
        "`inputs.4.value` holds \"text\"",
    ] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    let told = refused(with(app(entries), described(), &json!({"nobody": 1})));
    assert!(
        told.contains("inputs.nobody: is not known: the app names `steps`, `cfg`"),
        "{told}"
    );
    let told = refused(with(app(json!([])), described(), &json!({"a": 1})));
    assert!(told.contains("the workflow is no app"), "{told}");
}

#[test]
fn two_hosts_of_one_definition_in_a_row_are_no_circle() {
    let ui = json!({
        "nodes": [
            {"id": 1, "type": "PrimitiveInt", "widgets_values": [5, "fixed"]},
            {"id": 2, "type": "abc", "inputs": [{"name": "x", "type": "*", "link": 1}]},
            {"id": 3, "type": "abc", "inputs": [{"name": "x", "type": "*", "link": 2}]},
            preview(4, 3),
        ],
        "links": [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"], [3, 3, 0, 4, 0, "INT"]],
        "definitions": {"subgraphs": [{"id": "abc", "name": "x",
            "inputs": [{"name": "x", "type": "*", "linkIds": [1]}], "outputs": [{"name": "y", "type": "*", "linkIds": [2]}],
            "nodes": [{"id": 9, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 1}], "outputs": [{"type": "*", "links": [2]}]}],
            "links": [{"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 9, "target_slot": 0},
                      {"id": 2, "origin_id": 9, "origin_slot": 0, "target_id": -20, "target_slot": 0}]}]},
    });
    let made = convert(ui).expect("a graph");
    assert_eq!(inputs(&made, "4")["source"], json!(["1", 0]));
}
