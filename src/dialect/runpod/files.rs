//! The images and other files of a request.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::fields::{CONTENTS, ENTRY_FIELDS, ENTRY_NAME, FILES, IMAGES, WORKFLOW};
use super::strange;
use super::synonyms::{self, Entry};
use crate::dialect::field::names;
use crate::dialect::fields::{Fields, describe, others_of};
use crate::echo;
use crate::job::{ImageName, InputImage, MOST_IMAGES, Origin, Takes};

/// Reads what a request sends beside its graph or its prompt. No two of them have the same name, whichever fields they stand
/// in.
pub(super) fn read(fields: &mut Fields<'_>, told: &mut Vec<String>) -> Vec<InputImage> {
    // A graph loads what its nodes load, a template pictures.
    let takes = if fields.has(WORKFLOW.name) {
        Takes::Media
    } else {
        Takes::Pictures
    };
    let entries = synonyms::files(fields);
    if entries.len() > MOST_IMAGES {
        let are_images = entries.iter().all(|entry| entry.origin == Origin::Images);
        let (field, and) = if are_images {
            (IMAGES.name, "")
        } else {
            (FILES.name, " together with the other fields of images and files")
        };
        fields.problem(
            field,
            format!("has {} entries{and}, the limit is {MOST_IMAGES}", entries.len()),
        );
        return Vec::new();
    }
    let mut files: Vec<InputImage> = Vec::with_capacity(entries.len());
    let mut given_names = HashSet::new();
    for entry in entries {
        let place = entry.place.clone();
        let file = read_one(entry, takes, told).map(|file| {
            let is_new = given_names.insert(file.name.clone());
            (file, is_new)
        });
        match file {
            Ok((file, true)) => files.push(file),
            Ok((InputImage { name, origin, .. }, false)) => {
                let what = if origin == Origin::Images { "image" } else { "file" };
                let message = format!("has the name `{name}` a second time; give each {what} its own");
                fields.problem(&place, message);
            }
            Err(message) => fields.problem(&place, message),
        }
    }
    files
}

/// The file of one entry, or what is wrong with it.
fn read_one(entry: Entry, takes: Takes, told: &mut Vec<String>) -> Result<InputImage, String> {
    let Entry {
        place,
        origin,
        name,
        value,
    } = entry;
    let (name, text) = match value {
        Value::String(text) => (name, Some(text)),
        Value::Object(mut entry) => {
            let name = given_name(&entry, &origin)?.unwrap_or(name);
            told.extend(others_of(&entry, &names(ENTRY_FIELDS), &place));
            (name, content(&mut entry)?)
        }
        _ => (String::new(), None),
    };
    let Some(text) = text else {
        let content = if origin == Origin::Images {
            "an `image`"
        } else {
            "a `file`"
        };
        return Err(format!("needs a `name` and {content}: base64, a data URI, or a URL"));
    };
    let name = ImageName::parse(&name)?;
    InputImage::from_text_as(name, &text, origin, takes).map_err(|error| error.full_text())
}

fn given_name(entry: &Map<String, Value>, origin: &Origin) -> Result<Option<String>, String> {
    match entry.get(ENTRY_NAME.name) {
        None | Some(Value::Null) => match strange::misnamed(entry) {
            Some(field) => {
                let what = if *origin == Origin::Images { "image" } else { "file" };
                let field = echo::cut(field);
                Err(format!(
                    "`{field}` is not known; what the graph calls the {what} stands in `name`"
                ))
            }
            None => Ok(None),
        },
        Some(Value::String(name)) => Ok(Some(name.clone())),
        Some(other) => Err(format!("`name` must be a string, not {}", describe(other))),
    }
}

/// The content, under whichever name it stands.
fn content(entry: &mut Map<String, Value>) -> Result<Option<String>, String> {
    let mut found: Option<(&str, Value)> = None;
    for field in CONTENTS {
        let value = entry
            .get_mut(field.name)
            .map(Value::take)
            .filter(|value| !value.is_null());
        match (value, &found) {
            (None, _) => {}
            (Some(value), None) => found = Some((field.name, value)),
            (Some(_), Some((first, _))) => {
                return Err(format!(
                    "holds `{first}` and `{}`, which mean the same; send one of them",
                    field.name
                ));
            }
        }
    }
    Ok(match found {
        Some((_, Value::String(text))) => Some(text),
        _ => None,
    })
}
