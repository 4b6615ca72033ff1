//! What our graph code adds to a request: parsing, rendering and checking the graph of `test_input.json`, and converting
//! the largest official template as the page saves it (211 nodes).
//! The goal for the check is 1 ms with schemas at hand, for the conversion 2 ms.

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use flate2::read::GzDecoder;
use qwen_image_worker::workflow::convert::{Options, Saved};
use qwen_image_worker::workflow::{ClassSpec, Graph, ModelCatalog, Parameters, Schemas, Templates, check};
use serde_json::{Map, Value};

fn graph(criterion: &mut Criterion) {
    let request = include_str!("../test_input.json");
    let value: Value = serde_json::from_str(request).expect("JSON");
    let workflow = &value["input"]["workflow"];
    let parsed = Graph::parse(workflow).expect("a graph");

    let object_info = include_str!("../tests/data/object_info-qwen.json");
    let classes: Map<String, Value> = serde_json::from_str(object_info).expect("JSON");
    let schemas = Schemas {
        classes: classes
            .iter()
            .map(|(name, info)| (name.clone(), ClassSpec::parse(name, info).into()))
            .collect(),
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
    convert(criterion);
    criterion.bench_function("load the embedded templates", |bencher| {
        bencher.iter(|| Templates::embedded().expect("the templates"));
    });
}

/// The worker's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn convert(criterion: &mut Criterion) {
    let template = include_bytes!("../tests/data/ui-format/largest-template.json.gz");
    let template: Value = serde_json::from_reader(GzDecoder::new(&template[..])).expect("JSON");
    let classes = include_bytes!("../tests/data/ui-format/object_info.json.gz");
    let classes: HashMap<String, Value> = serde_json::from_reader(GzDecoder::new(&classes[..])).expect("JSON");
    let saved = Saved::from_value(template).expect("a saved workflow");
    let inputs = Map::new();
    let options = Options {
        seed: 1,
        inputs: &inputs,
        now: time::OffsetDateTime::UNIX_EPOCH,
    };

    criterion.bench_function("convert the largest official template", |bencher| {
        bencher.iter(|| black_box(&saved).convert(&classes, &options).expect("a graph"));
    });
}

criterion_group!(benches, graph);
criterion_main!(benches);
