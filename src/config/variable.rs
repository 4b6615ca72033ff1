//! What a variable is, and how its text becomes a value.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// A token or key. Prints as stars everywhere; [`Secret::reveal`] is the one way to its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one request that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret as the job store keeps it, to which alone it is written.
pub(super) mod in_the_open {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Secret;

    pub(in crate::config) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.reveal())
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

/// An environment variable whose value is a `T`, with all that is to be said about it. [`Reader::value`] and
/// [`Reader::optional`] read it, and put it into the list of variables.
pub(super) struct Variable<T> {
    pub(super) name: &'static str,
    kind: Kind<T>,
    default: Option<&'static str>,
    example: &'static str,
    meaning: &'static str,
    alias: Option<&'static str>,
    secret: bool,
    retired: Option<&'static str>,
}

/// Reads a text, or says what is wrong with it: "is no …".
type Parse<T> = fn(&str) -> Result<T, String>;

/// What the text of a variable may be, and what it becomes.
enum Kind<T> {
    /// A whole number: its unit and its limits.
    Whole(&'static str, RangeInclusive<u64>, fn(u64) -> Option<T>),
    /// Any number: its unit and its limits.
    Number(&'static str, RangeInclusive<f64>, fn(f64) -> T),
    /// Anything else, in words.
    Text(&'static str, Parse<T>),
}

impl<T> Variable<T> {
    const fn new(name: &'static str, kind: Kind<T>) -> Self {
        Self {
            name,
            kind,
            default: None,
            example: "",
            meaning: "",
            alias: None,
            secret: false,
            retired: None,
        }
    }

    /// What holds where the variable is not set, and another value that works.
    pub(super) const fn default_and_example(mut self, default: &'static str, example: &'static str) -> Self {
        self.default = Some(default);
        self.example = example;
        self
    }

    /// A value that works, of a variable that has no default.
    pub(super) const fn example(mut self, text: &'static str) -> Self {
        self.example = text;
        self
    }

    /// What it does, as the documentation says it.
    pub(super) const fn meaning(mut self, text: &'static str) -> Self {
        self.meaning = text;
        self
    }

    /// Another name, which is read where this one is not set.
    pub(super) const fn alias(mut self, name: &'static str) -> Self {
        self.alias = Some(name);
        self
    }

    /// Its value prints as stars.
    pub(super) const fn hidden(mut self) -> Self {
        self.secret = true;
        self
    }

    /// It goes with the next release. Until then it is read, without being listed, and a warning tells what to do.
    pub(super) const fn retired(mut self, advice: &'static str) -> Self {
        self.retired = Some(advice);
        self
    }

    /// Type, unit and limits, for people.
    fn kind(&self) -> String {
        match &self.kind {
            Kind::Whole(unit, limits, _) if *limits == (0..=u64::MAX) => (*unit).to_owned(),
            Kind::Whole(unit, limits, _) => format!("{unit}, {} to {}", limits.start(), limits.end()),
            Kind::Number(unit, limits, _) => format!("{unit}, {} to {}", limits.start(), limits.end()),
            Kind::Text(kind, _) => (*kind).to_owned(),
        }
    }

    pub(super) fn parse(&self, text: &str) -> Result<T, String> {
        match &self.kind {
            Kind::Whole(_, limits, make) => {
                let number = text.parse().ok().filter(|number| limits.contains(number));
                number
                    .and_then(make)
                    .ok_or_else(|| format!("is no whole number from {} to {}", limits.start(), limits.end()))
            }
            Kind::Number(_, limits, make) => match text.parse() {
                Ok(number) if limits.contains(&number) => Ok(make(number)),
                _ => Err(format!("is no number from {} to {}", limits.start(), limits.end())),
            },
            Kind::Text(_, parse) => parse(text),
        }
    }
}

/// A variable of a type of its own: how people call that, and how it is read.
pub(super) const fn parsed<T>(name: &'static str, kind: &'static str, parse: Parse<T>) -> Variable<T> {
    Variable::new(name, Kind::Text(kind, parse))
}

/// A whole number within limits.
pub(super) const fn whole<T>(name: &'static str, unit: &'static str, limits: RangeInclusive<u64>) -> Variable<T>
where
    T: TryFrom<u64>,
{
    Variable::new(name, Kind::Whole(unit, limits, |number| number.try_into().ok()))
}

/// A number within limits.
pub(super) const fn number(name: &'static str, unit: &'static str, limits: RangeInclusive<f64>) -> Variable<f64> {
    Variable::new(name, Kind::Number(unit, limits, |number| number))
}

/// A time in whole seconds.
pub(super) const fn seconds(name: &'static str, limits: RangeInclusive<u64>) -> Variable<Duration> {
    let make = |seconds| Some(Duration::from_secs(seconds));
    Variable::new(name, Kind::Whole("seconds", limits, make))
}

/// A time in whole milliseconds.
pub(super) const fn milliseconds(name: &'static str, limits: RangeInclusive<u64>) -> Variable<Duration> {
    let make = |milliseconds| Some(Duration::from_millis(milliseconds));
    Variable::new(name, Kind::Whole("milliseconds", limits, make))
}

/// A switch, and how it stands where it is not set.
pub(super) const fn switch(name: &'static str, default: bool) -> Variable<bool> {
    let (default, other) = if default { ("true", "false") } else { ("false", "true") };
    parsed(name, "true or false", boolean).default_and_example(default, other)
}

/// A text that is taken as it is.
pub(super) const fn text(name: &'static str, kind: &'static str) -> Variable<String> {
    parsed(name, kind, |text| Ok(text.to_owned()))
}

/// A path that is taken as it is.
pub(super) const fn path(name: &'static str, kind: &'static str) -> Variable<PathBuf> {
    parsed(name, kind, |text| Ok(text.into()))
}

/// A secret text that is taken as it is.
pub(super) const fn secret(name: &'static str) -> Variable<Secret> {
    parsed(name, "secret", |text| Ok(Secret::new(text))).hidden()
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

/// A variable as it was declared, with the value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What it is about, as the title of a section of the documentation.
    pub section: &'static str,
    /// Its name in the environment.
    pub name: &'static str,
    /// Type, unit and limits, for people.
    pub kind: String,
    /// What is in force when it is not set. [`None`]: nothing.
    pub default: Option<&'static str>,
    /// A value that works.
    pub example: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Whether its value prints as stars.
    pub secret: bool,
    /// Its value as text; stars if it is secret; [`None`] if it is not set and has no default.
    pub value: Option<String>,
    /// Whether the environment said so.
    pub from_environment: bool,
}

/// Reads variables, and keeps which were asked for and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// By names in lower case.
    vars: HashMap<String, String>,
    section: &'static str,
    /// The variables that were asked for, but for retired ones.
    pub(super) resolved: Vec<Resolved>,
    /// What is to be told of retired variables that are set.
    pub(super) warnings: Vec<String>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Reader {
    /// A reader of these variables. One that is empty counts as not set.
    pub(super) fn new(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let vars = vars.into_iter().map(|(name, value)| (name, value.trim().to_owned()));
        let mut vars: Vec<_> = vars.filter(|(_, value)| !value.is_empty()).collect();
        // `envy` makes no difference between small and capital letters; the name in capitals comes last, and holds.
        vars.sort_by_key(|(name, _)| !name.contains(char::is_lowercase));
        let mut reader = Self::default();
        match envy::from_iter(vars) {
            Ok(vars) => reader.vars = vars,
            Err(error) => reader.mistakes.push(Mistake {
                variable: "environment",
                message: error.to_string(),
            }),
        }
        reader
    }

    /// What is read next belongs to this section.
    pub(super) fn section(&mut self, title: &'static str) -> &mut Self {
        self.section = title;
        self
    }

    /// The text of a variable that is none of ours, such as `HOME`.
    pub(super) fn foreign(&self, name: &str) -> Option<String> {
        self.vars.get(&name.to_ascii_lowercase()).cloned()
    }

    /// All variables that are set, by names in lower case.
    pub(super) fn all(&self) -> HashMap<String, Secret> {
        let vars = self.vars.iter();
        vars.map(|(name, value)| (name.clone(), Secret::new(value))).collect()
    }

    fn text<T>(&self, variable: &Variable<T>) -> Option<String> {
        let other = || self.foreign(variable.alias?);
        self.foreign(variable.name).or_else(other)
    }

    /// Whether the environment has a value for it, be it right or wrong.
    pub(super) fn is_set<T>(&self, variable: &Variable<T>) -> bool {
        self.text(variable).is_some()
    }

    /// The value that the environment has, if it has one and that can be read. [`Self::value`] keeps mistakes.
    pub(super) fn chosen<T>(&self, variable: &Variable<T>) -> Option<T> {
        variable.parse(&self.text(variable)?).ok()
    }

    /// The value of a variable that has a default; the default too after a mistake, which is kept.
    pub(super) fn value<T>(&mut self, variable: &Variable<T>) -> T {
        let default = || variable.parse(variable.default?).ok();
        // Whoever reads a configuration comes by here, so a default that is missing is seen at once.
        self.optional(variable)
            .or_else(default)
            .unwrap_or_else(|| unreachable!("{} has no default that can be read", variable.name))
    }

    /// The value of a variable that may be absent; [`None`] too after a mistake, which is kept.
    pub(super) fn optional<T>(&mut self, variable: &Variable<T>) -> Option<T> {
        let given = self.text(variable);
        let from_environment = given.is_some();
        let text = given.or_else(|| variable.default.map(str::to_owned));
        let shown = text.as_deref().map(|text| if variable.secret { "***" } else { text });
        let shown = shown.map(str::to_owned);
        let &Variable { name, example, .. } = variable;
        match variable.retired {
            Some(advice) if from_environment => self
                .warnings
                .push(format!("`{name}` goes with the next release: {advice}")),
            Some(_) => {}
            None => self.resolved.push(Resolved {
                section: self.section,
                name,
                kind: variable.kind(),
                default: variable.default,
                example,
                meaning: variable.meaning,
                secret: variable.secret,
                value: shown.clone(),
                from_environment,
            }),
        }
        let wrong = |what| format!("`{}` {what}; for example {name}={example}", shown.unwrap_or_default());
        match variable.parse(&text?) {
            Ok(value) => Some(value),
            Err(what) => {
                self.mistake(variable, wrong(what));
                None
            }
        }
    }

    /// Replaces what `check` shows for a variable whose value is computed.
    pub(super) fn computed<T>(&mut self, variable: &Variable<T>, value: impl fmt::Display) {
        if let Some(resolved) = self.resolved.iter_mut().find(|resolved| resolved.name == variable.name) {
            resolved.value = Some(value.to_string());
        }
    }

    /// Notes a mistake that no single value shows.
    pub(super) fn mistake<T>(&mut self, variable: &Variable<T>, message: impl Into<String>) {
        self.mistakes.push(Mistake {
            variable: variable.name,
            message: message.into(),
        });
    }
}

#[cfg(test)]
impl Reader {
    /// A reader of these variables.
    pub(super) fn of(vars: &[(&str, &str)]) -> Self {
        let vars = vars.iter();
        Self::new(vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
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

/// The parts of a list with commas, without the space around them; those that are empty are left out.
pub(super) fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}
