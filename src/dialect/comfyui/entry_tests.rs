//! What ComfyUI kept of a prompt, and how its job ended.

use std::sync::Arc;

use super::*;
use crate::comfy::Frame;
use crate::dialect::comfyui::frames;
use crate::job::progress::Progress;
use crate::job::{JobId, Policy};

const ID: &str = "64005ba9-b3f1-42ff-bbae-41f2068dfbf0";

fn view(state: JobState, error: Option<ErrorKind>, messages: &Value) -> JobView {
    let entry = json!({
        "prompt": [54, ID, {}, {}, ["1"]],
        "outputs": {"1": {"images": []}},
        "status": {"status_str": "success", "completed": true, "messages": messages},
        "meta": {"1": {"node_id": "1"}},
        "new": 7,
    });
    JobView {
        id: JobId::parse(ID).unwrap(),
        policy: Arc::new(Policy::default()),
        state,
        progress: Progress::default(),
        position: None,
        created: UNIX_EPOCH,
        delay: Duration::ZERO,
        execution: Duration::from_millis(1_234),
        result: error.map(|kind| Err(Arc::new(JobError::new(kind, "so it ended")))),
        outputs: Arc::default(),
        entry: Some(entry.to_string().into()),
    }
}

fn entry_of(view: &JobView) -> Value {
    serde_json::from_str(entry(view, None, |_| Vec::new()).get()).unwrap()
}

fn frame_of(view: &JobView) -> Value {
    let Frame::Text(text) = frames::end(view).result else {
        panic!("no text")
    };
    serde_json::from_str(&text).unwrap()
}

#[test]
fn history_and_websocket_tell_the_same_end() {
    let start = json!(["execution_start", {"timestamp": 1}]);
    let said = |event: &str| json!([event, {"prompt_id": ID, "timestamp": 7, "said": "by ComfyUI"}]);
    for (state, error, last, event) in [
        // Its time was over, and ComfyUI was interrupted for it.
        (
            JobState::TimedOut,
            Some(ErrorKind::TimedOut),
            EXECUTION_INTERRUPTED,
            EXECUTION_ERROR,
        ),
        // Cancelled, or failed, after ComfyUI had succeeded.
        (
            JobState::Cancelled,
            Some(ErrorKind::Cancelled),
            EXECUTION_SUCCESS,
            EXECUTION_INTERRUPTED,
        ),
        (
            JobState::Failed,
            Some(ErrorKind::Internal),
            EXECUTION_SUCCESS,
            EXECUTION_ERROR,
        ),
        // Nothing of an end is there.
        (
            JobState::Cancelled,
            Some(ErrorKind::Cancelled),
            "execution_cached",
            EXECUTION_INTERRUPTED,
        ),
    ] {
        let view = view(state, error, &json!([start, said(last), "rubbish"]));
        let (entry, frame) = (entry_of(&view), frame_of(&view));
        assert_eq!(frame["type"], event);
        let messages = entry["status"]["messages"].as_array().unwrap();
        assert_eq!(messages[0], start);
        assert_eq!(messages.last().unwrap(), &json!([event, frame["data"]]));
        let ends = messages
            .iter()
            .filter(|message| ENDS.contains(&message[0].as_str().unwrap_or_default()));
        assert_eq!(ends.count(), 1, "{entry}");
        assert_eq!(
            (&entry["status"]["status_str"], &entry["status"]["completed"]),
            (&json!("error"), &json!(false))
        );
        let names: Vec<_> = entry.as_object().unwrap().keys().collect();
        assert_eq!(names, ["prompt", "outputs", "status", "meta", "new"]);
        assert_eq!(entry["outputs"], json!({"1": {"images": []}}));
    }
    for (state, event) in [
        (JobState::Completed, EXECUTION_SUCCESS),
        (JobState::Failed, EXECUTION_ERROR),
        (JobState::Cancelled, EXECUTION_INTERRUPTED),
    ] {
        let view = view(state, None, &json!([start, said(event)]));
        assert_eq!(entry(&view, None, |_| Vec::new()).get(), view.entry.as_deref().unwrap());
        assert_eq!(frame_of(&view)["data"]["said"], "by ComfyUI");
    }
    // A version that keeps no words of a success.
    let view = view(JobState::Completed, None, &json!([]));
    assert_eq!(entry_of(&view)["status"]["messages"], json!([]));
}
