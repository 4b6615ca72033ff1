//! The saved values of a node's widgets: by position, or by name.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::declared::{Declared, inputs};

/// Values that widgets take one after the other.
#[derive(Debug)]
pub(super) enum Values<'a> {
    /// By position.
    Listed {
        /// The values, without those of inputs that are no widgets any more.
        values: Vec<&'a Value>,
        /// The next one.
        next: usize,
    },
    /// By name, or by position as a name.
    Named {
        /// What has not been taken.
        values: HashMap<Cow<'a, str>, Cow<'a, Value>>,
        /// How many were asked for.
        next: usize,
    },
}

impl<'a> Values<'a> {
    /// No values: everything is as in a new node.
    pub(super) fn none() -> Self {
        Self::Listed {
            values: Vec::new(),
            next: 0,
        }
    }

    /// The values that were saved with a node of this class.
    pub(super) fn saved(described: &'a Value, saved: Option<&'a Value>) -> Self {
        match saved {
            Some(Value::Array(values)) => Self::listed(described, values),
            Some(Value::Object(values)) => Self::named(values),
            _ => Self::none(),
        }
    }

    /// Values in an object.
    pub(super) fn named(values: &'a Map<String, Value>) -> Self {
        Self::by_name(
            values
                .iter()
                .map(|(name, value)| (Cow::Borrowed(name.as_str()), Cow::Borrowed(value))),
        )
    }

    /// Values with their names.
    pub(super) fn by_name(values: impl Iterator<Item = (Cow<'a, str>, Cow<'a, Value>)>) -> Self {
        Self::Named {
            values: values.collect(),
            next: 0,
        }
    }

    /// Values in a list. Pages before 1.16 saved one for each input that has `forceInput` as well; they are taken out where
    /// the number of values says that they are there.
    fn listed(described: &'a Value, values: &'a [Value]) -> Self {
        let mut is_forced = Vec::new();
        for (_, inputs) in inputs(described.get("input").unwrap_or(&Value::Null)) {
            for definition in inputs.values() {
                let declared = Declared::read(definition);
                let forced = declared.is("forceInput");
                if forced || declared.widget().is_some() {
                    is_forced.push(forced);
                    if declared.is("control_after_generate") {
                        is_forced.push(false);
                    }
                }
            }
        }
        let has_them = is_forced.len() == values.len();
        let is_taken = |index: &usize| !has_them || !is_forced[*index];
        let indexes = (0..values.len()).filter(is_taken);
        Self::Listed {
            values: indexes.map(|index| &values[index]).collect(),
            next: 0,
        }
    }

    /// The value of the next widget, whose name is `name`; `None` where none was saved.
    pub(super) fn take(&mut self, name: &str) -> Option<Cow<'a, Value>> {
        match self {
            Self::Listed { values, next } => {
                let value = values.get(*next);
                *next += 1;
                value.map(|value| Cow::Borrowed(*value))
            }
            Self::Named { values, next } => {
                let position = next.to_string();
                *next += 1;
                values.remove(name).or_else(|| values.remove(position.as_str()))
            }
        }
    }

    /// How many values no widget took, but those at the end that are null: they were of players and previews.
    pub(super) fn left(&self) -> usize {
        match self {
            Self::Listed { values, next } => {
                let last = values.iter().rposition(|value| !value.is_null());
                last.map_or(0, |last| (last + 1).saturating_sub(*next))
            }
            Self::Named { values, .. } => values.len(),
        }
    }

    /// The names of the values that no widget took, in alphabetic order; none where values go by position.
    pub(super) fn names_left(&self) -> Vec<&str> {
        let Self::Named { values, .. } = self else {
            return Vec::new();
        };
        let mut names: Vec<&str> = values.keys().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }
}
