use std::time::Duration;

use bytes::Bytes;
use insta::assert_json_snapshot;
use serde_json::json;

use super::*;
use crate::error::ErrorKind;
use crate::job::{JobId, OutputFile, OutputText};

fn file(filename: &str, subfolder: &str, folder: OutputFolder) -> OutputFile {
    OutputFile {
        node_id: "60".to_owned(),
        kind: FileKind::of(filename),
        filename: filename.to_owned(),
        subfolder: subfolder.to_owned(),
        folder,
        base64: None,
    }
}

/// The status and the body of the answer to a job that ended so.
fn rendered(result: Result<Outcome, JobError>) -> (u16, Value) {
    let answer = render(&Report {
        id: JobId::new(),
        result,
        delay: Duration::from_micros(3999),
        execution: Duration::from_micros(8_454_321),
    });
    let body: Value = serde_json::from_slice(&answer.to_vec()).unwrap();
    (answer.status, body)
}

#[test]
fn names_of_images_are_given_as_documented() {
    let outcome = Outcome {
        files: vec![file("ComfyUI_00001_.png", "a/b", OutputFolder::Output)],
        seed: Some(u64::MAX),
        warnings: vec!["the picture is noise".to_owned()],
        ..Outcome::default()
    };
    let (status, body) = rendered(Ok(outcome));
    assert_eq!(status, 200);
    assert_json_snapshot!(body, { ".id" => "[id]" });
}

#[test]
fn base64_stands_in_images_and_in_files_alike() {
    let mut files = vec![
        file("a.mp4", "", OutputFolder::Output),
        file("b.png", "", OutputFolder::Output),
        file("c.glb", "x", OutputFolder::Output),
        file("d.webp", "", OutputFolder::Output),
    ];
    for (file, content) in files
        .iter_mut()
        .zip(["dmlkZW8=", "cGljdHVyZQ==", "bWVzaA==", "cGljdHVyZSAy"])
    {
        file.base64 = Some(Bytes::from_static(content.as_bytes()));
    }
    let (_, body) = rendered(Ok(Outcome {
        files,
        ..Outcome::default()
    }));
    assert_json_snapshot!(body["output"]);
}

#[test]
fn previews_are_left_out_beside_files_that_are_kept() {
    let preview = file("p.png", "", OutputFolder::Temp);
    let kept = file("k.png", "", OutputFolder::Output);
    let names = |files: &[&OutputFile]| {
        let outcome = Outcome {
            files: files.iter().copied().cloned().collect(),
            ..Outcome::default()
        };
        let (_, body) = rendered(Ok(outcome));
        body["output"]["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|image| format!("{} {}", image["type"], image["filename"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&[&preview, &kept]), ["\"output\" \"k.png\""]);
    assert_eq!(names(&[&preview]), ["\"temp\" \"p.png\""]);
}

#[test]
fn a_job_may_leave_texts_or_nothing() {
    let text = OutputText {
        node_id: "11".to_owned(),
        text: "a \"quoted\" line\n".to_owned(),
    };
    let (_, texts) = rendered(Ok(Outcome {
        texts: vec![text],
        ..Outcome::default()
    }));
    let (status, nothing) = rendered(Ok(Outcome::default()));
    assert_eq!(status, 200);
    assert_json_snapshot!([&texts["output"], &nothing["output"]]);
}

#[test]
fn a_failure_tells_place_by_place() {
    let problem = Problem {
        node_id: Some("3".to_owned()),
        class_type: Some("KSampler".to_owned()),
        input: Some("steps".to_owned()),
        message: "0 is below 1".to_owned(),
    };
    let error = JobError::new(ErrorKind::InvalidWorkflow, "Invalid workflow JSON structure")
        .problems(vec![problem])
        .hint("Mend it.");
    let (status, body) = rendered(Err(error.clone()));
    assert_eq!(status, 400);
    assert_json_snapshot!(body, { ".id" => "[id]" });

    let refused = render_error(&error);
    assert_eq!(refused.status, 400);
    let refused: Value = serde_json::from_slice(&refused.to_vec()).unwrap();
    assert_eq!(
        (&refused["error"], &refused["details"]),
        (&body["error"], &body["details"])
    );
    assert_eq!(refused.as_object().unwrap().len(), 2);
    assert_eq!(rendered(Err(JobError::internal("x"))).0, 500);
}

fn parsed(input: &Value) -> JobRequest {
    parse(json!({ "input": input }).to_string().as_bytes()).unwrap_or_else(|error| panic!("{}", error.full_text()))
}

#[test]
fn every_field_of_a_prompt_is_read() {
    let request = parsed(&json!({
        "prompt": "a cat", "negative_prompt": "a dog", "seed": u64::MAX, "width": 1000, "height": 700, "steps": 8.0,
        "cfg": 1.5, "batch_size": 2, "loras": ["a.safetensors", {"name": "b.safetensors", "strength": -0.5}],
        "template": "qwen-image", "return_images_as": "base64", "api_key_comfy_org": "comfyui-4711",
    }));
    let Work::Template(template) = &request.work else {
        panic!("{request:?}")
    };
    let lora = |name: &str, strength| Lora {
        name: name.to_owned(),
        strength,
    };
    let expected = TemplateRequest {
        template: Some("qwen-image".to_owned()),
        prompt: "a cat".to_owned(),
        negative_prompt: Some("a dog".to_owned()),
        seed: Some(u64::MAX),
        width: Some(1000),
        height: Some(700),
        aspect_ratio: None,
        steps: Some(8),
        cfg: Some(1.5),
        batch_size: Some(2),
        loras: vec![lora("a.safetensors", 1.0), lora("b.safetensors", -0.5)],
    };
    assert_eq!(*template, expected);
    assert_eq!(request.return_images_as, Some(ReturnImagesAs::Base64));
    assert!(request.org_api_key.is_some() && !format!("{request:?}").contains("4711"));
    assert!(request.warnings.is_empty());
}

#[test]
fn input_and_workflow_may_be_strings_and_the_body_may_begin_with_a_mark() {
    let graph = json!({"1": {"class_type": "SaveImage", "inputs": {}}});
    for input in [
        json!({ "workflow": graph }),
        json!({ "workflow": graph.to_string() }),
        json!({ "workflow": graph }).to_string().into(),
    ] {
        let body = format!("\u{feff}{}", json!({ "input": input }));
        let request = parse(body.as_bytes()).unwrap();
        let Work::Workflow(parsed) = &request.work else {
            panic!("{request:?}")
        };
        assert_eq!(serde_json::to_value(parsed).unwrap(), graph);
    }
}

#[test]
fn fields_without_effect_are_told() {
    let graph = json!({"1": {"class_type": "SaveImage", "inputs": {}}});
    let request = parsed(&json!({"workflow": graph, "seed": 7, "steps": 1, "negativ_prompt": "x", "mine": 1}));
    assert_eq!(
        request.warnings,
        [
            "`seed`, `steps` has no effect beside `workflow`, which is run as it is",
            "the field `negativ_prompt` is not known and was ignored; did you mean `negative_prompt`?",
        ]
    );
    // Null is as good as absent.
    assert!(
        parsed(&json!({"workflow": graph, "prompt": null, "seed": null}))
            .warnings
            .is_empty()
    );
}

#[test]
fn json_that_is_too_deep_is_named_as_such() {
    let body = format!("{{\"input\": {}{}}}", "[".repeat(200), "]".repeat(200));
    let error = parse(body.as_bytes()).unwrap_err();
    assert!(error.message.contains("recursion limit"), "{}", error.message);
}
