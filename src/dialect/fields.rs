//! Reads the fields of a JSON object and collects everything that is wrong with them.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{ErrorKind, JobError, Problem};
use crate::workflow::limits;

#[cfg(test)]
thread_local! {
    /// The fields that were asked for, in tests of their documentation.
    pub(super) static READ: std::cell::RefCell<std::collections::BTreeSet<String>> = const { std::cell::RefCell::new(std::collections::BTreeSet::new()) };
}

/// A reader of one JSON object.
pub(super) struct Fields<'a> {
    object: &'a mut Map<String, Value>,
    /// What stands before the name of a field in a message: `policy.` for the fields of `policy`.
    prefix: &'static str,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a mut Map<String, Value>) -> Self {
        Self::within("", object)
    }

    pub(super) fn within(prefix: &'static str, object: &'a mut Map<String, Value>) -> Self {
        Self {
            object,
            prefix,
            problems: Vec::new(),
        }
    }

    /// Keeps the name of a field that was asked for.
    #[cfg(test)]
    fn note(&self, name: &str) {
        READ.with_borrow_mut(|read| read.insert(format!("{}{name}", self.prefix)));
    }

    /// Whether the field is there and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        #[cfg(test)]
        self.note(name);
        self.object.get(name).is_some_and(|value| !value.is_null())
    }

    /// A field as it is, left in; null counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Takes a field out; null counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        self.note(name);
        self.object
            .get_mut(name)
            .map(Value::take)
            .filter(|value| !value.is_null())
    }

    pub(super) fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            input: Some(format!("{}{field}", self.prefix)),
            message: message.into(),
            ..Problem::default()
        });
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            other => {
                self.problem(name, format!("must be a string, not {}", describe(&other)));
                None
            }
        }
    }

    /// The prompt: a text that says something, and is no longer than a model reads.
    pub(super) fn prompt(&mut self) -> String {
        let problems = self.problems.len();
        let prompt = self.text("prompt").unwrap_or_default();
        if prompt.trim().is_empty() && self.problems.len() == problems {
            self.problem("prompt", "is empty; say what the picture should show");
        }
        let (count, limit) = (prompt.chars().count(), limits::PROMPT_CHARS);
        if count > limit {
            self.problem("prompt", format!("has {count} characters, the limit is {limit}"));
        }
        prompt
    }

    /// A seed; -1 is a random one, as none is.
    pub(super) fn seed(&mut self) -> Option<u64> {
        let value = self.take("seed")?;
        if value.as_f64() == Some(-1.0) {
            return None;
        }
        self.integer_of("seed", &value, 0..=u64::MAX)
    }

    pub(super) fn integer(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(name)?;
        self.integer_of(name, &value, range)
    }

    /// The whole number that a field holds whose value was taken before.
    pub(super) fn integer_of(&mut self, name: &str, value: &Value, range: RangeInclusive<u64>) -> Option<u64> {
        // Clients in languages with one number type send 8.0 for 8.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, not negative and below 2^53, as checked before"
        )]
        let number = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n))
                .map(|n| n as u64)
        });
        match number {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(
                    name,
                    format!(
                        "must be a whole number from {} to {}, not {}",
                        range.start(),
                        range.end(),
                        describe(value)
                    ),
                );
                None
            }
        }
    }

    pub(super) fn small(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        self.integer(name, u64::from(*range.start())..=u64::from(*range.end()))
            .and_then(|number| u32::try_from(number).ok())
    }

    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(name)?;
        match value.as_f64() {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(
                    name,
                    format!(
                        "must be a number from {} to {}, not {}",
                        range.start(),
                        range.end(),
                        describe(&value)
                    ),
                );
                None
            }
        }
    }

    pub(super) fn truth(&mut self, name: &str) -> Option<bool> {
        let value = self.take(name)?;
        let truth = value.as_bool();
        if truth.is_none() {
            self.problem(name, format!("must be true or false, not {}", describe(&value)));
        }
        truth
    }

    /// A whole number of either sign.
    pub(super) fn signed(&mut self, name: &str, range: RangeInclusive<i32>) -> Option<i32> {
        let value = self.take(name)?;
        let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
        let within = number.filter(|number| range.contains(number));
        if within.is_none() {
            let (low, high) = (range.start(), range.end());
            self.problem(
                name,
                format!("must be a whole number from {low} to {high}, not {}", describe(&value)),
            );
        }
        within
    }

    pub(super) fn object(&mut self, name: &str) -> Option<Map<String, Value>> {
        match self.take(name)? {
            Value::Object(object) => Some(object),
            other => {
                self.problem(name, format!("must be an object, not {}", describe(&other)));
                None
            }
        }
    }

    /// Takes over what another reader found wrong.
    pub(super) fn adopt(&mut self, other: Fields<'_>) {
        self.problems.extend(other.problems);
    }

    pub(super) fn list(&mut self, name: &str) -> Vec<Value> {
        match self.take(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.problem(name, format!("must be a list, not {}", describe(&other)));
                Vec::new()
            }
        }
    }

    /// Fields that nobody took, and that look like a slip of the pen for one of `known`.
    pub(super) fn misspelt(&self, known: &[&str]) -> Vec<String> {
        let strange = self
            .object
            .iter()
            .filter(|(name, value)| !value.is_null() && !known.contains(&name.as_str()));
        strange
            .filter_map(|(name, _)| {
                let closest = known
                    .iter()
                    .map(|known| (strsim::jaro_winkler(name, known), known))
                    .max_by(|a, b| a.0.total_cmp(&b.0));
                let (_, meant) = closest.filter(|(likeness, _)| *likeness > 0.88)?;
                Some(format!(
                    "the field `{name}` is not known and was ignored; did you mean `{meant}`?"
                ))
            })
            .collect()
    }

    /// Fails with everything that was wrong.
    pub(super) fn finish(self) -> Result<(), JobError> {
        match self.problems.len() {
            0 => Ok(()),
            1 => {
                let error = JobError::invalid(format!("Invalid request: {}", self.problems[0]));
                Err(match self.problems[0].input.clone() {
                    Some(field) => error.at(field),
                    None => error,
                })
            }
            count => {
                let error = JobError::invalid(format!("Invalid request: {count} fields are wrong"));
                let first = self.problems[0].input.clone();
                let error = error.problems(self.problems);
                Err(match first {
                    Some(field) => error.at(field),
                    None => error,
                })
            }
        }
    }
}

