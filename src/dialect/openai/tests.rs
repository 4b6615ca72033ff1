//! Requests as they come in.

mod answered;
mod refused;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::dialect::part::Part;
use crate::error::{ErrorKind, JobError};
use crate::job::{ImageContent, TemplateRequest, Work};

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const OPTIONS: Options = Options {
    url_form: ReturnImagesAs::Metadata,
    data_uri: false,
};

fn asked(operation: Operation, body: &Value) -> Result<Asked, JobError> {
    parse(operation, Body::Json(Bytes::from(body.to_string())), OPTIONS)
}

fn generate(body: &Value) -> Asked {
    asked(Operation::Generate, body).unwrap_or_else(|error| panic!("{}", error.full_text()))
}

fn template(asked: &Asked) -> &TemplateRequest {
    match &asked.request.work {
        Work::Template(template) => template,
        Work::Workflow(_) | Work::Saved(_) => panic!("a graph"),
    }
}

fn part(name: &str, content: impl Into<Bytes>) -> Part {
    Part {
        name: name.to_owned(),
        is_file: false,
        content: content.into(),
    }
}

fn file(name: &str) -> Part {
    use base64::Engine as _;
    let content = base64::engine::general_purpose::STANDARD.decode(PIXEL).unwrap();
    Part {
        is_file: true,
        ..part(name, content)
    }
}

#[test]
fn the_request_of_openais_clients() {
    let asked = generate(&json!({
        "model": "Qwen/Qwen-Image", "prompt": "p", "n": 2, "response_format": "b64_json", "size": "1024x768",
        "seed": 1, "user": "u", "style": "vivid", "moderation": "low", "no_such_field": [1],
    }));
    let expected = TemplateRequest {
        template: Some("qwen-image-lightning".to_owned()),
        prompt: "p".to_owned(),
        seed: Some(1),
        width: Some(1024),
        height: Some(768),
        batch_size: Some(2),
        ..TemplateRequest::default()
    };
    assert_eq!(template(&asked), &expected);
    assert_eq!(asked.request.delivery.return_images_as, Some(ReturnImagesAs::Base64));
    assert!(!asked.reply.is_streamed());
    assert_eq!(
        asked.request.warnings,
        [
            "`style` has no effect: the models have no such setting",
            "the field `no_such_field` is not known and was ignored",
        ]
    );
}

#[test]
fn a_prompt_alone_is_enough() {
    let asked = generate(&json!({"prompt": "p"}));
    let expected = TemplateRequest {
        template: Some("qwen-image-lightning".to_owned()),
        prompt: "p".to_owned(),
        ..TemplateRequest::default()
    };
    assert_eq!(template(&asked), &expected);
    assert_eq!(asked.request.delivery.return_images_as, Some(ReturnImagesAs::Metadata));
}

