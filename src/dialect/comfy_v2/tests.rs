//! Jobs as this API tells of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::error::{ErrorKind, JobError, Problem};
use crate::job::progress::{PreviewImage, Progress, Stage};
use crate::job::{Committed, Dialect, FileKind, JobId, JobState, JobView, Outcome, OutputFile, OutputFolder};
use crate::job::{OutputText, Policy, V2Owner};

const ID: &str = "0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f";

fn places() -> Places {
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_003_600);
    Places {
        prefix: "/images".to_owned(),
        content: Arc::new(move |id| (format!("https://a.example.com/images/{id}"), until)),
        kept: Duration::from_secs(100),
    }
}

fn view(state: JobState, execution: Duration) -> JobView {
    let owner = V2Owner {
        metadata: [("client".to_owned(), "acme".to_owned())].into(),
        nodes: 7,
        ..V2Owner::default()
    };
    JobView {
        id: JobId::parse(ID).unwrap(),
        policy: Arc::new(Policy {
            dialect: Dialect::ComfyV2,
            v2: Some(Box::new(owner)),
            ..Policy::default()
        }),
        state,
        progress: Progress::default(),
        position: None,
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        delay: Duration::from_millis(1_500),
        execution,
        outputs: Arc::default(),
        result: None,
        entry: None,
    }
}

fn running(step: u32) -> JobView {
    JobView {
        progress: Progress {
            stage: Stage::Running,
            percent: u8::try_from(step).unwrap(),
            node_id: Some("12".to_owned()),
            class_type: Some("KSampler".to_owned()),
            step: Some((step, 50)),
            nodes: (3, 9),
            ..Progress::default()
        },
        ..view(JobState::Running, Duration::from_secs(1))
    }
}

fn outputs() -> Vec<Committed> {
    let file = OutputFile {
        node_id: "9".to_owned(),
        kind: FileKind::Image,
        filename: "a_00001_.png".to_owned(),
        subfolder: "demo".to_owned(),
        folder: OutputFolder::Output,
        url: None,
        recoded: None,
        engine: None,
        base64: None,
    };
    let text = OutputText {
        node_id: "10".to_owned(),
        text: "hi".to_owned(),
    };
    let mut outputs = vec![
        Committed::file(&file, 155, None, 1_700_000_002_000_000),
        Committed::text(&text, "10.txt".to_owned(), 1_700_000_002_000_000),
    ];
    for (n, output) in outputs.iter_mut().enumerate() {
        output.id = format!("0190a5f2-7c1e-7b3a-9d1f-00000000000{n}");
    }
    outputs
}

fn body(view: &JobView) -> Value {
    serde_json::from_slice(&job(200, view, &places()).to_vec()).unwrap()
}

#[test]
fn a_job_is_told_with_every_key() {
    let queued = JobView {
        position: Some(2),
        ..view(JobState::Queued, Duration::ZERO)
    };
    let queued = body(&queued);
    for key in [
        "id",
        "status",
        "created_at",
        "started_at",
        "completed_at",
        "expires_at",
        "queue_position",
        "progress",
        "outputs",
        "error",
        "urls",
    ] {
        assert!(queued.get(key).is_some(), "{key}");
    }
    assert_eq!(
        (&queued["status"], &queued["queue_position"]),
        (&json!("queued"), &json!(2))
    );
    assert_eq!(queued["expires_at"], "2023-11-14T22:15:00.000000Z");
    assert_eq!(queued["urls"]["events"], format!("/images/api/v2/jobs/{ID}/events"));
    assert_eq!(queued["metadata"], json!({"client": "acme"}));

    let at_work = body(&running(21));
    assert_eq!(at_work["started_at"], "2023-11-14T22:13:21.500000Z");
    assert_eq!(
        at_work["progress"],
        json!({
            "value": 0.21, "nodes_done": 3, "nodes_total": 9, "current_node": "12", "current_node_class": "KSampler",
            "step": 21, "steps": 50, "message": "KSampler 21/50",
        })
    );
    let done = JobView {
        outputs: Arc::new(outputs()),
        result: Some(Ok(Arc::new(Outcome {
            warnings: vec!["noise".to_owned()],
            ..Outcome::default()
        }))),
        ..view(JobState::Completed, Duration::from_secs(3))
    };
    insta::assert_json_snapshot!(body(&done));
}

