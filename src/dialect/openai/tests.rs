//! Requests in, answers out.

mod refused;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::delivery::links::FileLinks;
use crate::dialect::event::Event;
use crate::dialect::links::Links;
use crate::error::{ErrorKind, JobError, Problem};
use crate::job::progress::{PreviewImage, Progress, Stage};
use crate::job::{
    FileKind, ImageContent, JobId, JobState, JobView, Outcome, OutputFile, OutputFolder, TemplateRequest, Work,
};

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
        Work::Workflow(_) => panic!("a graph"),
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

fn view(files: &[(&str, Option<&'static str>, Option<&str>)]) -> JobView {
    let file = |(name, base64, url): &(&str, Option<&'static str>, Option<&str>)| OutputFile {
        node_id: "9".to_owned(),
        kind: FileKind::of(name),
        filename: (*name).to_owned(),
        subfolder: String::new(),
        folder: OutputFolder::Output,
        url: url.map(str::to_owned),
        recoded: None,
        base64: base64.map(Bytes::from),
    };
    let outcome = Outcome {
        files: files.iter().map(file).collect(),
        seed: Some(42),
        ..Outcome::default()
    };
    JobView {
        id: JobId::parse("01234567-89ab-7cde-8f01-23456789abcd").unwrap(),
        policy: Arc::default(),
        state: JobState::Completed,
        progress: Progress::default(),
        position: None,
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_667_997),
        delay: Duration::from_secs(1),
        execution: Duration::from_secs(2),
        result: Some(Ok(Arc::new(outcome))),
    }
}

fn answered(body: &Value, view: &JobView, options: Options) -> Value {
    let asked = parse(Operation::Generate, Body::Json(Bytes::from(body.to_string())), options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = FileLinks::open(folder.path(), LINKS_WORK).unwrap();
    let base = "http://127.0.0.1:8188".parse().unwrap();
    let links = Links {
        files: &files,
        base: &base,
        lifetime: LINKS_WORK,
    };
    let answer = answer(&asked.reply, view, &links).unwrap();
    serde_json::from_slice(&answer.to_vec()).unwrap()
}

#[test]
fn pictures_by_url_and_in_base64() {
    let view = view(&[
        ("a.png", Some("QUJD"), None),
        ("notes.txt", None, None),
        ("b.png", None, Some("https://storage.example.com/b.png")),
    ]);
    let mut body = answered(&json!({"prompt": "p", "size": "64X64"}), &view, OPTIONS);
    let url = body["data"][0]["url"].as_str().unwrap().to_owned();
    // Seven days after the job's end.
    let expected =
        "http://127.0.0.1:8188/files/01234567-89ab-7cde-8f01-23456789abcd/0/a.png?expires=1751272800&signature=";
    assert_eq!(url.split_inclusive("signature=").next(), Some(expected));
    body["data"][0]["url"] = json!("ours");
    assert_eq!(
        body,
        json!({
            "created": 1_750_667_997,
            "data": [{"url": "ours"}, {"url": "https://storage.example.com/b.png"}],
            "size": "64x64", "quality": "medium", "background": "opaque", "output_format": "png", "seed": 42,
            "usage": {
                "input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
                "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
            },
        })
    );
    let inline = json!({"prompt": "p", "response_format": "b64_json"});
    let body = answered(&inline, &view, OPTIONS);
    assert_eq!(
        body["data"],
        json!([{"b64_json": "QUJD"}, {"url": "https://storage.example.com/b.png"}])
    );
    let options = Options {
        data_uri: true,
        ..OPTIONS
    };
    assert_eq!(
        answered(&inline, &view, options)["data"][0]["b64_json"],
        "data:image/png;base64,QUJD"
    );
}

#[test]
fn errors_in_openais_words() {
    let rendered = |status, error: &JobError| -> Value {
        serde_json::from_slice(&render_error(status, error, "req-1").to_vec()).unwrap()
    };
    let error = asked(Operation::Generate, &json!({"prompt": "p", "size": "big"})).unwrap_err();
    assert_eq!(
        rendered(400, &error),
        json!({"error": {
            "message": "Invalid request: size: `big` is no size; write `1024x1024`, or `auto`",
            "type": "invalid_request_error", "param": "size", "code": "invalid_value",
        }})
    );
    let of_template = JobError::invalid("template `x` cannot do what is asked").problems(vec![Problem {
        input: Some("cfg".to_owned()),
        message: "has no place".to_owned(),
        ..Problem::default()
    }]);
    assert_eq!(rendered(400, &of_template)["error"]["param"], "guidance_scale");
    let of_node = JobError::new(ErrorKind::NodeFailed, "boom").problems(vec![Problem {
        node_id: Some("3".to_owned()),
        input: Some("steps".to_owned()),
        message: "boom".to_owned(),
        ..Problem::default()
    }]);
    assert_eq!(rendered(400, &of_node)["error"]["param"], "req-1");
    for (status, kind, code) in [
        (401, ErrorKind::InvalidRequest, "invalid_api_key"),
        (404, ErrorKind::NotFound, "not_found"),
        (413, ErrorKind::TooLarge, "request_too_large"),
        (429, ErrorKind::Busy, "rate_limit_exceeded"),
        (500, ErrorKind::OutOfMemory, "out_of_memory"),
        (503, ErrorKind::Stopping, "service_unavailable"),
    ] {
        assert_eq!(rendered(status, &JobError::new(kind, "x"))["error"]["code"], code);
    }
}

#[test]
fn previews_are_spread_over_the_steps() {
    let asked = generate(&json!({"prompt": "p", "stream": true, "partial_images": 2, "response_format": "url"}));
    assert!(asked.reply.is_streamed());
    assert_eq!(asked.request.delivery.return_images_as, Some(ReturnImagesAs::Base64));
    let folder = tempfile::tempdir().unwrap();
    let files = FileLinks::open(folder.path(), LINKS_WORK).unwrap();
    let base = "http://127.0.0.1:8188".parse().unwrap();
    let links = Links {
        files: &files,
        base: &base,
        lifetime: LINKS_WORK,
    };
    let mut told = Told::default();
    let mut tell = |view: &JobView| -> Vec<(&'static str, Value)> {
        let events = events(&asked.reply, view, &links, "req-1", &mut told);
        let value = |event: Event| (event.name, serde_json::from_str(&event.text()).unwrap());
        events.into_iter().map(value).collect()
    };
    let running = |step: u32| JobView {
        state: JobState::Running,
        progress: Progress {
            stage: Stage::Running,
            step: Some((step, 8)),
            preview: Some(Arc::new(PreviewImage {
                number: step,
                media_type: "image/jpeg".to_owned(),
                image: Bytes::from_static(b"ABC"),
            })),
            ..Progress::default()
        },
        result: None,
        ..view(&[])
    };
    let mut shown = Vec::new();
    for step in [1, 1, 2, 3, 4, 5, 6, 7, 8] {
        shown.extend(
            tell(&running(step))
                .into_iter()
                .map(|(name, event)| (step, name, event)),
        );
    }
    let steps: Vec<_> = shown.iter().map(|(step, ..)| *step).collect();
    assert_eq!(steps, [1, 4]);
    assert_eq!(
        shown[1].2,
        json!({
            "type": "image_generation.partial_image", "b64_json": "QUJD", "partial_image_index": 1,
            "created_at": 1_750_667_997, "size": "auto", "quality": "medium", "background": "opaque",
            "output_format": "jpeg",
        })
    );
    let mut end = tell(&view(&[("a.png", Some("QUJD"), None)]));
    let (name, completed) = end.remove(0);
    assert_eq!((name, &completed["type"]), ("image_generation.completed", &json!(name)));
    assert_eq!(completed["b64_json"], "QUJD");
    assert!(completed["usage"]["total_tokens"].is_u64());
    let failed = JobView {
        state: JobState::Failed,
        result: Some(Err(Arc::new(JobError::new(ErrorKind::NodeFailed, "boom")))),
        ..view(&[])
    };
    let (name, error) = tell(&failed).remove(0);
    assert_eq!((name, &error["error"]["message"]), ("error", &json!("boom")));
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
