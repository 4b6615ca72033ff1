//! `control`, `layers` and masks in a request.

use serde_json::{Map, Value, json};

use super::input::parse;
use crate::error::JobError;
use crate::job::{ImageContent, JobRequest, TemplateRequest, Work};
use crate::workflow::ControlType;

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

fn read(more: &Value) -> Result<JobRequest, JobError> {
    let mut input: Map<String, Value> = json!({"prompt": "p"}).as_object().unwrap().clone();
    input.extend(more.as_object().unwrap().clone());
    parse(input).map(|(request, _)| request)
}

fn template(request: &JobRequest) -> &TemplateRequest {
    match &request.work {
        Work::Template(template) => template,
        _ => panic!("a graph"),
    }
}

#[test]
fn a_control_picture_is_an_image_of_the_request() {
    let request = read(&json!({"control": {"image": PIXEL, "type": "HED", "strength": 0.75}, "layers": 3})).unwrap();
    let control = template(&request).control.clone().unwrap();
    assert_eq!(control.kind, Some(ControlType::Softedge));
    assert_eq!(
        (control.image.as_deref(), control.strength),
        (Some("control"), Some(0.75))
    );
    assert_eq!(template(&request).layers, Some(3));
    assert_eq!(request.images.len(), 1);
    assert!(request.warnings.is_empty(), "{:?}", request.warnings);

    let url = read(&json!({"control": {"image": "https://example.com/a.png"}})).unwrap();
    assert!(matches!(url.images[0].content, ImageContent::At(_)));
    // As the first of the images, and an empty one as none.
    let first = read(&json!({"images": [PIXEL], "control": {"type": "ready"}})).unwrap();
    assert_eq!(
        template(&first)
            .control
            .as_ref()
            .and_then(|control| control.image.clone()),
        None
    );
    for nothing in [json!({}), Value::Null] {
        assert_eq!(template(&read(&json!({"control": nothing})).unwrap()).control, None);
    }
    // The store has it as it was asked.
    let stored: TemplateRequest = serde_json::from_value(serde_json::to_value(template(&request)).unwrap()).unwrap();
    assert_eq!(&stored, template(&request));
}

#[test]
fn what_is_wrong_with_a_control_picture_is_told_at_its_field() {
    let long = "x".repeat(100_000);
    for (input, field, words) in [
        (json!({"control": {"type": "canny"}}), "control.image", "is missing"),
        (
            json!({"control": {"image": PIXEL, "type": "segmentation"}}),
            "control.type",
            "is none of canny, depth",
        ),
        (
            json!({"control": {"image": PIXEL, "type": long}}),
            "control.type",
            "is none of",
        ),
        (
            json!({"control": {"image": PIXEL, "type": 7}}),
            "control.type",
            "must be",
        ),
        (
            json!({"control": {"image": PIXEL, "strength": "abc"}}),
            "control.strength",
            "must be",
        ),
        (
            json!({"control": {"image": PIXEL, "strength": 99}}),
            "control.strength",
            "from 0 to 10",
        ),
        (
            json!({"control": {"image": PIXEL, "strength": -1}}),
            "control.strength",
            "from 0 to 10",
        ),
        (json!({"control": {"image": "no picture"}}), "control.image", ""),
        (json!({"control": PIXEL}), "control", "must be"),
        (
            json!({"control": {"image": PIXEL}, "images": [{"name": "control", "image": PIXEL}]}),
            "images",
            "another name",
        ),
        (json!({"layers": 0}), "layers", "from 1 to 16"),
        (json!({"layers": 17}), "layers", "from 1 to 16"),
        (json!({"layers": "many"}), "layers", "must be"),
    ] {
        let shown = input.to_string().chars().take(100).collect::<String>();
        let error = read(&input).expect_err(&shown);
        assert_eq!(error.field.as_deref(), Some(field), "{shown}: {}", error.full_text());
        assert!(error.full_text().contains(words), "{shown}: {}", error.full_text());
        assert!(error.full_text().len() < 1_000, "{shown}");
    }
}

#[test]
fn what_is_not_known_of_a_control_picture_is_told_and_a_graph_has_no_place_for_one() {
    let request = read(&json!({"control": {"image": PIXEL, "strenght": 1}})).unwrap();
    assert_eq!(
        request.warnings,
        ["the field `control.strenght` is not known and was ignored; did you mean `strength`?"]
    );
    let graph = json!({"1": {"class_type": "A", "inputs": {}}});
    let input = json!({"workflow": graph, "control": {"image": PIXEL}})
        .as_object()
        .unwrap()
        .clone();
    let error = parse(input).expect_err("nothing takes it");
    assert_eq!(error.field.as_deref(), Some("control"), "{}", error.full_text());
}
