//! Which form a manifest has, by what is in it.

use std::path::Path;

use saphyr::{LoadableYamlNode as _, Yaml};
use serde_json::{Map, Value};

use super::{Document, build, ours, snapshot};

/// What is known, for those who bring something else.
const KNOWN: &str =
    "a manifest is a TOML file with [[pack]] entries, a snapshot of ComfyUI-Manager, or a comfy-build.yaml";

/// Reads a manifest; `base` is the folder that it lies in, if it lies in one. May look for folders there: blocks.
pub(super) fn read(text: &str, base: Option<&Path>) -> Document {
    let text = text.trim_start_matches('\u{feff}');
    let value = match kind(text) {
        Kind::Toml => return ours::read(text, base),
        Kind::Json => json(text),
        Kind::Yaml => yaml(text),
    };
    let object = match value {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Document::wrong(format!("it is no table of keys and values; {KNOWN}")),
        Err(mistake) => return Document::wrong(mistake),
    };
    if let Some(snapshot) = snapshot::within(&object) {
        return snapshot::read(snapshot);
    }
    if build::is_one(&object) {
        return build::read(&object, base);
    }
    let keys: Vec<_> = object.keys().take(8).map(|key| crate::echo::cut(key)).collect();
    Document::wrong(format!("it has the keys {}; {KNOWN}", keys.join(", ")))
}

enum Kind {
    Toml,
    Json,
    Yaml,
}

/// JSON begins with a brace; a line of YAML has `key:` where TOML has `key =` or `[`.
fn kind(text: &str) -> Kind {
    if text.trim_start().starts_with('{') {
        return Kind::Json;
    }
    let lines = text.lines().map(str::trim);
    let first = lines.clone().find(|line| !line.is_empty() && !line.starts_with('#'));
    let Some(first) = first else { return Kind::Toml };
    let is_key = |rest: &str| rest.is_empty() || rest.starts_with([' ', '\t']);
    let named = first
        .split_once(':')
        .filter(|(key, rest)| !key.contains(['=', '[', '"']) && is_key(rest));
    if first.starts_with("---") || named.is_some() {
        return Kind::Yaml;
    }
    Kind::Toml
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let message = message.strip_suffix(&place).unwrap_or(&message);
        format!("line {}: {message}", error.line())
    })
}

fn yaml(text: &str) -> Result<Value, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| error.to_string())?;
    documents.first().map_or(Ok(Value::Null), as_json)
}

/// The same as JSON. What JSON has not, such as a key that is a list, is an error.
fn as_json(node: &Yaml<'_>) -> Result<Value, String> {
    if node.is_null() {
        return Ok(Value::Null);
    }
    if let Some(mapping) = node.as_mapping() {
        let mut object = Map::new();
        for (key, value) in mapping {
            let name = match (key.as_str(), key.is_null()) {
                (Some(key), _) => key.to_owned(),
                // ComfyUI-Manager's address of a pack that has none.
                (None, true) => "null".to_owned(),
                (None, false) => return Err("it has a key that is no text".to_owned()),
            };
            object.insert(name, as_json(value)?);
        }
        return Ok(Value::Object(object));
    }
    if let Some(items) = node.as_sequence() {
        return items.iter().map(as_json).collect();
    }
    let scalar = node.as_str().map(Value::from);
    let scalar = scalar.or_else(|| node.as_bool().map(Value::from));
    let scalar = scalar.or_else(|| node.as_integer().map(Value::from));
    let scalar = scalar.or_else(|| node.as_floating_point().map(Value::from));
    scalar.ok_or_else(|| "it has a value that is neither text nor number".to_owned())
}
