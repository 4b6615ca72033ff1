//! Requests in, answers out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::dialect::answer::Answer;
use crate::error::{ErrorKind, JobError, Problem};
use crate::job::progress::Progress;
use crate::job::{Dialect, JobId, JobRequest, JobState, JobView, Policy, PromptOwner, Work};
use crate::workflow::testing::{changed, example, schemas};
use crate::workflow::{Graph, ModelCatalog, check};

const ID: &str = "0f6b2c1e-1d3c-4b7e-9a51-0c5f8c1d2e3f";

fn read(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.to_vec()).unwrap()
}

fn parsed(body: &Value) -> Result<Prompt, Value> {
    parse(body.to_string().as_bytes(), None, || 1_700_000_000_000).map_err(|refusal| read(&refusal.answer()))
}

fn refused(body: &[u8]) -> Value {
    let refusal = parse(body, None, || 1).unwrap_err();
    assert_eq!(refusal.answer().status, 400);
    read(&refusal.answer())
}

fn graph() -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    })
}

#[test]
fn a_prompt_becomes_a_job_of_its_owner() {
    let body = json!({
        "prompt": graph(),
        "client_id": "page",
        "prompt_id": ID,
        "extra_data": {
            "extra_pnginfo": {"workflow": {"id": "w"}},
            "api_key_comfy_org": "secret-1",
            "auth_token_comfy_org": "secret-2",
        },
    });
    let prompt = parsed(&body).unwrap();
    assert_eq!(prompt.id, JobId::parse(ID));
    assert_eq!(
        (prompt.number, prompt.client_id.as_deref()),
        (1_700_000_000_000, Some("page"))
    );
    let (request, policy) = prompt.job(Some("k".to_owned()), "127.0.0.1".to_owned());
    assert_eq!(request.org_api_key.unwrap().reveal(), "secret-1");
    assert_eq!(
        Value::from(request.extra_data),
        json!({
            "extra_pnginfo": {"workflow": {"id": "w"}},
            "auth_token_comfy_org": "secret-2",
            "client_id": "page",
        })
    );
    assert_eq!((policy.dialect, policy.priority), (Dialect::Comfyui, 0));
    assert_eq!(
        *policy.prompt.unwrap(),
        PromptOwner {
            client_id: Some("page".to_owned()),
            key: Some("k".to_owned()),
            caller: "127.0.0.1".to_owned(),
            number: 1_700_000_000_000,
            workflow_id: Some("w".to_owned()),
            hidden: false,
        }
    );
}

#[test]
fn a_place_is_what_was_asked_for() {
    let now = 1_700_000_000_000;
    for (more, number, priority) in [
        (json!({}), now, 0),
        (json!({"front": true}), -now, 1),
        (json!({"front": false}), now, 0),
        (json!({"number": 7}), 7, 0),
        (json!({"number": "7.0", "front": true}), 7, 0),
        (json!({"number": -3.4}), -3, 1),
        (json!({"number": null}), now, 0),
    ] {
        let mut body = json!({ "prompt": graph() });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let prompt = parsed(&body).unwrap();
        assert_eq!(prompt.number, number, "{more}");
        assert_eq!(prompt.job(None, String::new()).1.priority, priority, "{more}");
    }
    for wrong in [json!("soon"), json!(1e300), json!([1])] {
        let error = parsed(&json!({"prompt": graph(), "number": wrong})).unwrap_err();
        assert_eq!(error["error"]["message"], "number must be a number");
    }
    let (numbers, then) = (Numbers::default(), SystemTime::UNIX_EPOCH + Duration::from_millis(5));
    assert_eq!([numbers.next(then), numbers.next(then), numbers.next(then)], [5, 6, 7]);
}

#[test]
fn client_ids_are_texts_of_some_length_and_an_empty_one_is_none() {
    let client = |id: Value| parsed(&json!({"prompt": graph(), "client_id": id})).map(|prompt| prompt.client_id);
    assert_eq!(client(json!("a b/ü")).unwrap().as_deref(), Some("a b/ü"));
    assert_eq!(client(json!("")).unwrap(), None);
    assert_eq!(client(json!(null)).unwrap(), None);
    assert!(client(json!("x".repeat(256))).is_ok());
    assert_eq!(client(json!(7)).unwrap().as_deref(), Some("7"));
    for wrong in [json!("x".repeat(257)), json!(true), json!({})] {
        let error = client(wrong).unwrap_err();
        assert!(
            error["error"]["message"].as_str().unwrap().starts_with("client_id"),
            "{error}"
        );
    }
    let within = parsed(&json!({"prompt": graph(), "extra_data": {"client_id": "page"}})).unwrap();
    assert_eq!(within.client_id.as_deref(), Some("page"));
}

