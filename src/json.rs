//! JSON as people's tools write it: with the byte order mark that Windows editors put before it, and with the `NaN` and
//! `Infinity` that Python puts into it.

use serde_json::Value;

/// What stands for a word that JSON does not have while the text is read; no text of a request begins so.
const MARK: &str = "\u{0}not-json:";

/// The words that Python's `json` writes and reads, and JSON does not have.
const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];

/// Why a text is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It is no JSON.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    /// It has one of Python's words where only a graph may have it.
    #[error("`{place}` is {word}, which JSON does not have: send a number, or leave it out")]
    NoNumber { place: String, word: String },
}

/// Reads JSON. `NaN`, `Infinity` and `-Infinity` in a node of a graph become texts, which `ComfyUI` reads as the same
/// numbers; elsewhere they are an error that says where.
pub(crate) fn read(text: &[u8]) -> Result<Value, Unread> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
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
        Value::String(text) => match text.strip_prefix(MARK) {
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
    }
}
