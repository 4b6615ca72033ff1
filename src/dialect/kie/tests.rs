//! Requests in, records out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::config::{ImageFormat, ReturnImagesAs};
use crate::dialect::answer::Answer;
use crate::dialect::links::{Links, TestLinks};
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Progress;
use crate::job::{Dialect, FileKind, JobState, JobView, Outcome, OutputFile, OutputFolder, TemplateRequest, Work};

pub(super) const OPTIONS: Options = Options {
    url_form: ReturnImagesAs::Metadata,
};

fn parsed(body: &Value) -> Result<Task, JobError> {
    parse(body.to_string().as_bytes(), OPTIONS)
}

fn template(body: &Value) -> TemplateRequest {
    match parsed(body)
        .unwrap_or_else(|error| panic!("{}", error.full_text()))
        .request
        .work
    {
        Work::Template(template) => template,
        Work::Workflow(_) | Work::Saved(_) => panic!("a graph"),
    }
}

#[test]
fn the_example_of_the_specification() {
    let body = json!({
        "prompt": "A dragon flying over ancient mountains, digital art style", "image_size": "landscape_16_9",
        "num_inference_steps": 30, "guidance_scale": 7.5, "acceleration_level": "regular",
    });
    let expected = TemplateRequest {
        template: Some("qwen-image-lightning".to_owned()),
        prompt: "A dragon flying over ancient mountains, digital art style".to_owned(),
        aspect_ratio: Some("16:9".to_owned()),
        ..TemplateRequest::default()
    };
    assert_eq!(template(&body), expected);
    let task = parsed(&body).unwrap();
    assert_eq!(task.policy.dialect, Dialect::Kie);
    assert!(task.request.delivery.safety_check);
    assert_eq!(task.request.delivery.output_format, Some(ImageFormat::Png));
}

#[test]
fn a_prompt_alone_has_the_defaults() {
    let expected = TemplateRequest {
        template: Some("qwen-image".to_owned()),
        prompt: "p".to_owned(),
        aspect_ratio: Some("4:3".to_owned()),
        steps: Some(30),
        cfg: Some(7.5),
        ..TemplateRequest::default()
    };
    assert_eq!(template(&json!({"prompt": "p"})), expected);
}

#[test]
fn everything_that_a_request_may_say() {
    let body = json!({
        "prompt": "p", "image_size": "square", "num_inference_steps": 12, "guidance_scale": 3, "seed": 7,
        "acceleration_level": "none", "output_format": "jpg", "safety_check": false,
        "callBackUrl": "https://hooks.example.com/x", "unknown": 1,
    });
    let expected = TemplateRequest {
        template: Some("qwen-image".to_owned()),
        prompt: "p".to_owned(),
        seed: Some(7),
        width: Some(1024),
        height: Some(1024),
        steps: Some(12),
        cfg: Some(3.0),
        ..TemplateRequest::default()
    };
    assert_eq!(template(&body), expected);
    let Task { request, policy } = parsed(&body).unwrap();
    assert!(!request.delivery.safety_check);
    assert_eq!(request.delivery.output_format, Some(ImageFormat::Jpeg));
    assert_eq!(policy.webhook.unwrap().as_str(), "https://hooks.example.com/x");
    let fast = template(&json!({"prompt": "p", "acceleration_level": "high", "num_inference_steps": 40}));
    assert_eq!(
        (fast.template.as_deref(), fast.steps, fast.cfg),
        (Some("qwen-image-lightning-4"), None, None)
    );
}

#[test]
fn what_is_wrong_is_refused_with_its_field() {
    for (body, field, words) in [
        (json!({}), "prompt", "is empty"),
        (json!({"prompt": 7}), "prompt", "must be a string"),
        (
            json!({"prompt": "p", "image_size": "huge"}),
            "image_size",
            "is none of square, square_hd",
        ),
        (
            json!({"prompt": "p", "num_inference_steps": 0}),
            "num_inference_steps",
            "from 1 to 250",
        ),
        (
            json!({"prompt": "p", "guidance_scale": 21}),
            "guidance_scale",
            "from 0 to 20",
        ),
        (json!({"prompt": "p", "seed": "x"}), "seed", "not \"x\""),
        (
            json!({"prompt": "p", "acceleration_level": "max"}),
            "acceleration_level",
            "none, regular or high",
        ),
        (
            json!({"prompt": "p", "output_format": "webp"}),
            "output_format",
            "png or jpeg",
        ),
        (
            json!({"prompt": "p", "safety_check": "yes"}),
            "safety_check",
            "true or false",
        ),
        (
            json!({"prompt": "p", "callBackUrl": "ftp://x/secret"}),
            "callBackUrl",
            "http or https",
        ),
    ] {
        let error = parsed(&body).expect_err(&body.to_string());
        assert_eq!(error.field.as_deref(), Some(field), "{body}: {}", error.full_text());
        assert!(error.full_text().contains(words), "{body}: {}", error.full_text());
        assert!(!error.full_text().contains("secret"));
    }
    for body in ["", "x", "[]"] {
        assert_eq!(
            parse(body.as_bytes(), OPTIONS).unwrap_err().kind,
            ErrorKind::InvalidRequest
        );
    }
}