#[test]
fn ends_have_their_words() {
    let problem = Problem {
        node_id: Some("1".to_owned()),
        class_type: Some("RegexReplace".to_owned()),
        ..Problem::default()
    };
    let raised = JobError::new(ErrorKind::NodeFailed, "missing )").problems(vec![problem]);
    let late = JobError::new(ErrorKind::TimedOut, "The job did not end");
    let ended = |state, execution, error: &JobError| {
        let ended = JobView {
            result: Some(Err(Arc::new(error.clone()))),
            ..view(state, execution)
        };
        body(&ended)
    };
    let second = Duration::from_secs(1);
    let failed = ended(JobState::Failed, second, &raised);
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["error"]["code"], "node_execution_error");
    assert_eq!(
        (&failed["error"]["node_id"], &failed["error"]["class_type"]),
        (&json!("1"), &json!("RegexReplace"))
    );
    let cancelled = ended(JobState::Cancelled, Duration::ZERO, &raised);
    assert_eq!(
        (&cancelled["status"], &cancelled["error"]),
        (&json!("canceled"), &Value::Null)
    );
    assert_eq!(cancelled["started_at"], Value::Null);
    assert!(cancelled["completed_at"].is_string());
    assert_eq!(ended(JobState::TimedOut, Duration::ZERO, &late)["status"], "expired");
    let timed_out = ended(JobState::TimedOut, second, &late);
    assert_eq!(
        (&timed_out["status"], &timed_out["error"]["code"]),
        (&json!("failed"), &json!("timed_out"))
    );
}

fn heard(view: &JobView, cursor: &mut Cursor) -> Vec<(&'static str, Value)> {
    let events = events(view, &places(), cursor);
    let heard = events
        .iter()
        .map(|event| (event.name, serde_json::from_str(&event.text()).unwrap()));
    heard.collect()
}

#[test]
fn the_end_comes_last_and_nothing_is_told_twice() {
    let mut cursor = Cursor::default();
    let queued = JobView {
        position: Some(1),
        ..view(JobState::Queued, Duration::ZERO)
    };
    let told = heard(&queued, &mut cursor);
    assert_eq!(told, [("status", json!({"status": "queued", "queue_position": 1}))]);
    assert_eq!(heard(&queued, &mut cursor), []);

    let mut at_work = running(30);
    at_work.progress.preview = Some(Arc::new(PreviewImage {
        number: 1,
        media_type: "image/jpeg".to_owned(),
        image: Bytes::from_static(b"JFIF"),
    }));
    let told = heard(&at_work, &mut cursor);
    let names: Vec<_> = told.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["status", "progress", "preview"]);
    assert_eq!(
        told[2].1,
        json!({"node_id": "12", "content_type": "image/jpeg", "data_base64": "SkZJRg=="})
    );
    assert_eq!(heard(&at_work, &mut cursor), []);
    // An attempt that begins anew.
    assert_eq!(heard(&running(2), &mut cursor)[0].1["value"], 0.3);

    let mut one = running(60);
    one.outputs = Arc::new(outputs()[..1].to_vec());
    let names: Vec<_> = heard(&one, &mut cursor).iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["progress", "output"]);
    let done = JobView {
        outputs: Arc::new(outputs()),
        result: Some(Ok(Arc::default())),
        ..view(JobState::Completed, Duration::from_secs(3))
    };
    let told = heard(&done, &mut cursor);
    let names: Vec<_> = told.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["output", "progress", "status"]);
    assert_eq!(
        (&told[1].1["value"], &told[1].1["nodes_total"]),
        (&json!(1.0), &json!(9))
    );
    assert_eq!(told[2].1, json!({"status": "succeeded"}));
}

#[test]
fn what_is_not_urgent_waits() {
    assert!(!is_urgent(&running(1), &running(2)));
    assert!(is_urgent(&view(JobState::Queued, Duration::ZERO), &running(1)));
    let mut with_output = running(1);
    with_output.outputs = Arc::new(outputs());
    assert!(is_urgent(&running(1), &with_output));
}
