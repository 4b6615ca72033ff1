//! What is read, and what is written, against the recorded contract.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Progress;
use crate::job::{Dialect, FileKind, JobId, JobState, JobView, Outcome, OutputFile, OutputFolder, Work};
use crate::workflow::Templates;

fn id() -> JobId {
    JobId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap()
}

fn view(state: JobState) -> JobView {
    JobView {
        id: id(),
        state,
        progress: Progress::default(),
        position: None,
        policy: Arc::default(),
        created: SystemTime::UNIX_EPOCH,
        delay: Duration::ZERO,
        execution: Duration::from_millis(1_234),
        result: None,
        outputs: Arc::default(),
        entry: None,
    }
}

fn ended(result: Result<Outcome, JobError>) -> Snapshot {
    let state = if result.is_ok() {
        JobState::Completed
    } else {
        JobState::Failed
    };
    Snapshot::Job(Box::new(JobView {
        result: Some(result.map(Arc::new).map_err(Arc::new)),
        outputs: Arc::default(),
        entry: None,
        ..view(state)
    }))
}

fn picture() -> Outcome {
    Outcome {
        files: vec![OutputFile {
            node_id: "save".to_owned(),
            kind: FileKind::Image,
            filename: "a_00001_.png".to_owned(),
            subfolder: String::new(),
            folder: OutputFolder::Output,
            url: None,
            recoded: None,
            engine: None,
            base64: Some(Bytes::from_static(b"QUJD")),
        }],
        inline: true,
        ..Outcome::default()
    }
}

fn text(pieces: &[Bytes]) -> String {
    String::from_utf8(pieces.concat()).unwrap()
}

fn infer(data: &Value) -> Result<Infer, JobError> {
    let body = json!({"data": data, "fn_index": 0, "session_hash": "s"}).to_string();
    parse_join(body.as_bytes()).unwrap().infer
}

fn refusal(data: &Value) -> String {
    infer(data).unwrap_err().full_text()
}

