//! What a variable is, and how the raw strings become values.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use url::Url;

/// An environment variable: its documentation and its default, in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// Type, unit and limits, for people.
    pub kind: &'static str,
    /// What is in force when it is not set. [`None`]: nothing.
    pub default: Option<&'static str>,
    /// A value that works.
    pub example: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Whether its value prints as stars.
    pub secret: bool,
}

/// What is wrong with one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The variable's name.
    pub variable: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.message)
    }
}

/// A variable with the value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The variable's name.
    pub name: &'static str,
    /// Its value as text; stars if it is secret; [`None`] if it is not set and has no default.
    pub value: Option<String>,
    /// Whether the environment said so.
    pub from_environment: bool,
}

/// Parses raw strings and collects what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    resolved: Vec<Resolved>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    /// Fills a struct of `Option<String>` by the names of its fields.
    pub(super) fn raw<T: DeserializeOwned + Default>(&mut self, vars: &[(String, String)]) -> T {
        envy::from_iter(vars.iter().cloned()).unwrap_or_else(|error| {
            self.mistakes.push(Mistake {
                variable: "environment",
                message: error.to_string(),
            });
            T::default()
        })
    }

    /// The value of a variable that has a default. [`None`] only after a mistake, which is kept.
    pub(super) fn value<T>(
        &mut self,
        variable: &'static Variable,
        raw: Option<String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = self.optional(variable, raw, parse)?;
        debug_assert!(parsed.is_some(), "{} has no default", variable.name);
        parsed
    }

    /// The value of a variable that may be absent. The outer [`None`] only after a mistake, which is kept.
    #[expect(clippy::option_option, reason = "a mistake and an absent value are two things")]
    pub(super) fn optional<T>(
        &mut self,
        variable: &'static Variable,
        raw: Option<String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        let from_environment = raw.is_some();
        let text = raw.or_else(|| variable.default.map(str::to_owned));
        let shown = if variable.secret {
            text.as_ref().map(|_| "***".to_owned())
        } else {
            text.clone()
        };
        self.resolved.push(Resolved {
            name: variable.name,
            value: shown.clone(),
            from_environment,
        });
        let Some(text) = text else { return Some(None) };
        match parse(&text) {
            Ok(value) => Some(Some(value)),
            Err(message) => {
                let message = format!(
                    "`{}` {message}; for example {}={}",
                    shown.unwrap_or_default(),
                    variable.name,
                    variable.example
                );
                self.mistakes.push(Mistake {
                    variable: variable.name,
                    message,
                });
                None
            }
        }
    }

    /// Replaces what `check` shows for a variable whose default is computed.
    pub(super) fn computed(&mut self, variable: &'static Variable, value: String) {
        if let Some(resolved) = self.resolved.iter_mut().find(|resolved| resolved.name == variable.name) {
            resolved.value = Some(value);
        }
    }

    /// Notes a mistake that no single value shows.
    pub(super) fn mistake(&mut self, variable: &'static Variable, message: impl Into<String>) {
        self.mistakes.push(Mistake {
            variable: variable.name,
            message: message.into(),
        });
    }

    pub(super) fn finish(self) -> (Vec<Resolved>, Vec<Mistake>) {
        (self.resolved, self.mistakes)
    }
}

/// A parser of whole numbers within limits.
pub(super) fn integer<T: FromStr + PartialOrd + fmt::Display + Copy>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> {
    move |text| match text.parse::<T>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("is no whole number from {} to {}", range.start(), range.end())),
    }
}

/// Reads a switch as people write them.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

/// Reads the address of something on the web.
pub(super) fn web_address(text: &str) -> Result<Url, String> {
    let url = text.parse::<Url>().ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "is no http or https URL".to_owned())
}

/// Takes the text as it is.
#[expect(clippy::unnecessary_wraps, reason = "it stands where a parser is asked for")]
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}