#[test]
fn what_is_no_prompt_is_refused_as_comfyui_does() {
    let no_prompt = json!({
        "error": {"type": "no_prompt", "message": "No prompt provided", "details": "No prompt provided", "extra_info": {}},
        "node_errors": {},
    });
    assert_eq!(refused(b"{}"), no_prompt);
    let no_outputs = json!({
        "error": {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": "", "extra_info": {}},
        "node_errors": {},
    });
    assert_eq!(refused(br#"{"prompt": {}}"#), no_outputs);
    let upper = ID.to_uppercase();
    for id in [json!("x"), json!(7), json!(upper), json!(ID.replace('-', ""))] {
        let error = parsed(&json!({"prompt": graph(), "prompt_id": id})).unwrap_err();
        assert_eq!(
            error["error"],
            json!({
                "type": "invalid_prompt_id",
                "message": "prompt_id must be a valid UUID",
                "details": "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one",
                "extra_info": {},
            }),
            "{id}"
        );
    }
    let no_class = json!({"prompt": {"1": {"inputs": {}}}});
    assert_eq!(
        parsed(&no_class).unwrap_err()["error"]["message"],
        "Node 'ID #1' has no class_type. The workflow may be corrupted or a custom node is missing."
    );
    assert_eq!(parsed(&no_class).unwrap_err()["error"]["type"], "missing_node_type");
}

#[test]
fn rubbish_is_told_and_nothing_fails() {
    let page = json!({"prompt": {"nodes": [], "links": [], "last_node_id": 3}});
    let said = refused(page.to_string().as_bytes());
    assert_eq!(said["error"]["type"], "invalid_prompt");
    assert!(said.to_string().contains("Workflow > Export (API)"), "{said}");
    for body in [
        "",
        "rubbish",
        "[]",
        "7",
        "null",
        "{\"prompt\": 7}",
        "{\"prompt\": []}",
        "{\"prompt\": \"{}\"}",
        "{\"prompt\": {\"1\": \"a\"}}",
        "{\"prompt\": {\"1\": {\"class_type\": 7}}}",
        "{\"prompt\": {\"1\": null}}",
        "{\"prompt\": {\"1\": {\"class_type\": \"A\", \"inputs\": {}}}, \"extra_data\": []}",
        "{\"prompt\": {\"1\": {\"class_type\": \"A\", \"inputs\": {}}}, \"partial_execution_targets\": \"2\"}",
        "{\"prompt\": NaN}",
        "{\"prompt\": {\"1\": {\"class_type\": \"A\", \"inputs\": {}}}, \"number\": NaN}",
        "{\"prompt\": {\"a\": Infinity}}",
    ] {
        let said = refused(body.as_bytes());
        assert!(said["error"]["message"].is_string(), "{body}: {said}");
        assert!(said["node_errors"].is_object(), "{body}: {said}");
    }
    let deep = format!("{{\"prompt\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refused(deep.as_bytes())["error"]["message"].is_string());
}

/// What is taken of a graph, and the faults of what is not.
fn taken(mut graph: Graph) -> Result<(Vec<String>, Value), Value> {
    let models = ModelCatalog::builtin().unwrap();
    let mut checked = Checked::default();
    while let Err(failure) = check(&graph, &schemas(), &models) {
        let left = without_what_fails(&mut graph, &failure.error, &mut checked);
        left.map_err(|refusal| read(&refusal.answer()))?;
    }
    let answer = accepted(&JobId::new(), 1, &checked);
    Ok((
        graph.nodes.keys().cloned().collect(),
        read(&answer)["node_errors"].take(),
    ))
}

#[test]
fn each_fault_is_told_in_comfyuis_words() {
    let said = taken(changed(|graph| {
        graph["3"]["inputs"]["steps"] = json!(0);
        graph["3"]["inputs"]["cfg"] = json!("high");
        graph["3"]["inputs"]["denoise"] = json!(7);
        graph["3"]["inputs"]["sampler_name"] = json!("eular");
        graph["38"]["inputs"]["type"] = json!("umt");
        graph["58"]["inputs"].as_object_mut().unwrap().shift_remove("height");
        graph["66"]["inputs"]["model"] = json!(["6", 0]);
        graph["8"]["inputs"]["vae"] = json!([39, 0]);
    }));
    let mut said = said.unwrap_err();
    assert_eq!(said["error"]["type"], "prompt_outputs_failed_validation");
    assert!(
        said["error"]["details"]
            .as_str()
            .unwrap()
            .contains("node 3 (KSampler), steps"),
        "{said:#}"
    );
    // Ours, and told elsewhere.
    for (_, node) in said["node_errors"].as_object_mut().unwrap() {
        for error in node["errors"].as_array_mut().unwrap() {
            error["extra_info"].as_object_mut().unwrap().shift_remove("advice");
        }
    }
    insta::assert_json_snapshot!(said["node_errors"]);
}

#[test]
fn classes_that_are_not_there_refuse_the_whole_prompt() {
    let mut said = taken(changed(|graph| graph["8"]["class_type"] = json!("VAEDecoder"))).unwrap_err();
    let advice = said["error"]["extra_info"]
        .as_object_mut()
        .unwrap()
        .shift_remove("advice");
    assert!(advice.unwrap().as_str().unwrap().contains("VAEDecode"));
    let title = example()["8"]["_meta"]["title"]
        .as_str()
        .unwrap_or("VAEDecoder")
        .to_owned();
    assert_eq!(
        said,
        json!({
            "error": {
                "type": "missing_node_type",
                "message": format!("Node '{title}' not found. The custom node may not be installed."),
                "details": "Node ID '#8'",
                "extra_info": {"node_id": "8", "class_type": "VAEDecoder", "node_title": title},
            },
            "node_errors": {},
        })
    );
}

#[test]
fn outputs_that_are_whole_run_without_the_others() {
    let two = |graph: &mut Value| {
        graph["100"] = json!({"class_type": "SaveImage", "inputs": {"images": ["99", 0], "filename_prefix": "x"}});
        graph["99"] = json!({"class_type": "VAEDecode", "inputs": {"samples": ["98", 0], "vae": ["39", 0]}});
        graph["98"] = json!({"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "batch_size": 1}});
    };
    let (nodes, errors) = taken(changed(two)).unwrap();
    assert!(nodes.contains(&"60".to_owned()), "{nodes:?}");
    assert!(
        !nodes.iter().any(|id| ["98", "99", "100"].contains(&id.as_str())),
        "{nodes:?}"
    );
    assert_eq!(errors["98"]["dependent_outputs"], json!(["100"]));
    assert_eq!(errors["98"]["class_type"], "EmptySD3LatentImage");
    assert_eq!(errors["98"]["errors"][0]["type"], "required_input_missing");
    assert_eq!(errors["98"]["errors"][0]["details"], "height");
    assert_eq!(errors.as_object().unwrap().len(), 1);
    // Where neither is, nothing runs.
    let said = taken(changed(|graph| {
        two(graph);
        graph["3"]["inputs"]["steps"] = json!(0);
    }));
    let said = said.unwrap_err();
    assert_eq!(said["error"]["type"], "prompt_outputs_failed_validation");
    assert_eq!(said["node_errors"].as_object().unwrap().len(), 2);
}

#[test]
fn nodes_in_a_circle_are_told_each_and_links_to_nothing_as_comfyui_stumbles() {
    let said = taken(changed(|graph| {
        graph["66"]["inputs"]["model"] = json!(["73", 0]);
        graph["73"]["inputs"]["model"] = json!(["66", 0]);
    }));
    let errors = said.unwrap_err()["node_errors"].take();
    for id in ["66", "73"] {
        assert_eq!(errors[id]["errors"][0]["type"], "dependency_cycle", "{errors:#}");
        assert_eq!(errors[id]["errors"][0]["extra_info"]["node_id"], id);
        assert_eq!(errors[id]["dependent_outputs"], json!(["60"]));
    }
    let said = taken(changed(|graph| graph["60"]["inputs"]["images"] = json!(["9999", 0]))).unwrap_err();
    assert_eq!(
        said["node_errors"]["60"]["errors"][0]["type"],
        "exception_during_validation"
    );
    assert_eq!(said["node_errors"]["60"]["errors"][0]["details"], "'9999'");
    let said = taken(changed(|graph| drop(graph.as_object_mut().unwrap().shift_remove("60")))).unwrap_err();
    assert_eq!(said["error"]["type"], "prompt_no_outputs");
}

#[test]
fn of_some_outputs_only_what_they_need_is_left() {
    let two = || {
        changed(|graph| {
            graph["100"] = json!({"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}});
        })
    };
    let mut graph = two();
    narrowed(
        &mut graph,
        &["100".to_owned(), "3".to_owned()],
        &["60".to_owned(), "100".to_owned()],
    )
    .unwrap();
    assert!(graph.get("100").is_some() && graph.get("60").is_none() && graph.get("3").is_some());
    let refusal = narrowed(&mut two(), &["3".to_owned()], &["60".to_owned()]).unwrap_err();
    assert_eq!(read(&refusal.answer())["error"]["type"], "prompt_no_outputs");
    // Where ComfyUI has not told of them, they are believed.
    narrowed(&mut two(), &["3".to_owned()], &[]).unwrap();
    assert!(narrowed(&mut two(), &["none".to_owned()], &[]).is_err());
}

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

#[test]
fn lists_are_asked_for_as_comfyui_reads_it() {
    let query = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    };
    let page = |pairs: &[(&str, &str)]| {
        let page = Page::parse(&query(pairs)).unwrap();
        (page.max_items, page.offset)
    };
    assert_eq!(page(&[]), (1_000, None));
    assert_eq!(page(&[("max_items", "2"), ("offset", "1")]), (2, Some(1)));
    assert_eq!(page(&[("max_items", "-1"), ("offset", "-1")]), (0, None));
    assert_eq!(page(&[("max_items", "1000000")]), (10_000, None));
    assert!(Page::parse(&query(&[("max_items", "many")])).is_err());

    let asked = JobsAsked::parse(&query(&[
        ("status", "pending, Failed"),
        ("limit", "5"),
        ("offset", "-3"),
    ]))
    .unwrap();
    assert_eq!(asked.statuses, [Status::Pending, Status::Failed]);
    assert_eq!((asked.limit, asked.offset, asked.order), (Some(5), 0, Order::Created));
    // The limit that an answer tells is the one that it was made with; without one, none is told unless something is left out.
    let limit_of = |pairs: &[(&str, &str)], total| {
        let asked = JobsAsked::parse(&query(pairs)).unwrap();
        let jobs = vec![json!({}); asked.most().min(total)];
        read(&jobs_answer(&jobs, &asked, total))["pagination"].take()
    };
    let said = |limit: Value, total: usize, has_more: bool| json!({"offset": 0, "limit": limit, "total": total, "has_more": has_more});
    assert_eq!(limit_of(&[], 1_000), said(json!(null), 1_000, false));
    assert_eq!(limit_of(&[], 1_001), said(json!(1_000), 1_001, true));
    assert_eq!(limit_of(&[("limit", "5")], 5), said(json!(5), 5, false));
    assert_eq!(limit_of(&[("limit", "20000")], 1), said(json!(10_000), 1, false));
    for (pair, said) in [
        (
            ("status", "lost"),
            "Invalid status value(s): lost. Valid values: pending, in_progress, completed, failed, cancelled",
        ),
        (
            ("sort_by", "name"),
            "sort_by must be 'created_at' or 'execution_duration'",
        ),
        (("sort_order", "up"), "sort_order must be 'asc' or 'desc'"),
        (("limit", "0"), "limit must be a positive integer"),
        (("limit", "x"), "limit must be an integer"),
        (("offset", "x"), "offset must be an integer"),
    ] {
        let answer = JobsAsked::parse(&query(&[pair])).unwrap_err();
        assert_eq!((answer.status, read(&answer)), (400, json!({ "error": said })));
    }
}

#[test]
fn what_is_done_to_prompts_is_read_as_comfyui_reads_it() {
    assert_eq!(removal(b"{}").unwrap(), Removal::default());
    assert!(removal(br#"{"clear": true}"#).unwrap().clear);
    let some = removal(format!(r#"{{"delete": ["{ID}", 7, "x"], "client_id": "page"}}"#).as_bytes()).unwrap();
    assert_eq!(some.delete, [JobId::parse(ID).unwrap()].into());
    assert_eq!(some.client_id.as_deref(), Some("page"));
    for wrong in [
        &b""[..],
        b"rubbish",
        b"[]",
        br#"{"delete": 7}"#,
        br#"{"client_id": true}"#,
    ] {
        assert_eq!(removal(wrong).unwrap_err().answer().status, 400);
    }
    // As Python reads the truth of a value.
    for (value, truth) in [
        ("1", true),
        ("0", false),
        ("\"x\"", true),
        ("[]", false),
        ("{}", false),
        ("[0]", true),
    ] {
        assert_eq!(
            removal(format!(r#"{{"clear": {value}}}"#).as_bytes()).unwrap().clear,
            truth,
            "{value}"
        );
        let freeing = freeing(format!(r#"{{"unload_models": {value}}}"#).as_bytes()).unwrap();
        assert_eq!((freeing.unload_models, freeing.free_memory), (truth, false), "{value}");
    }
    // ComfyUI takes each character for an id.
    assert_eq!(removal(br#"{"delete": "x"}"#).unwrap(), Removal::default());
    assert_eq!(removal(br#"{"client_id": 7}"#).unwrap().client_id.as_deref(), Some("7"));
    for bare in [
        &b""[..],
        b" \n",
        b"rubbish",
        br#"{"prompt_id": 0}"#,
        b"{}",
        br#"{"prompt_id": null}"#,
        br#"{"prompt_id": ""}"#,
    ] {
        assert_eq!(interrupt(bare).unwrap(), Interrupt::default());
    }
    let one = interrupt(format!(r#"{{"prompt_id": "{ID}"}}"#).as_bytes()).unwrap();
    assert_eq!(one.prompt, Some(JobId::parse(ID)));
    // One that can be nobody's ends nothing, and not everything.
    assert_eq!(interrupt(br#"{"prompt_id": "x"}"#).unwrap().prompt, Some(None));
    assert_eq!(interrupt(br#"{"prompt_id": 7}"#).unwrap().prompt, Some(None));
    assert!(interrupt(b"[]").is_err() && interrupt(br#"{"client_id": {}}"#).is_err());
    let one = cancelled_jobs(format!(r#"{{"job_ids": ["{ID}"], "client_id": "page"}}"#).as_bytes()).unwrap();
    assert_eq!((one.jobs.len(), one.client_id.as_deref()), (1, Some("page")));
    assert!(cancelled_jobs(br#"{"job_ids": [], "client_id": {}}"#).is_err());
    assert_eq!(
        named_client(br#"{"client_id": "page"}"#).unwrap().as_deref(),
        Some("page")
    );
    assert_eq!(named_client(b"rubbish").unwrap(), None);
    assert!(named_client(br#"{"client_id": {}}"#).is_err());
    for (wrong, said) in [
        ("rubbish", json!({"error": "Request body must be valid JSON"})),
        ("[]", json!({"error": "job_ids must be a list"})),
        (
            r#"{"job_ids": ["x", 7]}"#,
            json!({"error": "job_ids contains invalid id(s)", "invalid_ids": ["x", "7"]}),
        ),
    ] {
        assert_eq!(read(&cancelled_jobs(wrong.as_bytes()).unwrap_err()), said);
    }
}

#[test]
fn every_error_has_a_message_in_an_object() {
    let error = JobError::new(ErrorKind::Busy, "10 jobs wait or run").hint("Send the job again later.");
    let answer = render_error(429, &error);
    assert_eq!(answer.status, 429);
    assert_eq!(
        read(&answer),
        json!({
            "error": {
                "type": "busy", "message": "10 jobs wait or run", "details": "Send the job again later.", "extra_info": {},
            },
            "node_errors": {},
        })
    );
    assert!(matches!(request().work, Work::Workflow(_)));
}
