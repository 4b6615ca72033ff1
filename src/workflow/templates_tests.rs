use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::workflow::bindings::Field;
use crate::workflow::check::check;
use crate::workflow::models::ModelCatalog;
use crate::workflow::template::Lora;
use crate::workflow::testing;

fn templates() -> Templates {
    Templates::embedded().expect("the embedded templates")
}

fn parameters(template: &Template) -> Parameters {
    Parameters {
        prompt: "a red fox in the snow".to_owned(),
        seed: 42,
        images: (0..*template.images().start())
            .map(|_| "example.png".to_owned())
            .collect(),
        ..Parameters::default()
    }
}

/// Renders, and makes sure that ComfyUI would run what comes out.
fn rendered(template: &Template, parameters: &Parameters) -> Graph {
    let graph = template.render(parameters).expect("a graph");
    let models = ModelCatalog::builtin().expect("the catalogue");
    if let Err(failure) = check(&graph, &testing::schemas(), &models) {
        panic!("{}: {}", template.name(), failure.error.full_text());
    }
    graph
}

fn values(graph: &Graph, id: &str) -> Value {
    let node = graph.get(id).unwrap_or_else(|| panic!("no node {id}"));
    json!([node.class_type, node.inputs])
}

#[test]
fn every_embedded_template_runs_with_everything_it_takes() {
    for template in templates().iter() {
        rendered(template, &parameters(template));
        let all = Parameters {
            negative_prompt: Some("blurry".to_owned()),
            steps: Some(3),
            cfg: Some(2.5),
            sampler: Some("euler".to_owned()),
            scheduler: Some("simple".to_owned()),
            denoise: Some(1.0),
            shift: Some(2.0),
            width: Some(1000),
            height: Some(700),
            batch_size: Some(2),
            loras: vec![Lora {
                name: "Qwen-Image-Lightning-4steps-V1.0.safetensors".to_owned(),
                strength: 0.5,
            }],
            images: vec!["example.png".to_owned(); *template.images().end()],
            filename_prefix: Some("mine/x".to_owned()),
            ..parameters(template)
        };
        let graph = rendered(template, &all);
        assert_eq!(
            values(&graph, "save"),
            json!(["SaveImage", {"images": ["crop", 0], "filename_prefix": "mine/x"}])
        );
        assert_eq!(
            values(&graph, "crop"),
            json!(["ImageCrop", {"image": ["decode", 0], "width": 1000, "height": 700, "x": 4, "y": 2}])
        );
        assert_eq!(
            values(&graph, "latent"),
            json!(["EmptySD3LatentImage", {"width": 1008, "height": 704, "batch_size": 2}])
        );
        let sampler = &graph.nodes["sample"].inputs;
        assert_eq!(
            (&sampler["steps"], &sampler["cfg"], &sampler["seed"]),
            (&json!(3), &json!(2.5), &json!(42))
        );
    }
}

#[test]
fn the_model_files_of_every_template_are_in_the_catalogue() {
    let models = ModelCatalog::builtin().expect("the catalogue");
    for template in templates().iter() {
        let set = models.files(template.name()).expect("a set of the template's name");
        for node in template.graph().nodes.values() {
            for value in node.inputs.values().filter_map(Value::as_str) {
                if value.ends_with(".safetensors") {
                    assert!(
                        set.iter().any(|file| file.file_name() == value),
                        "{}: {value}",
                        template.name()
                    );
                }
            }
        }
    }
}

#[test]
fn the_defaults_are_the_official_ones() {
    let templates = templates();
    let table: Vec<_> = templates
        .iter()
        .map(|template| {
            let of = |field| {
                let number = template.default(field).and_then(Value::as_f64);
                number.map_or_else(|| "-".to_owned(), |number| number.to_string())
            };
            format!(
                "{:34} {:?} {:?} steps {} cfg {} shift {} {}x{}",
                template.name(),
                template.bindings.kind,
                template.images(),
                of(Field::Steps),
                of(Field::Cfg),
                of(Field::Shift),
                of(Field::Width),
                of(Field::Height),
            )
        })
        .collect();
    insta::assert_snapshot!(table.join("\n"));
    assert!(templates.get(Defaults::default().generate).is_some());
    let edit = templates.get(Defaults::default().edit).expect("the default of edits");
    assert_eq!(edit.images(), 1..=3);
}

#[test]
fn a_prompt_alone_gives_the_spec_graph() {
    let templates = templates();
    let template = templates.get(Defaults::default().generate).expect("the default");
    insta::assert_json_snapshot!(rendered(template, &parameters(template)));
}

