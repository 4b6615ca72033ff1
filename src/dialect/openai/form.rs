//! Forms (`multipart/form-data`) as the same fields that JSON has.

use bytes::Bytes;
use serde_json::Value;

use super::fields::{COMMON, IMAGE_PARTS, MASK_PARTS};
use crate::dialect::field::Object;
use crate::dialect::part::Part;

/// An image of a request: the file itself, or text in its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    File(Bytes),
    Text(String),
}

/// A form, taken apart.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) fields: Object,
    pub(super) images: Vec<Source>,
    pub(super) masks: Vec<Source>,
    /// The names of files that are neither.
    pub(super) strange_files: Vec<String>,
}

/// Takes a form apart. A list of images comes as `image[]` from OpenAI's clients, as repeated `image` from others.
pub(super) fn read(parts: Vec<Part>) -> Form {
    let mut form = Form::default();
    for Part { name, is_file, content } in parts {
        let text = || String::from_utf8_lossy(&content).into_owned();
        let target = match name.as_str() {
            name if IMAGE_PARTS.contains(&name) => Some(&mut form.images),
            name if MASK_PARTS.contains(&name) => Some(&mut form.masks),
            _ => None,
        };
        match target {
            // Browsers send an empty file for a field that nobody filled in.
            Some(_) if content.is_empty() => {}
            Some(sources) if is_file => sources.push(Source::File(content)),
            Some(sources) => sources.push(Source::Text(text())),
            None if is_file && content.is_empty() => {}
            None if is_file => form.strange_files.push(name),
            None => {
                let text = text();
                // Numbers and switches arrive as texts too.
                let value = if COMMON.iter().any(|field| field.is_plain() && field.name() == name) {
                    typed(&text)
                } else {
                    Value::String(text)
                };
                form.fields.insert(name, value);
            }
        }
    }
    form
}

/// A number or a switch that came as text. What is neither stays text, and is refused as such.
fn typed(text: &str) -> Value {
    let plain = text.trim().to_ascii_lowercase();
    match serde_json::from_str(&plain) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ if plain.is_empty() => Value::Null,
        _ => Value::String(text.to_owned()),
    }
}
