//! Holds a schema against the parser that it describes.

use serde_json::{Value, json};

use super::Schema;

/// Checks a schema of an object against `parse`, which says whether it takes a body: each field has the range and the choice
/// of the schema.
pub(crate) fn agrees(schema: Schema, usual: &Value, parse: impl Fn(&Value) -> bool) {
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
    super::hoist(&mut value, &mut components);
    assert_eq!(value["items"], json!({"$ref": "#/components/schemas/Inner"}));
    assert_eq!(
        components["Inner"],
        json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}})
    );
}
