//! JSON as Python writes it. `json.dumps` writes `NaN`, `Infinity` and `-Infinity`, and the bytes of a file name that is
//! no UTF-8 as lone surrogates (`\udce9`); no JSON reader has to take either. Everything that ComfyUI sends is read here:
//! as JSON first, and where that fails with `null` and U+FFFD in their places.

use serde::de::DeserializeOwned;
use serde_json::Error;

/// What takes the place of a lone surrogate.
const REPLACEMENT: &[u8] = br"\ufffd";

/// Reads what ComfyUI sent.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    read_by(text, |text| serde_json::from_slice(text))
}

/// [`read`] with a parser of the caller's.
pub(super) fn read_by<T>(text: &[u8], parse: impl Fn(&[u8]) -> Result<T, Error>) -> Result<T, Error> {
    // What is wrong in the mended text is wrong in the other one too, at about the same place.
    parse(text).or_else(|_| parse(&mended(text)))
}

fn mended(text: &[u8]) -> Vec<u8> {
    let mut mended = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(first) = rest.first() {
        let (length, instead) = match first {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            b'\\' if in_string => escape(rest),
            b'N' | b'I' | b'-' if !in_string => number(rest),
            _ => (1, None),
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        mended.extend_from_slice(instead.unwrap_or(piece));
        rest = after;
    }
    match String::from_utf8(mended) {
        Ok(text) => text.into_bytes(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into_bytes(),
    }
}

/// The length of a number, and what it becomes.
fn number(text: &[u8]) -> (usize, Option<&'static [u8]>) {
    let word = ["NaN", "Infinity", "-Infinity"]
        .into_iter()
        .find(|word| text.starts_with(word.as_bytes()));
    word.map_or((1, None), |word| (word.len(), Some(b"null")))
}

/// The length of an escape in a string, and what it becomes.
fn escape(text: &[u8]) -> (usize, Option<&'static [u8]>) {
    match unit(text) {
        None => (2, None),
        Some(0xd800..=0xdbff) => match text.get(6..).and_then(unit) {
            Some(0xdc00..=0xdfff) => (12, None),
            _ => (6, Some(REPLACEMENT)),
        },
        Some(0xdc00..=0xdfff) => (6, Some(REPLACEMENT)),
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(text: &str) -> Value {
        read(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
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
        let bytes: Value = read(b"[\"caf\xe9\", NaN]").unwrap();
        assert_eq!(bytes, json!(["caf\u{fffd}", null]));
    }

    #[test]
    fn what_is_no_json_in_either_way_is_refused() {
        for text in ["", "<html>", "[NaN", r#"["\ud83d"#, "\"\\", r#""\u12"#, "Nan", "[-]"] {
            assert!(read::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
