//! Jobs as OpenAI's clients see them: answers, errors and events.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;

use super::*;
use crate::dialect::answer::Event;
use crate::dialect::links::TestLinks;
use crate::error::Problem;
use crate::job::progress::{PreviewImage, Progress, Stage};
use crate::job::{FileKind, JobId, JobState, JobView, Outcome, OutputFile, OutputFolder};

fn view(files: &[(&str, Option<&'static str>, Option<&str>)]) -> JobView {
    let file = |(name, base64, url): &(&str, Option<&'static str>, Option<&str>)| OutputFile {
        node_id: "9".to_owned(),
        kind: FileKind::of(name),
        filename: (*name).to_owned(),
        subfolder: String::new(),
        folder: OutputFolder::Output,
        url: url.map(str::to_owned),
        recoded: None,
        engine: None,
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
        outputs: Arc::default(),
        entry: None,
    }
}

fn answered(body: &Value, view: &JobView, options: Options) -> Value {
    let asked = parse(Operation::Generate, Body::Json(Bytes::from(body.to_string())), options).unwrap();
    let made = TestLinks::new(LINKS_WORK);
    let links = made.links();
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
    let by_url = json!({"prompt": "p", "size": "64X64", "response_format": "url"});
    let mut body = answered(&by_url, &view, OPTIONS);
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

/// What clients read where they say nothing, by the name of the model.
#[test]
fn pictures_come_as_each_client_expects_them() {
    use Operation::{Edit, Generate, Vary};
    let view = view(&[("a.png", Some("QUJD"), None)]);
    let keys = |operation: Operation, model: Option<&str>| {
        let body = json!({"prompt": "p", "model": model, "image": (operation != Operation::Generate).then_some(PIXEL)});
        let asked = asked(operation, &body).unwrap_or_else(|error| panic!("{}", error.full_text()));
        let made = TestLinks::new(LINKS_WORK);
        let answer = answer(&asked.reply, &view, &made.links()).unwrap();
        let body: Value = serde_json::from_slice(&answer.to_vec()).unwrap();
        let keys = body["data"][0].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        (keys.join(" "), asked.request.delivery.return_images_as)
    };
    for (operation, model, expected) in [
        (Generate, None, "url b64_json"),
        (Generate, Some("Qwen/Qwen-Image"), "url b64_json"),
        (Edit, Some("Qwen/Qwen-Image-Edit-2511"), "url b64_json"),
        (Vary, None, "url b64_json"),
        (Generate, Some("gpt-image-1"), "b64_json"),
        (Generate, Some("gpt-image-2.5-flare"), "b64_json"),
        (Edit, Some("chatgpt-image-latest"), "b64_json"),
        (Generate, Some("dall-e-3"), "url"),
        (Vary, Some("dall-e-2"), "url"),
        (Edit, Some("dall-e-2"), "url b64_json"),
    ] {
        let form = match expected {
            "b64_json" => ReturnImagesAs::Base64,
            _ => OPTIONS.url_form,
        };
        assert_eq!(
            keys(operation, model),
            (expected.to_owned(), Some(form)),
            "{operation:?} {model:?}"
        );
    }
}

#[test]
fn a_picture_that_could_not_be_read_has_its_address_still() {
    let body = answered(&json!({"prompt": "p"}), &view(&[("a.png", None, None)]), OPTIONS);
    let picture = body["data"][0].as_object().unwrap();
    assert!(picture["url"].is_string() && picture.len() == 1, "{body:#}");
}

#[test]
fn every_answer_tells_its_seed_and_what_to_know() {
    let mut view = view(&[("a.png", Some("QUJD"), None)]);
    let outcome = Outcome {
        seed: None,
        warnings: vec!["it is noise".to_owned()],
        ..match &view.result {
            Some(Ok(outcome)) => Outcome::clone(outcome),
            _ => panic!("an outcome"),
        }
    };
    view.result = Some(Ok(Arc::new(outcome)));
    let body = answered(&json!({"prompt": "p", "seed": 7}), &view, OPTIONS);
    assert_eq!((&body["seed"], &body["warnings"]), (&json!(7), &json!(["it is noise"])));
    let asked = generate(&json!({"prompt": "p", "seed": 7, "stream": true}));
    let made = TestLinks::new(LINKS_WORK);
    let end = events(&asked.reply, &view, &made.links(), "req-1", &mut Cursor::default()).remove(0);
    let end: Value = serde_json::from_str(&end.text()).unwrap();
    assert_eq!((&end["seed"], &end["warnings"]), (&json!(7), &json!(["it is noise"])));
}

#[test]
fn previews_come_in_the_format_that_was_asked_for() {
    let mut content = std::io::Cursor::new(Vec::new());
    let picture = image::DynamicImage::new_rgb8(8, 8);
    picture.write_to(&mut content, image::ImageFormat::Jpeg).unwrap();
    let jpeg = Bytes::from(content.into_inner());
    let shown = |format: Option<&str>, image: Bytes| {
        let asked = generate(&json!({"prompt": "p", "stream": true, "partial_images": 1, "output_format": format}));
        let view = JobView {
            state: JobState::Running,
            progress: Progress {
                preview: Some(Arc::new(PreviewImage {
                    number: 1,
                    media_type: "image/jpeg".to_owned(),
                    image,
                })),
                ..Progress::default()
            },
            result: None,
            ..view(&[])
        };
        let made = TestLinks::new(LINKS_WORK);
        let event = events(&asked.reply, &view, &made.links(), "req-1", &mut Cursor::default()).remove(0);
        let event: Value = serde_json::from_str(&event.text()).unwrap();
        let text = event["b64_json"].as_str().unwrap();
        let content = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        (
            event["output_format"].as_str().unwrap().to_owned(),
            image::guess_format(&content).ok(),
        )
    };
    for (asked, told, format) in [
        (None, "jpeg", image::ImageFormat::Jpeg),
        (Some("jpeg"), "jpeg", image::ImageFormat::Jpeg),
        (Some("png"), "png", image::ImageFormat::Png),
        (Some("webp"), "webp", image::ImageFormat::WebP),
    ] {
        assert_eq!(shown(asked, jpeg.clone()), (told.to_owned(), Some(format)));
    }
    // One that is none stays as it is.
    assert_eq!(shown(Some("png"), Bytes::from_static(b"ABC")).0, "jpeg");
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
        (408, ErrorKind::TooSlow, "request_timeout"),
        (413, ErrorKind::TooLarge, "request_too_large"),
        (429, ErrorKind::Busy, "rate_limit_exceeded"),
        (500, ErrorKind::OutOfMemory, "out_of_memory"),
        (503, ErrorKind::Stopping, "service_unavailable"),
        (503, ErrorKind::ComfyUnavailable, "service_unavailable"),
    ] {
        assert_eq!(rendered(status, &JobError::new(kind, "x"))["error"]["code"], code);
    }
}

#[test]
fn previews_are_spread_over_the_steps() {
    let asked = generate(&json!({"prompt": "p", "stream": true, "partial_images": 2, "response_format": "url"}));
    assert!(asked.reply.is_streamed());
    assert_eq!(asked.request.delivery.return_images_as, Some(ReturnImagesAs::Base64));
    let made = TestLinks::new(LINKS_WORK);
    let links = made.links();
    let mut told = Cursor::default();
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
