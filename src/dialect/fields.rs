//! Reads the fields of a JSON object and collects everything that is wrong with them.

use serde_json::Value;

use super::field::{Described, Field, Held, Object, names};
use crate::echo;
use crate::error::{JobError, Problem};
use crate::workflow::limits;

/// How many unknown fields of one object are named; the rest are counted.
const LISTED_FIELDS: usize = 16;
/// Longer names are no typing mistakes, and the comparison is quadratic.
const COMPARED_BYTES: usize = 100;

/// A reader of one JSON object.
pub(super) struct Fields<'a> {
    object: &'a mut Object,
    /// What stands before the name of a field in a message: `policy.` for the fields of `policy`.
    prefix: &'static str,
    /// The names of the fields that it may have.
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a mut Object, known: &[&dyn Described]) -> Self {
        Self::within("", object, known)
    }

    pub(super) fn within(prefix: &'static str, object: &'a mut Object, known: &[&dyn Described]) -> Self {
        Self {
            object,
            prefix,
            known: names(known),
            problems: Vec::new(),
        }
    }

    /// Passes over these too.
    pub(super) fn also_knows(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Whether the field is there and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A field as it is, left in; null counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Takes a field out; null counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        debug_assert!(self.known.contains(&name), "`{name}` is one of the fields");
        self.object
            .get_mut(name)
            .map(Value::take)
            .filter(|value| !value.is_null())
    }

    /// Takes a field out and reads it.
    pub(super) fn read<T: Held>(&mut self, field: &Field<T>) -> Option<T> {
        let value = self.take(field.name)?;
        self.read_value(field, value)
    }

    /// Reads the value of a field that was taken out before.
    pub(super) fn read_value<T: Held>(&mut self, field: &Field<T>, value: Value) -> Option<T> {
        let read = T::read(value, &field.rule);
        read.map_err(|message| self.problem(field.name, message)).ok()
    }

    /// [`read`](Self::read), or what is in force without the field.
    pub(super) fn read_or_usual<T: Held + Default + From<T::Usual>>(&mut self, field: &Field<T>) -> T {
        let usual = || field.usual().map(T::from).unwrap_or_default();
        self.read(field).unwrap_or_else(usual)
    }

    pub(super) fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            input: Some(format!("{}{}", self.prefix, echo::cut(field))),
            message: message.into(),
            ..Problem::default()
        });
    }

    /// The prompt: a text that says something, and is no longer than a model reads.
    pub(super) fn prompt(&mut self, field: &Field<String>) -> String {
        let problems = self.problems.len();
        let prompt = self.read(field).unwrap_or_default();
        if prompt.trim().is_empty() && self.problems.len() == problems {
            self.problem(field.name, "is empty; say what the picture should show");
        }
        let (count, limit) = (prompt.chars().count(), limits::PROMPT_CHARS);
        if count > limit {
            self.problem(field.name, format!("has {count} characters, the limit is {limit}"));
        }
        prompt
    }

    /// Takes over what another reader found wrong.
    pub(super) fn adopt(&mut self, other: Fields<'_>) {
        self.problems.extend(other.problems);
    }

    /// The names of the fields that nobody took and that are not known. Null counts as absent.
    pub(super) fn strange(&self) -> impl Iterator<Item = &str> {
        self.object
            .iter()
            .filter(|(name, value)| !value.is_null() && !self.known.contains(&name.as_str()))
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

    /// Whether the object is itself a graph, or a workflow that ComfyUI's page saved.
    pub(super) fn is_graph(&self) -> bool {
        self.object.get("nodes").is_some_and(Value::is_array)
            || self.object.values().any(|node| node.get("class_type").is_some())
    }

    /// The fields that nobody took and that are not known, each in a sentence that says so, with the known one that it may
    /// be a typing mistake for. However many there are, and however long their names: the list is short.
    pub(super) fn unknown(&self) -> Vec<String> {
        let mut strange = self.strange();
        let mut told: Vec<String> = strange
            .by_ref()
            .take(LISTED_FIELDS)
            .map(|name| {
                let shown = format!("{}{}", self.prefix, echo::cut(name));
                let meant =
                    meant_by(name, &self.known).map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
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
        let Some(first) = self.problems.first() else {
            return Ok(());
        };
        let field = first.input.clone();
        let error = match self.problems.len() {
            1 => JobError::invalid(format!("Invalid request: {first}")),
            count => JobError::invalid(format!("Invalid request: {count} fields are wrong")).problems(self.problems),
        };
        Err(match field {
            Some(field) => error.at(field),
            None => error,
        })
    }
}

/// What is said of the fields of one entry of a list that are none of `known`.
pub(super) fn others_of(entry: &Object, known: &[&str], place: &str) -> Option<String> {
    let strange = entry
        .iter()
        .filter(|(name, value)| !value.is_null() && !known.contains(&name.as_str()));
    let names: Vec<String> = strange.map(|(name, _)| echo::cut(name)).take(LISTED_FIELDS).collect();
    if names.is_empty() {
        return None;
    }
    Some(format!(
        "`{}` in {place} is not known and was ignored; it takes `{}`",
        names.join("`, `"),
        known.join("`, `")
    ))
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
pub(super) fn object_of(body: &[u8], shape: &str) -> Result<Object, JobError> {
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
    use serde_json::{Map, json};

    use super::*;

    fn unknown(object: Value) -> Vec<String> {
        let Value::Object(mut object) = object else {
            panic!("an object")
        };
        let mut fields = Fields::within("policy.", &mut object, &[]);
        fields.also_knows(&["taken", "prompt", "images"]);
        fields.take("taken");
        fields.unknown()
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
            let mut fields = Fields::within("policy.", &mut object, &[]);
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
