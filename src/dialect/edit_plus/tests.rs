//! Requests and answers as the documentation shows them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::error::JobError;
use crate::job::progress::Progress;
use crate::job::{FileKind, JobId, JobRequest, JobState, Outcome, OutputFile, OutputFolder, Policy, Work};

const TEMPLATE: &str = "qwen-image-edit-2511";

fn read(body: &Value) -> Result<JobRequest, String> {
    let (request, policy) = parse(body.to_string().as_bytes(), TEMPLATE).map_err(|error| error.full_text())?;
    assert_eq!(policy.dialect, Dialect::EditPlus);
    Ok(request)
}

fn body(more: Value) -> Value {
    let mut body = json!({"image1_url": "https://storage.example.com/1.jpg", "prompt": "Make it winter"});
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    body
}

fn template(request: &JobRequest) -> Value {
    match &request.work {
        Work::Template(template) => serde_json::to_value(template).unwrap(),
        Work::Workflow(_) | Work::Saved(_) => panic!("no template"),
    }
}

#[test]
fn the_documented_request_is_read() {
    let request = read(&json!({
        "image1_url": "https://example.com/image1.jpg",
        "image2_url": "https://example.com/image2.jpg",
        "image3_url": "https://example.com/image3.jpg",
        "prompt": "Combine elements from all images",
        "negative_prompt": "blurry, low quality",
        "seed": 12345,
        "steps": 40,
        "cfg": 4.0,
        "megapixels": 1.5,
        "unknown": true
    }))
    .unwrap();
    let images: Vec<(&str, &str)> = request
        .images
        .iter()
        .map(|image| (image.name.as_str(), image.url().unwrap().as_str()))
        .collect();
    assert_eq!(
        images,
        [
            ("image1_url", "https://example.com/image1.jpg"),
            ("image2_url", "https://example.com/image2.jpg"),
            ("image3_url", "https://example.com/image3.jpg"),
        ]
    );
    insta::assert_json_snapshot!(template(&request), @r#"
    {
      "template": "qwen-image-edit-2511",
      "prompt": "Combine elements from all images",
      "negative_prompt": "blurry, low quality",
      "seed": 12345,
      "width": null,
      "height": null,
      "megapixels": 1.5,
      "aspect_ratio": null,
      "steps": 40,
      "cfg": 4.0,
      "batch_size": null,
      "filename_prefix": "QwenEdit/api_{job_id}",
      "loras": [],
      "mask": null
    }
    "#);
}

#[test]
fn a_field_that_is_not_known_is_told_and_one_that_would_change_the_picture_is_refused() {
    let request = read(&body(json!({"unknown": true, "step": 3, "nothing": null}))).unwrap();
    assert_eq!(
        request.warnings,
        [
            "the field `unknown` is not known and was ignored",
            "the field `step` is not known and was ignored; did you mean `steps`?",
        ]
    );
    for name in ["image2", "image_url", "mask_url", "width", "size", "aspect_ratio"] {
        let error = read(&body(json!({ name: "x" }))).expect_err(name);
        assert!(
            error.contains(name) && error.contains("image1_url to image3_url"),
            "{error}"
        );
    }
    assert_eq!(read(&body(json!({"mask_url": ""}))).unwrap().warnings.len(), 1);
    let long = read(&body(json!({"model": "x".repeat(1_000_000)}))).unwrap_err();
    assert!(long.len() < 400, "{long}");
}

#[test]
fn what_is_left_out_is_as_documented() {
    let request = read(&body(json!({"image2_url": "", "image3_url": null, "seed": null}))).unwrap();
    assert_eq!(request.images.len(), 1);
    let template = template(&request);
    let fields = ["negative_prompt", "seed", "steps", "cfg", "megapixels"].map(|field| template[field].clone());
    assert_eq!(fields, [json!(""), json!(null), json!(40), json!(4.0), json!(1.0)]);
}

#[test]
fn a_model_is_chosen_by_its_name() {
    for (name, chosen) in [
        ("2509", "qwen-image-edit-2509"),
        ("Qwen/Qwen-Image-Edit-2509", "qwen-image-edit-2509"),
        ("qwen-image-edit-2511", "qwen-image-edit-2511"),
    ] {
        let request = read(&body(json!({"model": name}))).unwrap();
        assert_eq!(template(&request)["template"], chosen, "{name}");
    }
    assert_eq!(
        template(&read(&body(json!({"seed": -1}))).unwrap())["seed"],
        json!(null)
    );
}

#[test]
fn what_is_wrong_is_told_with_its_field() {
    let required = "Both image1_url and prompt are required";
    for (body, words) in [
        (json!({}), required),
        (json!({"prompt": "a"}), required),
        (json!({"image1_url": "https://storage.example.com/1.jpg"}), required),
        (body(json!({"prompt": " "})), required),
        (body(json!({"image1_url": ""})), required),
        (body(json!({"prompt": 7})), "prompt: must be a string, not 7"),
        (body(json!({"image1_url": 7})), "image1_url: must be a string, not 7"),
        (body(json!({"image1_url": "portrait.jpg"})), "is no base64"),
        (
            body(json!({"image1_url": "ftp://storage.example.com/1.jpg"})),
            "the scheme `ftp`",
        ),
        (
            body(json!({"image4_url": "https://storage.example.com/4.jpg", "image5_url": null})),
            "image4_url: is one too many",
        ),
        (
            body(json!({"image3_url": "https://storage.example.com/3.jpg"})),
            "image3_url: stands without image2_url",
        ),
        (
            body(json!({"steps": 0})),
            "steps: must be a whole number from 1 to 100, not 0",
        ),
        (body(json!({"steps": 101})), "from 1 to 100"),
        (body(json!({"steps": "40"})), "steps: must be"),
        (body(json!({"cfg": 0.5})), "cfg: must be a number from 1 to 20, not 0.5"),
        (body(json!({"cfg": 21})), "from 1 to 20"),
        (
            body(json!({"megapixels": 0})),
            "megapixels: must be a number from 0.01 to 16, not 0",
        ),
        (body(json!({"seed": -2})), "seed: must be a whole number"),
        (
            body(json!({"model": "dall-e-3"})),
            "`dall-e-3` is none of qwen-image-edit-2511, qwen-image-edit-2509",
        ),
        (json!([]), "must be a JSON object, not a list"),
    ] {
        let error = read(&body).unwrap_err();
        assert!(error.contains(words), "{body}: {error}");
    }
    let error = parse(b"{", TEMPLATE).unwrap_err();
    assert!(
        error.message.starts_with("The request body is no JSON"),
        "{}",
        error.message
    );
}

fn view(state: JobState, result: Option<Result<Outcome, JobError>>) -> JobView {
    let mut progress = Progress {
        percent: 45,
        ..Progress::default()
    };
    if state == JobState::Completed {
        progress.end(true);
    }
    JobView {
        id: JobId::parse("0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f").unwrap(),
        policy: Arc::new(Policy::default()),
        state,
        progress,
        position: None,
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        delay: Duration::from_millis(20),
        execution: Duration::from_secs(3),
        result: result.map(|result| result.map(Arc::new).map_err(Arc::new)),
        outputs: Arc::default(),
        entry: None,
    }
}

fn file() -> OutputFile {
    OutputFile {
        node_id: "save".to_owned(),
        kind: FileKind::Image,
        filename: "api_x_00001_.png".to_owned(),
        subfolder: "QwenEdit".to_owned(),
        folder: OutputFolder::Output,
        url: None,
        recoded: None,
        engine: None,
        base64: None,
    }
}

fn text(answer: &crate::dialect::answer::Answer) -> String {
    format!("{} {}", answer.status, String::from_utf8(answer.to_vec()).unwrap())
}

#[test]
fn a_job_is_told_as_documented() {
    let queued = JobView {
        position: Some(2),
        ..view(JobState::Queued, None)
    };
    let outcome = Outcome {
        files: vec![file()],
        seed: Some(7),
        ..Outcome::default()
    };
    let completed = view(JobState::Completed, Some(Ok(outcome)));
    let failed = JobError::invalid(
        "the image `image2_url` cannot be fetched from https://example.com/2.jpg: it was not complete after 60s",
    )
    .at("image2_url");
    let failed = view(JobState::Failed, Some(Err(failed)));
    let failed = JobView {
        id: JobId::parse("0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d30").unwrap(),
        ..failed
    };
    let running = Facts {
        prompt_id: Some("xyz789".to_owned()),
        ..Facts::default()
    };
    let done = Facts {
        base: "/edit",
        image_path: Some("/data/output/QwenEdit/api_x_00001_.png".to_owned()),
        image_ready: true,
        ..running.clone()
    };
    let told = [
        text(&accepted(&completed.id)),
        text(&status(&queued, &Facts::default())),
        text(&status(&view(JobState::Running, None), &running)),
        text(&status(&completed, &done)),
        text(&status(&failed, &running)),
        text(&jobs([&completed, &failed])),
        text(&deleted()),
        text(&about(false)),
        text(&debug_job(&completed, &done, &[(&file(), Some(99))])),
        text(&render_error(404, &no_job())),
        text(&render_error(400, &not_ready(&queued))),
        text(&render_error(400, &not_ready(&failed))),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    200 {"job_id":"0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f","status":"queued","message":"Image editing started"}
    200 {"status":"queued","progress":45,"position":2}
    200 {"status":"processing","progress":45,"prompt_id":"xyz789"}
    200 {"status":"completed","progress":100,"prompt_id":"xyz789","image_ready":true,"download_url":"/edit/download/0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f","image_path":"/data/output/QwenEdit/api_x_00001_.png","seed":7}
    200 {"status":"error","progress":45,"prompt_id":"xyz789","error":"Failed to download file from URL: the image `image2_url` cannot be fetched from https://example.com/2.jpg: it was not complete after 60s"}
    200 {"jobs":{"0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f":{"status":"completed","progress":100},"0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d30":{"status":"error","progress":45}}}
    200 {"message":"Job deleted"}
    200 {"message":"Qwen Image Edit Plus API","status":"running","version":"2.0.0","features":["multi-image-support"]}
    200 {"job_id":"0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f","job":{"status":"completed","progress":100,"prompt_id":"xyz789","image_ready":true,"download_url":"/edit/download/0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f","image_path":"/data/output/QwenEdit/api_x_00001_.png","seed":7},"created":1700000000,"queued_ms":20,"execution_ms":3000,"files":[{"path":"QwenEdit/api_x_00001_.png","exists":true,"size":99}]}
    404 {"detail":"Job not found"}
    400 {"detail":"Image not ready. Ask for the job's status until it is completed."}
    400 {"detail":"Image not ready: Failed to download file from URL: the image `image2_url` cannot be fetched from https://example.com/2.jpg: it was not complete after 60s"}
    "#);
}

#[test]
fn the_schema_agrees_with_the_parser() {
    crate::dialect::schema::tests::agrees(request(), |body| {
        parse(body.to_string().as_bytes(), "qwen-image-edit-2511").is_ok()
    });
}
