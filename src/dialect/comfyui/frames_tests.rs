use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::error::{ErrorKind, JobError, Problem};
use crate::job::progress::Progress;
use crate::job::{JobId, JobState, Policy};

const ID: &str = "64005ba9-b3f1-42ff-bbae-41f2068dfbf0";

fn view(state: JobState, entry: Option<Value>, error: Option<JobError>) -> JobView {
    JobView {
        id: JobId::parse(ID).unwrap(),
        policy: Arc::new(Policy::default()),
        state,
        progress: Progress::default(),
        position: None,
        created: SystemTime::UNIX_EPOCH,
        delay: Duration::ZERO,
        execution: Duration::from_millis(1_234),
        result: error.map(|error| Err(Arc::new(error))),
        outputs: Arc::default(),
        entry: entry.map(|entry| entry.to_string().into()),
    }
}

/// An entry as ComfyUI 0.30.0 writes it, with this last message.
fn entry(kind: &str, data: &Value) -> Value {
    json!({
        "prompt": [54, ID, {"1": {"class_type": "EmptyImage", "inputs": {}}}, {"client_id": "a"}, ["1"]],
        "outputs": {},
        "status": {"status_str": "success", "completed": true, "messages": [
            ["execution_start", {"prompt_id": ID, "timestamp": 1_795_229_969_948_u64}],
            ["execution_cached", {"nodes": [], "prompt_id": ID, "timestamp": 1_795_229_969_949_u64}],
            [kind, data],
        ]},
        "meta": {},
    })
}

fn read(frame: &Frame) -> Value {
    let Frame::Text(text) = frame else { panic!("{frame:?}") };
    serde_json::from_str(text).unwrap()
}

fn told(view: &JobView) -> [Value; 2] {
    let end = end(view);
    [read(&end.result), read(&end.over)]
}

#[test]
fn short_messages_are_as_recorded() {
    for (frame, recorded) in [
        (
            status(0, Some("5a178a55")),
            json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "5a178a55"}}),
        ),
        (
            status(2, None),
            json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 2}}}}),
        ),
        (executing("1"), json!({"type": "executing", "data": {"node": "1"}})),
        (
            feature_flags(&usual_flags()),
            json!({"type": "feature_flags", "data": {
                "supports_preview_metadata": true,
                "supports_model_type_tags": true,
                "max_upload_size": 104_857_600,
                "extension": {"manager": {"supports_v4": true}},
                "node_replacements": true,
                "assets": false,
            }}),
        ),
    ] {
        assert_eq!(read(&frame), recorded);
    }
}

#[test]
fn an_end_is_told_as_comfyui_told_it() {
    for (state, kind, data) in [
        (
            JobState::Completed,
            "execution_success",
            json!({"prompt_id": ID, "timestamp": 1_795_229_969_953_u64}),
        ),
        (
            JobState::Failed,
            "execution_error",
            json!({
                "prompt_id": ID, "node_id": "1", "node_type": "Raise", "executed": [],
                "exception_message": "boom: sample failure\n", "exception_type": "RuntimeError",
                "traceback": ["  File \"ComfyUI/execution.py\", line 545, in execute\n"],
                "current_inputs": {"message": ["boom: sample failure"]}, "current_outputs": ["1", "2"],
                "timestamp": 1_795_229_812_633_u64,
            }),
        ),
        (
            JobState::Cancelled,
            "execution_interrupted",
            json!({
                "prompt_id": ID, "node_id": "2", "node_type": "SaveImage", "executed": ["1"],
                "timestamp": 1_795_229_815_127_u64,
            }),
        ),
    ] {
        let [result, over] = told(&view(state, Some(entry(kind, &data)), None));
        assert_eq!(result, json!({"type": kind, "data": data}));
        assert_eq!(
            over,
            json!({"type": "executing", "data": {"node": null, "prompt_id": ID}})
        );
    }
    // Python's own words, and what is no entry.
    let success = json!({"prompt_id": ID, "timestamp": 7});
    let text = entry("execution_success", &success).to_string();
    let mut python = view(JobState::Completed, None, None);
    python.entry = Some(text.replace("\"outputs\":{}", "\"outputs\":{\"1\":NaN}").into());
    assert_eq!(told(&python)[0]["data"], success);
    python.entry = Some("[]".into());
    let made = json!({"prompt_id": ID, "timestamp": 1_234});
    assert_eq!(told(&python)[0]["data"], made);
}

#[test]
fn an_end_that_comfyui_did_not_tell_is_made() {
    let error = JobError::new(ErrorKind::InvalidWorkflow, "The graph cannot run").problems(vec![Problem {
        node_id: Some("3".to_owned()),
        class_type: Some("KSampler".to_owned()),
        message: "steps is missing".to_owned(),
        ..Problem::default()
    }]);
    // The graph ran, and the job failed afterwards.
    let success = entry("execution_success", &json!({"prompt_id": ID, "timestamp": 7}));
    for entry in [None, Some(success)] {
        let [result, _] = told(&view(JobState::Failed, entry, Some(error.clone())));
        assert_eq!(
            result,
            json!({"type": "execution_error", "data": {
                "prompt_id": ID, "node_id": "3", "node_type": "KSampler", "executed": [],
                "exception_message": error.full_text(), "exception_type": "ValueError",
                "traceback": [], "current_inputs": {}, "current_outputs": [], "timestamp": 1_234,
            }})
        );
    }
    let [result, _] = told(&view(JobState::Cancelled, None, None));
    assert_eq!(
        result,
        json!({"type": "execution_interrupted", "data": {
            "prompt_id": ID, "node_id": "", "node_type": "", "executed": [], "timestamp": 1_234,
        }})
    );
    // Taken out of the queue before: ComfyUI tells the number alone.
    let mut never_begun = view(JobState::Cancelled, None, None);
    never_begun.execution = Duration::ZERO;
    assert!(!end(&never_begun).due && end(&view(JobState::Cancelled, None, None)).due);
    assert_eq!(told(&never_begun)[0]["type"], "execution_interrupted");
}

#[test]
fn previews_lose_what_old_clients_do_not_know() {
    let with = |metadata: &str, image: &[u8]| {
        let length = u32::try_from(metadata.len()).unwrap().to_be_bytes();
        let frame = [&[0, 0, 0, 4], &length[..], metadata.as_bytes(), image].concat();
        without_metadata(Frame::Binary(frame.into()))
    };
    let plain = |format: u8, image: &[u8]| Frame::Binary([&[0, 0, 0, 1, 0, 0, 0, format], image].concat().into());
    assert_eq!(
        with(r#"{"node_id":"3","image_type":"image/jpeg"}"#, b"jpeg"),
        plain(1, b"jpeg")
    );
    assert_eq!(
        with(r#"{"node_id":"3","image_type":"image/png"}"#, b"png"),
        plain(2, b"png")
    );
    assert_eq!(with("{}", b""), plain(1, b""));
    // Everything else stays.
    let others: [&[u8]; 6] = [
        &[0, 0, 0, 1, 0, 0, 0, 2, 7],
        &[0, 0, 0, 3, 0, 0, 0, 1, b'3', b'x'],
        &[0, 0, 0, 4, 0, 0, 0, 9, b'{'],
        &[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 4],
        &[],
    ];
    for other in others {
        let frame = Frame::Binary(Bytes::copy_from_slice(other));
        assert_eq!(without_metadata(frame.clone()), frame);
    }
    let text = Frame::Text("{}".into());
    assert_eq!(without_metadata(text.clone()), text);
}