#[test]
fn kies_names_of_fields_are_taken_too() {
    let body = json!({
        "prompt": "p", "negative_prompt": "dark", "acceleration": "none", "enable_safety_checker": false, "num_images": "2",
    });
    let expected = TemplateRequest {
        template: Some("qwen-image".to_owned()),
        prompt: "p".to_owned(),
        negative_prompt: Some("dark".to_owned()),
        aspect_ratio: Some("4:3".to_owned()),
        steps: Some(30),
        cfg: Some(7.5),
        batch_size: Some(2),
        ..TemplateRequest::default()
    };
    assert_eq!(template(&body), expected);
    assert!(!parsed(&body).unwrap().request.delivery.safety_check);
    let fast = template(&json!({"prompt": "p", "acceleration": "high", "acceleration_level": "high"}));
    assert_eq!(fast.template.as_deref(), Some("qwen-image-lightning-4"));
    let error = parsed(&json!({"prompt": "p", "acceleration": "high", "acceleration_level": "none"})).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("acceleration_level"));
}

#[test]
fn an_image_makes_it_an_edit() {
    let image = "https://storage.example.com/a.png";
    let edit = template(&json!({"prompt": "p", "image_url": image}));
    assert_eq!(
        (edit.template.as_deref(), edit.steps, edit.cfg),
        (Some("qwen-image-edit"), Some(25), Some(4.0))
    );
    assert_eq!((edit.denoise, edit.aspect_ratio.as_deref()), (None, Some("4:3")));
    let remade = template(&json!({"prompt": "p", "image_url": image, "strength": 0.25}));
    assert_eq!((remade.denoise, remade.aspect_ratio), (Some(0.25), None));
}

#[test]
fn what_has_no_effect_is_told_and_what_changes_the_picture_is_refused() {
    let warnings = |body: &Value| parsed(body).unwrap().request.warnings;
    let told = warnings(&json!({"prompt": "p", "strength": 0.5, "guidance": 3, "sync_mode": true, "nothing": null}));
    assert_eq!(told.len(), 3, "{told:#?}");
    for (told, field) in told.iter().zip(["strength", "sync_mode", "guidance"]) {
        assert!(told.contains(&format!("`{field}`")), "{told}");
    }
    let told = warnings(
        &json!({"prompt": "p", "acceleration": "regular", "num_inference_steps": 9, "guidance_scale": 1,
        "negative_prompt": "dark"}),
    );
    assert_eq!(told.len(), 3, "{told:#?}");
    assert_eq!(
        warnings(&json!({"prompt": "p", "negative_prompt": " ", "image_url": ""})),
        Vec::<String>::new()
    );
    for name in [
        "image",
        "imageUrl",
        "image_urls",
        "maskUrl",
        "size",
        "width",
        "aspect_ratio",
    ] {
        let error = parsed(&json!({"prompt": "p", name: "x"})).expect_err(name);
        assert_eq!(error.field.as_deref(), Some(name));
        assert!(error.full_text().contains("image_url"), "{}", error.full_text());
    }
}

#[test]
fn a_tasks_id_leads_to_its_job() {
    let job = JobId::new();
    assert_eq!(parse_task(Some(&task_id(&job))).unwrap(), job.as_str());
    assert_eq!(parse_task(None).unwrap_err().kind, ErrorKind::InvalidRequest);
    for unknown in [job.as_str(), "qwen_tas", "nonsense"] {
        assert_eq!(
            parse_task(Some(unknown)).unwrap_err().kind,
            ErrorKind::NotFound,
            "{unknown}"
        );
    }
}

