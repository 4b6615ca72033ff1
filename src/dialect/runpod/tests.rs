//! Each shape, for each state.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::*;
use crate::dialect::answer::Answer;
use crate::dialect::links::{Links, TestLinks};
use crate::error::{ErrorKind, JobError, Problem};
use crate::job::progress::{Download, PreviewImage, Progress, Stage};
use crate::job::{FileKind, JobId, JobState, JobView, Outcome, OutputFile, OutputFolder, OutputText};

fn outcome() -> Outcome {
    let picture = OutputFile {
        node_id: "60".to_owned(),
        kind: FileKind::Image,
        filename: "ComfyUI_00001_.png".to_owned(),
        subfolder: String::new(),
        folder: OutputFolder::Output,
        url: None,
        recoded: None,
        engine: None,
        base64: None,
    };
    let preview = OutputFile {
        folder: OutputFolder::Temp,
        ..picture.clone()
    };
    let sound = OutputFile {
        node_id: "61".to_owned(),
        kind: FileKind::Audio,
        filename: "sound_00001_.flac".to_owned(),
        subfolder: "sub".to_owned(),
        base64: Some("QUJD".into()),
        ..picture.clone()
    };
    Outcome {
        files: vec![sound, preview, picture],
        texts: vec![OutputText {
            node_id: "9".to_owned(),
            text: "hello".to_owned(),
        }],
        seed: Some(7),
        template: None,
        engine: None,
        workflow: None,
        warnings: vec!["noise".to_owned()],
        inline: false,
        safety_checked: false,
        picture_url: false,
        output_format: None,
    }
}

fn progress() -> Progress {
    Progress {
        stage: Stage::Running,
        percent: 42,
        node_id: Some("3".to_owned()),
        class_type: Some("KSampler".to_owned()),
        step: Some((4, 8)),
        eta: Some(Duration::from_millis(6_240)),
        download: None,
        nodes: (0, 0),
        preview: None,
    }
}

/// A job in the given state, two seconds after it came.
fn view(state: JobState) -> JobView {
    let error = |kind, message: &str| {
        let problem = Problem {
            node_id: Some("3".to_owned()),
            message: "boom".to_owned(),
            ..Problem::default()
        };
        Some(Err(Arc::new(JobError::new(kind, message).problems(vec![problem]))))
    };
    JobView {
        id: JobId::new(),
        policy: Arc::default(),
        state,
        progress: match state {
            JobState::Queued => Progress::default(),
            _ => progress(),
        },
        position: (state == JobState::Queued).then_some(3),
        created: SystemTime::UNIX_EPOCH,
        delay: Duration::from_millis(824),
        execution: Duration::from_millis(1_176),
        result: match state {
            JobState::Queued | JobState::Running => None,
            JobState::Completed => Some(Ok(Arc::new(outcome()))),
            JobState::Failed => error(ErrorKind::NodeFailed, "node 3 failed"),
            JobState::Cancelled => error(ErrorKind::Cancelled, "the job was cancelled"),
            JobState::TimedOut => error(ErrorKind::TimedOut, "the job ran for 600 s, which is the limit"),
        },
        outputs: Arc::default(),
        entry: None,
    }
}

/// An answer as people read it: the status, and the body with its id replaced.
fn shown(answer: &Answer) -> String {
    let mut body: Value = serde_json::from_slice(&answer.to_vec()).unwrap();
    hide_ids(&mut body);
    format!("{} {body:#}", answer.status)
}

fn hide_ids(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(id) = object.get_mut("id") {
                *id = "[id]".into();
            }
            object.values_mut().for_each(hide_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(hide_ids),
        _ => {}
    }
}

fn for_each_state(mut shape: impl FnMut(&JobView) -> String) -> String {
    JobState::ALL
        .map(|state| format!("{state}: {}", shape(&view(state))))
        .join("\n\n")
}

#[test]
fn a_job_that_waits_for_its_models_says_how_far_they_are() {
    let mut view = view(JobState::Queued);
    view.progress = Progress {
        stage: Stage::Downloading,
        download: Some(Download {
            file: "vae/x.safetensors".to_owned(),
            bytes: 50,
            total_bytes: Some(200),
            eta: Some(Duration::from_millis(1_500)),
        }),
        ..Progress::default()
    };
    let body: serde_json::Value = serde_json::from_slice(&status(&view, None).to_vec()).unwrap();
    assert_eq!(body["status"], "IN_QUEUE");
    assert_eq!(
        body["progress"],
        serde_json::json!({
            "stage": "downloading",
            "percent": 0,
            "download": {
                "file": "vae/x.safetensors", "percent": 25, "bytes": 50, "total_bytes": 200, "eta_s": 1.5
            },
        })
    );
}

#[test]
fn a_job_in_each_state_as_status_tells_it() {
    insta::assert_snapshot!(for_each_state(|view| shown(&status(view, None))));
}

/// The output of a job that completed, as people read it.
fn output_of(outcome: Outcome) -> String {
    let view = JobView {
        result: Some(Ok(Arc::new(outcome))),
        ..view(JobState::Completed)
    };
    let body: Value = serde_json::from_slice(&status(&view, None).to_vec()).unwrap();
    format!("{:#}", body["output"])
}

#[test]
fn each_form_of_a_result() {
    let mut base64 = outcome();
    base64.files[2].base64 = Some("WFla".into());
    let mut uploaded = outcome();
    for (number, file) in uploaded.files.iter_mut().enumerate() {
        file.base64 = None;
        file.url = Some(format!("https://bucket.example/job/{number}?signature=x"));
    }
    let mut previews = outcome();
    previews.files.retain(|file| file.folder == OutputFolder::Temp);
    let texts = Outcome {
        texts: outcome().texts,
        ..Outcome::default()
    };
    let forms = [
        ("base64", base64),
        ("s3_url", uploaded),
        ("previews only", previews),
        ("texts only", texts),
        ("nothing", Outcome::default()),
    ];
    let forms = forms.map(|(form, outcome)| format!("{form}: {}", output_of(outcome)));
    insta::assert_snapshot!(forms.join("\n\n"));
}

