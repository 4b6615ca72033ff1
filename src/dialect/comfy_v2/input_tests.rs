use serde_json::json;

use super::*;

fn refused(body: &Value) -> Refusal {
    parse(body.to_string().as_bytes()).unwrap_err()
}

fn graph() -> Value {
    json!({"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}})
}

#[test]
fn a_submission_becomes_a_job() {
    let body = json!({
        "workflow": graph(), "metadata": {"client": "acme", "run": "7"}, "priority": 5,
        "extra_data": {"api_key_comfy_org": "secret-key"}, "future": 1,
    });
    let submission = parse(body.to_string().as_bytes()).unwrap();
    let (request, policy) = submission.job(Some("mark".to_owned()));
    assert_eq!(request.org_api_key.unwrap().reveal(), "secret-key");
    assert_eq!((policy.dialect, policy.priority), (Dialect::ComfyV2, 5));
    let owner = policy.v2.unwrap();
    assert_eq!((owner.key.as_deref(), owner.nodes), (Some("mark"), 2));
    assert_eq!(owner.metadata["client"], "acme");
    assert_eq!(
        owner.warnings,
        ["the request has fields that are not known here: future"]
    );
}

#[test]
fn what_is_no_submission_is_refused_by_its_field() {
    for (body, code, said) in [
        (json!([]), Code::InvalidRequest, "no JSON object"),
        (json!(null), Code::InvalidRequest, "no JSON object"),
        (json!({}), Code::InvalidRequest, "`workflow` is missing"),
        (json!({"workflow": null}), Code::InvalidRequest, "`workflow` is missing"),
        (json!({"workflow": "x"}), Code::InvalidRequest, "no object"),
        (json!({"workflow": []}), Code::InvalidRequest, "no object"),
        (json!({"workflow": {}}), Code::InvalidWorkflow, "no nodes"),
        (json!({"workflow": {"1": 7}}), Code::InvalidWorkflow, "node 1"),
        (
            json!({"workflow": {"1": {"inputs": {}}}}),
            Code::InvalidWorkflow,
            "class_type",
        ),
        (
            json!({"workflow": {"nodes": [], "links": []}}),
            Code::WorkflowFormatUi,
            "",
        ),
        (
            json!({"workflow": {"nodes": [], "links": [], "last_node_id": 1}}),
            Code::WorkflowFormatUi,
            "",
        ),
        (
            json!({"workflow": graph(), "webhook_url": "https://x"}),
            Code::InvalidRequest,
            "webhook_url",
        ),
        (
            json!({"workflow": graph(), "inputs": {}}),
            Code::InvalidRequest,
            "inputs",
        ),
        (
            json!({"workflow": graph(), "extra_data": []}),
            Code::InvalidRequest,
            "extra_data",
        ),
        (
            json!({"workflow": graph(), "extra_data": {"client_id": "x"}}),
            Code::InvalidRequest,
            "client_id",
        ),
        (
            json!({"workflow": graph(), "extra_data": {"api_key_comfy_org": 1}}),
            Code::InvalidRequest,
            "no text",
        ),
        (
            json!({"workflow": graph(), "metadata": "x"}),
            Code::MetadataInvalid,
            "no object",
        ),
        (
            json!({"workflow": graph(), "metadata": {"a": 1}}),
            Code::MetadataInvalid,
            "`a`",
        ),
        (
            json!({"workflow": graph(), "metadata": {"a": "x\u{202e}y"}}),
            Code::MetadataInvalid,
            "`a`",
        ),
        (
            json!({"workflow": graph(), "metadata": {"a": "x\ny"}}),
            Code::MetadataInvalid,
            "`a`",
        ),
        (
            json!({"workflow": graph(), "metadata": {"": "x"}}),
            Code::MetadataInvalid,
            "empty",
        ),
        (
            json!({"workflow": graph(), "metadata": {"a": "x".repeat(2000)}}),
            Code::MetadataInvalid,
            "2000 bytes",
        ),
        (
            json!({"workflow": graph(), "priority": "high"}),
            Code::InvalidRequest,
            "priority",
        ),
        (
            json!({"workflow": graph(), "priority": 1e99}),
            Code::InvalidRequest,
            "priority",
        ),
    ] {
        let refusal = refused(&body);
        let answer = String::from_utf8(refusal.answer().to_vec()).unwrap();
        assert_eq!(refusal.code(), code, "{body}: {answer}");
        assert!(answer.contains(said), "{body}: {answer}");
        assert!(answer.len() < 3_000, "{answer}");
    }
    let many: Map<String, Value> = (0..17).map(|n| (format!("k{n}"), json!("v"))).collect();
    let refusal = refused(&json!({"workflow": graph(), "metadata": many}));
    assert_eq!(refusal.code(), Code::MetadataInvalid);
    assert!(parse(b"{").is_err() && parse(b"").is_err() && parse(&vec![b'['; 1_000_000]).is_err());
}
