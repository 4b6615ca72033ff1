//! `createTask` and `recordInfo`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::tests::{OPTIONS, rendered, view};
use super::*;
use crate::error::JobError;
use crate::job::{Asked, Dialect, JobState, JobView, Policy, TemplateRequest, Work};

const IMAGE: &str = "https://storage.example.com/a.png";

fn parsed(body: &Value) -> Result<Task, JobError> {
    parse_create(body.to_string().as_bytes(), OPTIONS)
}

fn task(model: &str, input: &Value) -> Task {
    let body = json!({"model": model, "input": input});
    parsed(&body).unwrap_or_else(|error| panic!("{model}: {}", error.full_text()))
}

fn template(model: &str, input: &Value) -> TemplateRequest {
    match task(model, input).request.work {
        Work::Template(template) => template,
        Work::Workflow(_) | Work::Saved(_) => panic!("a graph"),
    }
}

/// As n8n's node for KIE sends it.
#[test]
fn the_text_model_has_kies_defaults() {
    let expected = TemplateRequest {
        template: Some("qwen-image".to_owned()),
        prompt: "p".to_owned(),
        aspect_ratio: Some("1:1".to_owned()),
        steps: Some(30),
        cfg: Some(2.5),
        ..TemplateRequest::default()
    };
    assert_eq!(template("qwen/text-to-image", &json!({"prompt": "p"})), expected);
    let sent = json!({"prompt": "p", "image_size": "square_hd", "num_inference_steps": 30, "guidance_scale": 2.5,
        "acceleration": "none", "output_format": "png", "enable_safety_checker": true});
    assert_eq!(template("qwen/text-to-image", &sent), expected);
    assert_eq!(task("qwen/text-to-image", &sent).request.warnings, Vec::<String>::new());
}

#[test]
fn images_are_edited_or_made_anew_in_part() {
    // As n8n's node sends it: with a size, which KIE's documentation does not have there.
    let sent = json!({"prompt": "p", "image_size": "square_hd", "image_url": IMAGE, "strength": 0.8,
        "num_inference_steps": 30, "guidance_scale": 2.5});
    let remade = template("qwen/image-to-image", &sent);
    let expected = TemplateRequest {
        template: Some("qwen-image-edit".to_owned()),
        prompt: "p".to_owned(),
        aspect_ratio: Some("1:1".to_owned()),
        steps: Some(30),
        cfg: Some(2.5),
        denoise: Some(0.8),
        ..TemplateRequest::default()
    };
    assert_eq!(remade, expected);
    assert_eq!(
        template("qwen/image-to-image", &json!({"prompt": "p", "image_url": IMAGE})).aspect_ratio,
        None
    );
    // As the MCP server sends it.
    let sent = json!({"prompt": "p", "image_url": IMAGE, "image_size": "square_hd", "num_inference_steps": 25,
        "guidance_scale": 4, "enable_safety_checker": false, "output_format": "png",
        "negative_prompt": "blurry, ugly", "acceleration": "high", "num_images": "2", "sync_mode": false});
    let edit = template("qwen/image-edit", &sent);
    let expected = TemplateRequest {
        template: Some("qwen-image-edit-lightning-4".to_owned()),
        prompt: "p".to_owned(),
        negative_prompt: Some("blurry, ugly".to_owned()),
        aspect_ratio: Some("1:1".to_owned()),
        batch_size: Some(2),
        ..TemplateRequest::default()
    };
    assert_eq!(edit, expected);
    let Task { request, policy } = task("qwen/image-edit", &sent);
    assert_eq!(
        (request.images[0].name.as_str(), request.images.len()),
        ("image_url", 1)
    );
    assert_eq!(
        (request.warnings.len(), policy.dialect),
        (3, Dialect::Kie),
        "{:#?}",
        request.warnings
    );
}

#[test]
fn the_models_that_nobody_has_are_stood_in_for_and_told() {
    let input = json!({"prompt": "p", "image_size": "3:4", "seed": 5});
    let task = task("qwen2/text-to-image", &input);
    assert!(
        task.request.warnings[0].contains("Qwen-Image-2512"),
        "{:?}",
        task.request.warnings
    );
    let template = template("qwen2/image-edit", &json!({"prompt": "p", "image_url": [IMAGE, IMAGE]}));
    assert_eq!(
        (
            template.template.as_deref(),
            template.aspect_ratio.as_deref(),
            template.steps
        ),
        (Some("qwen-image-edit-2511"), Some("16:9"), None)
    );
}