/// RunPod's provider for the AI SDK reads nothing but these two.
#[test]
fn one_picture_has_its_address_in_the_output() {
    let made = TestLinks::new(LINKS_WORK);
    let links = made.links();
    let addresses = |outcome: Outcome, links: Option<&Links<'_>>| {
        let view = JobView {
            result: Some(Ok(Arc::new(outcome))),
            ..view(JobState::Completed)
        };
        let body: Value = serde_json::from_slice(&status(&view, links).to_vec()).unwrap();
        (body["output"]["image_url"].clone(), body["output"]["result"].clone())
    };
    let address = |outcome: &Outcome, links| {
        let (image_url, result) = addresses(outcome.clone(), links);
        assert_eq!(image_url, result);
        result.as_str().map(str::to_owned)
    };
    let mut alone = outcome();
    // The sound comes first among the files that are named.
    let link = address(&alone, Some(&links)).unwrap();
    assert!(link.contains("/1/ComfyUI_00001_.png?expires="), "{link}");
    assert_eq!(address(&alone, None), None);
    alone.files[2].base64 = Some("WFla".into());
    assert_eq!(address(&alone, None), None, "it is in the answer already");
    alone.picture_url = true;
    assert_eq!(
        addresses(alone.clone(), None),
        (Value::Null, "data:image/png;base64,WFla".into())
    );
    assert!(address(&alone, Some(&links)).unwrap().starts_with("http://127.0.0.1"));
    alone.files[2].base64 = None;
    alone.files[2].url = Some("https://bucket.example/a.png".to_owned());
    for links in [None, Some(&links)] {
        assert_eq!(address(&alone, links).as_deref(), Some("https://bucket.example/a.png"));
    }
    let second = alone.files[2].clone();
    alone.files.push(second);
    assert_eq!(address(&alone, Some(&links)), None, "of two none is the one");
}

#[test]
fn at_the_root_a_failure_is_the_specifications_status() {
    for state in JobState::ALL {
        let expected = match state {
            JobState::Failed => 400,
            JobState::TimedOut => 500,
            // As RunPod answers it: nothing failed.
            _ => 200,
        };
        let view = view(state);
        let answer = render(&view, None);
        assert_eq!(answer.status, expected, "{state}");
        assert_eq!(answer.to_vec(), status(&view, None).to_vec(), "the body is the same");
        assert_eq!(status(&view, None).status, 200);
    }
}

#[test]
fn short_answers() {
    let not_found = JobError::new(ErrorKind::NotFound, "There is no job of this id");
    let answers = [
        ("run", accepted(&JobId::new())),
        ("runsync after its wait, retry", brief(&view(JobState::Running))),
        ("cancel", cancelled(&view(JobState::Cancelled))),
        ("purge", purged(3)),
        ("an unknown id", render_error(&not_found)),
    ];
    let lines = answers.map(|(route, answer)| format!("{route}: {}", shown(&answer)));
    insta::assert_snapshot!(lines.join("\n\n"));
}

#[test]
fn the_list_of_requests_has_no_outputs() {
    let views = JobState::ALL.map(view);
    insta::assert_snapshot!(shown(&requests(&views)));
}

#[test]
fn a_stream_is_there_in_each_state() {
    insta::assert_snapshot!(for_each_state(|view| shown(&stream(view, &[]))));
}

#[test]
fn each_chunk_of_a_stream_is_an_output() {
    let chunks = [Progress::default(), progress()];
    insta::assert_snapshot!(shown(&stream(&view(JobState::Running), &chunks)));
}

#[test]
fn events_end_with_the_status() {
    insta::assert_snapshot!(for_each_state(|view| {
        let lines = events(view, None, &mut Cursor::default()).into_iter().map(|event| {
            assert!(!event.text().contains(['\n', '\r']), "one line");
            let mut data: Value = serde_json::from_str(&event.text()).unwrap();
            hide_ids(&mut data);
            format!("{} {data}", event.name)
        });
        lines.collect::<Vec<_>>().join("\n")
    }));
}

#[test]
fn events_tell_what_is_new() {
    let mut told = Cursor::default();
    let mut view = view(JobState::Running);
    let names = |view: &JobView, told: &mut Cursor| {
        events(view, None, told)
            .iter()
            .map(|event| event.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&view, &mut told), ["progress"]);
    assert!(names(&view, &mut told).is_empty());
    view.progress.preview = Some(Arc::new(PreviewImage {
        number: 1,
        media_type: "image/jpeg".to_owned(),
        image: "ABC".into(),
    }));
    let told_now = events(&view, None, &mut told);
    assert_eq!(told_now[0].text(), r#"{"media_type":"image/jpeg","image":"QUJD"}"#);
    assert_eq!((told_now[0].name, told_now.len()), ("preview", 1));
    assert!(names(&view, &mut told).is_empty());
    view.progress.percent = 43;
    assert_eq!(names(&view, &mut told), ["progress"]);
    assert_eq!(
        names(&view, &mut Cursor::default()),
        ["progress", "preview"],
        "who comes late is told both"
    );
}

#[test]
fn the_schema_of_the_input_agrees_with_the_parser() {
    crate::dialect::schema::tests::agrees(fields::input(), |input| {
        parse(serde_json::json!({ "input": input }).to_string().as_bytes()).is_ok()
    });
    crate::dialect::schema::tests::agrees(request(), |body| parse(body.to_string().as_bytes()).is_ok());
}
