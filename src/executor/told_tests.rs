//! Whom a prompt's events go to, and in which words; what its entry shows.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::error::Problem;

const PROMPT: &str = "019ad000-0000-7000-8000-000000000001";
const JOB: &str = "e9b6b0d5-54ba-4a4e-9e5b-1f6a3c0a7d10";

fn told(client_id: Option<&str>) -> Told {
    Told {
        id: JobId::parse(JOB).unwrap(),
        created: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        owner: PromptOwner {
            client_id: client_id.map(str::to_owned),
            number: -7,
            ..PromptOwner::default()
        },
        entry: watch::channel(None).0,
    }
}

fn text(kind: &str, data: &Value) -> (Message, Frame) {
    let text = json!({"type": kind, "data": data}).to_string();
    (Message::from_text(&text), Frame::Text(text.into()))
}

fn binary(frame: Vec<u8>) -> (Message, Frame) {
    let frame = Bytes::from(frame);
    (Message::from_binary(&frame), Frame::Binary(frame))
}

/// A preview with metadata. Its picture has the id in it by chance.
fn preview(prompt_id: &str) -> Vec<u8> {
    let metadata = json!({"prompt_id": prompt_id, "node_id": "3", "image_type": "image/jpeg"}).to_string();
    let mut frame = 4_u32.to_be_bytes().to_vec();
    frame.extend(u32::try_from(metadata.len()).unwrap().to_be_bytes());
    frame.extend(metadata.as_bytes());
    frame.extend(PROMPT.as_bytes());
    frame
}

#[tokio::test]
async fn its_frames_go_to_its_client_under_the_jobs_id_and_the_end_does_not() {
    let relay = Relay::default();
    let told = told(Some("a client"));
    let mut ear = relay.listen(told.listener().unwrap());
    let mut passing = Passing::of(Some(&told), &relay, PROMPT, None).unwrap();
    let data =
        |prompt_id: &str| json!({"prompt_id": prompt_id, "nodes": {"3": {"prompt_id": prompt_id, "value": 1.0}}});
    // What others send before it runs is no word of it.
    let (message, frame) = text("pack-event", &json!({"value": 1}));
    passing.nameless(&message, &frame);
    for kind in ["execution_start", "progress_state", "something_new"] {
        let (message, frame) = text(kind, &data(PROMPT));
        passing.named(&message, &frame);
        assert_eq!(ear.next().await, Some(text(kind, &data(JOB)).1));
    }
    let (message, frame) = binary(preview(PROMPT));
    passing.named(&message, &frame);
    assert_eq!(ear.next().await, Some(binary(preview(JOB)).1));
    let old = [&1_u32.to_be_bytes()[..], &1_u32.to_be_bytes(), b"JPEG"].concat();
    for (message, frame) in [text("pack-event", &json!({"value": 2})), binary(old)] {
        passing.nameless(&message, &frame);
        assert_eq!(ear.next().await, Some(frame));
    }
    for (kind, data) in [
        ("status", json!({"status": {}})),
        ("feature_flags", json!({})),
        ("executing", json!({"node": "3"})),
    ] {
        let (message, frame) = text(kind, &data);
        passing.nameless(&message, &frame);
    }
    for kind in ["execution_success", "execution_error", "execution_interrupted"] {
        let (message, frame) = text(kind, &data(PROMPT));
        passing.named(&message, &frame);
    }
    let (message, frame) = text("executing", &json!({"node": null, "prompt_id": PROMPT}));
    passing.named(&message, &frame);
    let (message, frame) = text("pack-event", &json!({"value": 3}));
    passing.nameless(&message, &frame);
    relay.tell_all(&Frame::Text("last".into()));
    assert_eq!(ear.next().await, Some(Frame::Text("last".into())));
}

#[test]
fn a_prompt_without_a_client_tells_nobody() {
    let relay = Relay::default();
    assert!(Passing::of(Some(&told(None)), &relay, PROMPT, None).is_none());
    assert!(Passing::of(None, &relay, PROMPT, None).is_none());
}

#[test]
fn frames_that_break_off_are_passed_on_as_they_are() {
    let relay = Relay::default();
    let passing = Passing::of(Some(&told(Some("a"))), &relay, PROMPT, None).unwrap();
    let whole = preview(PROMPT);
    let metadata = metadata_of(&Bytes::from(whole.clone())).unwrap().len();
    for length in 0..8 + metadata {
        let frame = Frame::Binary(whole[..length].to_vec().into());
        assert_eq!(passing.translated(&frame), frame);
    }
}

#[test]
fn an_error_of_a_node_tells_no_keys() {
    let sent = json!({"api_key_comfy_org": "comfyui-123456"});
    let secrets = secrets_in(sent.as_object().unwrap());
    let problem = Problem {
        node_id: None,
        class_type: None,
        input: None,
        message: "comfyui-123456".to_owned(),
        fault: None,
    };
    let error = JobError::internal("401 for comfyui-123456")
        .hint("Is comfyui-123456 right?")
        .problems(vec![problem]);
    let shown = without(error, &secrets);
    assert_eq!(
        (shown.message.as_str(), shown.hint.as_deref()),
        ("401 for ***", Some("Is *** right?"))
    );
    assert_eq!(shown.problems[0].message, "***");
}

/// The entry as it is read: its outputs apart.
fn parted(entry: &Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let mut rest = entry.clone();
    let outputs = rest["outputs"].as_object_mut().map(std::mem::take).unwrap();
    (rest, outputs)
}

