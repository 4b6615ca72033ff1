//! An answer of an engine as JSON, whose long texts, which are pictures in base64, stay where they came: they are neither copied
//! nor looked through letter by letter.

use std::borrow::Cow;
use std::io::Write as _;

use bytes::Bytes;
use memchr::{memchr, memchr2};
use serde_json::Value;

/// From so many bytes on a text stays where it is.
const LONG: usize = 64 * 1024;
/// How what stands for a long text begins: no text of an API does.
const MARK: &str = "\u{0}long ";

/// An answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Output {
    /// Its JSON, with marks for the long texts: see [`Self::text`].
    pub(super) value: Value,
    body: Bytes,
}

/// A text of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    /// One that is short, or was written with escapes.
    Short(String),
    /// A part of the answer as it came.
    Long(Bytes),
}

impl Output {
    /// Reads an answer; [`None`]: it is no JSON. May take some milliseconds.
    pub(super) fn read(body: Bytes) -> Option<Self> {
        let value = serde_json::from_slice(&with_marks(&body)).ok()?;
        Some(Self { value, body })
    }

    /// A part of it, with the same long texts.
    pub(super) fn part(&self, value: Value) -> Self {
        Self {
            value,
            body: self.body.clone(),
        }
    }

    /// What a text of the JSON is in full.
    pub(super) fn text(&self, text: String) -> Text {
        let range = || {
            let (begin, end) = text.strip_prefix(MARK)?.split_once(' ')?;
            Some(begin.parse().ok()?..end.parse::<usize>().ok()?)
        };
        match range().filter(|range| range.start <= range.end && range.end <= self.body.len()) {
            Some(range) => Text::Long(self.body.slice(range)),
            None => Text::Short(text),
        }
    }
}

impl Text {
    /// Its bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(text) => text.as_bytes(),
            Self::Long(bytes) => bytes,
        }
    }

    /// The text itself. Of a long one it is not known yet whether it is one: what is not is replaced.
    pub(super) fn into_string(self) -> String {
        match self {
            Self::Short(text) => text,
            Self::Long(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

impl From<Value> for Output {
    /// One without long texts.
    fn from(value: Value) -> Self {
        Self {
            value,
            body: Bytes::new(),
        }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Short(text)
    }
}

/// The JSON with marks in the place of its long texts.
fn with_marks(body: &[u8]) -> Cow<'_, [u8]> {
    let (mut marked, mut copied, mut next) = (Vec::new(), 0, 0);
    while let Some(quote) = memchr(b'"', body.get(next..).unwrap_or_default()) {
        let begin = next + quote + 1;
        let (mut end, mut has_escapes) = (begin, false);
        loop {
            match memchr2(b'"', b'\\', body.get(end..).unwrap_or_default()) {
                Some(found) if body[end + found] == b'"' => {
                    end += found;
                    break;
                }
                Some(found) => {
                    has_escapes = true;
                    end += found + 2;
                }
                // It ends in the midst of a text, which is told when it is parsed.
                None => return body.into(),
            }
        }
        if !has_escapes && end - begin >= LONG {
            marked.extend_from_slice(&body[copied..begin]);
            // Memory takes all.
            let _ = write!(marked, "\\u0000{}{begin} {end}", &MARK[1..]);
            copied = end;
        }
        next = end + 1;
    }
    if copied == 0 {
        return body.into();
    }
    marked.extend_from_slice(&body[copied..]);
    marked.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Output {
        Output::read(value.to_string().into()).unwrap()
    }

    #[test]
    fn long_texts_are_found_where_they_came() {
        let (long, other) = ("A".repeat(LONG), "B/+=".repeat(LONG));
        let escaped = format!("\"\\{}é\n", "c".repeat(LONG));
        let whole = json!({"a": [long, {"b": other, "short": "x \" y"}], "escaped": escaped, "n": 7});
        let output = read(&whole);
        let text = |value: &Value| output.text(value.as_str().unwrap().to_owned());
        assert_eq!(text(&output.value["a"][0]), Text::Long(Bytes::from(long)));
        assert_eq!(text(&output.value["a"][1]["b"]), Text::Long(Bytes::from(other)));
        assert_eq!(text(&output.value["a"][1]["short"]), Text::Short("x \" y".to_owned()));
        assert_eq!(text(&output.value["escaped"]), Text::Short(escaped));
        assert_eq!(output.value["n"], 7);
        let part = output.part(output.value["a"][1].clone());
        assert_eq!(
            part.text(part.value["b"].as_str().unwrap().to_owned()),
            text(&output.value["a"][1]["b"])
        );
    }

    #[test]
    fn what_is_no_json_and_what_looks_like_a_mark_harm_nobody() {
        for text in ["", "{\"a\": \"", "{\"a\": \"\\", "\"", "{\"a\"}", "{\"a\": \"x\\\""] {
            assert!(Output::read(text.as_bytes().into()).is_none(), "{text}");
        }
        let cut = format!("{{\"a\": \"{}", "x".repeat(LONG));
        assert!(Output::read(cut.into()).is_none());
        for mark in ["0 5", "5 0", "0 99999999999", "-1 3", "a b", "7"] {
            let text = format!("{MARK}{mark}");
            let output = read(&json!({ "a": text }));
            let found = output.text(output.value["a"].as_str().unwrap().to_owned());
            let expected = match mark {
                "0 5" => Text::Long(Bytes::from_static(b"{\"a\":")),
                _ => Text::Short(text),
            };
            assert_eq!(found, expected, "{mark}");
        }
    }
}
