//! What our graph code adds to a request: parsing, rendering and checking the graph of `test_input.json`.
//! The goal for the check is 1 ms with schemas at hand.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use qwen_image_worker::workflow::{ClassSpec, Graph, ModelCatalog, Parameters, Schemas, Templates, check};
use serde_json::Value;

fn graph(criterion: &mut Criterion) {
    let request = include_str!("../test_input.json");
    let value: Value = serde_json::from_str(request).expect("JSON");
    let workflow = &value["input"]["workflow"];
    let parsed = Graph::parse(workflow).expect("a graph");

    let object_info = include_str!("../tests/data/object_info-qwen.json");
    let classes: serde_json::Map<String, Value> = serde_json::from_str(object_info).expect("JSON");
    let specs = classes
        .iter()
        .map(|(name, info)| (name.clone(), ClassSpec::parse(name, info).into()));
    let schemas = Schemas {
        classes: specs.collect(),
        names: classes.keys().cloned().collect(),
        ..Schemas::default()
    };
    let models = ModelCatalog::builtin().expect("the catalogue");
    let templates = Templates::embedded().expect("the templates");
    let parameters = Parameters {
        prompt: "a red fox in the snow".to_owned(),
        width: Some(1000),
        height: Some(700),
        ..Parameters::default()
    };
    let mut broken = parsed.clone();
    for node in broken.nodes.values_mut() {
        node.class_type.push('x');
    }

    criterion.bench_function("parse", |bencher| {
        bencher.iter(|| Graph::parse(black_box(workflow)).expect("a graph"));
    });
    criterion.bench_function("render", |bencher| {
        bencher.iter(|| {
            templates
                .render("qwen-image-lightning", black_box(&parameters))
                .expect("a graph")
        });
    });
    criterion.bench_function("check", |bencher| {
        bencher.iter(|| check(black_box(&parsed), &schemas, &models).expect("a good graph"));
    });
    criterion.bench_function("check of a graph of unknown classes", |bencher| {
        bencher.iter(|| check(black_box(&broken), &schemas, &models).expect_err("a bad graph"));
    });
    criterion.bench_function("load the embedded templates", |bencher| {
        bencher.iter(|| Templates::embedded().expect("the templates"));
    });
}

criterion_group!(benches, graph);
criterion_main!(benches);