#[test]
fn keys_that_went_into_a_node_are_shown_nowhere() {
    let entry = json!({
        "prompt": [12, PROMPT, {"1": {"inputs": {"key": "of\nthe \"request\""}}}, {}, ["1"], {"auth_token_comfy_org": "in the entry"}],
        "outputs": {"1": {"text": ["Bearer of\nthe \"request\"!", "short and long"]}},
        "status": {"status_str": "error", "completed": false, "messages": [["execution_error", {
            "prompt_id": PROMPT, "current_inputs": {"key": ["of\nthe \"request\""], "token": ["in the entry"], "other": ["short"]},
        }]]},
    });
    let (rest, outputs) = parted(entry.as_object().unwrap());
    let sent = json!({
        "api_key_comfy_org": "of\nthe \"request\"", "auth_token_comfy_org": ["short", "", 7], "extra_pnginfo": {"a": "shown"},
    });
    let told = told(None);
    let seen = told.entry.subscribe();
    told.over(rest, &outputs, PROMPT, &secrets_in(sent.as_object().unwrap()));
    let text = seen.borrow().clone().unwrap();
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert!(!text.contains("request") && !text.contains("in the entry"), "{text}");
    assert_eq!(
        shown["status"]["messages"][0][1],
        json!({"prompt_id": JOB, "current_inputs": {"key": ["***"], "token": ["***"], "other": ["***"]}})
    );
    assert_eq!(shown["outputs"]["1"]["text"], json!(["Bearer ***!", "short and long"]));
}

#[tokio::test]
async fn a_frame_without_an_id_waits_for_the_end_of_the_last_prompt_and_has_the_jobs_id_within() {
    let relay = Relay::default();
    let told = told(Some("a client"));
    let who = told.listener().unwrap();
    let mut ear = relay.listen(who.clone());
    relay.tell_in_turn(&who, "an earlier one", &Frame::Text("begins".into()));
    let mut passing = Passing::of(Some(&told), &relay, PROMPT, None).unwrap();
    let (message, frame) = text("execution_start", &json!({"prompt_id": PROMPT}));
    passing.named(&message, &frame);
    let (message, frame) = text("pack-event", &json!({"of": {"prompt": PROMPT}}));
    passing.nameless(&message, &frame);
    // The same on the websocket that hears for all.
    relay.tell_broadcast(&frame);
    let [ends, over, all] = ["ends", "is over", "status"].map(|text| Frame::Text(text.into()));
    relay.end_in_turn(&who, "an earlier one", [&ends, &over], &all, true);
    relay.tell_all(&Frame::Text("last".into()));
    for expected in [
        Frame::Text("begins".into()),
        ends,
        all,
        over,
        text("execution_start", &json!({"prompt_id": JOB})).1,
        text("pack-event", &json!({"of": {"prompt": JOB}})).1,
        Frame::Text("last".into()),
    ] {
        assert_eq!(ear.next().await, Some(expected));
    }
}

#[test]
fn an_entry_shows_what_the_client_knows_and_no_keys() {
    let entry = json!({
        "prompt": [12, PROMPT, {"1": {"class_type": "SaveImage", "inputs": {}}}, {
            "client_id": "of the executor", "create_time": 5, "extra_pnginfo": {"workflow": {"nodes": []}},
            "auth_token_comfy_org": "secret", "api_key_comfy_org": "secret", "qwen_image_worker": {"metadata": true},
        }, ["1"], {"api_key_comfy_org": "secret"}],
        "outputs": {"1": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}},
        "status": {"status_str": "success", "completed": true,
            "messages": [["execution_start", {"prompt_id": PROMPT}], ["execution_success", {"prompt_id": PROMPT}]]},
        "meta": {"1": {"node_id": "1"}},
    });
    let Value::Object(entry) = entry else { unreachable!() };
    let shown = |client_id| {
        let told = told(client_id);
        let seen = told.entry.subscribe();
        let (rest, outputs) = parted(&entry);
        told.over(rest, &outputs, PROMPT, &[]);
        let text = seen.borrow().clone().unwrap();
        assert!(
            !text.contains("secret") && !text.contains(PROMPT) && !text.contains("executor"),
            "{text}"
        );
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let shown_of = shown(Some("a client"));
    assert_eq!(
        shown_of["prompt"],
        json!([-7, JOB, {"1": {"class_type": "SaveImage", "inputs": {}}}, {
            "client_id": "a client", "create_time": 1_700_000_000_123_u64, "extra_pnginfo": {"workflow": {"nodes": []}},
        }, ["1"]])
    );
    assert_eq!(
        shown_of["status"]["messages"][1],
        json!(["execution_success", {"prompt_id": JOB}])
    );
    assert_eq!(
        (&shown_of["outputs"], &shown_of["meta"]),
        (&entry["outputs"], &entry["meta"])
    );
    let names: Vec<_> = shown_of.as_object().unwrap().keys().collect();
    assert_eq!(names, ["prompt", "outputs", "status", "meta"]);
    assert_eq!(shown(None)["prompt"][3].get("client_id"), None);
}

#[test]
fn an_entry_of_another_shape_is_told_all_the_same() {
    for entry in [
        json!({}),
        json!({"prompt": null}),
        json!({"prompt": []}),
        json!({"prompt": [1, 2, 3, 4]}),
    ] {
        let Value::Object(entry) = entry else { unreachable!() };
        let told = told(None);
        let seen = told.entry.subscribe();
        told.over(entry, &Map::new(), PROMPT, &[Secret::new("a key of ours")]);
        assert!(seen.borrow().is_some());
    }
}
