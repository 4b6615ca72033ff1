//! What the check finds in the values and links of a graph, and what it lets pass.

use serde_json::{Value, json};

use super::*;
use crate::workflow::testing::{changed, schemas};

fn failure(graph: &Graph) -> CheckFailure {
    let models = ModelCatalog::builtin().expect("the catalogue");
    check(graph, &schemas(), &models).expect_err("something wrong")
}

/// What the user reads about the example graph after a change.
pub(super) fn told(change: impl FnOnce(&mut Value)) -> String {
    failure(&changed(change)).error.full_text()
}

fn passes(change: impl FnOnce(&mut Value)) {
    let models = ModelCatalog::builtin().expect("the catalogue");
    check(&changed(change), &schemas(), &models).expect("nothing wrong");
}

#[test]
fn the_example_passes() {
    passes(|_| ());
}

#[test]
fn everything_wrong_is_told_at_once_node_by_node() {
    let text = told(|graph| {
        graph["3"]["inputs"]["steps"] = json!(0);
        graph["3"]["inputs"]["cfg"] = json!("high");
        graph["3"]["inputs"]["sampler_name"] = json!("eular");
        graph["3"]["inputs"]["latent_image"] = json!(["58", 1]);
        graph["6"]["inputs"] = json!({"texts": "a fox", "clip": ["88", 0]});
        graph["8"]["class_type"] = json!("VAEDecoder");
        graph["38"]["inputs"]["type"] = json!(["37", 0]);
        graph["39"]["inputs"] = json!({});
        graph["58"]["inputs"]["width"] = json!(-1);
        graph["58"]["inputs"]["height"] = json!(100_000);
        graph["58"]["inputs"]["batch_size"] = json!(5000);
        graph["66"]["inputs"]["model"] = json!(["6", 0]);
        graph["60"]["inputs"]["images"] = json!([8, 0]);
    });
    insta::assert_snapshot!(text);
}

#[test]
fn a_missing_model_comes_first_with_what_to_do() {
    let graph = changed(|graph| {
        graph["3"]["inputs"]["steps"] = json!(0);
        graph["37"]["inputs"]["unet_name"] = json!("qwen_image_edit_2511_bf16.safetensors");
        graph["38"]["inputs"]["clip_name"] = json!("umt5_xxl.safetensors");
        graph["73"]["inputs"]["lora_name"] = json!("Qwen-Image-Lightning-8steps.safetensors");
    });
    let failure = failure(&graph);
    assert_eq!(failure.error.kind, ErrorKind::ModelMissing);
    insta::assert_snapshot!(failure.error.full_text());
}

#[test]
fn nothing_installed_is_told_as_such() {
    let mut schemas = schemas();
    let unet = json!({"input": {"required": {"unet_name": [[]], "weight_dtype": [["default"]]}},
        "output": ["MODEL"], "python_module": "nodes"});
    schemas
        .classes
        .insert("UNETLoader".to_owned(), ClassSpec::parse("UNETLoader", &unet).into());
    let models = ModelCatalog::builtin().expect("the catalogue");
    let failure = check(&changed(|_| ()), &schemas, &models).expect_err("no model");
    insta::assert_snapshot!(failure.error.full_text());
}

#[test]
fn seeds_beyond_64_bits_and_words_are_refused() {
    for (seed, expected) in [
        (json!(-1), "-1 is out of range"),
        (json!(18_446_744_073_709_551_616.0), "is out of range"),
        (json!("abc"), "\"abc\" is not a whole number"),
        (json!(null), "null is not a whole number"),
    ] {
        let text = told(|graph| graph["3"]["inputs"]["seed"] = seed);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("node 3 (KSampler), seed"), "{text}");
    }
    passes(|graph| graph["3"]["inputs"]["seed"] = json!(u64::MAX));
}