#[test]
fn quality_chooses_the_template() {
    let chosen = |more: Value| {
        let mut body = json!({"prompt": "p"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        template(&generate(&body)).template.clone().unwrap()
    };
    for (more, name) in [
        (json!({"quality": "low"}), "qwen-image-lightning-4"),
        (json!({"quality": "medium"}), "qwen-image-lightning"),
        (json!({"quality": "standard"}), "qwen-image-lightning"),
        (json!({"quality": "auto"}), "qwen-image-lightning"),
        (json!({"quality": "high"}), "qwen-image"),
        (json!({"quality": "hd"}), "qwen-image"),
        (json!({"quality": "xhigh"}), "qwen-image"),
        (json!({"quality": "max"}), "qwen-image"),
        // What the LoRA cannot do.
        (json!({"steps": 30}), "qwen-image"),
        (json!({"num_inference_steps": 30}), "qwen-image"),
        (json!({"guidance_scale": 4.0}), "qwen-image"),
        (json!({"negative_prompt": "blur"}), "qwen-image"),
        (json!({"steps": 6, "guidance_scale": 1}), "qwen-image-lightning"),
        (json!({"steps": 30, "quality": "medium"}), "qwen-image-lightning"),
        (json!({"model": "Qwen/Qwen-Image-2512"}), "qwen-image-2512-lightning-4"),
        (json!({"image": PIXEL}), "qwen-image-edit-2511-lightning-4"),
        (
            json!({"image": PIXEL, "model": "Qwen/Qwen-Image-Edit", "quality": "high"}),
            "qwen-image-edit",
        ),
    ] {
        assert_eq!(chosen(more.clone()), name, "{more}");
    }
}

#[test]
fn a_seed_of_minus_one_is_a_random_one() {
    for seed in [json!(-1), json!(-1.0), Value::Null] {
        assert_eq!(template(&generate(&json!({"prompt": "p", "seed": seed}))).seed, None);
    }
    assert_eq!(template(&generate(&json!({"prompt": "p", "seed": 0}))).seed, Some(0));
}

#[test]
fn images_come_as_text_objects_and_lists() {
    for images in [
        json!({"image": PIXEL}),
        json!({"image": [PIXEL]}),
        json!({"image": format!("data:image/png;base64,{PIXEL}")}),
        json!({"images": [{"image_url": PIXEL}]}),
        json!({"images": [{"image_url": {"url": PIXEL}}]}),
    ] {
        let mut body = json!({"prompt": "p"});
        body.as_object_mut()
            .unwrap()
            .extend(images.as_object().unwrap().clone());
        let asked = asked(Operation::Edit, &body).unwrap_or_else(|error| panic!("{images}: {error}"));
        assert_eq!(asked.request.images.len(), 1, "{images}");
        assert!(matches!(asked.request.images[0].content, ImageContent::Here(_)));
    }
    let body = json!({"prompt": "p", "image": ["https://example.com/a.png", PIXEL], "mask": PIXEL});
    let asked = asked(Operation::Edit, &body).unwrap();
    let names: Vec<_> = asked.request.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["image_1", "image_2", "mask"]);
    assert!(matches!(asked.request.images[0].content, ImageContent::At(_)));
    assert_eq!(template(&asked).mask.as_deref(), Some("mask"));
}

#[test]
fn a_form_is_read_as_json_is() {
    let parts = vec![
        part("prompt", "p"),
        part("model", "Qwen/Qwen-Image-Edit-2509"),
        part("n", "2"),
        part("seed", "7"),
        part("guidance_scale", "4"),
        part("stream", "True"),
        part("partial_images", "1"),
        part("size", "512x256"),
        file("image[]"),
        file("image[]"),
        file("mask"),
        part("image", ""),
    ];
    let asked = parse(Operation::Edit, Body::Form(parts), OPTIONS).unwrap();
    assert_eq!(asked.request.images.len(), 3);
    assert_eq!(asked.reply.stream, Some(1));
    let expected = TemplateRequest {
        template: Some("qwen-image-edit-2509".to_owned()),
        prompt: "p".to_owned(),
        seed: Some(7),
        cfg: Some(4.0),
        width: Some(512),
        height: Some(256),
        batch_size: Some(2),
        mask: Some("mask".to_owned()),
        ..TemplateRequest::default()
    };
    assert_eq!(template(&asked), &expected);
}

#[test]
fn a_file_in_a_form_that_no_field_takes_is_refused() {
    let parts = vec![part("prompt", "p"), file("image"), file("markup")];
    let error = parse(Operation::Edit, Body::Form(parts), OPTIONS).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("markup"));
    // Browsers send an empty one for a field that nobody filled in.
    let empty = Part {
        content: Bytes::new(),
        ..file("markup")
    };
    let parts = vec![part("prompt", "p"), file("image"), empty];
    assert!(parse(Operation::Edit, Body::Form(parts), OPTIONS).is_ok());
}

#[test]
fn a_variation_needs_no_prompt() {
    let asked = parse(Operation::Vary, Body::Form(vec![file("image")]), OPTIONS).unwrap();
    assert_eq!(
        template(&asked).template.as_deref(),
        Some("qwen-image-edit-2511-lightning-4")
    );
    assert_eq!(template(&asked).prompt, input::VARIATION);
}

#[test]
fn compression_is_the_quality_of_what_has_one() {
    let quality = |format: &str, compression: u32| {
        let body = json!({"prompt": "p", "output_format": format, "output_compression": compression});
        generate(&body).request.delivery.quality
    };
    assert_eq!(quality("webp", 80), Some(80));
    assert_eq!(quality("jpeg", 0), Some(1));
    assert_eq!(quality("png", 80), None);
}

#[test]
fn the_list_of_models() {
    let body: Value = serde_json::from_slice(&models().to_vec()).unwrap();
    assert_eq!(body["object"], "list");
    assert_eq!(
        body["data"][0],
        json!({"id": "Qwen/Qwen-Image", "object": "model", "created": 0, "owned_by": "qwen"})
    );
}

#[test]
fn the_schemas_agree_with_the_parser() {
    for operation in [Operation::Generate, Operation::Edit, Operation::Vary] {
        crate::dialect::schema::tests::agrees(request(operation), |body| {
            parse(operation, Body::Json(body.to_string().into()), OPTIONS).is_ok()
        });
        let example = crate::dialect::schema::tests::example(&super::form(operation));
        let fields = example.as_object().unwrap().iter();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut parts: Vec<_> = fields.map(|(name, value)| part(name, text(value))).collect();
        parts.push(file("image"));
        let asked = parse(operation, Body::Form(parts), OPTIONS);
        assert!(asked.is_ok(), "{asked:?}");
    }
}
