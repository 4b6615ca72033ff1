//! JSON schemas of bodies and parameters, as `OpenAPI` 3.1 holds them. Each dialect describes its own beside its parser,
//! from the constants that the parser goes by.

use std::ops::RangeInclusive;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::field::Described;

/// The media type of JSON.
pub const JSON: &str = "application/json";
/// The media type of forms with files.
pub const FORM: &str = "multipart/form-data";
/// The media type of server-sent events.
pub const EVENTS: &str = "text/event-stream";

/// The key of a schema's name, until [`hoist`] moves it.
const NAME: &str = "x-name";

/// A schema (JSON Schema 2020-12).
#[derive(Debug, Clone, PartialEq)]
pub struct Schema(Map<String, Value>);

impl Schema {
    /// Any value.
    pub fn any() -> Self {
        Self(Map::new())
    }

    fn of(kind: &str) -> Self {
        Self::any().with("type", kind)
    }

    /// A text.
    pub fn text() -> Self {
        Self::of("string")
    }

    /// A text that is not empty.
    pub fn said() -> Self {
        Self::text().with("minLength", 1)
    }

    /// One of a few texts.
    pub fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self::text().with("enum", names.into_iter().collect::<Vec<_>>())
    }

    /// A whole number of any size.
    pub fn count() -> Self {
        Self::of("integer").with("minimum", 0)
    }

    /// A whole number in a range.
    pub fn integer<T: Serialize>(range: &RangeInclusive<T>) -> Self {
        Self::of("integer").within(range)
    }

    /// A number in a range.
    pub fn number(range: &RangeInclusive<f64>) -> Self {
        Self::of("number").within(range)
    }

    /// `true` or `false`.
    pub fn truth() -> Self {
        Self::of("boolean")
    }

    /// A list.
    pub fn list(items: Self) -> Self {
        Self::of("array").with("items", items.0)
    }

    /// An object, without fields yet. It may have others than those that are named.
    pub fn object() -> Self {
        Self::of("object")
    }

    /// A value for which one of these fits.
    pub fn either(schemas: impl IntoIterator<Item = Self>) -> Self {
        let schemas: Vec<_> = schemas.into_iter().map(|schema| schema.0).collect();
        Self::any().with("anyOf", schemas)
    }

    /// A file in a form, or as an answer.
    pub fn file() -> Self {
        Self::text().with("format", "binary")
    }

    /// What a picture or a picture's place is shown as in JSON: base64, a data URI, or a URL.
    pub fn picture() -> Self {
        Self::said().means("A picture as base64, a data URI, or a URL (http, https, s3).")
    }

    /// The address of a web server.
    pub fn address() -> Self {
        Self::text()
            .with("format", "uri")
            .with("pattern", "^[Hh][Tt][Tt][Pp][Ss]?://[^/]")
    }

    /// One of the events of a stream: the content of [`EVENTS`] is described event by event.
    pub fn event() -> Self {
        Self::object()
            .takes("event", Self::text().means("What it tells of."))
            .needs("data", Self::text())
    }

    /// A keyword of the schema.
    #[must_use]
    pub fn with(mut self, keyword: &str, value: impl Into<Value>) -> Self {
        self.0.insert(keyword.to_owned(), value.into());
        self
    }

    fn within<T: Serialize>(self, range: &RangeInclusive<T>) -> Self {
        self.with("minimum", json!(range.start()))
            .with("maximum", json!(range.end()))
    }

    /// What it means.
    #[must_use]
    pub fn means(self, text: impl Into<String>) -> Self {
        self.with("description", text.into())
    }

    /// What is in force where it is left out.
    #[must_use]
    pub fn or(self, default: impl Into<Value>) -> Self {
        self.with("default", default)
    }

    /// What [`or`](Self::or) said.
    pub(super) fn usual(&self) -> Option<Value> {
        self.0.get("default").cloned()
    }

    /// Names it, so that it stands in the document once.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        self.with(NAME, name)
    }

    /// Adds a field of an object.
    #[must_use]
    pub fn takes(mut self, name: &str, schema: Self) -> Self {
        let fields = self.0.entry("properties").or_insert_with(|| json!({}));
        fields[name] = Value::Object(schema.0);
        self
    }

    /// Adds a field that an object must have.
    #[must_use]
    pub fn needs(mut self, name: &str, schema: Self) -> Self {
        let required = self.0.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut() {
            required.push(json!(name));
        }
        self.takes(name, schema)
    }

    /// Adds the fields that a parser reads.
    #[must_use]
    pub(super) fn fields(self, fields: &[&dyn Described]) -> Self {
        fields.iter().fold(self, |object, field| match field.is_required() {
            true => object.needs(field.name(), field.schema()),
            false => object.takes(field.name(), field.schema()),
        })
    }

    /// The schema itself.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

/// A parameter of the query.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub schema: Schema,
    /// Whether it must be there.
    pub required: bool,
}

/// An answer that is no error.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// What it means.
    pub meaning: &'static str,
    /// The body: its media type and its form. [`None`]: there is none.
    pub body: Option<(&'static str, Schema)>,
}

/// What a route takes and answers, for its documentation.
#[derive(Debug, Clone, Default)]
pub struct Operation {
    /// Parameters of the query.
    pub query: Vec<Parameter>,
    /// The body, by media type.
    pub bodies: Vec<(&'static str, Schema)>,
    /// The answers.
    pub replies: Vec<Reply>,
}

impl Operation {
    /// A route that answers 200 with JSON.
    pub fn answers(schema: Schema) -> Self {
        Self::default().reply(200, "The answer.", JSON, schema)
    }

    /// Adds an answer.
    #[must_use]
    pub fn reply(mut self, status: u16, meaning: &'static str, media_type: &'static str, schema: Schema) -> Self {
        self.replies.push(Reply {
            status,
            meaning,
            body: Some((media_type, schema)),
        });
        self
    }

    /// Adds an answer without a body.
    #[must_use]
    pub fn empty_reply(mut self, status: u16, meaning: &'static str) -> Self {
        self.replies.push(Reply {
            status,
            meaning,
            body: None,
        });
        self
    }

    /// Adds a form of the body.
    #[must_use]
    pub fn body(mut self, media_type: &'static str, schema: Schema) -> Self {
        self.bodies.push((media_type, schema));
        self
    }

    /// Adds a parameter of the query.
    #[must_use]
    pub fn query(mut self, name: &'static str, schema: Schema) -> Self {
        let required = false;
        self.query.push(Parameter { name, schema, required });
        self
    }

    /// Adds a parameter that must be there.
    #[must_use]
    pub fn needs(mut self, name: &'static str, schema: Schema) -> Self {
        let required = true;
        self.query.push(Parameter { name, schema, required });
        self
    }
}

/// Whether a schema is [`Schema::named`], and stands in the document once.
pub fn is_named(schema: &Value) -> bool {
    schema.get(NAME).is_some()
}

/// Moves every named schema below `value` to `components`, and leaves a reference in its place.
pub fn hoist(value: &mut Value, components: &mut Map<String, Value>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| hoist(item, components)),
        Value::Object(object) => {
            object.values_mut().for_each(|item| hoist(item, components));
            if let Some(Value::String(name)) = object.remove(NAME) {
                let reference = json!({"$ref": format!("#/components/schemas/{name}")});
                components.insert(name, std::mem::replace(value, reference));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
pub(crate) mod tests;
