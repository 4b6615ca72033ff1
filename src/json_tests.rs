//! JSON of all kinds.

use serde_json::json;

use super::*;

#[test]
fn a_byte_order_mark_is_no_part_of_it() {
    assert_eq!(read("\u{feff}[1]".as_bytes()).unwrap(), json!([1]));
    assert!(read("\u{feff}".as_bytes()).is_err());
}

#[test]
fn pythons_words_are_texts_in_a_node_alone() {
    let graph = r#"{"input": {"workflow": {"1": {"class_type": "A \" NaN", "inputs": {"a": NaN, "b": [-Infinity]}, "is_changed": [NaN]}}}}"#;
    assert_eq!(
        read(graph.as_bytes()).unwrap()["input"]["workflow"]["1"],
        json!({"class_type": "A \" NaN", "inputs": {"a": "NaN", "b": ["-Infinity"]}, "is_changed": ["NaN"]})
    );
    let error = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(
        error(r#"{"input": {"prompt": NaN}}"#),
        "`input.prompt` is NaN, which JSON does not have: send a number, or leave it out"
    );
    assert!(error(r#"{"images": [1, -Infinity]}"#).starts_with("`images.1` is -Infinity"));
    for broken in ["NaN NaN", "{\"a\": NaNa}", "[-]", "[Nan]", "\"NaN", "{\"a\" NaN}"] {
        assert!(read(broken.as_bytes()).is_err(), "{broken}");
    }
    assert_eq!(read(b"\"NaN\"").unwrap(), json!("NaN"));
    // A text that begins as a mark does is a text.
    let own = format!("{MARK}long and\nmine");
    let node = json!({"class_type": "A", "inputs": {"a": own, "b": 0}}).to_string();
    let node = node.replace(r#""b":0"#, r#""b":NaN"#);
    assert_eq!(read(node.as_bytes()).unwrap()["inputs"], json!({"a": own, "b": "NaN"}));
}

#[test]
fn values_are_counted_and_texts_are_not_looked_into() {
    let more = |json: &str, most| has_more_values(json.as_bytes(), most);
    for (json, values) in [
        ("7", 0),
        (r#""a,b[{:\",:""#, 0),
        (r#"{"a": [1, 2, {}], "b\\": "x,\"y"}"#, 8),
        ("[[[[", 4),
        (r#"["never ends, [ "#, 1),
        (r#"["\"#, 1),
    ] {
        assert!(!more(json, values), "{json}");
        assert!(values == 0 || more(json, values - 1), "{json}");
    }
}

#[test]
fn a_request_of_many_small_values_is_refused_unread_and_a_large_graph_is_not() {
    let many = vec![json!({"": 0}); MOST_VALUES / 3];
    for body in [
        json!({"input": {"workflow": {"1": {"class_type": "X", "inputs": {"a": many}}}}}),
        json!({"input": {"workflow": json!({"1": {"class_type": "X", "inputs": {"a": many}}}).to_string()}}),
        json!({"input": json!({"workflow": {"1": {"class_type": "X", "inputs": {"a": many}}}}).to_string()}),
        json!({"input": {"prompt": "a"}, "else": many}),
    ] {
        let error = crate::dialect::runpod::parse(body.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooLarge);
        assert!(
            error.message.contains("more than 200000 JSON values"),
            "{}",
            error.message
        );
    }
    let node = json!({"class_type": "X", "inputs": {"a": ["1", 0], "b": 1, "c": "d"}, "_meta": {"title": "e"}});
    let graph: serde_json::Map<String, Value> = (0..9_000).map(|id| (id.to_string(), node.clone())).collect();
    let body = json!({"input": {"workflow": graph}}).to_string();
    assert!(crate::dialect::runpod::parse(body.as_bytes()).is_ok());
}

fn value(text: &str) -> Value {
    lenient(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn numbers_that_are_none_are_null() {
    assert_eq!(
        value(r#"{"a": NaN, "b": [Infinity, -Infinity, -1], "NaN": "-Infinity, NaN"}"#),
        json!({"a": null, "b": [null, null, -1], "NaN": "-Infinity, NaN"})
    );
    assert_eq!(value(r#"["a \" NaN", NaN]"#), json!(["a \" NaN", null]));
}

#[test]
fn lone_surrogates_are_replaced_and_pairs_stay() {
    assert_eq!(
        value(r#"["caf\udce9.png", "\ud83d\ude00", "\ud83d", "\ud83dx\ude00", "\ud83d\u0041", "\\udce9"]"#),
        json!([
            "caf\u{fffd}.png",
            "😀",
            "\u{fffd}",
            "\u{fffd}x\u{fffd}",
            "\u{fffd}A",
            "\\udce9"
        ])
    );
    let bytes: Value = lenient(b"[\"caf\xe9\", NaN]").unwrap();
    assert_eq!(bytes, json!(["caf\u{fffd}", null]));
}

#[test]
fn what_is_no_json_in_either_way_is_refused() {
    for text in ["", "<html>", "[NaN", r#"["\ud83d"#, "\"\\", r#""\u12"#, "Nan", "[-]"] {
        assert!(lenient::<Value>(text.as_bytes()).is_err(), "{text}");
    }
}
