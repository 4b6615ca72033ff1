//! Templates that take more than words and numbers: control pictures, masks that must be, layers.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::workflow::check::check;
use crate::workflow::control::{Control, ControlType, Preprocessor};
use crate::workflow::models::ModelCatalog;
use crate::workflow::testing;

const CONTROLLED: [&str; 5] = [
    "qwen-image-2512-controlnet",
    "qwen-image-controlnet",
    "qwen-image-diffsynth-control",
    "qwen-image-union-control-lora",
    "z-image-turbo-controlnet",
];

fn asked(images: usize) -> Parameters {
    Parameters {
        prompt: "a red fox in the snow".to_owned(),
        images: (1..=images).map(|number| format!("{number}.png")).collect(),
        ..Parameters::default()
    }
}

fn with_control(kind: Option<ControlType>, strength: Option<f64>) -> Parameters {
    let control = Control {
        image: None,
        kind,
        strength,
    };
    Parameters {
        control: Some(control),
        ..asked(1)
    }
}

/// The graph, which ComfyUI would run.
fn rendered(name: &str, parameters: &Parameters) -> Graph {
    let templates = Templates::embedded().unwrap();
    let graph = templates
        .render(name, parameters)
        .unwrap_or_else(|error| panic!("{name}: {}", error.full_text()));
    let models = ModelCatalog::builtin().unwrap();
    let mut schemas = testing::schemas_of_family();
    // Any picture is there, and any node that draws one.
    let drawn = json!({
        "input": {"required": {"image": ["IMAGE"]}, "optional": {"resolution": ["INT", {"default": 512}]}},
        "output": ["IMAGE"], "python_module": "custom_nodes.comfyui_controlnet_aux", "output_node": false,
    });
    let spec = crate::workflow::ClassSpec::parse("DepthAnythingV2Preprocessor", &drawn);
    assert!(spec.draws("image"));
    schemas
        .classes
        .insert("DepthAnythingV2Preprocessor".to_owned(), spec.into());
    let mut checked = graph.clone();
    for node in checked.nodes.values_mut().filter(|node| node.class_type == "LoadImage") {
        node.inputs.insert("image".to_owned(), "example.png".into());
    }
    if let Err(failure) = check(&checked, &schemas, &models) {
        panic!("{name}: {}", failure.error.full_text());
    }
    graph
}

fn refused(name: &str, parameters: &Parameters) -> String {
    let templates = Templates::embedded().unwrap();
    let error = templates.render(name, parameters).expect_err("it cannot do that");
    error.full_text()
}

fn classes(graph: &Graph) -> Vec<&str> {
    graph.nodes.values().map(|node| node.class_type.as_str()).collect()
}

/// The places in a graph that take what a node gives first.
fn takers(graph: &Graph, id: &str) -> Vec<String> {
    let link = json!([id, 0]);
    let inputs = graph
        .nodes
        .iter()
        .flat_map(|(node, it)| it.inputs.iter().map(move |(name, value)| (node, name, value)));
    inputs
        .filter(|(.., value)| **value == link)
        .map(|(node, name, _)| format!("{node}.{name}"))
        .collect()
}

#[test]
fn edges_are_drawn_from_a_control_picture_unless_it_is_ready() {
    for name in CONTROLLED {
        for kind in [None, Some(ControlType::Canny)] {
            let graph = rendered(name, &with_control(kind, None));
            assert!(classes(&graph).contains(&"Canny"), "{name}");
            assert_eq!(graph.nodes["control_image"].inputs["image"], "1.png");
        }
        let drawn = takers(&rendered(name, &asked(1)), "canny");
        let graph = rendered(name, &with_control(Some(ControlType::Ready), None));
        assert!(!classes(&graph).contains(&"Canny"), "{name}");
        let taken = takers(&graph, "scale");
        assert!(
            drawn.iter().all(|place| taken.contains(place)),
            "{name}: {drawn:?} {taken:?}"
        );
    }
}

