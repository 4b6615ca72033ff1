//! All templates.
//!
//! The official Qwen-Image graphs are embedded; a folder of the user's own adds to them or replaces them, file by file.
//! `NAME.json` is a graph in API format, `NAME.bindings.toml` says where the parameters go.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::bindings::Bindings;
use super::defaults::Defaults;
use super::graph::Graph;
use super::render::takes;
use super::template::{Parameters, Template};
use super::wording::{any_of, closest};
use crate::echo;
use crate::error::JobError;
use crate::json;

/// What ends the name of a bindings file; the rest is the template's name.
const BINDINGS: &str = ".bindings.toml";

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(
            (concat!($name, ".json"), include_str!(concat!("../../workflows/", $name, ".json"))),
            (concat!($name, ".bindings.toml"), include_str!(concat!("../../workflows/", $name, ".bindings.toml"))),
        )*]
    };
}

/// The embedded files: name to text.
const EMBEDDED: &[(&str, &str)] = embedded![
    "qwen-image",
    "qwen-image-lightning",
    "qwen-image-lightning-4",
    "qwen-image-2512",
    "qwen-image-2512-lightning-4",
    "qwen-image-edit",
    "qwen-image-edit-lightning-4",
    "qwen-image-edit-2509",
    "qwen-image-edit-2509-lightning-4",
    "qwen-image-edit-2511",
    "qwen-image-edit-2511-lightning-4",
];

/// Files of templates that cannot be used; all mistakes at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", mistakes.join("; "))]
pub struct TemplateError {
    /// Each begins with the name of the file.
    pub mistakes: Vec<String>,
}

/// All templates by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Templates {
    templates: IndexMap<String, Template>,
    defaults: Defaults,
}

impl Templates {
    /// The embedded templates alone.
    pub fn embedded() -> Result<Self, TemplateError> {
        Self::load(&BTreeMap::new())
    }

    /// The embedded templates and the user's: file name to text, of the `.json` and `.bindings.toml` files of a folder.
    /// A file replaces the embedded one of the same name, so a graph can be replaced and its bindings kept.
    pub fn load(files: &BTreeMap<String, String>) -> Result<Self, TemplateError> {
        let mut texts: IndexMap<&str, &str> = EMBEDDED.iter().copied().collect();
        texts.extend(files.iter().map(|(name, text)| (name.as_str(), text.as_str())));

        let mut mistakes = Vec::new();
        let mut templates = IndexMap::new();
        for (file, text) in &texts {
            if let Some(name) = file.strip_suffix(BINDINGS) {
                if !texts.contains_key(format!("{name}.json").as_str()) {
                    mistakes.push(format!("{file}: there is no {name}.json beside it"));
                }
                continue;
            }
            let Some(name) = file.strip_suffix(".json") else {
                continue;
            };
            let bindings_file = format!("{name}{BINDINGS}");
            let graph = parse_graph(text).map_err(|mistake| format!("{file}: {mistake}"));
            let bindings = match texts.get(bindings_file.as_str()) {
                // Windows editors put a byte order mark before it.
                Some(text) => toml::from_str::<Bindings>(text.trim_start_matches('\u{feff}'))
                    .map_err(|error| format!("{bindings_file}: {error}")),
                None => Err(format!("{file}: there is no {bindings_file} beside it")),
            };
            match (graph, bindings) {
                (Ok(graph), Ok(bindings)) => {
                    let wrong = bindings.mistakes(&graph);
                    mistakes.extend(wrong.into_iter().map(|mistake| format!("{bindings_file}: {mistake}")));
                    let name = name.to_owned();
                    templates.insert(name.clone(), Template { name, graph, bindings });
                }
                (graph, bindings) => mistakes.extend(graph.err().into_iter().chain(bindings.err())),
            }
        }
        if mistakes.is_empty() {
            Ok(Self {
                templates,
                defaults: Defaults::default(),
            })
        } else {
            Err(TemplateError { mistakes })
        }
    }

    /// These with other templates for requests that name none.
    #[must_use]
    pub fn with_defaults(mut self, defaults: Defaults) -> Self {
        self.defaults = defaults;
        self
    }

    /// The templates of requests that name none.
    pub fn defaults(&self) -> Defaults {
        self.defaults
    }

    /// The template of this name.
    pub fn get(&self, name: &str) -> Option<&Template> {
        self.templates.get(name)
    }

    /// All templates, the embedded ones first.
    pub fn iter(&self) -> impl Iterator<Item = &Template> {
        self.templates.values()
    }

    /// The template of this name, or the error for a request that names one that is not there.
    pub fn find(&self, name: &str) -> Result<&Template, JobError> {
        self.get(name).ok_or_else(|| {
            let names: Vec<_> = self.templates.keys().map(String::as_str).collect();
            let likely = closest(name, names.iter().copied(), 3);
            let error = JobError::invalid(format!("there is no template `{}`", echo::cut(name)));
            error.hint(if likely.is_empty() {
                format!("The templates are {}.", names.join(", "))
            } else {
                format!("Did you mean {}?", any_of(&likely))
            })
        })
    }

    /// Renders the template `name`; where it has no place for a parameter, the error says which templates have.
    pub fn render(&self, name: &str, parameters: &Parameters) -> Result<Graph, JobError> {
        self.find(name)?.render(parameters).map_err(|mut error| {
            for problem in &mut error.problems {
                let Some(field) = &problem.input else { continue };
                let able: Vec<_> = self
                    .iter()
                    .filter(|template| takes(template, field))
                    .map(Template::name)
                    .collect();
                // Where the template itself takes the parameter, something else is wrong with it.
                if !able.is_empty() && !able.contains(&name) {
                    problem.message = format!("{}; these templates have: {}", problem.message, able.join(", "));
                }
            }
            error
        })
    }
}

fn parse_graph(text: &str) -> Result<Graph, String> {
    let value = json::read(text.as_bytes()).map_err(|error| format!("is no JSON: {error}"))?;
    Graph::parse(&value).map_err(|error| error.full_text())
}

#[cfg(test)]
#[path = "templates_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "templates_of_users_tests.rs"]
mod tests_of_users;
