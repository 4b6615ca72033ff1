//! What a request says and nobody asked for: fields that are not known, graphs in the wrong place. Nothing of it is dropped
//! without a word, and what would change the picture is an error.

use serde_json::{Map, Value};

use super::fields::ENTRY_FIELDS;
use crate::dialect::field::names;
use crate::dialect::fields::Fields;
use crate::error::JobError;
use crate::json;
use crate::workflow::Graph;

/// What people call an image of the request elsewhere, without what is no letter.
const IMAGES: &[&str] = &[
    "image",
    "imagepath",
    "imagefile",
    "imageurl",
    "imageurls",
    "imageuri",
    "imagedata",
    "imagebase",
    "imageb",
    "baseimage",
    "img",
    "imgurl",
    "inputimage",
    "inputimages",
    "inputimageurl",
    "initimage",
    "initimages",
    "initimg",
    "sourceimage",
    "refimage",
    "refimages",
    "referenceimage",
    "referenceimages",
    "controlimage",
    "startimage",
    "endimage",
    "firstframe",
    "lastframe",
    "mask",
    "maskimage",
    "maskpath",
    "maskurl",
    "maskb",
    "maskbase",
];
/// What people call another file of the request.
const FILES: &[&str] = &[
    "audio",
    "audiopath",
    "audiofile",
    "audiourl",
    "audiourls",
    "audiodata",
    "audiobase",
    "inputaudio",
    "refaudio",
    "referenceaudio",
    "video",
    "videopath",
    "videofile",
    "videourl",
    "videourls",
    "videodata",
    "videobase",
    "inputvideo",
    "refvideo",
    "referencevideo",
    "file",
    "fileurl",
    "fileurls",
    "inputfile",
    "inputfiles",
];
/// What people call a size.
const SIZES: &[&str] = &["size", "imagesize", "outputsize", "resolution", "dimensions"];
/// Longer names of fields are no typing mistakes.
const LONGEST_NAME: usize = 100;

/// The error of an `input` in which nothing says what to do.
pub(super) fn without_work(fields: &Fields<'_>) -> JobError {
    let error = JobError::invalid("`input` has neither `workflow` nor `prompt`");
    if fields.is_graph() {
        return error.hint("It holds a graph itself; a graph belongs into `input.workflow`");
    }
    let hint = "Put a ComfyUI workflow into `input.workflow`, or what you want to see into `input.prompt`";
    let unknown = fields.unknown();
    if unknown.is_empty() {
        return error.hint(hint);
    }
    error.hint(format!("{hint}. Besides, {}", unknown.join("; ")))
}

/// Complains about fields that are not known and name an image, a file or a size: without them the picture is another.
/// `right_place` stands before the names of the fields to send instead.
pub(super) fn unasked(fields: &mut Fields<'_>, right_place: &str, beside_graph: bool) {
    let strange: Vec<String> = fields
        .strange()
        .filter(|name| fields.says_something(name))
        .filter(|name| name.len() <= LONGEST_NAME)
        .map(str::to_owned)
        .collect();
    for name in strange {
        // `image_2`, `imageUrl`, `IMAGE-PATH`
        let plain: String = name.chars().filter(char::is_ascii_alphabetic).collect();
        let plain = plain.to_ascii_lowercase();
        if IMAGES.contains(&plain.as_str()) {
            let what = if plain.contains("mask") {
                format!(
                    "is not known: beside a prompt send it as `{right_place}mask`; a graph loads it as an image of `{right_place}images`"
                )
            } else {
                format!(
                    "is not known: send images in `{right_place}images`, as [{{\"name\": \"a.png\", \"image\": \"…\"}}] with base64, a data URI or a URL"
                )
            };
            fields.problem(&name, what);
        } else if FILES.contains(&plain.as_str()) && beside_graph {
            let what = format!(
                "is not known: send files in `{right_place}files`, as [{{\"name\": \"a.wav\", \"file\": \"…\"}}] with base64, a data URI or a URL"
            );
            fields.problem(&name, what);
        } else if SIZES.contains(&plain.as_str()) && !beside_graph {
            fields.problem(
                &name,
                format!(
                    "is not known: say the size by `{right_place}width` and `{right_place}height`, or `{right_place}aspect_ratio`"
                ),
            );
        }
    }
}

/// Whether the prompt is a graph, or the text of one.
pub(super) fn is_graph(prompt: &Value) -> bool {
    match prompt {
        Value::String(text) if text.trim_start_matches('\u{feff}').trim_start().starts_with('{') => {
            json::read(text.as_bytes()).is_ok_and(|value| Graph::is_meant_by(&value))
        }
        other => Graph::is_meant_by(other),
    }
}