#[test]
fn what_is_left_out_has_the_defaults_of_the_space() {
    let defaults = Infer {
        prompt: "a cat".to_owned(),
        seed: None,
        aspect_ratio: "16:9".to_owned(),
        guidance_scale: 4.0,
        steps: 50,
        enhance: true,
    };
    assert_eq!(infer(&json!(["a cat"])).unwrap(), defaults);
    assert_eq!(
        infer(&json!(["a cat", null, null, null, null, null, null])).unwrap(),
        defaults
    );
    assert_eq!(parse_named_call(br#"{"prompt": "a cat"}"#).unwrap().unwrap(), defaults);
    // As Python sends them, whose numbers may all be floats.
    let infer = infer(&json!(["a cat", 42.0, false, "3:4", 2, 8.0, false])).unwrap();
    assert_eq!(
        infer,
        Infer {
            seed: Some(42),
            aspect_ratio: "3:4".to_owned(),
            guidance_scale: 2.0,
            steps: 8,
            enhance: false,
            ..defaults
        }
    );
}

#[test]
fn the_job_is_the_template_with_what_was_asked() {
    let infer = infer(&json!(["a cat", 7, false, "4:3", 0.5, 12, false])).unwrap();
    let (request, policy) = infer.request("a grey cat".to_owned(), 7);
    assert_eq!(policy.dialect, Dialect::Gradio);
    let Work::Template(template) = request.work else {
        panic!("no template");
    };
    assert_eq!(
        (template.template.as_deref(), &*template.prompt),
        (Some("qwen-image"), "a grey cat")
    );
    assert_eq!((template.seed, template.steps), (Some(7), Some(12)));
    assert_eq!(
        (template.cfg, template.aspect_ratio.as_deref()),
        (Some(1.0), Some("4:3"))
    );
}

/// The specification's table.
#[test]
fn the_sizes_are_those_of_the_space() {
    let templates = Templates::embedded().unwrap();
    let template = templates.get("qwen-image").unwrap();
    for (ratio, size) in [
        ("1:1", (1328, 1328)),
        ("16:9", (1664, 928)),
        ("9:16", (928, 1664)),
        ("4:3", (1472, 1140)),
        ("3:4", (1140, 1472)),
        ("3:2", (1584, 1056)),
        ("2:3", (1056, 1584)),
    ] {
        assert!(infer(&json!(["x", 0, true, ratio])).is_ok(), "{ratio}");
        assert_eq!(template.size_for_aspect_ratio(ratio), Some(size));
    }
}

#[test]
fn every_wrong_value_is_told_with_its_name() {
    insta::assert_snapshot!(refusal(&json!(["", -2, "yes", "5:4", 20.5, 0, 1])), @"
    Invalid request: 7 fields are wrong
    - prompt: is empty; say what the picture should show
    - seed: must be a whole number from 0 to 9007199254740991, not -2
    - randomize_seed: must be true or false, not \"yes\"
    - aspect_ratio: \"5:4\" is none of 1:1, 16:9, 9:16, 4:3, 3:4, 3:2, 2:3
    - guidance_scale: must be a number from 0 to 20, not 20.5
    - num_inference_steps: must be a whole number from 1 to 100, not 0
    - prompt_enhance: must be true or false, not 1
    ");
    for (data, said) in [
        (json!([]), "prompt: is empty"),
        (json!([7]), "prompt: must be a string, not 7"),
        (json!(["x".repeat(20_001)]), "prompt: has 20001 characters"),
        (json!(["x", 0, true, "16:9", 4, 101]), "not 101"),
        (json!(["x", 0, true, "16:9", -0.1]), "not -0.1"),
        (json!(["x", 1, 2, 3, 4, 5, 6, 7]), "has 8 values, and /infer takes 7"),
    ] {
        assert!(refusal(&data).contains(said), "{data}: {}", refusal(&data));
    }
    let strange = parse_named_call(br#"{"prompt": "x", "guidence_scale": 3}"#)
        .unwrap()
        .unwrap_err();
    let expected = "Invalid request: guidence_scale: is no parameter of /infer; it takes prompt, seed, randomize_seed, aspect_ratio, guidance_scale, num_inference_steps, prompt_enhance";
    assert_eq!(strange.full_text(), expected);
}

#[test]
fn a_seed_of_minus_one_is_a_random_one() {
    assert_eq!(infer(&json!(["x", -1, false])).unwrap().seed, None);
    assert_eq!(infer(&json!(["x", 7, false])).unwrap().seed, Some(7));
    assert_eq!(infer(&json!(["x", null, false])).unwrap().seed, Some(0));
}

#[test]
fn what_the_user_should_know_comes_before_the_end() {
    let outcome = Outcome {
        warnings: vec!["it is noise".to_owned()],
        ..picture()
    };
    let told = text(&completed(&id(), &ended(Ok(outcome)), 42, None));
    let (first, end) = told.split_once("\n\n").unwrap();
    let first: Value = serde_json::from_str(first.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(
        first,
        json!({
            "msg": "log", "event_id": id(), "log": "it is noise", "level": "warning", "duration": 10, "visible": true,
            "title": "Warning",
        })
    );
    assert!(end.contains("process_completed"), "{end}");
}

#[test]
fn a_body_that_is_none_is_refused_at_once() {
    for (body, status) in [
        ("", 422),
        ("[]", 422),
        (r#"{"nonsense": 1}"#, 422),
        (r#"{"data": 7, "session_hash": "s"}"#, 422),
        (r#"{"data": [], "session_hash": ""}"#, 422),
        (r#"{"data": [], "session_hash": 7}"#, 422),
        (r#"{"data": [], "session_hash": "s", "fn_index": 1}"#, 404),
    ] {
        let error = parse_join(body.as_bytes()).unwrap_err();
        assert_eq!(render_error(error.kind.status(), &error).status, status, "{body}");
    }
    assert!(parse_cancel(b"{}").is_err());
    assert_eq!(
        parse_cancel(br#"{"event_id": "e", "session_hash": "s", "fn_index": 0}"#).unwrap(),
        ("e".to_owned(), Some("s".to_owned()))
    );
}

#[test]
fn errors_outside_the_stream() {
    let told = |kind: ErrorKind| {
        let answer = render_error(kind.status(), &JobError::new(kind, "No"));
        format!("{} {}", answer.status, text(&answer.pieces))
    };
    insta::assert_snapshot!(told(ErrorKind::InvalidRequest), @r#"422 {"detail":[{"type":"value_error","loc":["body"],"msg":"No"}]}"#);
    insta::assert_snapshot!(told(ErrorKind::Busy), @r#"503 {"detail":"No"}"#);
    insta::assert_snapshot!(told(ErrorKind::NotFound), @r#"404 {"detail":"No"}"#);
    // A wrong key is a wrong request to us.
    assert_eq!(render_error(401, &JobError::invalid("No")).status, 401);
    insta::assert_snapshot!(text(&joined(&id()).pieces), @r#"{"event_id":"01890a5d-ac96-774b-bcce-b302099a8057"}"#);
}

/// The life of an event, as its stream tells it.
#[test]
fn each_step_of_an_event_is_told_once() {
    let (id, mut told, mut all) = (id(), Cursor::default(), String::new());
    let mut tell = |seen: &Snapshot, queued| {
        for _ in 0..2 {
            let usual = Some(Duration::from_secs(9));
            all += &text(&messages(&id, seen, queued, usual, &mut told));
        }
    };
    tell(&Snapshot::Waiting, 2);
    let mut view = view(JobState::Queued);
    view.position = Some(3);
    view.progress.eta = Some(Duration::from_millis(12_500));
    tell(&Snapshot::Job(Box::new(view.clone())), 3);
    view.position = Some(1);
    tell(&Snapshot::Job(Box::new(view.clone())), 1);
    view.state = JobState::Running;
    view.position = None;
    tell(&Snapshot::Job(Box::new(view.clone())), 0);
    view.progress.class_type = Some("KSampler".to_owned());
    for step in 1..=2 {
        view.progress.step = Some((step, 50));
        tell(&Snapshot::Job(Box::new(view.clone())), 0);
    }
    tell(&ended(Ok(picture())), 0);
    let all = all.replace(id.as_str(), "E");
    insta::assert_snapshot!(all, @r#"
    data: {"msg":"estimation","event_id":"E","rank":2,"queue_size":3,"rank_eta":null}

    data: {"msg":"estimation","event_id":"E","rank":0,"queue_size":1,"rank_eta":12.5}

    data: {"msg":"process_starts","event_id":"E","eta":9.0}

    data: {"msg":"progress","event_id":"E","progress_data":[{"index":1,"length":50,"unit":"steps","progress":null,"desc":"denoising"}]}

    data: {"msg":"progress","event_id":"E","progress_data":[{"index":2,"length":50,"unit":"steps","progress":null,"desc":"denoising"}]}
    "#);
}

#[test]
fn an_event_that_is_over_before_it_is_listened_to_has_begun_all_the_same() {
    let mut told = Cursor::default();
    let refusal = Snapshot::Refused(Arc::new(Refusal::from(&JobError::invalid("No"))));
    let lines = text(&messages(&id(), &refusal, 0, None, &mut told));
    let kinds: Vec<_> = lines.split("\"msg\":\"").skip(1).map(|line| &line[..10]).collect();
    assert_eq!(kinds, ["estimation", "process_st"]);
}

#[test]
fn the_end_is_the_picture_and_the_seed_or_an_error() {
    let end = |seen: &Snapshot| text(&completed(&id(), seen, 42, None)).replace(id().as_str(), "E");
    insta::assert_snapshot!(end(&ended(Ok(picture()))), @r#"data: {"msg":"process_completed","event_id":"E","success":true,"title":null,"output":{"data":["data:image/png;base64,QUJD",42],"is_generating":false,"duration":1.234,"average_duration":1.234,"render_config":null,"changed_state_ids":[]}}"#);
    insta::assert_snapshot!(end(&ended(Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled")))), @r#"data: {"msg":"process_completed","event_id":"E","success":false,"title":"Cancelled","output":{"error":"The job was cancelled","title":"Cancelled","duration":10,"visible":true}}"#);
    insta::assert_snapshot!(end(&ended(Ok(Outcome::default()))), @r#"data: {"msg":"process_completed","event_id":"E","success":false,"title":"Error","output":{"error":"The graph made no picture. Look at the template `qwen-image` in WORKFLOWS_DIR.","title":"Error","duration":10,"visible":true}}"#);
    let mut in_bucket = picture();
    in_bucket.files[0].base64 = None;
    in_bucket.files[0].url = Some("https://storage.example.com/a.png".to_owned());
    assert!(end(&ended(Ok(in_bucket))).contains(r#"["https://storage.example.com/a.png",42]"#));
}

#[test]
fn the_end_as_a_call_tells_it() {
    insta::assert_snapshot!(text(&call_result(&ended(Ok(picture())), 42)), @r#"
    event: complete
    data: ["data:image/png;base64,QUJD",42]
    "#);
    insta::assert_snapshot!(text(&call_result(&ended(Err(JobError::invalid("No"))), 42)), @r#"
    event: error
    data: {"error":"No","title":"Error","duration":10,"visible":true}
    "#);
}

#[test]
fn a_suffix_follows_the_language() {
    assert_eq!(with_suffix("a cat"), "a cat, Ultra HD, 4K, cinematic composition.");
    assert_eq!(with_suffix("一只 cat"), "一只 cat, 超清，4K，电影级构图.");
    let long = "x".repeat(19_990);
    assert_eq!(with_suffix(&long), long, "no longer than a prompt may be");
    assert!(
        chat_request("m", "猫")["messages"][0]["content"]
            .as_str()
            .unwrap()
            .contains("中文")
    );
}

/// What the recorded documents say of `/infer`, of which ours leave out what no client reads.
#[test]
fn the_documents_are_those_that_were_recorded() {
    let info = info();
    let endpoint = &info["named_endpoints"]["/infer"];
    let names: Vec<_> = endpoint["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|parameter| {
            format!(
                "{}: {} = {}",
                parameter["parameter_name"].as_str().unwrap(),
                parameter["python_type"]["type"].as_str().unwrap(),
                parameter["parameter_default"]
            )
        })
        .collect();
    insta::assert_snapshot!(names.join("\n"), @r#"
    prompt: str = null
    seed: float = 0
    randomize_seed: bool = true
    aspect_ratio: Literal['1:1', '16:9', '9:16', '4:3', '3:4', '3:2', '2:3'] = "16:9"
    guidance_scale: float = 4
    num_inference_steps: float = 50
    prompt_enhance: bool = true
    "#);
    assert_eq!(endpoint["parameters"][0]["parameter_has_default"], false);
    assert_eq!(info["unnamed_endpoints"], json!({}));

    let config = config();
    assert_eq!(config["protocol"], "sse_v3");
    assert_eq!(config["api_prefix"], "/gradio_api");
    assert_eq!(
        config.get("root"),
        None,
        "clients stay at the address by which they came"
    );
    let dependency = &config["dependencies"][0];
    assert_eq!(dependency["inputs"], json!([1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(dependency["outputs"], json!([8, 9]));
    assert_eq!(config["components"].as_array().unwrap().len(), 9);
    assert_eq!(config["components"][4]["props"]["maximum"], 20);
}

#[test]
fn the_fixed_messages_are_json() {
    for message in [HEARTBEAT, CLOSE_STREAM, UNKNOWN_SESSION] {
        let message = text(&[message]);
        let json = message.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(serde_json::from_str::<Value>(json).unwrap()["msg"].is_string());
    }
}

#[test]
fn the_schema_agrees_with_the_parser() {
    crate::dialect::schema::tests::agrees(super::infer(), |body| {
        parse_named_call(body.to_string().as_bytes()).is_ok_and(|infer| infer.is_ok())
    });
    let example = |schema| crate::dialect::schema::tests::example(&schema).to_string();
    assert!(parse_join(example(super::join()).as_bytes()).is_ok_and(|join| join.infer.is_ok()));
    assert!(parse_call(example(super::call()).as_bytes()).is_ok_and(|infer| infer.is_ok()));
    assert!(parse_cancel(example(super::cancel()).as_bytes()).is_ok());
}