#[test]
fn a_node_that_draws_the_picture_takes_the_place_of_the_edges() {
    for name in CONTROLLED
        .into_iter()
        .filter(|name| *name != "qwen-image-diffsynth-control")
    {
        let drawn = takers(&rendered(name, &asked(1)), "canny");
        let parameters = Parameters {
            preprocessor: Some(Preprocessor {
                class: "DepthAnythingV2Preprocessor",
                is_sized: true,
            }),
            ..with_control(Some(ControlType::Depth), None)
        };
        let graph = rendered(name, &parameters);
        assert_eq!(takers(&graph, "canny"), drawn, "{name}");
        let scaled = &graph.nodes["canny"];
        assert_eq!(scaled.class_type, "ImageScale");
        assert_eq!(scaled.inputs["image"], json!(["preprocessor", 0]));
        assert_eq!(
            graph.nodes["preprocessor"].inputs,
            json!({"image": ["scale", 0], "resolution": 1024})
                .as_object()
                .unwrap()
                .clone()
        );
    }
}

#[test]
fn the_strength_of_a_control_picture_goes_where_the_bindings_say() {
    let templates = Templates::embedded().unwrap();
    for name in CONTROLLED {
        let graph = rendered(name, &with_control(None, Some(0.25)));
        let control = templates.get(name).unwrap().bindings.control.as_ref().unwrap();
        assert!(!control.strength().is_empty());
        for place in control.strength() {
            assert_eq!(graph.nodes[place.node.as_str()].inputs[&place.input], 0.25, "{name}");
        }
    }
}

#[test]
fn a_kind_that_the_model_does_not_know_is_told_with_those_that_it_does() {
    let error = refused(
        "qwen-image-diffsynth-control",
        &with_control(Some(ControlType::Depth), None),
    );
    assert!(
        error.contains(
            "control.type: template `qwen-image-diffsynth-control` does not know `depth`; it knows canny, and `ready`"
        ),
        "{error}"
    );
    let error = refused(
        "z-image-turbo-controlnet",
        &with_control(Some(ControlType::Scribble), None),
    );
    assert!(error.contains("it knows canny, softedge, depth, pose, mlsd"), "{error}");
    let error = refused("qwen-image-edit-2511", &with_control(None, None));
    assert!(
        error.contains("control: template `qwen-image-edit-2511` has no place for it; these templates have: qwen-image-2512-controlnet"),
        "{error}"
    );
    let error = refused("qwen-image-controlnet", &asked(0));
    assert!(error.contains("takes 1, and the request has 0"), "{error}");
}

#[test]
fn a_control_picture_gives_the_size_unless_the_request_does() {
    for name in CONTROLLED {
        let sized = Parameters {
            width: Some(500),
            height: Some(300),
            ..asked(1)
        };
        let graph = rendered(name, &sized);
        let scale = &graph.nodes["scale"];
        assert_eq!(scale.class_type, "ImageScale", "{name}");
        assert_eq!(
            (
                &scale.inputs["image"],
                &scale.inputs["width"],
                &scale.inputs["height"],
                &scale.inputs["crop"]
            ),
            (&json!(["control_image", 0]), &json!(512), &json!(304), &json!("center"))
        );
        assert_eq!(graph.nodes["crop"].inputs["width"], 500);
        let pixels = Parameters {
            megapixels: Some(0.5),
            ..asked(1)
        };
        let graph = rendered(name, &pixels);
        assert_eq!(graph.nodes["scale"].class_type, "ImageScaleToTotalPixels");
        assert_eq!(graph.nodes["scale"].inputs["megapixels"], 0.5);
        let one = Parameters {
            width: Some(500),
            ..asked(1)
        };
        assert!(refused(name, &one).contains("width and height go together"));
    }
}

