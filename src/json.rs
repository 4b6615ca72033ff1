//! JSON as people's tools write it: with the byte order mark that Windows editors put before it, and with the `NaN` and
//! `Infinity` that Python puts into it. [`read`] is for requests, [`lenient`] for all that ComfyUI sends.

use serde::de::DeserializeOwned;
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
    let mark = |word: &str| Value::from(format!("{MARK}{word}")).to_string();
    let marked = rewritten(text, mark, |_| (2, None));
    (marked != text).then_some(marked)
}

/// The text with something else for each of [`WORDS`] outside texts, and with what `escape` makes of the escapes within them:
/// how long it is, and what is to be in its place.
fn rewritten(
    text: &[u8],
    instead: impl Fn(&str) -> String,
    escape: impl Fn(&[u8]) -> (usize, Option<&'static str>),
) -> Vec<u8> {
    let mut rewritten = Vec::with_capacity(text.len());
    let (mut rest, mut in_text) = (text, false);
    while let Some(first) = rest.first() {
        let mut length = 1;
        let mut other = None;
        match first {
            b'"' => in_text = !in_text,
            b'\\' if in_text => {
                let (escaped, replaced) = escape(rest);
                (length, other) = (escaped, replaced.map(str::to_owned));
            }
            b'N' | b'I' | b'-' if !in_text => {
                if let Some(word) = WORDS.iter().find(|word| rest.starts_with(word.as_bytes())) {
                    (length, other) = (word.len(), Some(instead(word)));
                }
            }
            _ => {}
        }
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rewritten.extend_from_slice(other.as_deref().map_or(piece, str::as_bytes));
        rest = after;
    }
    rewritten
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

/// Reads what ComfyUI sent: as JSON first, and where that fails with `null` in the place of each such word, and U+FFFD in the
/// place of the lone surrogates (`\udce9`) by which Python writes the bytes of a file name that is no UTF-8.
pub(crate) fn lenient<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    lenient_by(text, |text| serde_json::from_slice(text))
}

/// [`lenient`] with a parser of the caller's.
pub(crate) fn lenient_by<T>(text: &[u8], parse: impl Fn(&[u8]) -> serde_json::Result<T>) -> serde_json::Result<T> {
    // What is wrong in the mended text is wrong in the other one too, at about the same place.
    parse(text).or_else(|_| parse(&mended(text)))
}

fn mended(text: &[u8]) -> Vec<u8> {
    let mended = rewritten(text, |_| "null".to_owned(), escape);
    String::from_utf8(mended)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        .into_bytes()
}

/// The length of an escape in a string, and what it becomes.
fn escape(text: &[u8]) -> (usize, Option<&'static str>) {
    match unit(text) {
        None => (2, None),
        Some(0xd800..=0xdbff) => match text.get(6..).and_then(unit) {
            Some(0xdc00..=0xdfff) => (12, None),
            _ => (6, Some(r"\ufffd")),
        },
        Some(0xdc00..=0xdfff) => (6, Some(r"\ufffd")),
        Some(_) => (6, None),
    }
}

/// The UTF-16 unit that an escape such as `\u00e9` stands for.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
