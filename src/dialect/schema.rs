//! JSON schemas of bodies and parameters, as `OpenAPI` 3.1 holds them. What a request may have is described by the fields
//! that its parser reads, and an answer by its type.

use std::ops::RangeInclusive;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{self, RefOr};

use super::field::Described;

/// The media type of JSON.
pub const JSON: &str = "application/json";
/// The media type of forms with files.
pub const FORM: &str = "multipart/form-data";
/// The media type of server-sent events.
pub const EVENTS: &str = "text/event-stream";

/// The id of a job in examples.
pub const JOB: &str = "0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f";
/// What examples ask for.
pub const SCENE: &str = "a red fox in the snow";
/// What examples ask for of [`BALL`].
pub const CHANGE: &str = "make the ball blue";
/// The picture of examples: a red ball.
pub const BALL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////WKCi0LpysAAAANUlEQVR42mNgwAnkfwAJ+z9A4v9/BgbG//8bIATz//8HGNj//39AGgHWhjAFbCjEeLBFOAAAgxI1Ee3t8TQAAAAASUVORK5CYII=";

/// The key of a schema's name, until [`hoist`] moves it.
const NAME: &str = "x-name";

/// Where `utoipa` looks for a named schema.
const COMPONENTS: &str = "#/components/schemas/";

/// A schema (JSON Schema 2020-12).
#[derive(Debug, Clone, PartialEq)]
pub struct Schema(Map<String, Value>);

impl Schema {
    /// Any value.
    pub fn any() -> Self {
        Self(Map::new())
    }

