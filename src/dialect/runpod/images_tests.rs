//! Entries of `images` that are not right: each is told with its place, and none is left out in silence.

use serde_json::{Value, json};

use super::input::parse;
use crate::job::{JobRequest, Work};

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// The header of a WAV.
const SOUND: &str = "UklGRiQAAABXQVZFZm10IA==";

fn parsed(images: &Value, graph: bool) -> Result<JobRequest, String> {
    let input = if graph {
        json!({"workflow": {"1": {"class_type": "LoadImage", "inputs": {"image": "a"}}}, "images": images})
    } else {
        json!({"prompt": "p", "template": "qwen-image-edit-2511", "images": images})
    };
    let Value::Object(input) = input else { unreachable!() };
    parse(input)
        .map(|(request, _)| request)
        .map_err(|error| error.full_text())
}

#[test]
fn the_third_of_three_images_is_told_with_its_place() {
    for (third, words) in [
        (json!({"name": "c"}), "needs a `name` and an `image`"),
        (
            json!({"name": "c", "url": "https://example.com/a.png"}),
            "needs a `name` and an `image`",
        ),
        (json!({"name": "c", "data": PIXEL}), "needs a `name` and an `image`"),
        (json!({"name": "c", "image": ""}), "the image `c` is empty"),
        (json!({"name": "", "image": PIXEL}), "the name is empty"),
        (json!(""), "the image `image_3` is empty"),
        (json!("  "), "the image `image_3` is empty"),
        (json!(null), "needs a `name` and an `image`"),
        (json!(7), "needs a `name` and an `image`"),
        (json!([PIXEL]), "needs a `name` and an `image`"),
        (json!({"name": "c", "image": [PIXEL]}), "needs a `name` and an `image`"),
        (json!({"name": "b", "image": PIXEL}), "has the name `b` a second time"),
        (json!({"name": "c", "image": &PIXEL[..80]}), "the image `c` is cut off"),
        (
            json!({"name": "c", "image": "aGVsbG8gd29ybGQ="}),
            "is no image that ComfyUI reads",
        ),
    ] {
        for graph in [true, false] {
            let images = json!([PIXEL, {"name": "b", "image": PIXEL}, third]);
            let told = parsed(&images, graph).unwrap_err();
            assert!(told.contains("images[2]") && told.contains(words), "{third}: {told}");
        }
    }
}

#[test]
fn a_graph_takes_audio_and_a_template_does_not() {
    let images = json!([{"name": "a.wav", "image": SOUND}]);
    assert_eq!(parsed(&images, true).unwrap().images.len(), 1);
    let told = parsed(&images, false).unwrap_err();
    assert!(
        told.contains("images[0]") && told.contains("is an audio file (audio/x-wav) and no picture"),
        "{told}"
    );
    // Weights are for nobody.
    let weights = json!([{"name": "a.safetensors", "image": "QAAAAAAAAAB7Il9fbWV0YWRhdGFfXyI6e319"}]);
    let told = parsed(&weights, true).unwrap_err();
    assert!(told.contains("a file of weights (safetensors)"), "{told}");
}

#[test]
fn a_mask_goes_with_the_first_image() {
    let read = |more: Value| {
        let mut input = json!({"prompt": "p", "template": "qwen-image-edit-2511"});
        let (Some(input), Value::Object(more)) = (input.as_object_mut(), more) else {
            unreachable!()
        };
        input.extend(more);
        parse(input.clone()).map(|(request, _)| request)
    };
    let request = read(json!({"images": [PIXEL], "mask": PIXEL, "denoise": 0.5})).unwrap();
    let Work::Template(template) = &request.work else {
        panic!("a prompt")
    };
    assert_eq!((template.mask.as_deref(), template.denoise), (Some("mask"), Some(0.5)));
    assert_eq!(request.mask().map(|mask| mask.name.as_str()), Some("mask"));
    assert_eq!(request.images.len(), 2);
    assert_eq!(request.warnings, [""; 0]);
    // Whether one that is fetched fits is looked at later.
    assert!(read(json!({"images": [PIXEL], "mask": "https://example.com/mask.png"})).is_ok());
    for (more, words) in [
        (json!({"mask": PIXEL}), "mask: is the mask of an image"),
        (json!({"images": [PIXEL], "mask": "!"}), "mask: "),
        (json!({"images": [PIXEL], "mask": 7}), "mask: must be a string"),
        (
            json!({"images": [{"name": "mask", "image": PIXEL}], "mask": PIXEL}),
            "mask: has the name of an image",
        ),
        (json!({"images": [PIXEL], "denoise": 1.5}), "denoise: must be a number"),
    ] {
        let error = read(more.clone()).unwrap_err();
        assert!(error.full_text().contains(words), "{more}: {}", error.full_text());
        assert!(error.field.is_some(), "{more}");
    }
}