#[test]
fn loras_are_chained_after_the_templates_own() {
    let templates = templates();
    let loras = ["a", "b"].map(|name| Lora {
        name: format!("{name}.safetensors"),
        strength: 0.5,
    });
    for (name, own, next) in [
        ("qwen-image", "unet", "shift"),
        ("qwen-image-lightning", "lora", "shift"),
        ("qwen-image-edit-2511-lightning-4", "lora", "sample"),
    ] {
        let template = templates.get(name).expect("the template");
        let parameters = Parameters {
            loras: loras.to_vec(),
            ..parameters(template)
        };
        let graph = template.render(&parameters).expect("a graph");
        let model = |id: &str| graph.nodes[id].inputs["model"].clone();
        assert_eq!(model("user-lora-1"), json!([own, 0]), "{name}");
        assert_eq!(model("user-lora-2"), json!(["user-lora-1", 0]), "{name}");
        assert_eq!(model(next), json!(["user-lora-2", 0]), "{name}");
        assert_eq!(graph.nodes["user-lora-2"].inputs["lora_name"], "b.safetensors");
        assert_eq!(graph.nodes["user-lora-2"].inputs["strength_model"], 0.5);
    }
}

#[test]
fn images_that_are_not_given_leave_no_trace() {
    let templates = templates();
    let template = templates.get("qwen-image-edit-2511").expect("the template");
    for count in 1..=3 {
        let parameters = Parameters {
            images: (1..=count).map(|n| format!("job/{n}.png")).collect(),
            ..parameters(template)
        };
        let graph = template.render(&parameters).expect("a graph");
        for n in 1..=3 {
            let id = format!("image{n}");
            let node = graph.get(&id).map(|node| node.inputs["image"].clone());
            assert_eq!(node, (n <= count).then(|| json!(format!("job/{n}.png"))));
            assert_eq!(graph.nodes["positive"].inputs.contains_key(&id), n <= count);
            assert_eq!(graph.nodes["negative"].inputs.contains_key(&id), n <= count);
        }
    }
}

#[test]
fn an_edit_without_size_follows_its_image() {
    let templates = templates();
    let template = templates.get("qwen-image-edit-2509").expect("the template");
    let graph = rendered(template, &parameters(template));
    assert_eq!(graph.nodes["latent"].class_type, "VAEEncode");
    assert!(graph.get("crop").is_none());

    let batch = Parameters {
        batch_size: Some(3),
        ..parameters(template)
    };
    let graph = rendered(template, &batch);
    assert_eq!(
        values(&graph, "batch"),
        json!(["RepeatLatentBatch", {"samples": ["latent", 0], "amount": 3}])
    );
    assert_eq!(graph.nodes["sample"].inputs["latent_image"], json!(["batch", 0]));
}

#[test]
fn an_edit_takes_its_size_in_megapixels_and_its_shape_from_the_first_image() {
    let templates = Templates::embedded().unwrap();
    let asked = Parameters {
        megapixels: Some(1.5),
        batch_size: Some(2),
        images: vec!["a.png".to_owned()],
        ..Parameters::default()
    };
    let graph = templates.render("qwen-image-edit-2511", &asked).unwrap();
    let nodes = ["latent", "size", "megapixels"].map(|id| json!([graph.nodes[id].class_type, graph.nodes[id].inputs]));
    assert_eq!(
        nodes,
        [
            json!(["EmptySD3LatentImage", {"width": ["size", 0], "height": ["size", 1], "batch_size": 2}]),
            json!(["GetImageSize", {"image": ["megapixels", 0]}]),
            json!(["ImageScaleToTotalPixels", {
                "image": ["image1", 0], "upscale_method": "nearest-exact", "megapixels": 1.5, "resolution_steps": 16}]),
        ]
    );
    let beside = Parameters {
        width: Some(640),
        height: Some(480),
        ..asked.clone()
    };
    let error = templates.render("qwen-image-edit-2511", &beside).unwrap_err();
    assert!(
        error.full_text().contains("stands beside width or height"),
        "{}",
        error.full_text()
    );
    let error = templates.render("qwen-image", &asked).unwrap_err();
    assert!(
        error
            .full_text()
            .contains("megapixels: template `qwen-image` has no place for it; these templates have: qwen-image-edit"),
        "{}",
        error.full_text()
    );
}

#[test]
fn sizes_between_the_steps_are_cut_and_others_are_not() {
    let templates = templates();
    let template = templates.get(Defaults::default().generate).expect("the default");
    for (asked, latent, crop) in [
        ((1472, 1140), (1472, 1152), Some((0, 6))),
        ((1328, 1328), (1328, 1328), None),
        ((1, 17), (16, 32), Some((7, 7))),
    ] {
        let parameters = Parameters {
            width: Some(asked.0),
            height: Some(asked.1),
            ..parameters(template)
        };
        let graph = template.render(&parameters).expect("a graph");
        let inputs = &graph.nodes["latent"].inputs;
        assert_eq!(
            (&inputs["width"], &inputs["height"]),
            (&json!(latent.0), &json!(latent.1))
        );
        let cut = graph
            .get("crop")
            .map(|node| (node.inputs["x"].clone(), node.inputs["y"].clone()));
        assert_eq!(cut, crop.map(|(x, y)| (json!(x), json!(y))));
    }
    // One side alone: the other stays.
    let wide = Parameters {
        width: Some(1664),
        ..parameters(template)
    };
    let graph = template.render(&wide).expect("a graph");
    assert_eq!(graph.nodes["latent"].inputs["height"], json!(1328));
}