pub(super) fn view(state: JobState) -> JobView {
    let file = OutputFile {
        node_id: "9".to_owned(),
        kind: FileKind::Image,
        filename: "a.png".to_owned(),
        subfolder: String::new(),
        folder: OutputFolder::Output,
        url: None,
        recoded: None,
        engine: None,
        base64: None,
    };
    JobView {
        id: JobId::parse("01234567-89ab-7cde-8f01-23456789abcd").unwrap(),
        policy: Arc::default(),
        state,
        progress: Progress {
            percent: 40,
            ..Progress::default()
        },
        position: None,
        // 2025-12-07 10:00:00.
        created: SystemTime::UNIX_EPOCH + Duration::from_hours(490_306),
        delay: Duration::from_mins(1),
        execution: Duration::from_mins(7),
        result: match state {
            JobState::Queued | JobState::Running => None,
            JobState::Completed => Some(Ok(Arc::new(Outcome {
                files: vec![file],
                seed: Some(5),
                ..Outcome::default()
            }))),
            _ => Some(Err(Arc::new(JobError::new(ErrorKind::NodeFailed, "boom")))),
        },
        outputs: Arc::default(),
        entry: None,
    }
}

/// An answer with its links, which a key makes that is new each time, in one word.
pub(super) fn rendered(view: &JobView, render: impl Fn(&JobView, &Links<'_>) -> Answer) -> Value {
    let made = TestLinks::new(LINKS_WORK);
    let links = made.links();
    let text = String::from_utf8(render(view, &links).to_vec()).unwrap();
    // Fourteen days after 10:08.
    let link = "http://127.0.0.1:8188/files/01234567-89ab-7cde-8f01-23456789abcd/0/a.png?expires=1766311680&signature=";
    let mut short = String::new();
    for (at, part) in text.split(link).enumerate() {
        if at > 0 {
            short.push_str("LINK");
        }
        short.push_str(if at > 0 { &part[64..] } else { part });
    }
    serde_json::from_str(&short).unwrap()
}

#[test]
fn a_record_has_the_envelope_and_the_flat_fields() {
    assert_eq!(
        rendered(&view(JobState::Completed), record),
        json!({
            "code": 200, "msg": "success",
            "data": {
                "taskId": "qwen_task_01234567-89ab-7cde-8f01-23456789abcd", "successFlag": 1, "imageUrl": "LINK",
                "createTime": "2025-12-07T10:00:00Z", "completeTime": "2025-12-07T10:08:00Z",
                "response": {"resultUrls": ["LINK"]}, "progress": 40, "safetyChecked": false, "seed": 5,
            },
            "taskId": "qwen_task_01234567-89ab-7cde-8f01-23456789abcd", "successFlag": 1, "imageUrl": "LINK",
            "createTime": "2025-12-07T10:00:00Z", "completeTime": "2025-12-07T10:08:00Z",
        })
    );
    assert_eq!(
        rendered(&view(JobState::Running), record),
        json!({
            "code": 200, "msg": "success",
            "data": {
                "taskId": "qwen_task_01234567-89ab-7cde-8f01-23456789abcd", "successFlag": 0,
                "createTime": "2025-12-07T10:00:00Z", "progress": 40, "safetyChecked": false,
            },
            "taskId": "qwen_task_01234567-89ab-7cde-8f01-23456789abcd", "successFlag": 0,
            "createTime": "2025-12-07T10:00:00Z",
        })
    );
}

#[test]
fn flags_tell_how_a_task_ended() {
    let flag = |view: &JobView| rendered(view, record)["successFlag"].clone();
    for (state, expected) in [
        (JobState::Queued, 0),
        (JobState::Running, 0),
        (JobState::Completed, 1),
        (JobState::Failed, 2),
        (JobState::TimedOut, 2),
        (JobState::Cancelled, 2),
    ] {
        assert_eq!(flag(&view(state)), expected, "{state}");
    }
    let never_began = JobView {
        execution: Duration::ZERO,
        ..view(JobState::Failed)
    };
    assert_eq!(flag(&never_began), 3);
}

#[test]
fn a_call_back_tells_failures_by_its_code() {
    let done = rendered(&view(JobState::Completed), call_back);
    assert_eq!(done, rendered(&view(JobState::Completed), record));
    let failed = rendered(&view(JobState::Failed), call_back);
    assert_eq!((&failed["code"], &failed["msg"]), (&json!(501), &json!("boom")));
    assert_eq!(failed["data"]["errorMessage"], "boom");
    assert_eq!(failed["data"]["errorCode"], 400);
}

#[test]
fn errors_in_kies_envelope() {
    let body: Value = serde_json::from_slice(&render_error(401, &JobError::invalid("no key")).to_vec()).unwrap();
    assert_eq!(body, json!({"code": 401, "msg": "no key", "data": null}));
}

#[test]
fn the_schemas_agree_with_the_parser() {
    crate::dialect::schema::tests::agrees(request(), |body| parse(body.to_string().as_bytes(), OPTIONS).is_ok());
    // Its models differ in what they need.
    let example = crate::dialect::schema::tests::example(&task());
    assert!(parse_create(example.to_string().as_bytes(), OPTIONS).is_ok());
}
