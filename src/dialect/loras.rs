//! The LoRAs of a request: each by the name of an installed file, or by its address.

use serde_json::{Value, json};

use super::field::{Field, Object, fields, names, number, shaped, text};
use super::fields::{Fields, others_of};
use super::schema::Schema;
use crate::workflow::{Lora, ModelAddress, limits};

fields! {
    /// An entry of the list.
    LORA_FIELDS:
    NAME: String = text("name").means("The file, as in ComfyUI's loras folder, or an address in place of `url`.");
    URL: String = shaped("url", Schema::said)
        .means("Where it is: an https address, `hf://owner/name[@revision]/path`, a page of Hugging Face or Civitai, `civitai:VERSION` or `urn:air:…`.");
    STRENGTH: f64 = number("strength", limits::LORA_STRENGTH).or(1.0);
    STRENGTH_CLIP: f64 = number("strength_clip", limits::LORA_STRENGTH)
        .means("Without effect: the templates apply LoRAs to the diffusion model alone.");
}

/// The list, as a description has it.
pub(super) fn schema() -> Schema {
    let needs = |field: &Field<String>| json!({"required": [field.name]});
    let lora = Schema::object()
        .fields(LORA_FIELDS)
        .with("anyOf", json!([needs(&NAME), needs(&URL)]));
    Schema::list(Schema::either([Schema::text(), lora])).with("maxItems", limits::LORAS)
}

/// The same of a field that [`read_any`] reads.
pub(super) fn any_schema() -> Schema {
    Schema::either([schema(), Schema::text()])
}

/// Reads the list that stands in `field`. What has no effect is told.
pub(super) fn read(fields: &mut Fields<'_>, field: &str, items: Vec<Value>, told: &mut Vec<String>) -> Vec<Lora> {
    if items.len() > limits::LORAS {
        fields.problem(
            field,
            format!("has {} entries, the limit is {}", items.len(), limits::LORAS),
        );
        return Vec::new();
    }
    let mut loras = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let place = format!("{field}[{index}]");
        match entry(&item, &place, told) {
            Ok(lora) => loras.push(lora),
            Err(why) => fields.problem(&place, why),
        }
    }
    loras
}

/// The same of a field that a form has too: a list, one entry, or either as a text of JSON.
pub(super) fn read_any(fields: &mut Fields<'_>, field: &str, value: Value, told: &mut Vec<String>) -> Vec<Lora> {
    let value = match value {
        Value::String(text) if text.trim().is_empty() => return Vec::new(),
        Value::String(text) if text.trim_start().starts_with(['[', '{']) => {
            if let Ok(value) = crate::json::read(text.as_bytes()) {
                value
            } else {
                fields.problem(field, "is a text that begins as JSON, and is none");
                return Vec::new();
            }
        }
        other => other,
    };
    match value {
        Value::Array(items) => read(fields, field, items, told),
        one @ (Value::String(_) | Value::Object(_)) => read(fields, field, vec![one], told),
        _ => {
            fields.problem(field, "must be a list of LoRAs");
            Vec::new()
        }
    }
}

fn entry(item: &Value, place: &str, told: &mut Vec<String>) -> Result<Lora, String> {
    let (name, strength) = match item {
        Value::String(name) => (said(Some(item)).map(|_| name), 1.0),
        Value::Object(lora) => {
            told.extend(others_of(lora, &names(LORA_FIELDS), place));
            let name = match (said(lora.get(URL.name)), said(lora.get(NAME.name))) {
                (Some(_), Some(_)) => return Err("has both `url` and `name`; send one of them".to_owned()),
                (Some(url), None) if !ModelAddress::is_meant(url) => {
                    return Err(
                        "has a `url` that is no address: write https://…, hf://owner/name/path, civitai:VERSION or urn:air:…"
                            .to_owned(),
                    );
                }
                (url, name) => url.or(name),
            };
            let strength = within(lora, &STRENGTH)?.unwrap_or(1.0);
            if within(lora, &STRENGTH_CLIP)?.is_some_and(|strength| strength != 0.0) {
                told.push(format!(
                    "`strength_clip` in {place} has no effect: the templates apply LoRAs to the diffusion model alone; a graph with LoraLoader applies one to the text encoder too"
                ));
            }
            (name, strength)
        }
        _ => (None, 1.0),
    };
    let Some(name) = name else {
        return Err(
            "needs a `name`, the file's name as in ComfyUI's loras folder, or a `url`; and may have a `strength`"
                .to_owned(),
        );
    };
    if ModelAddress::is_meant(name) {
        ModelAddress::parse(name)?;
    }
    Ok(Lora {
        name: name.clone(),
        strength,
    })
}

