//! Reads the fields of a JSON object and collects everything that is wrong with them.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::echo;
use crate::error::{JobError, Problem};
use crate::workflow::limits;

/// How many unknown fields of one object are named; the rest are counted.
const LISTED_FIELDS: usize = 16;
/// Longer names are nobody's slip of the pen, and the comparison is quadratic.
const COMPARED_BYTES: usize = 100;

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
            input: Some(format!("{}{}", self.prefix, echo::cut(field))),
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

    /// The names of the fields that nobody took and that are none of `known`. Null counts as absent.
    pub(super) fn strange(&self, known: &[&str]) -> impl Iterator<Item = &str> {
        self.object
            .iter()
            .filter(|(name, value)| !value.is_null() && !known.contains(&name.as_str()))
            .map(|(name, _)| name.as_str())
    }

    /// Whether a field asks for something: forms send empty ones.
    pub(super) fn says_something(&self, name: &str) -> bool {
        match self.object.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.trim().is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(_) => true,
        }
    }

    /// Whether the object is itself a graph.
    pub(super) fn is_graph(&self) -> bool {
        self.object.values().any(|node| node.get("class_type").is_some())
    }

    /// The fields that nobody took and that are none of `known`, each in a sentence that says so, with the known one that
    /// it may be a slip of the pen for. However many there are, and however long their names: the list is short.
    pub(super) fn unknown(&self, known: &[&str]) -> Vec<String> {
        let mut strange = self.strange(known);
        let mut told: Vec<String> = strange
            .by_ref()
            .take(LISTED_FIELDS)
            .map(|name| {
                let shown = format!("{}{}", self.prefix, echo::cut(name));
                let meant = meant_by(name, known).map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
                format!("the field `{shown}` is not known and was ignored{meant}")
            })
            .collect();
        let rest = strange.count();
        if rest > 0 {
            told.push(format!("and {rest} more fields are not known and were ignored"));
        }
        told
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

/// The one of `known` that a name looks like.
fn meant_by<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > COMPARED_BYTES {
        return None;
    }
    let alike = |known: &&'a str| strsim::jaro_winkler(&name.to_lowercase(), &known.to_lowercase());
    let closest = known.iter().map(|known| (alike(known), *known));
    let closest = closest.max_by(|a, b| a.0.total_cmp(&b.0));
    closest.filter(|(likeness, _)| *likeness > 0.88).map(|(_, known)| known)
}

/// Reads a body that must be a JSON object; `shape` tells what to send instead.
pub(super) fn object_of(body: &[u8], shape: &str) -> Result<Map<String, Value>, JobError> {
    let error = if body.iter().all(u8::is_ascii_whitespace) {
        JobError::invalid("The request has no body")
    } else {
        match crate::json::read(body) {
            Ok(Value::Object(object)) => return Ok(object),
            Ok(other) => JobError::invalid(format!(
                "The request body must be a JSON object, not {}",
                describe(&other)
            )),
            Err(error) => error.of_request(|error| JobError::invalid(format!("The request body is no JSON: {error}"))),
        }
    };
    Err(error.hint(shape))
}

/// A value, short enough for a message.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => echo::json(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unknown(object: Value) -> Vec<String> {
        let Value::Object(mut object) = object else {
            panic!("an object")
        };
        let mut fields = Fields::within("policy.", &mut object);
        fields.take("taken");
        fields.unknown(&["taken", "prompt", "images"])
    }

    #[test]
    fn what_is_not_known_is_told_once_with_what_may_be_meant() {
        let told = unknown(json!({"taken": 1, "Promt": 2, "images": [], "length": 81, "nothing": null}));
        assert_eq!(
            told,
            [
                "the field `policy.Promt` is not known and was ignored; did you mean `prompt`?",
                "the field `policy.length` is not known and was ignored",
            ]
        );
    }

    #[test]
    fn the_list_of_what_is_not_known_has_an_end() {
        let many: Map<String, Value> = (0..100_000).map(|n| (format!("prompt{n}"), json!(1))).collect();
        let told = unknown(Value::Object(many));
        assert_eq!(told.len(), LISTED_FIELDS + 1);
        assert_eq!(
            told[LISTED_FIELDS],
            "and 99984 more fields are not known and were ignored"
        );
        let long = unknown(json!({ "prompt\n".repeat(1_000_000): 1 }));
        assert!(long.len() == 1 && long[0].len() < 400, "{long:?}");
        assert!(!long[0].contains('\n'));
    }

    #[test]
    fn no_name_of_a_field_is_repeated_whole_or_breaks_a_line() {
        for name in ["image\nforged: line".to_owned(), "x\n".repeat(1_000_000)] {
            let mut object = Map::new();
            let mut fields = Fields::within("policy.", &mut object);
            fields.problem(&name, "is wrong");
            let error = fields.finish().unwrap_err();
            assert!(!error.full_text().contains('\n'), "{}", error.full_text());
            assert!(error.full_text().len() < 400);
            assert!(error.field.is_some_and(|field| !field.contains('\n')));
        }
    }

    #[test]
    fn no_value_is_repeated_whole() {
        let long = "x".repeat(1_000_000);
        assert!(describe(&json!(long)).len() < 200);
        assert_eq!(describe(&json!([1])), "a list");
    }
}
