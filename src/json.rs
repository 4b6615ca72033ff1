//! JSON as people's tools write it: with the byte order mark that Windows editors put before it, and with the `NaN` and
//! `Infinity` that Python puts into it.

use serde_json::Value;

use crate::error::{ErrorKind, JobError};

/// What stands, with the word behind it, for a word that JSON does not have while the text is read; no text of a request is
/// that.
const MARK: &str = "\u{0}not-json:";

/// The words that Python's `json` writes and reads, and JSON does not have.
const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];

/// The most values in one text. Each takes a hundred times its text in memory where it is small, and a graph of a thousand
/// nodes has some 30,000.
const MOST_VALUES: usize = 200_000;

/// Why a text is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It is no JSON.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    /// It has one of Python's words where only a graph may have it.
    #[error("`{place}` is {word}, which JSON does not have: send a number, or leave it out")]
    NoNumber { place: String, word: String },
    /// It has more than [`MOST_VALUES`].
    #[error("it has more than {MOST_VALUES} JSON values")]
    TooMany,
}

impl Unread {
    /// The error of the request that holds the text; `complaint` makes it where the text is no JSON.
    pub(crate) fn of_request(self, complaint: impl FnOnce(String) -> JobError) -> JobError {
        match self {
            Self::TooMany => JobError::new(
                ErrorKind::TooLarge,
                format!("The request has more than {MOST_VALUES} JSON values"),
            )
            .hint("A graph of a thousand nodes has some 30000. Send data as an image or as text."),
            other => complaint(other.to_string()),
        }
    }
}

/// Reads JSON. `NaN`, `Infinity` and `-Infinity` in a node of a graph become texts, which `ComfyUI` reads as the same
/// numbers; elsewhere they are an error that says where.
pub(crate) fn read(text: &[u8]) -> Result<Value, Unread> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // Before the memory is spent.
    if has_more_values(text, MOST_VALUES) {
        return Err(Unread::TooMany);
    }
    let error = match serde_json::from_slice(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let Some(marked) = marked(text) else {
        return Err(error.into());
    };
    let mut value = serde_json::from_slice(&marked)?;
    settle(&mut value, &mut Vec::new(), false)?;
    Ok(value)
}

/// Whether JSON has more than so many values, the names of fields included. Every value but the first of all follows one of
/// these marks.
fn has_more_values(json: &[u8], most: usize) -> bool {
    let mut values = 0;
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| b"\",:[{".contains(byte)) {
        let is_text = rest[at] == b'"';
        rest = &rest[at + 1..];
        if is_text {
            // Most of a large request is one text, an image.
            let mut is_over = false;
            while !is_over {
                let at = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                is_over = rest.get(at).is_none_or(|byte| *byte == b'"');
                rest = rest.get(at + if is_over { 1 } else { 2 }..).unwrap_or_default();
            }
        } else {
            values += 1;
            if values > most {
                return true;
            }
        }
    }
    false
}

/// The text with each such word as a marked text; [`None`] if there is none outside texts.
fn marked(text: &[u8]) -> Option<Vec<u8>> {
    let mut marked = Vec::with_capacity(text.len());
    let (mut at, mut done, mut in_text) = (0, 0, false);
    while let Some(&byte) = text.get(at) {
        match byte {
            // What follows is no end of the text, whatever it is.
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'N' | b'I' | b'-' if !in_text => {
                let rest = &text[at..];
                if let Some(word) = WORDS.iter().find(|word| rest.starts_with(word.as_bytes())) {
                    marked.extend_from_slice(&text[done..at]);
                    marked.extend_from_slice(Value::from(format!("{MARK}{word}")).to_string().as_bytes());
                    at += word.len();
                    done = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    marked.extend_from_slice(&text[done..]);
    (done > 0).then_some(marked)
}

/// Takes the marks away within nodes, which `class_type` tells, and complains about the first one elsewhere.
fn settle(value: &mut Value, place: &mut Vec<String>, in_node: bool) -> Result<(), Unread> {
    match value {
        Value::String(text) => match text.strip_prefix(MARK).filter(|word| WORDS.contains(word)) {
            Some(word) if in_node => *text = word.to_owned(),
            Some(word) => {
                return Err(Unread::NoNumber {
                    place: crate::echo::cut(&place.join(".")),
                    word: word.to_owned(),
                });
            }
            None => {}
        },
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                place.push(index.to_string());
                settle(item, place, in_node)?;
                place.pop();
            }
        }
        Value::Object(fields) => {
            let in_node = in_node || fields.contains_key("class_type");
            for (name, field) in fields {
                place.push(name.clone());
                settle(field, place, in_node)?;
                place.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
}