/// A text that says something.
fn said(value: Option<&Value>) -> Option<&String> {
    match value {
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
        _ => None,
    }
}

/// A number of an entry.
fn within(lora: &Object, field: &Field<f64>) -> Result<Option<f64>, String> {
    match lora.get(field.name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_f64().filter(|number| field.rule.contains(number));
            let (low, high) = (field.rule.start(), field.rule.end());
            let why = || format!("`{}` must be a number from {low} to {high}", field.name);
            number.map(Some).ok_or_else(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: Value) -> (Vec<Lora>, Vec<String>, Option<String>) {
        let mut object = Object::new();
        let mut fields = Fields::new(&mut object, &[]);
        let mut told = Vec::new();
        let loras = read_any(&mut fields, "loras", value, &mut told);
        (loras, told, fields.finish().err().map(|error| error.full_text()))
    }

    #[test]
    fn an_entry_is_a_name_or_an_address() {
        let url = "https://huggingface.co/o/n/blob/main/x.safetensors";
        let list = json!(["a.safetensors", {"name": "b.safetensors", "strength": 0.5}, {"url": url}, "civitai:7", {"name": "hf://o/n/x.safetensors"}]);
        for value in [list.clone(), json!(list.to_string())] {
            let (loras, told, wrong) = parsed(value);
            assert_eq!((told.len(), wrong), (0, None));
            let names: Vec<_> = loras.iter().map(|lora| (lora.name.as_str(), lora.strength)).collect();
            assert_eq!(
                names,
                [
                    ("a.safetensors", 1.0),
                    ("b.safetensors", 0.5),
                    (url, 1.0),
                    ("civitai:7", 1.0),
                    ("hf://o/n/x.safetensors", 1.0)
                ]
            );
        }
        // A form has one as a text.
        assert_eq!(parsed(json!(url)).0[0].name, url);
        assert!(parsed(json!(" ")).0.is_empty());
    }

    #[test]
    fn what_is_wrong_names_the_entry() {
        for (entry, word) in [
            (json!({"strength": 1}), "`name`"),
            (json!({"name": " "}), "`name`"),
            (json!({"name": "a", "strength": "abc"}), "`strength`"),
            (json!({"name": "a", "strength": 99}), "`strength`"),
            (json!({"name": "a", "strength_clip": "1"}), "`strength_clip`"),
            (json!({"name": "a", "url": "civitai:7"}), "both"),
            (json!({"url": "a.safetensors"}), "no address"),
            (json!({"url": "https://x.example.com/a.ckpt"}), "any code"),
            (json!("civitai:x"), "civitai:VERSION"),
            (json!(1), "`name`"),
        ] {
            let (_, _, wrong) = parsed(json!([{"name": "good"}, entry]));
            let wrong = wrong.unwrap();
            assert!(wrong.contains("loras[1]") && wrong.contains(word), "{wrong}");
        }
        assert!(parsed(json!(vec!["a"; 17])).2.unwrap().contains("17 entries"));
        assert!(parsed(json!("[{")).2.unwrap().contains("JSON"));
        assert!(parsed(json!(7)).2.unwrap().contains("list"));
        let (_, told, wrong) = parsed(json!([{"name": "a", "strength_clip": 0.5, "wieght": 1}]));
        assert_eq!((told.len(), wrong), (2, None), "{told:?}");
    }
}
