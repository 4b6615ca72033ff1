//! How a check says things: types, values and lists in words.

use super::schema::InputKind;
use super::suggest::any_of;

/// `a whole number from 1 to 10000`, `a link to an output of type MODEL`
pub(super) fn expected(kind: &InputKind) -> String {
    fn within<N: std::fmt::Display>(min: Option<N>, max: Option<N>) -> String {
        match (min, max) {
            (Some(min), Some(max)) => format!(" from {min} to {max}"),
            (Some(min), None) => format!(" of at least {min}"),
            (None, Some(max)) => format!(" of at most {max}"),
            (None, None) => String::new(),
        }
    }
    match kind {
        InputKind::Int { min, max } => format!("a whole number{}", within(*min, *max)),
        InputKind::Float { min, max } => format!("a number{}", within(*min, *max)),
        InputKind::String => "text".to_owned(),
        InputKind::Boolean => "true or false".to_owned(),
        InputKind::Combo(options) if (1..=8).contains(&options.len()) => {
            any_of(&options.iter().map(|option| &**option).collect::<Vec<_>>())
        }
        InputKind::Combo(_) => "one of a list of names".to_owned(),
        InputKind::Link(kind) if &**kind == "*" => "a link to another node".to_owned(),
        InputKind::Link(kind) => format!("a link to an output of type {kind}"),
        InputKind::Autogrow | InputKind::Unchecked => "a value".to_owned(),
    }
}

/// `only output 0, IMAGE`, `outputs 0 to 1: IMAGE, MASK`
pub(super) fn outputs_in_words(outputs: &[Option<Box<str>>]) -> String {
    let types: Vec<_> = outputs.iter().map(|kind| kind.as_deref().unwrap_or("?")).collect();
    match types.as_slice() {
        [] => "no output".to_owned(),
        [one] => format!("only output 0, {one}"),
        many => format!("outputs 0 to {}: {}", many.len() - 1, many.join(", ")),
    }
}
