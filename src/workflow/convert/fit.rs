//! Whether a saved value is one that its widget can hold. The page does not ask: it sends a seed as the name of a sampler
//! where a widget has been added before it. The user is told.

use serde_json::Value;

use super::declared::{Declared, Kind};
use super::widgets::{Shape, Widget};
use crate::echo;
use crate::workflow::is_model_file;
use crate::workflow::wording::any_of;

/// What becomes of a number after each run.
const CONTROLS: &[&str] = &["fixed", "increment", "decrement", "randomize", "increment-wrap"];

/// What does not fit, by widget. Empty where all values do.
pub(super) fn misfits(shape: &Shape<'_>) -> Vec<(String, String)> {
    let given = shape.widgets.iter().filter(|widget| widget.is_given);
    given
        .filter_map(|widget| Some((widget.name.to_string(), misfit(widget, &widget.value)?)))
        .collect()
}

/// Why a value does not fit, or `None` where it does or nobody knows.
pub(super) fn misfit(widget: &Widget<'_>, value: &Value) -> Option<String> {
    let expected = match widget.kind {
        Kind::Int if !is_whole(value) => "a whole number".to_owned(),
        Kind::Float if !value.is_number() => "a number".to_owned(),
        Kind::Text if !value.is_string() => "text".to_owned(),
        Kind::Boolean if !value.is_boolean() => "true or false".to_owned(),
        Kind::Control if !is_control(value) => {
            "what becomes of the number after each run (fixed, randomize …), so the values behind it may belong to other fields"
                .to_owned()
        }
        Kind::Combo => unknown_choice(widget.declared.choices(), value, &widget.declared)?,
        Kind::DynamicCombo => {
            let choices = widget.declared.choices().iter();
            let keys: Vec<&Value> = choices.filter_map(|choice| choice.get("key")).collect();
            if keys.contains(&value) {
                return None;
            }
            one_of(keys.into_iter())
        }
        _ => return None,
    };
    Some(format!("holds {}, and should hold {expected}", echo::json(value)))
}

fn is_whole(value: &Value) -> bool {
    value.as_i64().is_some() || value.as_u64().is_some() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn is_control(value: &Value) -> bool {
    match value {
        Value::String(text) => CONTROLS.contains(&text.as_str()),
        value => value.is_boolean(),
    }
}

/// What a combo with a fixed list should hold, where it does not. Lists of files differ from one machine to the next, so a
/// file that is not there is no misfit; the check of the graph tells of it.
fn unknown_choice(choices: &[Value], value: &Value, declared: &Declared<'_>) -> Option<String> {
    if choices.is_empty()
        || choices.contains(value)
        || declared.option("remote").is_some()
        || declared.is("multiselect")
    {
        return None;
    }
    if choices.iter().any(is_file) || is_file(value) {
        return None;
    }
    Some(one_of(choices.iter()))
}

/// Whether this looks like a file's name.
fn is_file(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    if is_model_file(std::path::Path::new(text)) {
        return true;
    }
    let extension = text.rsplit_once('.').map_or("", |(_, extension)| extension);
    (2..=11).contains(&extension.len())
        && extension.starts_with(|first: char| first.is_ascii_alphabetic())
        && extension.chars().all(|character| character.is_ascii_alphanumeric())
}

fn one_of<'v>(choices: impl Iterator<Item = &'v Value>) -> String {
    let shown: Vec<String> = choices
        .take(9)
        .map(|choice| choice.as_str().map_or_else(|| echo::json(choice), echo::cut))
        .collect();
    if shown.len() > 8 {
        return "one of its list".to_owned();
    }
    any_of(&shown.iter().map(String::as_str).collect::<Vec<_>>())
}
