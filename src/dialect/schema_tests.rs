//! Holds a schema against the parser that it describes.

use serde_json::{Value, json};

use super::Schema;

/// Gives the example of a schema of an object.
pub(crate) fn example(schema: &Schema) -> Value {
    let schema = schema.clone().into_value();
    let example = schema["examples"][0].clone();
    for name in example.as_object().expect("an example").keys() {
        assert!(schema["properties"].get(name).is_some(), "{name}: is a field");
    }
    example
}

/// Checks a schema of an object against `parse`, which says whether it takes a body: its example is taken, and each field has
/// the range and the choice of the schema.
pub(crate) fn agrees(schema: Schema, parse: impl Fn(&Value) -> bool) {
    let usual = example(&schema);
    assert!(parse(&usual), "{usual} is taken");
    let schema = schema.into_value();
    let fields = schema["properties"].as_object().expect("fields");
    for (name, field) in fields {
        let takes = |value: &Value| {
            let mut body = usual.clone();
            body[name] = value.clone();
            parse(&body)
        };
        for choice in field["enum"]
            .as_array()
            .into_iter()
            .flatten()
            .chain(field.get("default"))
        {
            assert!(takes(choice), "{name}: {choice} is taken");
        }
        if field.get("enum").is_some() {
            assert!(!takes(&json!("something-else")), "{name}: is one of its choice");
        }
        for (bound, beyond) in [("minimum", -1), ("maximum", 1)] {
            let Some(bound) = field.get(bound) else { continue };
            assert!(takes(bound), "{name}: {bound} is taken");
            let beyond = match (bound.as_i64(), bound.as_f64()) {
                (Some(bound), _) => json!(bound + beyond),
                (None, Some(bound)) if bound < 1e9 => json!(bound + f64::from(i32::try_from(beyond).expect("small"))),
                _ => continue,
            };
            assert!(!takes(&beyond), "{name}: {beyond} is not taken");
        }
        if field["type"] != "string" && field.get("anyOf").is_none() {
            assert!(!takes(&json!("text")), "{name}: is no text");
        }
    }
}

#[test]
fn a_named_schema_moves_to_the_components() {
    let inner = Schema::object().needs("a", Schema::text()).named("Inner");
    let mut value = Schema::list(inner).into_value();
    let mut components = serde_json::Map::new();
    super::hoist(&mut value, "An", &mut components);
    assert_eq!(value["items"], json!({"$ref": "#/components/schemas/AnInner"}));
    assert_eq!(
        components["AnInner"],
        json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}})
    );
}

#[test]
fn a_type_describes_itself_as_answers_have_it() {
    #[derive(utoipa::ToSchema, serde::Serialize)]
    struct Inner {
        /// One line
        /// and another.
        count: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'static str>,
        #[schema(required)]
        nothing: Option<u8>,
    }
    #[derive(utoipa::ToSchema, serde::Serialize)]
    struct Outer<'a> {
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        inner: &'a [Inner],
        #[serde(skip_serializing_if = "Option::is_none")]
        one: Option<Inner>,
        #[schema(schema_with = words)]
        word: &'a str,
    }
    fn words() -> Schema {
        Schema::one_of(["a", "b"])
    }
    let inner = json!({
        "type": "object",
        "required": ["count", "nothing"],
        "properties": {
            "count": {"type": "integer", "minimum": 0, "description": "One line and another."},
            "text": {"type": "string"},
            "nothing": {"type": ["integer", "null"], "minimum": 0},
        },
        "x-name": "Inner",
    });
    let outer = json!({
        "type": "object",
        "required": ["word"],
        "properties": {
            "inner": {"type": "array", "items": inner},
            "one": {"oneOf": [inner]},
            "word": {"type": "string", "enum": ["a", "b"]},
        },
        "x-name": "Outer",
    });
    assert_eq!(Schema::of::<Outer>().into_value(), outer);
}
