//! What a record of `recordInfo` repeats of its request.

use serde_json::{Value, json};
use url::Url;

use super::fields::{IMAGE, PICTURE};
use super::models::Model;
use crate::dialect::field::{Object, names};
use crate::display::redacted;
use crate::echo;
use crate::job::Asked;

/// What the record repeats of a request: the fields that are known. An image is told by its place alone, and the call back
/// not at all, as their addresses may hold secrets.
pub(super) fn asked(model: &Model, input: &Object) -> Asked {
    let known = names(PICTURE);
    let said = input
        .iter()
        .filter(|(name, value)| known.contains(&name.as_str()) && !value.is_null());
    let repeated = said.map(|(name, value)| {
        let value = match value {
            Value::String(text) if name == IMAGE.name => place(text),
            Value::Array(items) if name == IMAGE.name => items
                .iter()
                .map(|item| place(item.as_str().unwrap_or_default()))
                .collect(),
            other => other.clone(),
        };
        (name.clone(), value)
    });
    let input: Object = repeated.collect();
    Asked {
        model: model.name.to_owned(),
        param: json!({"model": model.name, "input": input}).to_string(),
    }
}

fn place(image: &str) -> Value {
    let is_address = image.contains("://");
    let url = Url::parse(image.trim()).ok().filter(|_| is_address);
    Value::from(url.map_or_else(
        || format!("({} characters)", image.len()),
        |url| echo::cut(&redacted(&url)),
    ))
}
