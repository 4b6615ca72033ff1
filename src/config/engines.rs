//! The engines of a front: workers elsewhere that run its jobs.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::models::ManifestSource;
use super::variable::{Reader, Secret, Variable, parsed};

/// How a worker without a ComfyUI of its own has its jobs run.
#[derive(Debug, Clone, Default)]
pub struct EnginesConfig {
    /// Where the list of engines is. [`None`]: jobs run on a ComfyUI of this worker.
    pub source: Option<EnginesSource>,
    /// What the list may name as `env:NAME`: the environment, where there is a list.
    environment: HashMap<String, Secret>,
}

impl EnginesConfig {
    /// The value of a variable that the list names.
    pub fn key(&self, name: &str) -> Option<&Secret> {
        self.environment.get(&name.to_ascii_lowercase())
    }
}

/// Where a list of engines is. Prints without what may be secret.
#[derive(Clone, PartialEq, Eq)]
pub enum EnginesSource {
    /// The list itself, in TOML.
    Inline(String),
    /// A file, or an address.
    Manifest(ManifestSource),
}

impl fmt::Display for EnginesSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("the list in ENGINES"),
            Self::Manifest(source) => source.fmt(f),
        }
    }
}

impl fmt::Debug for EnginesSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EnginesSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // No path begins so, and none has a line break.
        if text.starts_with('[') || text.contains('\n') {
            Ok(Self::Inline(text.to_owned()))
        } else {
            text.parse().map(Self::Manifest)
        }
    }
}

/// What becomes of a job that its engine does not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// It fails; only engines of the first group get it.
    Never,
    /// Another engine of the group gets it, then one of the next group.
    #[default]
    Errors,
    /// The same, and the next group gets it too while all of a group are full.
    Busy,
}

impl Fallback {
    /// Each as it is written.
    pub const WORDS: [&'static str; 3] = ["never", "errors", "busy"];

    /// Reads one of [`Self::WORDS`].
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "never" => Some(Self::Never),
            "errors" => Some(Self::Errors),
            "busy" => Some(Self::Busy),
            _ => None,
        }
    }
}

// The query of a URL may be a signature.
const ENGINES: Variable<EnginesSource> = parsed("ENGINES", "file, URL, or TOML", str::parse)
    .hidden()
    .example("/etc/qwen-image-worker/engines.toml")
    .meaning("Makes this worker a front: it starts no ComfyUI, and its jobs run at the engines of this list (RunPod endpoints, images APIs). See [scaling](scaling.md).");
pub(super) const FALLBACK: Variable<Fallback> = parsed("FALLBACK", "never, errors or busy", |text| {
    Fallback::parse(text).ok_or_else(|| format!("is none of {}", Fallback::WORDS.join(", ")))
})
.default_and_example("errors", "busy")
.meaning("What a front does with a job that its engine does not run. `never`: it fails. `errors`: the next engine of the group gets it, then the next group. `busy`: the next group gets it also while a group is full. A request's `policy.fallback` overrides it.");

pub(super) fn read(reader: &mut Reader) -> EnginesConfig {
    let source = reader.optional(&ENGINES);
    let environment = source.as_ref().map(|_| reader.all());
    EnginesConfig {
        environment: environment.unwrap_or_default(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_file_an_address_or_itself() {
        let read = |text: &str| text.parse::<EnginesSource>().unwrap();
        assert_eq!(read("[[engine]]"), EnginesSource::Inline("[[engine]]".to_owned()));
        assert_eq!(
            read("# mine\n[[engine]]"),
            EnginesSource::Inline("# mine\n[[engine]]".to_owned())
        );
        assert_eq!(
            read("engines.toml"),
            EnginesSource::Manifest(ManifestSource::File("engines.toml".into()))
        );
        let address = read("https://example.com/engines.toml?signature=4711");
        assert!(!format!("{address:?}").contains("4711"));
    }

    #[test]
    fn keys_are_those_of_the_environment_and_print_as_stars() {
        let config = read(&mut Reader::of(&[("ENGINES", "engines.toml"), ("MY_KEY", "4711")]));
        assert_eq!(config.key("MY_KEY").unwrap().reveal(), "4711");
        assert!(config.key("OTHER").is_none());
        assert!(!format!("{config:?}").contains("4711"));
        assert!(read(&mut Reader::of(&[("MY_KEY", "4711")])).key("MY_KEY").is_none());
    }
}