#[test]
fn what_comfyui_converts_passes() {
    passes(|graph| {
        graph["3"]["inputs"]["steps"] = json!("8");
        graph["3"]["inputs"]["cfg"] = json!("1e0");
        graph["3"]["inputs"]["denoise"] = json!(true);
        graph["58"]["inputs"]["width"] = json!({"__value__": 1000});
        graph["58"]["inputs"]["height"] = json!(1000.9);
        graph["6"]["inputs"]["text"] = json!(7);
        graph["8"]["inputs"]["samples"] = json!(["3", -1]);
        graph["60"]["inputs"]["unknown"] = json!([1, 2, 3]);
        graph["60"]["inputs"]["prompt"] = json!(null);
    });
}

#[test]
fn problems_that_no_output_reaches_are_left_alone() {
    passes(|graph| {
        graph["100"] = json!({"class_type": "KSampler", "inputs": {"steps": -5, "model": ["999", 0]}});
        graph["101"] = json!({"class_type": "VAEDecode", "inputs": {"samples": ["102", 0]}});
        graph["102"] = json!({"class_type": "VAEDecode", "inputs": {"samples": ["101", 0]}});
        graph["103"] = json!({"class_type": "LoadImage", "inputs": {"image": "gone.png"}});
    });
}

#[test]
fn links_in_inputs_that_a_class_does_not_have_count_when_they_lead_nowhere() {
    let text = told(|graph| graph["8"]["inputs"]["extra"] = json!(["999", 0]));
    assert!(text.contains("node 8 (VAEDecode), extra: links to node 999"), "{text}");
    // The node behind it runs, but ComfyUI does not look at its inputs.
    passes(|graph| {
        graph["100"] = json!({"class_type": "EmptyLatentImage", "inputs": {"width": 1_000_000}});
        graph["8"]["inputs"]["extra"] = json!(["100", 0]);
    });
}

#[test]
fn a_cycle_is_drawn() {
    insta::assert_snapshot!(told(|graph| graph["66"]["inputs"]["model"] = json!(["3", 0])));
}

#[test]
fn a_cycle_by_an_extra_input_counts_too() {
    let text = told(|graph| graph["3"]["inputs"]["extra"] = json!(["8", 0]));
    assert!(text.contains("3 (KSampler) -> 8 (VAEDecode) -> 3 (KSampler)"), "{text}");
}

#[test]
fn a_graph_without_output_is_told_what_it_lacks() {
    let text = told(|graph| {
        graph.as_object_mut().expect("an object").shift_remove("60");
        graph["3"]["inputs"]["steps"] = json!(0);
    });
    insta::assert_snapshot!(text);
}

#[test]
fn an_image_that_is_not_there_is_asked_for() {
    let with_image = |name: &str| {
        let name = name.to_owned();
        move |graph: &mut Value| {
            graph["100"] = json!({"class_type": "LoadImage", "inputs": {"image": name}});
            graph["60"]["inputs"]["images"] = json!(["100", 0]);
        }
    };
    let failure = failure(&changed(with_image("exemple.png")));
    insta::assert_snapshot!(failure.error.full_text());
    let text = told(|graph| {
        with_image("")(graph);
        graph["100"]["inputs"]["image"] = json!(7);
    });
    assert!(text.contains("is a number, and takes the name of an image"), "{text}");
    // Folders and other places are not in the list; ComfyUI looks for itself.
    for name in ["example.png", "job-1/cat.png", "cat.png [output]", "data.npy"] {
        passes(with_image(name));
    }
}

#[test]
fn growing_inputs_are_followed_and_never_missing() {
    let with_batch = |inputs: Value| {
        move |graph: &mut Value| {
            graph["100"] = json!({"class_type": "BatchImagesNode", "inputs": inputs});
            graph["60"]["inputs"]["images"] = json!(["100", 0]);
        }
    };
    passes(with_batch(
        json!({"images.image0": ["8", 0], "images.image1": ["8", 0]}),
    ));
    passes(with_batch(json!({})));
    let text = told(|graph| {
        with_batch(json!({"images.image0": ["8", 0]}))(graph);
        graph["3"]["inputs"]["steps"] = json!(0);
    });
    assert!(text.contains("node 3 (KSampler), steps"), "{text}");
    let text = told(with_batch(json!({"images.image0": [8, 0]})));
    assert!(text.contains("images.image0: is no link"), "{text}");
}

