//! What ComfyUI answers about a prompt, out of `/history/{prompt_id}` and `/queue`. Recorded from 0.30.0 (`execution.py`), and read
//! so that what another version adds, leaves out or writes in another shape costs no job: a result that is there is found.

use serde::de::Error as _;
use serde_json::{Map, Value};

use super::message::{ExecutionError, HistoryEntry, PromptEnd, QueuePlace};

/// The prompt's entry in an answer of `/history/{prompt_id}`; [`None`] where there is none. It stands under the prompt's id, or
/// is the answer itself.
pub(super) fn entry(answer: Map<String, Value>, prompt_id: &str) -> Result<Option<HistoryEntry>, serde_json::Error> {
    let mut answer = answer;
    let entry = match answer.remove(prompt_id) {
        Some(Value::Object(entry)) => entry,
        Some(Value::Null) => return Ok(None),
        Some(_) => return Err(serde_json::Error::custom("the prompt's entry is no object")),
        None if is_named(&answer, prompt_id) && answer.contains_key("outputs") => answer,
        None => return Ok(None),
    };
    Ok(Some(read(entry)))
}

fn read(mut entry: Map<String, Value>) -> HistoryEntry {
    // Taken out: it may be large.
    let outputs = match entry.get_mut("outputs") {
        Some(Value::Object(outputs)) => std::mem::take(outputs),
        // Python writes an empty map as `[]` in some answers.
        _ => Map::new(),
    };
    let status = entry.get("status").unwrap_or(&Value::Null);
    let word = status.get("status_str").or(Some(status)).and_then(Value::as_str);
    let completed = status.get("completed").and_then(Value::as_bool);
    let mut end = end_by_word(word.unwrap_or_default(), completed);
    let mut cached = Vec::new();
    let messages = status.get("messages").and_then(Value::as_array);
    for (kind, data) in messages.into_iter().flatten().filter_map(message) {
        match kind {
            "execution_error" => end = PromptEnd::Error(ExecutionError::read(data)),
            "execution_interrupted" => end = PromptEnd::Interrupted,
            "execution_cached" => {
                let nodes = data.get("nodes").and_then(Value::as_array).into_iter().flatten();
                cached = nodes.filter_map(Value::as_str).map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    HistoryEntry {
        outputs,
        end,
        cached,
        rest: entry,
    }
}

/// `["execution_error", {…}]`, or `{"type": "execution_error", "data": {…}}` as the websocket has it.
fn message(message: &Value) -> Option<(&str, &Value)> {
    let (kind, data) = match message {
        Value::Array(parts) => (parts.first()?, parts.get(1)),
        _ => (
            message.get("type").or_else(|| message.get("event"))?,
            message.get("data"),
        ),
    };
    Some((kind.as_str()?, data.unwrap_or(&Value::Null)))
}

/// 0.30.0 knows `success` and `error`.
fn end_by_word(word: &str, completed: Option<bool>) -> PromptEnd {
    match word {
        "success" | "completed" | "" => PromptEnd::Success,
        "interrupted" | "cancelled" | "canceled" => PromptEnd::Interrupted,
        "error" | "failed" => nameless("ComfyUI gives no reason".to_owned()),
        _ if completed == Some(false) => nameless(format!(
            "ComfyUI calls the prompt `{}` and gives no reason",
            crate::echo::cut(word)
        )),
        _ => PromptEnd::Success,
    }
}

fn nameless(exception_message: String) -> PromptEnd {
    PromptEnd::Error(ExecutionError {
        exception_message,
        ..ExecutionError::default()
    })
}

/// Where a prompt is in an answer of `/queue`.
pub(super) fn place(queue: &Map<String, Value>, prompt_id: &str) -> QueuePlace {
    let list = |name: &str| queue.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (running, pending) = (list("queue_running"), list("queue_pending"));
    let is_it = |item: &Value| match item {
        // Number, id, graph, further data, output nodes.
        Value::Array(parts) => parts.get(1).and_then(Value::as_str) == Some(prompt_id),
        Value::Object(item) => is_named(item, prompt_id),
        _ => false,
    };
    match () {
        () if running.iter().any(is_it) => QueuePlace::Running,
        () if !pending.iter().any(is_it) => QueuePlace::Unknown,
        () if running.is_empty() => QueuePlace::Stuck,
        () => QueuePlace::Pending,
    }
}

fn is_named(object: &Map<String, Value>, prompt_id: &str) -> bool {
    let is = |key: &str| object.get(key).and_then(Value::as_str) == Some(prompt_id);
    is("prompt_id") || is("id")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    fn read_one(entry: &Value) -> HistoryEntry {
        super::entry(map(json!({"p": entry})), "p").unwrap().unwrap()
    }

    #[test]
    fn an_entry_of_today_is_read() {
        let entry = read_one(&json!({
            "prompt": [1, "p", {}, {}, ["9"]],
            "outputs": {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}},
            "status": {"status_str": "success", "completed": true, "messages": [
                ["execution_start", {"prompt_id": "p", "timestamp": 1}],
                ["execution_cached", {"nodes": ["1", "2"], "prompt_id": "p"}],
                ["execution_success", {"prompt_id": "p"}]]},
            "meta": {"9": {"node_id": "9"}}}));
        assert_eq!(entry.end, PromptEnd::Success);
        assert_eq!(entry.cached, ["1", "2"]);
        assert_eq!(entry.outputs["9"]["images"][0]["filename"], "a.png");
        // Held once.
        assert_eq!(entry.rest["outputs"], json!({}));
        assert_eq!(entry.rest["meta"]["9"]["node_id"], "9");
    }

    #[test]
    fn messages_of_other_shapes_are_passed_over_and_a_result_is_kept() {
        for messages in [
            json!([["execution_start", {}, 12.5], ["x"], [], [1, 2], null, "text", {"type": 3}]),
            json!({"execution_start": {}}),
            json!(null),
        ] {
            let status = json!({"status_str": "success", "completed": true, "messages": messages, "new": 1});
            let entry = read_one(&json!({"outputs": {"9": {"text": ["x"]}}, "status": status}));
            assert_eq!(entry.end, PromptEnd::Success, "{status}");
            assert_eq!(entry.outputs.len(), 1);
        }
        let entry = read_one(&json!({"outputs": null, "status": "success"}));
        assert_eq!((entry.end, entry.outputs.len()), (PromptEnd::Success, 0));
        assert_eq!(read_one(&json!({})).end, PromptEnd::Success);
    }

    #[test]
    fn new_words_for_an_end_are_no_success_by_mistake() {
        let end = |status: Value| read_one(&json!({"outputs": {}, "status": status})).end;
        assert_eq!(
            end(json!({"status_str": "cancelled", "completed": false})),
            PromptEnd::Interrupted
        );
        let PromptEnd::Error(error) = end(json!({"status_str": "evicted", "completed": false})) else {
            panic!("no error")
        };
        assert_eq!(
            error.exception_message,
            "ComfyUI calls the prompt `evicted` and gives no reason"
        );
        assert_eq!(
            end(json!({"status_str": "done", "completed": true})),
            PromptEnd::Success
        );
        assert_eq!(end(json!("failed")), nameless("ComfyUI gives no reason".to_owned()));
        // What a message tells counts more.
        let told = json!({"status_str": "evicted", "completed": false, "messages": [
            {"type": "execution_error", "data": {"node_id": 7, "exception_message": "no", "current_inputs": [null]}}]});
        let PromptEnd::Error(error) = end(told) else {
            panic!("no error")
        };
        assert_eq!((&*error.node_id, &*error.exception_message), ("7", "no"));
    }

    #[test]
    fn an_entry_may_be_the_answer_itself() {
        let flat = json!({"prompt_id": "p", "outputs": {"1": {}}, "status": {"status_str": "success"}});
        assert!(super::entry(map(flat.clone()), "p").unwrap().is_some());
        assert!(super::entry(map(flat), "q").unwrap().is_none());
        assert!(super::entry(map(json!({})), "p").unwrap().is_none());
        assert!(super::entry(map(json!({"p": null})), "p").unwrap().is_none());
        assert!(super::entry(map(json!({"p": [1]})), "p").is_err());
    }

    #[test]
    fn the_queue_holds_lists_or_objects() {
        let at = |queue: Value| place(&map(queue), "p");
        let item = json!([3, "p", {}, {}, []]);
        let other = json!([2, "q", {}, {}, [], "more"]);
        assert_eq!(
            at(json!({"queue_running": [item], "queue_pending": []})),
            QueuePlace::Running
        );
        assert_eq!(
            at(json!({"queue_running": [other], "queue_pending": [item]})),
            QueuePlace::Pending
        );
        assert_eq!(
            at(json!({"queue_running": [], "queue_pending": [item]})),
            QueuePlace::Stuck
        );
        assert_eq!(
            at(json!({"queue_running": [other], "queue_pending": [null, 5]})),
            QueuePlace::Unknown
        );
        assert_eq!(at(json!({"queue_running": [{"prompt_id": "p"}]})), QueuePlace::Running);
        assert_eq!(at(json!({})), QueuePlace::Unknown);
    }
}
