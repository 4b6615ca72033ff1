//! What the check makes of classes: absent ones, those of custom nodes, and those that a newer ComfyUI describes in new ways.

use serde_json::{Value, json};

use super::tests::told;
use super::*;
use crate::workflow::testing::{changed, schemas};

#[test]
fn an_unknown_class_is_refused_anywhere() {
    let text = told(|graph| {
        graph["100"] = json!({"class_type": "ksampler", "inputs": {}});
        graph["101"] = json!({"class_type": "UltimateSDUpscale", "inputs": {}});
    });
    insta::assert_snapshot!(text);
}

#[test]
fn classes_of_the_page_are_told_as_such() {
    let text = told(|graph| {
        graph["70"] = json!({"class_type": "MarkdownNote", "inputs": {}});
        graph["71"] = json!({"class_type": "Reroute", "inputs": {"": ["8", 0]}});
    });
    assert_eq!(text.matches("it exists on the page only").count(), 2, "{text}");
    assert!(
        text.contains("Workflow > Export (API)") && !text.contains("custom node"),
        "{text}"
    );
}

#[test]
fn whence_a_missing_class_comes_is_told() {
    let pack = || "KJNodes".to_owned();
    let not_asked = |version: Option<&str>, attached| Absence::NotAsked {
        pack: "comfyui-kjnodes".to_owned(),
        version: version.map(str::to_owned),
        attached,
    };
    for (class, absence, words) in [
        (
            "Foo",
            Absence::Broken {
                pack: pack(),
                sure: true,
                failure: "failed to load: No module named 'x'".to_owned(),
                step: Some("Add it.".to_owned()),
            },
            "ComfyUI has no node class \"Foo\": it comes with KJNodes, which failed to load: No module named 'x'. Add it.",
        ),
        (
            "ksampler",
            Absence::Broken {
                pack: pack(),
                sure: false,
                failure: "failed to load: No module named 'x'".to_owned(),
                step: None,
            },
            "did you mean `KSampler`? If not, it may come with KJNodes, which failed to load: No module named 'x'",
        ),
        (
            "Foo",
            Absence::LeftOut {
                pack: pack(),
                version: Some("1.0".to_owned()),
                sure: true,
            },
            "it comes with KJNodes 1.0, which is loaded without it",
        ),
        (
            "Foo",
            Absence::LeftOut {
                pack: pack(),
                version: Some("1.0".to_owned()),
                sure: false,
            },
            "stands in the sources of KJNodes 1.0, which is loaded and did not register such a class",
        ),
        (
            "Foo",
            not_asked(Some("1.1.7"), false),
            "add `comfyui-kjnodes@1.1.7` to CUSTOM_NODES",
        ),
        (
            "Foo",
            not_asked(None, false),
            "add `comfyui-kjnodes@VERSION` to CUSTOM_NODES, with a version",
        ),
        (
            "Foo",
            not_asked(None, true),
            "install them in the ComfyUI at COMFYUI_URL",
        ),
        (
            "ksampler",
            not_asked(Some("1.1.7"), false),
            "did you mean `KSampler`? If not, it comes with comfyui-kjnodes: add",
        ),
        ("Note", not_asked(None, false), "it exists on the page only"),
    ] {
        let mut schemas = schemas();
        schemas.absent.insert(class.to_owned(), absence);
        let graph = changed(|graph| graph["100"] = json!({"class_type": class, "inputs": {}}));
        let failure = check(&graph, &schemas, &ModelCatalog::default()).expect_err("a problem");
        let text = JobError::from(failure).full_text();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn classes_that_packs_may_bring_are_listed_in_the_order_of_the_nodes() {
    let graph = changed(|graph| {
        for (id, class) in [
            ("100", "Zzz"),
            ("101", "Note"),
            ("102", "Aaa"),
            ("103", "Zzz"),
            ("104", "Old"),
        ] {
            graph[id] = json!({"class_type": class, "inputs": {}});
        }
    });
    let mut schemas = schemas();
    schemas.replaced = Arc::new(["Old".to_owned()].into());
    assert_eq!(absent_classes(&graph, &schemas), ["Zzz", "Aaa"]);
}

#[test]
fn a_class_that_comfyui_replaces_passes() {
    let mut replacing = schemas();
    replacing.replaced = Arc::new(["Preview3DAnimation".to_owned()].into());
    let graph = Graph::parse(&json!({
        "1": {"class_type": "Preview3DAnimation", "inputs": {}},
        "2": {"class_type": "KSampler", "inputs": {}},
    }))
    .expect("a graph");
    check(&graph, &replacing, &ModelCatalog::default()).expect("nothing wrong");
    assert!(check(&graph, &schemas(), &ModelCatalog::default()).is_err());
}

#[test]
fn custom_nodes_have_the_last_word_on_ranges_lists_and_types() {
    let mut schemas = schemas();
    let custom = json!({"input": {"required": {
            "size": ["INT", {"min": 1, "max": 8}], "mode": [["a", "b"]], "image": ["IMAGE"]}},
        "output": [], "output_node": true, "python_module": "custom_nodes.mine"});
    schemas
        .classes
        .insert("Mine".to_owned(), ClassSpec::parse("Mine", &custom).into());
    let models = ModelCatalog::default();
    let graph = |size: Value| {
        let inputs = json!({"size": size, "mode": "c", "image": ["2", 0]});
        let value = json!({"1": {"class_type": "Mine", "inputs": inputs},
            "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}});
        Graph::parse(&value).expect("a graph")
    };
    check(&graph(json!(9)), &schemas, &models).expect("nothing certain");
    let failure = check(&graph(json!("nine")), &schemas, &models).expect_err("no number");
    assert_eq!(failure.error.problems.len(), 1);
}

/// `schemas()` and a class of another version.
fn with_class(name: &str, info: &Value) -> Schemas {
    let mut schemas = schemas();
    let spec = ClassSpec::parse(name, info);
    schemas.classes.insert(name.to_owned(), spec.into());
    schemas
}

#[test]
fn what_is_not_understood_of_a_newer_version_is_left_to_it() {
    let models = ModelCatalog::builtin().expect("the catalogue");
    let newer = |input: Value, output: Value| json!({"input": input, "output": output, "output_node": false, "python_module": "comfy_extras.nodes_new"});
    let all = json!({"required": {
            "model": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "a", "inputs": {"required": {"lora_1": ["COMBO", {}]}}}]}],
            "images": ["COMFY_AUTOGROW_V3", {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image"}}],
            "any": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t"}}],
            "slot": ["COMFY_DYNAMICSLOT_V3", {}],
            "curve": ["CURVE", {"socketless": true}],
            "new": {"type": "INT"}},
        "optional": {"later": ["COMFY_LATER_V4", {"x": [1]}], "nothing": null},
        "hidden": {"unique_id": "UNIQUE_ID"}});
    for output in [
        json!(["IMAGE"]),
        json!(["COMFY_MATCHTYPE_V3"]),
        json!([["a", "b"]]),
        json!(["COMFY_OUTPUTS_V4"]),
        json!(null),
    ] {
        let schemas = with_class("NewNode", &newer(all.clone(), output.clone()));
        let graph = changed(|graph| {
            graph["90"] = json!({"class_type": "NewNode", "inputs": {
                "model": "a", "model.lora_1": "x.safetensors", "model.strength": 1.5, "model.clip": ["38", 0],
                "images.image0": ["8", 0], "images.image1": ["8", 0],
                "any": ["8", 0], "slot": ["8", 0], "slot.more": true, "curve": {"points": [[0, 1]]}, "new": "x",
                "later": {"a": 1}, "nothing": null}});
            graph["60"]["inputs"]["images"] = json!(["90", 0]);
        });
        check(&graph, &schemas, &models).unwrap_or_else(|failure| panic!("{output}: {}", failure.error.full_text()));
    }
    // Outputs that grow, or are not told, may have any number.
    for (output, passes) in [
        (json!(["COMFY_OUTPUTS_V4"]), true),
        (json!(null), true),
        (json!(["IMAGE"]), false),
    ] {
        let schemas = with_class("NewNode", &newer(json!({}), output.clone()));
        let graph = changed(|graph| {
            graph["90"] = json!({"class_type": "NewNode", "inputs": {}});
            graph["60"]["inputs"]["images"] = json!(["90", 3]);
        });
        assert_eq!(check(&graph, &schemas, &models).is_ok(), passes, "{output}");
    }
}

#[test]
fn a_class_that_is_described_by_nothing_known_passes() {
    let models = ModelCatalog::builtin().expect("the catalogue");
    for info in [
        json!({}),
        json!(null),
        json!([1]),
        json!({"inputs": [{"name": "a"}], "outputs": [{"type": "IMAGE"}]}),
    ] {
        let schemas = with_class("Odd", &info);
        let graph = changed(|graph| {
            graph["90"] = json!({"class_type": "Odd", "inputs": {"a": ["8", 0], "b": 5}});
            graph["60"]["inputs"]["images"] = json!(["90", 1]);
        });
        check(&graph, &schemas, &models).unwrap_or_else(|failure| panic!("{info}: {}", failure.error.full_text()));
    }
}