#[test]
fn what_is_filled_in_is_what_a_mask_or_the_picture_itself_marks() {
    let template = "qwen-image-inpaint";
    let graph = rendered(template, &asked(1));
    assert_eq!(graph.nodes["grow"].inputs["mask"], json!(["image1", 1]));
    let masked = Parameters {
        mask: Some("mask.png".to_owned()),
        width: Some(640),
        height: Some(300),
        ..asked(1)
    };
    let graph = rendered(template, &masked);
    let load = graph.nodes["grow"].inputs["mask"][0].as_str().unwrap();
    assert_eq!(graph.nodes[load].inputs["image"], "mask.png");
    // The graph has a node `mask` of its own, which is another.
    assert_eq!(graph.nodes["mask"].class_type, "ImageToMask");
    // The mask belongs to the whole picture, which is not cut before the end. What is worked on goes by whole steps, and what
    // stays is the picture itself.
    let megapixels = json!(640.0 * 300.0 / (1024.0 * 1024.0));
    for (node, step) in [("scale", 16), ("sized", 1)] {
        let inputs = &graph.nodes[node].inputs;
        assert_eq!(graph.nodes[node].class_type, "ImageScaleToTotalPixels");
        assert_eq!(
            (&inputs["megapixels"], &inputs["resolution_steps"]),
            (&megapixels, &json!(step))
        );
    }
    assert_eq!(graph.nodes["composite"].inputs["destination"], json!(["sized", 0]));
    let fit = graph.nodes["save"].inputs["images"][0].as_str().unwrap();
    assert_eq!(
        (&graph.nodes[fit].inputs["width"], &graph.nodes[fit].inputs["height"]),
        (&json!(640), &json!(300))
    );
    for name in [
        "qwen-image-controlnet",
        "z-image-turbo",
        "qwen-image-layered",
        "qwen-image-2.1-edit",
    ] {
        let images = *Templates::embedded().unwrap().get(name).unwrap().images().start();
        let masked = Parameters {
            mask: Some("mask.png".to_owned()),
            ..asked(images)
        };
        assert!(refused(name, &masked).contains("mask: template"), "{name}");
    }
}

/// The rows of the table of docs/models.md.
fn table() -> String {
    let catalog = ModelCatalog::builtin().unwrap();
    let templates = Templates::embedded().unwrap();
    let row = |template: &Template| {
        let names = template.graph().model_names();
        let files = names
            .iter()
            .map(|name| catalog.lookup(name).expect("a file of the catalogue"));
        let licences: BTreeSet<_> = files
            .map(|file| catalog.licence(file).unwrap_or("not read for one of them"))
            .collect();
        let licences: Vec<_> = licences.into_iter().collect();
        format!(
            "| `{}` | {} | {} GB | {} GB | {} |\n",
            template.name(),
            template.title(),
            template.disk_gb().expect("what its files come to"),
            template.card_gb().expect("a card"),
            licences.join("; ")
        )
    };
    templates.iter().map(row).collect()
}

#[test]
fn the_documentation_lists_every_template() {
    let (page, table) = (include_str!("../../docs/models.md"), table());
    assert!(page.contains(&table), "the table of docs/models.md should be:\n{table}");
}

#[test]
fn a_ratio_asks_for_about_as_many_pixels_as_the_template_is_made_for() {
    let templates = Templates::embedded().unwrap();
    for template in templates.iter() {
        let area = |ratio| {
            let (width, height) = template.size_for_aspect_ratio(ratio).unwrap();
            f64::from(width) * f64::from(height)
        };
        let square = area("1:1");
        for ratio in crate::workflow::limits::aspect_ratios() {
            let share = area(ratio) / square;
            assert!(
                (0.8..=1.2).contains(&share),
                "{}: {ratio} is {share} of 1:1",
                template.name()
            );
        }
        let is_small = template.name().contains("layered");
        assert_eq!(square < 500_000.0, is_small, "{}", template.name());
    }
}

#[test]
fn layers_are_counted_where_there_are_some() {
    for (name, images) in [
        ("qwen-image-layered", 1),
        ("qwen-image-layered-text", 0),
        ("qwen-image-layered-control", 1),
    ] {
        let parameters = Parameters {
            layers: Some(5),
            ..asked(images)
        };
        let graph = rendered(name, &parameters);
        assert_eq!(graph.nodes["latent"].inputs["layers"], 5, "{name}");
        assert!(Templates::embedded().unwrap().get(name).unwrap().has_alpha());
    }
    let layered = Parameters {
        layers: Some(5),
        ..asked(0)
    };
    let error = refused("z-image", &layered);
    assert!(error.contains("these templates have: qwen-image-layered"), "{error}");
}

