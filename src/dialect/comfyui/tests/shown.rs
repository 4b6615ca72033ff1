//! What is told of prompts: the queue, the history, and the jobs.

use super::*;

fn view(state: JobState, result: Option<Result<(), JobError>>) -> JobView {
    JobView {
        id: JobId::parse(ID).unwrap(),
        policy: Arc::new(Policy {
            dialect: Dialect::Comfyui,
            prompt: Some(Box::new(PromptOwner {
                client_id: Some("page".to_owned()),
                number: 42,
                ..PromptOwner::default()
            })),
            ..Policy::default()
        }),
        state,
        progress: Progress::default(),
        position: None,
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        delay: Duration::from_secs(2),
        execution: Duration::from_secs(3),
        result: result.and_then(|result| result.err().map(|error| Err(Arc::new(error)))),
        outputs: Arc::default(),
        entry: None,
    }
}

fn request() -> JobRequest {
    let body = json!({
        "prompt": graph(),
        "extra_data": {
            "auth_token_comfy_org": "secret",
            "api_key_comfy_org": "secret",
            "extra_pnginfo": {"workflow": {"id": "w"}},
        },
    });
    parsed(&body).unwrap().job(None, String::new()).0
}

fn outputs(_: &Graph) -> Vec<String> {
    vec!["2".to_owned()]
}

#[test]
fn the_queue_shows_prompts_without_keys() {
    let shown = tuple(&view(JobState::Queued, None), Some(request()), outputs);
    assert_eq!(
        shown,
        json!([
            42,
            ID,
            graph(),
            {"extra_pnginfo": {"workflow": {"id": "w"}}, "client_id": "page", "create_time": 1000},
            ["2"],
        ])
    );
}

fn entry_of(view: &JobView) -> Value {
    serde_json::from_str(entry(view, Some(request()), outputs).get()).unwrap()
}

#[test]
fn a_job_that_ended_without_comfyui_has_an_entry_that_says_why() {
    let error = JobError::new(ErrorKind::ModelMissing, "Failed to load model: a").problems(vec![Problem {
        node_id: Some("1".to_owned()),
        class_type: Some("EmptyImage".to_owned()),
        message: "it is not there".to_owned(),
        ..Problem::default()
    }]);
    let failed = view(JobState::Failed, Some(Err(error)));
    let made = entry_of(&failed);
    assert!(!made.to_string().contains("secret"));
    insta::assert_json_snapshot!(made);
    let cancelled = view(
        JobState::Cancelled,
        Some(Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled"))),
    );
    assert_eq!(entry_of(&cancelled)["status"]["messages"][1][0], EXECUTION_INTERRUPTED);
    let completed = view(JobState::Completed, None);
    assert_eq!(entry_of(&completed)["status"]["status_str"], "success");
    assert!(!has_entry(JobState::Cancelled, Duration::ZERO) && has_entry(JobState::Failed, Duration::ZERO));
    assert!(!has_entry(JobState::Running, Duration::from_secs(1)));
}

#[test]
fn what_comfyui_kept_of_a_prompt_goes_out_as_it_is() {
    let mut ended = view(JobState::Completed, None);
    let kept = r#"{"prompt":[42,"id",{},{},["2"]],"outputs":{},"status":{"status_str":"success"},"meta":{}}"#;
    ended.entry = Some(kept.into());
    assert_eq!(entry(&ended, None, outputs).get(), kept);
    // Nothing that is no JSON goes into the answer.
    ended.entry = Some(r#"{"prompt":[],"outputs":{"2":{"x":[NaN]}},"status":{}}"#.into());
    assert_eq!(entry_of(&ended)["outputs"]["2"]["x"], json!([null]));
    ended.entry = Some("{".into());
    assert_eq!(entry_of(&ended)["status"]["completed"], true);
}

#[test]
fn jobs_tell_of_all_in_one_form() {
    let waiting = view(JobState::Queued, None);
    let of_waiting = tuple(&waiting, Some(request()), outputs);
    assert_eq!(
        job(&waiting, JobOf::Live(&of_waiting), false),
        json!({
            "id": ID, "status": "pending", "priority": 42, "create_time": 1000, "outputs_count": 0, "workflow_id": "w",
        })
    );
    let mut ended = view(JobState::Completed, None);
    let kept = json!({
        "prompt": [42, ID, graph(), {"extra_pnginfo": {"workflow": {"id": "w"}}}, ["2"]],
        "outputs": {
            "5": {"text": ["hello"], "images": [{"filename": "t.png", "subfolder": "", "type": "temp"}], "animated": [false]},
            "2": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}], "result": ["mesh.glb", null]},
        },
        "status": {"status_str": "success", "completed": true, "messages": [
            ["execution_start", {"timestamp": 3000}],
            ["execution_success", {"timestamp": 6000}],
        ]},
        "meta": {},
    });
    ended.entry = Some(kept.to_string().into());
    let of_ended = entry(&ended, None, outputs);
    insta::assert_json_snapshot!(job(&ended, JobOf::Ended(&of_ended), true));
}