#[test]
fn what_is_wrong_is_refused_with_its_field() {
    let text = |input: Value| json!({"model": "qwen/text-to-image", "input": input});
    for (body, field, words) in [
        (json!({"input": {"prompt": "p"}}), "model", "qwen/text-to-image"),
        (
            json!({"model": "z-image", "input": {"prompt": "p"}}),
            "model",
            "qwen2/image-edit",
        ),
        (
            json!({"model": "qwen/text-to-image", "prompt": "p"}),
            "input",
            "is missing",
        ),
        (
            json!({"model": "qwen/text-to-image", "input": "p"}),
            "input",
            "must be an object",
        ),
        (text(json!({})), "input.prompt", "is empty"),
        (
            text(json!({"prompt": "p", "image_url": IMAGE})),
            "input.image_url",
            "qwen/image-edit",
        ),
        (
            text(json!({"prompt": "p", "num_inference_steps": "30"})),
            "input.num_inference_steps",
            "not \"30\"",
        ),
        (
            text(json!({"prompt": "p", "enable_safety_checker": "true"})),
            "input.enable_safety_checker",
            "true or false",
        ),
        (
            text(json!({"prompt": "p", "image_size": "21:9"})),
            "input.image_size",
            "none of square",
        ),
        (
            text(json!({"prompt": "p", "ratio": "1:1"})),
            "input.ratio",
            "image_size",
        ),
        (
            json!({"model": "qwen/text-to-image", "input": {"prompt": "p"}, "image_url": IMAGE}),
            "image_url",
            "belongs into `input`",
        ),
        (
            json!({"model": "qwen/image-edit", "input": {"prompt": "p"}}),
            "input.image_url",
            "is missing",
        ),
        (
            json!({"model": "qwen/image-edit", "input": {"prompt": "p", "image_url": IMAGE, "maskUrl": IMAGE}}),
            "input.maskUrl",
            "no mask",
        ),
        (
            json!({"model": "qwen/image-edit", "input": {"prompt": "p", "image_url": [IMAGE, IMAGE]}}),
            "input.image_url",
            "has 2 images",
        ),
        (
            json!({"model": "qwen/text-to-image", "input": {"prompt": "p"}, "callBackUrl": "x"}),
            "callBackUrl",
            "http or https",
        ),
    ] {
        let error = parsed(&body).expect_err(&body.to_string());
        assert_eq!(error.field.as_deref(), Some(field), "{body}: {}", error.full_text());
        assert!(error.full_text().contains(words), "{body}: {}", error.full_text());
    }
    let long = "x".repeat(1_000_000);
    for body in [
        json!({"model": long, "input": {}}),
        text(json!({"prompt": "p", "image_size": long})),
    ] {
        assert!(parsed(&body).unwrap_err().full_text().len() < 1000);
    }
    let told = parsed(&json!({"model": "qwen/text-to-image", "input": {"prompt": "p"}, "replyUrl": "x"}));
    assert!(told.unwrap().request.warnings[0].contains("`replyUrl`"));
}

#[test]
fn what_a_record_repeats_holds_no_secret() {
    let image = "https://user:4711@storage.example.com/a.png?token=4711";
    let body = json!({"model": "qwen/image-edit", "callBackUrl": "https://hooks.example.com/?token=4711",
        "input": {"prompt": "p", "image_url": image, "seed": 3, "other": "4711"}});
    let asked = parsed(&body).unwrap().policy.asked.unwrap();
    assert_eq!(asked.model, "qwen/image-edit");
    let param: Value = serde_json::from_str(&asked.param).unwrap();
    let input = json!({"prompt": "p", "image_url": "https://storage.example.com/a.png", "seed": 3});
    assert_eq!(param, json!({"model": "qwen/image-edit", "input": input}));
}

/// The same job by `createTask`.
fn created(state: JobState) -> JobView {
    let asked = Asked {
        model: "qwen/text-to-image".to_owned(),
        param: "{}".to_owned(),
    };
    let policy = Policy {
        asked: Some(Box::new(asked)),
        ..Policy::default()
    };
    JobView {
        policy: Arc::new(policy),
        ..view(state)
    }
}

#[test]
fn a_record_is_as_kie_documents_it() {
    let done = rendered(&created(JobState::Completed), record_info);
    assert_eq!(
        done,
        json!({"code": 200, "msg": "success", "message": "success", "data": {
            "taskId": "qwen_task_01234567-89ab-7cde-8f01-23456789abcd", "model": "qwen/text-to-image", "state": "success",
            "param": "{}", "resultJson": r#"{"resultUrls":["LINK"]}"#, "failCode": null, "failMsg": null,
            "costTime": 420_000, "createTime": 1_765_101_600_000_u64, "completeTime": 1_765_102_080_000_u64,
            "updateTime": 1_765_102_080_000_u64, "progress": 40, "safetyChecked": false, "seed": 5,
        }})
    );
    assert_eq!(rendered(&created(JobState::Completed), call_back), done);
    let failed = rendered(&created(JobState::Failed), record_info);
    assert_eq!(
        (&failed["code"], &failed["data"]["state"]),
        (&json!(200), &json!("fail"))
    );
    assert_eq!(
        (&failed["data"]["failCode"], &failed["data"]["failMsg"]),
        (&json!("400"), &json!("boom"))
    );
    assert_eq!(failed["data"]["resultJson"], "");
    let called = rendered(&created(JobState::Failed), call_back);
    assert_eq!((&called["code"], &called["msg"]), (&json!(501), &json!("boom")));
    assert_eq!(called["data"], failed["data"]);
    let running = rendered(&created(JobState::Running), record_info);
    assert_eq!(running["data"]["completeTime"], Value::Null);
    assert_eq!(running["data"]["costTime"], Value::Null);
}

#[test]
fn a_state_in_kies_words() {
    let state = |view: &JobView| rendered(view, record_info)["data"]["state"].clone();
    let waits = JobView {
        position: Some(3),
        ..created(JobState::Queued)
    };
    assert_eq!(state(&waits), "waiting");
    assert_eq!(state(&created(JobState::Queued)), "queuing");
    assert_eq!(state(&created(JobState::Running)), "generating");
    assert_eq!(state(&created(JobState::Cancelled)), "fail");
    // A task that came by the other route has no model.
    let other = rendered(&view(JobState::Running), record_info);
    assert_eq!(other["data"].get("model"), None);
}
