//! Requests in, answers out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::dialect::answer::Answer;
use crate::error::{ErrorKind, JobError, Problem};
use crate::job::progress::Progress;
use crate::job::{Dialect, JobId, JobRequest, JobState, JobView, Policy, PromptOwner};
use crate::workflow::testing::{changed, example, schemas};
use crate::workflow::{Graph, ModelCatalog, check};

mod faults;
mod saved;
mod shown;

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
    // Half of what the page saves.
    let page = json!({"prompt": {"links": [], "last_node_id": 3}});
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
}