#[test]
fn where_some_of_the_image_stays_it_is_scaled_to_the_size() {
    let templates = templates();
    let template = templates.get("qwen-image-edit").expect("a template");
    let asked = Parameters {
        width: Some(1000),
        height: Some(512),
        denoise: Some(0.5),
        batch_size: Some(2),
        images: vec!["a.png".to_owned()],
        ..Parameters::default()
    };
    let graph = template.render(&asked).expect("a graph");
    assert_eq!(graph.nodes["latent"].class_type, "VAEEncode");
    let scale = graph.nodes["latent"].inputs["pixels"][0].as_str().expect("a link");
    let inputs = &graph.nodes[scale].inputs;
    assert_eq!((&inputs["width"], &inputs["height"]), (&json!(1008), &json!(512)));
    assert_eq!(
        (&inputs["image"], &inputs["crop"]),
        (&json!(["image1", 0]), &json!("center"))
    );
    // The image as the reference keeps its size.
    assert_eq!(graph.nodes["positive"].inputs["image"], json!(["scale", 0]));
    assert_eq!(graph.nodes["crop"].inputs["width"], json!(1000));
    let latent = graph.nodes["sample"].inputs["latent_image"][0]
        .as_str()
        .expect("a link");
    assert_eq!(graph.nodes[latent].class_type, "RepeatLatentBatch");
}

#[test]
fn what_a_template_cannot_do_is_told_with_those_that_can() {
    let templates = templates();
    let asked = Parameters {
        width: Some(1000),
        denoise: Some(0.5),
        images: vec!["a.png".to_owned(); 4],
        ..Parameters::default()
    };
    let mut text = String::new();
    for name in ["qwen-image", "qwen-image-edit", "qwen-image-edti"] {
        let error = templates.render(name, &asked).expect_err("too much");
        text.push_str(&error.full_text());
        text.push_str("\n\n");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn templates_know_their_own_sizes() {
    let templates = templates();
    let size = |name: &str, ratio| {
        templates
            .get(name)
            .and_then(|template| template.size_for_aspect_ratio(ratio))
    };
    assert_eq!(size("qwen-image", "4:3"), Some((1472, 1140)));
    assert_eq!(size("qwen-image-2512", "4:3"), Some((1472, 1104)));
    assert_eq!(size("qwen-image-2512", "16:9"), Some((1664, 928)));
    assert_eq!(size("qwen-image-2512", "5:1"), None);
}

#[test]
fn a_request_cannot_break_out_of_its_inputs() {
    let templates = templates();
    let template = templates.get(Defaults::default().generate).expect("the default");
    let prompt = "\"}, \"9\": {\"class_type\": \"HardExit\"}, [\"unet\", 0]";
    let parameters = Parameters {
        prompt: prompt.to_owned(),
        cfg: Some(f64::NAN),
        ..Parameters::default()
    };
    let graph = template.render(&parameters).expect("a graph");
    assert_eq!(graph.nodes["positive"].inputs["text"], json!(prompt));
    assert_eq!(graph.nodes.len(), template.graph().nodes.len());
    let _: Arc<str> = serde_json::to_string(&graph).expect("JSON").into();
}

#[test]
fn a_mask_limits_what_the_sampler_changes() {
    let templates = templates();
    let template = templates.get("qwen-image-edit-2511").expect("the template");
    let masked = Parameters {
        mask: Some("mask.png".to_owned()),
        width: Some(1000),
        height: Some(700),
        batch_size: Some(2),
        ..parameters(template)
    };
    let graph = template.render(&masked).expect("a graph");
    assert_eq!(values(&graph, "mask"), json!(["LoadImage", {"image": "mask.png"}]));
    assert_eq!(
        values(&graph, "masked"),
        json!(["SetLatentNoiseMask", {"samples": ["latent", 0], "mask": ["mask", 1]}])
    );
    assert_eq!(
        values(&graph, "batch"),
        json!(["RepeatLatentBatch", {"samples": ["masked", 0], "amount": 2}])
    );
    assert_eq!(graph.nodes["sample"].inputs["latent_image"], json!(["batch", 0]));
    // It keeps the image's shape until the end.
    assert_eq!(graph.nodes["latent"].class_type, "VAEEncode");
    // The template has a node of that name itself.
    let scale = graph.nodes["save"].inputs["images"][0].as_str().expect("a link");
    assert_ne!(scale, "scale");
    assert_eq!(
        values(&graph, scale),
        json!(["ImageScale", {"upscale_method": "lanczos", "width": 1000, "height": 700, "crop": "center", "image": ["decode", 0]}])
    );
    let without_image = templates.get("qwen-image").expect("the template");
    let error = without_image.render(&masked).expect_err("there is nothing to mask");
    assert!(
        error
            .problems
            .iter()
            .any(|problem| problem.input.as_deref() == Some("mask"))
    );
}