#[test]
fn values_are_cut_and_lists_end() {
    let text = told(|graph| graph["3"]["inputs"]["steps"] = json!("x".repeat(1_000_000)));
    assert!(text.len() < 1000, "{}", text.len());
    let text = told(|graph| {
        for id in 0..1000 {
            graph[format!("x{id}")] = json!({"class_type": "SaveImage", "inputs": {}});
        }
    });
    assert!(text.contains("and 1950 more"), "{text}");
}

#[test]
fn a_text_that_no_name_is_as_long_as_is_refused_at_once_and_short() {
    let base64 = "iVBORw0KGgo".repeat(100_000);
    let text = told(|graph| {
        graph["39"]["inputs"]["vae_name"] = json!(format!("{base64}.safetensors"));
        graph["100"] = json!({"class_type": "LoadImage", "inputs": {"image": base64}});
        graph["101"] =
            json!({"class_type": "LoadImage", "inputs": {"image": format!("data:image/png;base64,{base64}")}});
        graph["102"] = json!({"class_type": "LoadImage", "inputs": {"image": "https://example.com/cat.png"}});
        graph["103"] = json!({"class_type": "LoadImage", "inputs": {"image": format!("{}.png", "a".repeat(256))}});
        // A small picture, of which each part would do as a name.
        graph["104"] = json!({"class_type": "LoadImage", "inputs": {"image": "/9j/4AAQSkZJRg".repeat(20)}});
        for id in ["100", "101", "102", "103", "104"] {
            graph[format!("1{id}")] =
                json!({"class_type": "SaveImage", "inputs": {"images": [id, 0], "filename_prefix": "x"}});
        }
    });
    assert!(text.len() < 4_000, "{text}");
    for word in [
        "node 104 (LoadImage), image: \"/9j/4AAQSkZJRg",
        "node 39 (VAELoader), vae_name: \"iVBOR",
        "has 1100012 bytes, which is longer than any name",
        "looks like base64, and the input takes a name: upload the file",
        "is a data URI, and the input takes a name: upload the file",
        "\"https://example.com/cat.png\" is an address, and the input takes a name: upload the file by `/upload/image`",
        "has 260 bytes, which is longer than any name",
    ] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert_eq!(text.matches("looks like base64").count(), 2, "{text}");
    assert!(!text.contains("Failed to load model"), "{text}");
}

#[test]
fn a_random_seed_in_a_graph_is_told_how_to_write_one() {
    let text = told(|graph| graph["3"]["inputs"]["seed"] = json!(-1));
    assert!(text.contains("There is no random seed in a graph"), "{text}");
    let text = told(|graph| graph["3"]["inputs"]["steps"] = json!(-1));
    assert!(!text.contains("random"), "{text}");
}

#[test]
fn a_model_that_is_there_under_another_name_is_named_and_not_offered() {
    for name in ["Qwen\\qwen_image_vae.safetensors", "vae/Qwen_Image_VAE.safetensors"] {
        let text = told(|graph| graph["39"]["inputs"]["vae_name"] = json!(name));
        assert!(
            text.contains("under that name: write `qwen_image_vae.safetensors`") && !text.contains("https://"),
            "{text}"
        );
    }
    let text = told(|graph| graph["39"]["inputs"]["vae_name"] = json!(""));
    assert!(
        !text.contains("Failed to load model") && text.contains("\"\" is not one of its values"),
        "{text}"
    );
}

#[test]
fn no_part_of_a_graph_is_repeated_whole() {
    let long = "y\n".repeat(100_000);
    let text = told(|graph| {
        graph["3"]["inputs"]["sampler_name"] = json!(long);
        graph["8"]["inputs"][long.as_str()] = json!(["999", 0]);
        graph["60"]["inputs"]["images"] = json!([long, 0]);
        graph["100"] = json!({"class_type": long, "inputs": {}});
        graph["73"]["inputs"]["lora_name"] = json!(long);
    });
    assert!(text.len() < 3_500, "{}: {text}", text.len());
    assert!(!text.contains("y\ny"), "{text}");
}