/// Whether an image of a request, which has no name, has something in its place.
pub(super) fn misnamed(image: &Map<String, Value>) -> Option<&str> {
    let known = names(ENTRY_FIELDS);
    let mut strange = image.iter().filter(|(field, value)| {
        let is_known = known.contains(&field.as_str());
        let field = field.to_ascii_lowercase();
        value.is_string() && !is_known && (field.contains("name") || field.contains("file"))
    });
    strange.next().map(|(field, _)| field.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parse;
    use super::*;
    use crate::job::Work;

    const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC";

    fn graph() -> Value {
        json!({"9": {"class_type": "SaveImage", "inputs": {}}})
    }

    fn read(body: &Value) -> Result<crate::job::JobRequest, String> {
        let read = parse(body.to_string().as_bytes());
        read.map(|(request, _)| request).map_err(|error| error.full_text())
    }

    #[track_caller]
    fn refused(body: &Value, words: &str) {
        let error = read(body).expect_err("refused");
        assert!(error.contains(words), "`{words}` is not in: {error}");
    }

    #[track_caller]
    fn warned(body: &Value, words: &[&str]) {
        let warnings = read(body).expect("taken").warnings;
        assert_eq!(warnings.len(), words.len(), "{warnings:?}");
        for (warning, word) in warnings.iter().zip(words) {
            assert!(warning.contains(word), "`{word}` is not in: {warning}");
        }
    }

    #[test]
    fn what_would_change_the_picture_is_refused() {
        for (field, words) in [
            ("image_path", "image_path: is not known: send images in `images`"),
            ("imageUrl", "imageUrl: is not known: send images in `images`"),
            (
                "mask_image",
                "mask_image: is not known: beside a prompt send it as `mask`",
            ),
            ("image_size", "image_size: is not known: say the size by `width`"),
        ] {
            refused(&json!({"input": {"prompt": "x", field: "a"}}), words);
            for nothing in [json!(""), json!(null), json!([]), json!(false)] {
                assert!(
                    read(&json!({"input": {"prompt": "x", field: nothing}})).is_ok(),
                    "{field}"
                );
            }
        }
        refused(
            &json!({"input": {"workflow": graph(), "mask": PIXEL}}),
            "mask: has no place in a graph",
        );
        refused(
            &json!({"input": {"prompt": "x", "mask": PIXEL}}),
            "mask: is the mask of an image",
        );
        refused(
            &json!({"input": {"prompt": "x", "images": [PIXEL], "mask": PIXEL}}),
            "mask: the mask has no transparency",
        );
        refused(
            &json!({"input": {"workflow": graph(), "init_image": "a"}}),
            "init_image: is not known",
        );
        refused(
            &json!({"input": {"workflow": graph(), "audio_url": "a"}}),
            "audio_url: is not known: send files in `files`",
        );
        refused(
            &json!({"input": {"workflow": graph()}, "videos": ["a"]}),
            "videos: stands beside `input` and belongs into it",
        );
        warned(
            &json!({"input": {"workflow": graph(), "image_size": "1x1"}}),
            &["`image_size` is not known"],
        );
        refused(
            &json!({"input": {"workflow": graph()}, "images": [{"image": PIXEL}]}),
            "images: stands beside `input` and belongs into it",
        );
        refused(
            &json!({"input": {"workflow": graph()}, "width": 512}),
            "width: stands beside `input`",
        );
    }

    #[test]
    fn what_would_change_the_picture_is_refused_beside_the_input_too() {
        for field in ["image", "image_url", "mask", "size"] {
            let words = format!("{field}: stands beside `input` and belongs into it");
            refused(&json!({"input": {"prompt": "x"}, field: "a"}), &words);
        }
        for (field, words) in [
            ("image_path", "image_path: is not known: send images in `input.images`"),
            ("init_image", "init_image: is not known: send images in `input.images`"),
            (
                "mask_url",
                "mask_url: is not known: beside a prompt send it as `input.mask`",
            ),
            ("image_size", "image_size: is not known: say the size by `input.width`"),
        ] {
            refused(&json!({"input": {"prompt": "x"}, field: "a"}), words);
            for nothing in [json!(""), json!(null), json!([]), json!(false)] {
                assert!(
                    read(&json!({"input": {"prompt": "x"}, field: nothing})).is_ok(),
                    "{field}"
                );
            }
        }
        warned(
            &json!({"input": {"workflow": graph()}, "image_size": "1x1"}),
            &["`image_size` is not known"],
        );
    }

    #[test]
    fn what_changes_nothing_is_told() {
        warned(
            &json!({"input": {"prompt": "x", "length": 81, "promt": "y"}}),
            &["`length` is not known", "did you mean `prompt`?"],
        );
        warned(
            &json!({"input": {"prompt": "x"}, "steps": 4, "stepz": 4, "callback": 1}),
            &[
                "`steps` stands beside `input`, where it has no effect",
                "`stepz`",
                "`callback`",
            ],
        );
        warned(
            &json!({"input": {"workflow": graph(), "seed": 1, "steps": 2}}),
            &["`seed`, `steps` has no effect beside `workflow`"],
        );
        warned(
            &json!({"input": {"prompt": "x", "loras": [{"name": "a", "weight": 1, "strength": 1}],
                "images": [{"name": "a.png", "image": PIXEL, "kind": "photo"}]}}),
            &["`kind` in images[0]", "`weight` in loras[0]"],
        );
        let bucket = json!({"endpointUrl": "https://a.example", "accessId": "a", "accessSecret": "b", "prefix": "c"});
        warned(
            &json!({"input": {"prompt": "x", "s3Config": bucket}}),
            &["`s3Config.prefix` is not known"],
        );
        refused(
            &json!({"input": {"workflow": graph(), "images": [{"filename": "a.png", "image": PIXEL}]}}),
            "images[0]: `filename` is not known; what the graph calls the image stands in `name`",
        );
    }

    #[test]
    fn a_graph_in_the_wrong_place_is_told_where_it_belongs() {
        for prompt in [graph(), json!(graph().to_string()), json!({"nodes": [], "links": []})] {
            refused(&json!({"input": {"prompt": prompt}}), "a graph belongs into `workflow`");
        }
        refused(&json!({"input": graph()}), "a graph belongs into `input.workflow`");
        assert!(read(&json!({"input": {"prompt": "{a fox} in {snow|rain}"}})).is_ok());
    }

    #[test]
    fn a_graph_in_a_text_is_read_as_one_in_a_body_is() {
        let text = format!("\u{feff}{}", graph());
        assert!(read(&json!({"input": {"workflow": text}})).is_ok());
        let body =
            r#"{"input": {"workflow": {"1": {"class_type": "A", "inputs": {"cfg": NaN}, "is_changed": [NaN]}}}}"#;
        let (request, _) = parse(body.as_bytes()).expect("taken");
        let Work::Workflow(graph) = request.work else {
            panic!("a graph")
        };
        assert_eq!(
            serde_json::to_value(graph).unwrap(),
            json!({"1": {"class_type": "A", "inputs": {"cfg": "NaN"}}})
        );
        let error = parse(br#"{"input": {"prompt": NaN}}"#).unwrap_err();
        assert!(error.message.contains("`input.prompt` is NaN"), "{error}");
    }

    #[test]
    fn a_seed_of_minus_one_is_any_seed() {
        let request = read(&json!({"input": {"prompt": "x", "seed": -1}})).expect("taken");
        let Work::Template(template) = request.work else {
            panic!("a prompt")
        };
        assert_eq!(template.seed, None);
    }

    #[test]
    fn nothing_long_comes_back() {
        let long = "x\n".repeat(200_000);
        for input in [
            json!({"prompt": "x", "template": 7, long.clone(): 1}),
            json!({"prompt": "x", "aspect_ratio": long}),
            json!({"prompt": "x", "output_format": long}),
            json!({"prompt": "x", "return_images_as": long}),
            json!({"prompt": "x", "stream": long}),
            json!({"prompt": long}),
            json!({"prompt": "x", "images": [{"image": format!("ftp://{long}")}]}),
            json!({"prompt": "x", "images": [{"name": long, "image": PIXEL}]}),
            json!({"prompt": "x", "images": [{"image": PIXEL, "name": 7, long.clone(): 7}]}),
            json!({"workflow": {long.clone(): {"class_type": "A", "inputs": {}}}}),
            json!({"workflow": {"1": {"inputs": {}, "_meta": {"title": long}}}}),
            json!({"workflow": long}),
            json!(long),
        ] {
            let error = read(&json!({ "input": input })).expect_err("refused");
            assert!(error.len() < 1_000, "{} bytes: {error:.300}", error.len());
            assert!(!error.contains("x\nx"), "{error}");
        }
    }
}
