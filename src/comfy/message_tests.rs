//! Messages as ComfyUI sends them.

use super::*;

#[test]
fn the_end_of_a_prompt_has_no_node() {
    let message = Message::from_text(r#"{"type":"executing","data":{"node":null,"prompt_id":"p"}}"#);
    assert_eq!(
        message,
        Message::Executing {
            prompt_id: Some("p".into()),
            node: None
        }
    );
    assert_eq!(message.prompt_id(), Some("p"));
}

#[test]
fn after_a_reconnection_executing_has_no_prompt() {
    let message = Message::from_text(r#"{"type":"executing","data":{"node":"3"}}"#);
    assert_eq!(
        message,
        Message::Executing {
            prompt_id: None,
            node: Some("3".into())
        }
    );
}

#[test]
fn progress_state_keeps_each_node() {
    let text = r#"{"type":"progress_state","data":{"prompt_id":"p","nodes":{"3":{"value":2,"max":8.0,"state":"running","node_id":"3"}}}}"#;
    let Message::ProgressState { nodes, .. } = Message::from_text(text) else {
        panic!("{text}")
    };
    assert_eq!(
        nodes["3"],
        NodeProgress {
            value: 2.0,
            max: 8.0,
            state: "running".into()
        }
    );
}

#[test]
fn what_python_writes_is_understood() {
    let text = r#"{"type":"execution_error","data":{"prompt_id":"p","exception_message":"caf\udce9","current_inputs":{"x":[NaN]}}}"#;
    let Message::Unknown { data, .. } = Message::from_text(text) else {
        panic!("{text}")
    };
    assert_eq!(data["exception_message"], "caf\u{fffd}");
    let text =
        r#"{"type":"progress_state","data":{"prompt_id":"p","nodes":{"3":{"value":NaN,"max":8,"state":"running"}}}}"#;
    let Message::ProgressState { nodes, .. } = Message::from_text(text) else {
        panic!("{text}")
    };
    assert_eq!((nodes["3"].value, nodes["3"].max), (0.0, 8.0));
}

#[test]
fn a_message_of_another_kind_tells_its_prompt_all_the_same() {
    let of = |text: &str| Message::from_text(text).prompt_id().map(str::to_owned);
    assert_eq!(
        of(r#"{"type":"something_new","data":{"prompt_id":"p"}}"#).as_deref(),
        Some("p")
    );
    assert_eq!(of(r#"{"type":"crystools.monitor","data":{"cpu":1}}"#), None);
}

#[test]
fn what_an_output_node_left_is_told_before_the_prompt_is_over() {
    let text = r#"{"type":"executed","data":{"prompt_id":"p","node":"9","display_node":"9","output":{"images":[]}}}"#;
    let Message::Executed { output, .. } = Message::from_text(text) else {
        panic!("{text}")
    };
    assert_eq!(output, serde_json::json!({"images": []}));
    let nothing = Message::from_text(r#"{"type":"executed","data":{"prompt_id":"p","node":"9","output":null}}"#);
    assert!(
        matches!(
            nothing,
            Message::Executed {
                output: Value::Null,
                ..
            }
        ),
        "{nothing:?}"
    );
}

#[test]
fn unknown_types_and_shapes_are_kept() {
    let strange = Message::from_text(r#"{"type":"crystools.monitor","data":{"cpu":1}}"#);
    assert_eq!(
        strange,
        Message::Unknown {
            kind: "crystools.monitor".into(),
            data: serde_json::json!({"cpu": 1})
        }
    );
    let misshapen = Message::from_text(r#"{"type":"executed","data":[]}"#);
    assert!(
        matches!(misshapen, Message::Unknown { ref kind, .. } if kind == "executed"),
        "{misshapen:?}"
    );
    assert!(matches!(Message::from_text("hello"), Message::Unknown { .. }));
}

#[test]
fn binary_previews_in_both_forms() {
    let plain = Bytes::from_static(b"\0\0\0\x01\0\0\0\x02PNG");
    assert_eq!(
        Message::from_binary(&plain),
        Message::Preview(Preview {
            prompt_id: None,
            node_id: None,
            media_type: "image/png".into(),
            image: Bytes::from_static(b"PNG")
        })
    );
    let metadata = br#"{"node_id":"3","prompt_id":"p","image_type":"image/jpeg"}"#;
    let mut frame = vec![0, 0, 0, 4];
    frame.extend(u32::try_from(metadata.len()).unwrap().to_be_bytes());
    frame.extend(metadata);
    frame.extend(b"JPEG");
    let Message::Preview(preview) = Message::from_binary(&frame.into()) else {
        panic!("no preview")
    };
    assert_eq!(
        (
            preview.node_id.as_deref(),
            preview.prompt_id.as_deref(),
            &preview.image[..]
        ),
        (Some("3"), Some("p"), &b"JPEG"[..])
    );
}

#[test]
fn truncated_binary_frames_are_unknown_not_a_panic() {
    for frame in [
        &b""[..],
        b"\0\0",
        b"\0\0\0\x04\xff\xff\xff\xff{}",
        b"\0\0\0\x03\0\0\0\x09abc",
        b"\0\0\0\x09",
    ] {
        assert!(
            matches!(
                Message::from_binary(&Bytes::copy_from_slice(frame)),
                Message::Unknown { .. }
            ),
            "{frame:?}"
        );
    }
}

#[test]
fn what_another_version_adds_or_changes_costs_no_message() {
    let text = r#"{"type":"progress_state","data":{"prompt_id":"p","new":1,"nodes":{
        "3":{"value":"2","max":8,"state":"running","eta":[1]},
        "4":{"value":1,"max":2,"state":null},
        "5":null}}}"#;
    let Message::ProgressState { nodes, .. } = Message::from_text(text) else {
        panic!("{text}")
    };
    assert_eq!((nodes.len(), nodes["3"].value, nodes["3"].max), (1, 0.0, 8.0));
    let listed = Message::from_text(r#"{"type":"progress_state","data":{"prompt_id":"p","nodes":[]}}"#);
    assert_eq!(listed.prompt_id(), Some("p"));
    let text = r#"{"type":"execution_cached","data":{"prompt_id":"p","nodes":["1",2,{"id":"3"}],"timestamp":1}}"#;
    let Message::ExecutionCached { nodes, .. } = Message::from_text(text) else {
        panic!("{text}")
    };
    assert_eq!(nodes, ["1", "2"]);
    // Older versions say nothing of what was cached.
    assert!(matches!(
        Message::from_text(r#"{"type":"execution_cached","data":{"prompt_id":"p"}}"#),
        Message::ExecutionCached { .. }
    ));
}

#[test]
fn unknown_words_and_frames_are_taken_as_such() {
    for (text, kind, prompt) in [
        (
            r#"{"type":"execution_status","data":{"prompt_id":"p","status":"evicted"}}"#,
            "execution_status",
            Some("p"),
        ),
        (
            r#"{"type":"executing","data":{"prompt_id":"p","node":{"id":"3"}}}"#,
            "executing",
            Some("p"),
        ),
        (
            r#"{"type":"assets.seed.progress","data":[1,2]}"#,
            "assets.seed.progress",
            None,
        ),
        (r#"{"type":"notification","data":"text"}"#, "notification", None),
        (r#"{"type":"feature_flags"}"#, "feature_flags", None),
        (r#"{"kind":"x"}"#, "no JSON message", None),
        ("[]", "no JSON message", None),
    ] {
        let message = Message::from_text(text);
        assert_eq!(message.prompt_id(), prompt, "{text}");
        assert!(
            matches!(&message, Message::Unknown { kind: told, .. } if told == kind),
            "{message:?}"
        );
    }
    for event in [0_u8, 2, 5, 200] {
        let frame = Bytes::from(vec![0, 0, 0, event, 0, 0, 0, 1, b'x']);
        assert!(
            matches!(Message::from_binary(&frame), Message::Unknown { .. }),
            "{event}"
        );
    }
}

#[test]
fn the_reason_of_a_refusal_may_be_a_sentence() {
    let rejection: Rejection = serde_json::from_str(r#"{"error":"no","node_errors":null,"prompt_id":7}"#).unwrap();
    assert_eq!(rejection.error.unwrap().message, "no");
    assert_eq!(rejection.prompt_id, None);
    let text = r#"{"error":{"type":"a","message":"b","details":["c"],"extra_info":{"d":1}},"prompt_id":"p"}"#;
    let rejection: Rejection = serde_json::from_str(text).unwrap();
    let reason = rejection.error.unwrap();
    assert_eq!((&*reason.kind, &*reason.message, &*reason.details), ("a", "b", ""));
    assert_eq!(reason.extra_info["d"], 1);
    assert_eq!(rejection.prompt_id.as_deref(), Some("p"));
}