    /// What an answer of this type looks like.
    pub fn of<T: ToSchema>() -> Self {
        let mut named = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut named);
        let named = named.into_iter().map(|(name, schema)| (name, json!(schema)));
        let mut schema = json!({ "$ref": format!("{COMPONENTS}{}", T::name()) });
        put_in(&mut schema, &named.collect());
        match schema {
            Value::Object(schema) => Self(schema),
            _ => Self::any(),
        }
    }

    fn typed(kind: &str) -> Self {
        Self::any().with("type", kind)
    }

    /// A text.
    pub fn text() -> Self {
        Self::typed("string")
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
        Self::typed("integer").with("minimum", 0)
    }

    /// A whole number of any sign.
    pub fn whole() -> Self {
        Self::integer(&(i64::MIN..=i64::MAX))
    }

    /// The id of a job: a UUID in lower case.
    pub fn job_id() -> Self {
        Self::text().with("pattern", "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    }

    /// A whole number in a range.
    pub fn integer<T: Serialize>(range: &RangeInclusive<T>) -> Self {
        Self::typed("integer").within(range)
    }

    /// A number in a range.
    pub fn number(range: &RangeInclusive<f64>) -> Self {
        Self::typed("number").within(range)
    }

    /// `true` or `false`.
    pub fn truth() -> Self {
        Self::typed("boolean")
    }

    /// A list.
    pub fn list(items: Self) -> Self {
        Self::typed("array").with("items", items.0)
    }

    /// An object, without fields yet. It may have others than those that are named.
    pub fn object() -> Self {
        Self::typed("object")
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
        Self::maybe_picture().with("minLength", 1)
    }

    /// The same, or an empty text for none.
    pub fn maybe_picture() -> Self {
        Self::text().means("A picture as base64, a data URI, or a URL (http, https, s3).")
    }

    /// The same for a file of any kind.
    pub fn any_file() -> Self {
        Self::text()
            .with("minLength", 1)
            .means("A file as base64, a data URI, or a URL (http, https, s3).")
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

    /// A value that works as it is: the page of the routes shows it, and sends it. Without one it sends every field at once.
    #[must_use]
    pub fn example(self, value: impl Into<Value>) -> Self {
        self.with("examples", vec![value.into()])
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
        fields.iter().fold(self, |object, field| {
            if field.is_required() {
                object.needs(field.name(), field.schema())
            } else {
                object.takes(field.name(), field.schema())
            }
        })
    }

    /// The schema itself.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

/// For fields of answers whose type says less.
impl From<Schema> for RefOr<openapi::Schema> {
    fn from(schema: Schema) -> Self {
        serde_json::from_value(schema.into_value()).unwrap_or_default()
    }
}

/// Puts named schemas in the place of references to them, and takes out what a type says of itself and not of an answer: the
/// width of a number, a default, and that an optional field, which is left out, were null.
fn put_in(schema: &mut Value, named: &Map<String, Value>) {
    if let Value::Array(items) = schema {
        for item in items {
            put_in(item, named);
        }
        return;
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|place| place.strip_prefix(COMPONENTS)) {
        let mut found = named.get(name).cloned().unwrap_or_default();
        found[NAME] = json!(name);
        *schema = found;
    }
    let Value::Object(object) = schema else { return };
    let is_width = |format: &Value| format != "date-time" && format != "uri";
    if object.get("format").is_some_and(is_width) {
        object.remove("format");
    }
    object.remove("default");
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    let required = object.get("required").cloned().unwrap_or_default();
    let is_required = |name: &String| required.as_array().is_some_and(|names| names.contains(&json!(name)));
    for (keyword, inner) in object.iter_mut() {
        match inner {
            Value::Object(fields) if keyword == "properties" => {
                for (name, field) in fields {
                    put_in(field, named);
                    if !is_required(name) {
                        take_out_null(field);
                    }
                }
            }
            inner => put_in(inner, named),
        }
    }
    join_parts(object);
}

/// The fields of a type and those of the types that are flattened into it stand side by side on the wire.
fn join_parts(object: &mut Map<String, Value>) {
    let Some(parts) = object.get("allOf").and_then(Value::as_array).cloned() else {
        return;
    };
    let (mut fields, mut required) = (Map::new(), Vec::new());
    for part in &parts {
        let Some(properties) = part["properties"].as_object() else {
            return;
        };
        fields.extend(properties.clone());
        required.extend(part["required"].as_array().into_iter().flatten().cloned());
    }
    object.remove("allOf");
    object.insert("type".to_owned(), json!("object"));
    object.insert("properties".to_owned(), fields.into());
    if !required.is_empty() {
        object.insert("required".to_owned(), required.into());
    }
}

fn take_out_null(field: &mut Value) {
    if let Some(kind) = field.get("type").and_then(|kinds| kinds.get(0)).cloned() {
        field["type"] = kind;
    }
    if let Some(Value::Array(schemas)) = field.get_mut("oneOf") {
        schemas.retain(|schema| schema["type"] != "null");
    }
}

/// What a route takes and answers, as the document has it.
#[derive(Debug, Clone, Default)]
pub struct Operation {
    /// Parameters of the query.
    pub parameters: Vec<Value>,
    /// The body, by media type.
    pub bodies: Map<String, Value>,
    /// Whether it is answered without a body, too.
    pub body_may_miss: bool,
    /// The answers that are no errors, by status.
    pub responses: Map<String, Value>,
}

impl Operation {
    /// A route that answers 200 with JSON.
    pub fn answers<T: ToSchema>() -> Self {
        Self::default().reply(200, "The answer.", JSON, Schema::of::<T>())
    }

    /// A route that answers with server-sent events.
    pub fn events(meaning: &str) -> Self {
        Self::default().reply(200, meaning, EVENTS, Schema::event())
    }

    /// Adds an answer.
    #[must_use]
    pub fn reply(self, status: u16, meaning: &str, media_type: &str, schema: Schema) -> Self {
        let mut operation = self.empty_reply(status, meaning);
        let content = json!({"schema": schema.into_value()});
        operation.responses[&status.to_string()]["content"][media_type] = content;
        operation
    }

    /// Adds an answer without a body.
    #[must_use]
    pub fn empty_reply(mut self, status: u16, meaning: &str) -> Self {
        let response = self.responses.entry(status.to_string()).or_insert_with(|| json!({}));
        let so_far = response["description"].as_str().unwrap_or_default();
        response["description"] = json!(format!("{so_far} {meaning}").trim_start());
        self
    }

    /// A body of JSON.
    #[must_use]
    pub fn takes(self, schema: Schema) -> Self {
        self.body(JSON, schema)
    }

    /// The body need not be there.
    #[must_use]
    pub fn or_no_body(mut self) -> Self {
        self.body_may_miss = true;
        self
    }

    /// Adds a form of the body.
    #[must_use]
    pub fn body(mut self, media_type: &str, schema: Schema) -> Self {
        let content = json!({"schema": schema.into_value()});
        self.bodies.insert(media_type.to_owned(), content);
        self
    }

    /// Adds a parameter of the query.
    #[must_use]
    pub fn query(self, name: &str, schema: Schema) -> Self {
        self.parameter(name, schema, false)
    }

    /// Adds a parameter that must be there.
    #[must_use]
    pub fn needs(self, name: &str, schema: Schema) -> Self {
        self.parameter(name, schema, true)
    }

    fn parameter(mut self, name: &str, schema: Schema, required: bool) -> Self {
        let parameter = json!({"name": name, "in": "query", "required": required, "schema": schema.into_value()});
        self.parameters.push(parameter);
        self
    }
}

/// Whether a schema is [`Schema::named`], and stands in the document once.
pub fn is_named(schema: &Value) -> bool {
    schema.get(NAME).is_some()
}

/// Moves every named schema below `value` to `components`, where `prefix` stands before its name, and leaves a reference in
/// its place.
pub fn hoist(value: &mut Value, prefix: &str, components: &mut Map<String, Value>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| hoist(item, prefix, components)),
        Value::Object(object) => {
            object.values_mut().for_each(|item| hoist(item, prefix, components));
            if let Some(Value::String(name)) = object.remove(NAME) {
                let name = format!("{prefix}{name}");
                let reference = json!({"$ref": format!("{COMPONENTS}{name}")});
                let schema = std::mem::replace(value, reference);
                debug_assert!(components.get(&name).is_none_or(|other| *other == schema), "one {name}");
                components.insert(name, schema);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
pub(crate) mod tests;