#[test]
fn pictures_of_2_1_are_as_many_as_come_and_are_counted_from_one() {
    for name in ["qwen-image-2.1-edit", "qwen-image-2.1-turbo-edit"] {
        for count in [1, 3, 16] {
            let graph = rendered(name, &asked(count));
            let inputs = &graph.nodes["encode"].inputs;
            let wired: Vec<_> = inputs
                .keys()
                .filter(|input| input.starts_with("images."))
                .cloned()
                .collect();
            let expected: Vec<_> = (1..=count).map(|number| format!("images.image_{number}")).collect();
            assert_eq!(wired, expected, "{name}");
        }
        let error = refused(name, &asked(17));
        assert!(error.contains("takes 1 to 16, and the request has 17"), "{error}");
        // The first picture gives the size.
        let sized = Parameters {
            width: Some(1000),
            height: Some(700),
            ..asked(2)
        };
        let graph = rendered(name, &sized);
        let first = graph.nodes["encode"].inputs["images.image_1"][0].as_str().unwrap();
        let scale = &graph.nodes[first].inputs;
        assert_eq!((&scale["width"], &scale["height"]), (&json!(1024), &json!(704)));
        assert_eq!(graph.nodes["encode"].inputs["images.image_2"], json!(["image2", 0]));
    }
}

#[test]
fn fixed_steps_are_told_as_no_place() {
    let parameters = Parameters {
        steps: Some(20),
        ..asked(0)
    };
    let error = refused("qwen-image-2.1-turbo", &parameters);
    assert!(
        error.contains("steps: template `qwen-image-2.1-turbo` has no place for it"),
        "{error}"
    );
}

#[test]
fn what_needs_a_newer_comfyui_says_which_and_by_what_it_is_known() {
    let templates = Templates::embedded().unwrap();
    let old = testing::schemas();
    for template in templates.iter() {
        let unknown: Vec<_> = template
            .graph()
            .classes()
            .into_iter()
            .filter(|class| class.contains("21"))
            .collect();
        let needs = template.needs().map_or(&[][..], |needs| &needs.classes);
        assert_eq!(unknown.len(), needs.len(), "{}", template.name());
        assert!(
            needs
                .iter()
                .all(|class| unknown.contains(&class.as_str()) && !old.classes.contains_key(class))
        );
    }
    let version = |name: &str| {
        templates
            .get(name)
            .and_then(Template::needs)
            .map(|needs| needs.comfyui.as_str())
    };
    assert_eq!(version("qwen-image-2.1-edit"), Some("0.37"));
    assert_eq!(version("qwen-image-2.1-turbo"), Some("0.39"));
    assert_eq!(version("z-image-turbo"), None);
}

#[test]
fn new_light_keeps_its_word_before_the_prompt() {
    let graph = rendered("qwen-image-edit-2509-relight", &asked(1));
    assert_eq!(
        graph.nodes["trigger"].inputs,
        json!({"string_a": "重新照明,", "string_b": "a red fox in the snow", "delimiter": ""})
            .as_object()
            .unwrap()
            .clone()
    );
    assert_eq!(graph.nodes["positive"].inputs["prompt"], json!(["trigger", 0]));
}

#[test]
fn bindings_of_a_users_that_do_not_go_together_are_told() {
    let graph = json!({"save": {"class_type": "SaveImage", "inputs": {"images": ["save", 0]}}}).to_string();
    let bindings = r#"
        title = "T"
        kind = "edit"
        step = 0
        [control]
        strength = "control.strength"
        edges = "save"
        types = []
        [mask]
        input = "save.mask"
        [size]
        node = "scale"
        [output]
        node = "save"
        images = "images"
    "#;
    let files = [("t.json", graph.as_str()), ("t.bindings.toml", bindings)];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let mistakes = Templates::load(&files).unwrap_err().to_string();
    for word in [
        "control.strength: there is no node `control`",
        "control.edges: node `save` (SaveImage) has no input `image`",
        "mask.input: node `save` (SaveImage) has no input `mask`",
        "size.node: there is no node `scale`",
        "step is 0",
        "control.types names none",
        "control needs images.nodes",
    ] {
        assert!(mistakes.contains(word), "{word}: {mistakes}");
    }
    let unknown = bindings.replace("types = []", "types = [\"segmentation\"]");
    let files = [("t.json".to_owned(), graph), ("t.bindings.toml".to_owned(), unknown)].into();
    let mistakes = Templates::load(&files).unwrap_err().to_string();
    assert!(mistakes.contains("unknown variant `segmentation`"), "{mistakes}");
}