/// Reads JSON of a request: fails where it has too many values, which take a hundred times their text in memory, before that
/// is spent.
pub(super) fn read_json(text: &[u8]) -> Result<serde_json::Result<Value>, JobError> {
    if has_more_values(text, limits::JSON_VALUES) {
        let message = format!("The request has more than {} JSON values", limits::JSON_VALUES);
        return Err(JobError::new(ErrorKind::TooLarge, message)
            .hint("A graph of a thousand nodes has some 30000. Send data as an image or as text."));
    }
    Ok(serde_json::from_slice(text))
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

/// Reads a body that must be a JSON object; `shape` tells what to send instead.
pub(super) fn object_of(body: &[u8], shape: &str) -> Result<Map<String, Value>, JobError> {
    // Windows editors put a byte order mark before JSON.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let error = if body.iter().all(u8::is_ascii_whitespace) {
        JobError::invalid("The request has no body")
    } else {
        match read_json(body)? {
            Ok(Value::Object(object)) => return Ok(object),
            Ok(other) => JobError::invalid(format!(
                "The request body must be a JSON object, not {}",
                describe(&other)
            )),
            Err(error) => JobError::invalid(format!("The request body is no JSON: {error}")),
        }
    };
    Err(error.hint(shape))
}

/// A value, short enough for a message.
pub(super) fn describe(value: &Value) -> String {
    let text = match value {
        Value::Object(_) => return "an object".to_owned(),
        Value::Array(_) => return "a list".to_owned(),
        other => other.to_string(),
    };
    if text.chars().count() > 60 {
        format!("{}…", text.chars().take(60).collect::<String>())
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        let many = vec![json!({"": 0}); limits::JSON_VALUES / 3];
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
        let graph: Map<String, Value> = (0..9_000).map(|id| (id.to_string(), node.clone())).collect();
        let body = json!({"input": {"workflow": graph}}).to_string();
        assert!(crate::dialect::runpod::parse(body.as_bytes()).is_ok());
    }
}
