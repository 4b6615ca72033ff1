//! Constants as ComfyUI reads them: Python's `int()` and `float()` over JSON (`validate_inputs` in `execution.py`).

use std::fmt::Display;

use serde_json::Value;

/// Why a constant is refused.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    /// It cannot be converted.
    Type,
    /// It is below or above the range, which stands here in words.
    Range(String),
}

/// The value within `{"__value__": …}`, by which a list is told from a link.
pub(super) fn unwrapped(value: &Value) -> &Value {
    value.get("__value__").unwrap_or(value)
}

/// Whether `int(value)` works and is within the range.
pub(super) fn check_int(value: &Value, min: Option<i128>, max: Option<i128>) -> Result<(), Refused> {
    check(int(value)?, min, max)
}

/// Whether `float(value)` works and is within the range.
pub(super) fn check_float(value: &Value, min: Option<f64>, max: Option<f64>) -> Result<(), Refused> {
    check(float(value)?, min, max)
}

fn check<N: PartialOrd + Display + Copy>(number: Option<N>, min: Option<N>, max: Option<N>) -> Result<(), Refused> {
    let is_low = number.zip(min).is_some_and(|(number, min)| number < min);
    let is_high = number.zip(max).is_some_and(|(number, max)| number > max);
    match range(min, max) {
        Some(range) if is_low || is_high => Err(Refused::Range(range)),
        _ => Ok(()),
    }
}

/// `from 1 to 10000`, `at least 1`, `at most 10000`; `None` where nothing is out of it.
pub(super) fn range<N: Display>(min: Option<N>, max: Option<N>) -> Option<String> {
    match (min, max) {
        (Some(min), Some(max)) => Some(format!("from {min} to {max}")),
        (Some(min), None) => Some(format!("at least {min}")),
        (None, Some(max)) => Some(format!("at most {max}")),
        (None, None) => None,
    }
}

/// Python's `int()`; `None` where only Python can say (digits of other scripts).
fn int(value: &Value) -> Result<Option<i128>, Refused> {
    match value {
        Value::Bool(truth) => Ok(Some(i128::from(*truth))),
        Value::Number(number) => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "int() cuts the fraction; the cast saturates"
            )]
            let number = number.as_i128().or_else(|| number.as_f64().map(|float| float as i128));
            Ok(number)
        }
        Value::String(text) => {
            let Some(text) = plain(text) else { return Ok(None) };
            let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Refused::Type);
            }
            let limit = if text.starts_with('-') { i128::MIN } else { i128::MAX };
            Ok(Some(text.parse().unwrap_or(limit)))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => Err(Refused::Type),
    }
}

/// Python's `float()`, likewise.
fn float(value: &Value) -> Result<Option<f64>, Refused> {
    match value {
        Value::Bool(truth) => Ok(Some(f64::from(u8::from(*truth)))),
        Value::Number(number) => Ok(number.as_f64()),
        Value::String(text) => {
            let Some(text) = plain(text) else { return Ok(None) };
            text.parse().map(Some).map_err(|_| Refused::Type)
        }
        Value::Null | Value::Array(_) | Value::Object(_) => Err(Refused::Type),
    }
}

/// The text without space around it and without Python's underscores between digits; `None` if it is not all ASCII.
fn plain(text: &str) -> Option<String> {
    if !text.is_ascii() {
        return None;
    }
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
    let mut plain = String::with_capacity(text.len());
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
        if byte == b'_' && digit(at.checked_sub(1)) && digit(Some(at + 1)) {
            continue;
        }
        plain.push(char::from(byte));
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn int_reads_what_python_reads() {
        // Each line was tried on ComfyUI 0.30.0.
        for (value, read) in [
            (json!("16"), 16),
            (json!(" 1_6 "), 16),
            (json!("+16"), 16),
            (json!(16.7), 16),
            (json!(-16.7), -16),
            (json!(true), 1),
            (json!(u64::MAX), i128::from(u64::MAX)),
            (json!(18_446_744_073_709_551_616.0), 1 << 64),
        ] {
            assert_eq!(int(&value), Ok(Some(read)), "{value}");
        }
        for value in [
            json!("16.5"),
            json!("abc"),
            json!(""),
            json!("1__6"),
            json!("_1"),
            json!(null),
            json!([]),
            json!({}),
        ] {
            assert_eq!(int(&value), Err(Refused::Type), "{value}");
        }
        assert_eq!(int(&json!("１６")), Ok(None));
        assert_eq!(int(&json!("9".repeat(60))), Ok(Some(i128::MAX)));
    }

    #[test]
    fn float_reads_what_python_reads() {
        for (value, read) in [
            (json!("1e3"), 1000.0),
            (json!(" .5 "), 0.5),
            (json!("-Infinity"), f64::NEG_INFINITY),
            (json!(3), 3.0),
        ] {
            assert_eq!(float(&value), Ok(Some(read)), "{value}");
        }
        for value in [json!("abc"), json!("1,5"), json!(null), json!({})] {
            assert_eq!(float(&value), Err(Refused::Type), "{value}");
        }
        // Python: nan is neither below nor above anything.
        assert!(check_float(&json!("nan"), Some(0.0), Some(1.0)).is_ok());
    }
}
