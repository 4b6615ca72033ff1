//! Images and other files of a request. Those that are not right are told with their places, and none is left out in silence.

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

fn with(more: Value, graph: &Value) -> Result<JobRequest, String> {
    let mut input = json!({ "workflow": graph });
    let (Some(input), Value::Object(more)) = (input.as_object_mut(), more) else {
        unreachable!()
    };
    input.extend(more);
    parse(input.clone())
        .map(|(request, _)| request)
        .map_err(|error| error.full_text())
}

#[test]
fn files_audios_and_videos_mean_the_same_as_images() {
    let graph = json!({"1": {"class_type": "LoadAudio", "inputs": {"audio": "a"}}});
    let request = with(
        json!({
            "images": [PIXEL], "image": PIXEL, "files": [SOUND, {"name": "b", "video": SOUND}], "audios": SOUND,
            "videos": {"name": "v.mp4", "image": "https://example.com/v.mp4"},
        }),
        &graph,
    )
    .unwrap();
    let names: Vec<&str> = request.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["image_1", "image_2", "file_1", "b", "audio_1", "v.mp4"]);
    assert_eq!(request.warnings, [""; 0]);
    assert!(request.has_images_to_fetch());
    for (more, words) in [
        (json!({"files": 7}), "files: must be a list of files, or one"),
        (
            json!({"audios": [{"name": "a"}]}),
            "audios[0]: needs a `name` and a `file`",
        ),
        (
            json!({"audios": [{"name": "a", "audio": SOUND, "file": SOUND}]}),
            "audios[0]: holds `file` and `audio`, which mean the same",
        ),
        (
            json!({"videos": [{"filename": "a", "video": SOUND}]}),
            "videos[0]: `filename` is not known; what the graph calls the file stands in `name`",
        ),
        (
            json!({"images": [{"name": "a", "image": PIXEL}], "audios": [{"name": "a", "audio": SOUND}]}),
            "audios[0]: has the name `a` a second time; give each file its own",
        ),
        (
            json!({"files": ["aGVsbG8gd29ybGQ="]}),
            "files[0]: the file `file_1` is no image",
        ),
        (
            json!({"files": ["aGVsbG8gd29ybGQ="]}),
            "A graph takes these too: audio (WAV",
        ),
        (
            json!({"images": vec![PIXEL; 65]}),
            "images: has 65 entries, the limit is 64",
        ),
        (
            json!({"images": vec![PIXEL; 64], "audios": SOUND}),
            "files: has 65 entries together with the other fields",
        ),
    ] {
        let told = with(more, &graph).unwrap_err();
        assert!(told.contains(words), "`{words}` is not in: {told}");
    }
    let told = parse(json!({"prompt": "p", "audios": [SOUND]}).as_object().cloned().unwrap()).unwrap_err();
    let words = "audios[0]: the file `audio_1` is an audio file (audio/x-wav) and no picture";
    assert!(told.full_text().contains(words), "{told}");
}

#[test]
fn a_file_in_the_graph_is_one_of_the_request() {
    let graph = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "https://example.com/a.png"}},
        "2": {"class_type": "LoadAudio", "inputs": {"audio": format!("data:audio/wav;base64,{SOUND}")}},
    });
    let request = with(json!({"images": [PIXEL]}), &graph).unwrap();
    let names: Vec<&str> = request.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["image_1", "graph_1.png", "graph_2.wav"]);
    assert_eq!(request.image_hosts(), ["example.com:443"]);
    let Work::Workflow(changed) = request.work else {
        panic!("a graph")
    };
    assert_eq!(changed.nodes["1"].inputs["image"], "graph_1.png");
    // A graph in a text is one too.
    assert_eq!(with(json!({}), &json!(graph.to_string())).unwrap().images.len(), 2);
    let told = with(
        json!({}),
        &json!({"1": {"class_type": "LoadImage", "inputs": {"image": "data:,x"}}}),
    )
    .unwrap_err();
    assert!(
        told.starts_with("the file in `image` of node 1 (LoadImage) is a data URI that is not base64"),
        "{told}"
    );
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
