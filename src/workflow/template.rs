//! Templates: graphs with bindings, so that a prompt and a few numbers become a graph.
//!
//! The official Qwen-Image graphs are embedded; a folder of the user's own adds to them or replaces them, file by file.
//! `NAME.json` is a graph in API format, `NAME.bindings.toml` says where the parameters go.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde_json::Value;

use super::bindings::{Bindings, Field, Kind};
use super::graph::Graph;
use super::render;
use super::sizes::size_for_aspect_ratio;
use super::suggest::{any_of, closest};
use crate::error::JobError;

/// The template of a request that names none: 8 steps with the Lightning LoRA.
pub const DEFAULT_TEMPLATE: &str = "qwen-image-lightning";

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

/// What a request asks of a template. What is `None` stays as the template has it.
///
/// The ranges in [`limits`](crate::workflow::limits) are for the request's parser to enforce.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    /// What the picture shows.
    pub prompt: String,
    /// What it does not show. Without effect at `cfg` 1, which the Lightning templates have.
    pub negative_prompt: Option<String>,
    /// The seed of the noise.
    pub seed: u64,
    /// Sampling steps.
    pub steps: Option<u32>,
    /// Classifier-free guidance scale.
    pub cfg: Option<f64>,
    /// Sampler name, as KSampler lists it.
    pub sampler: Option<String>,
    /// Scheduler name, as KSampler lists it.
    pub scheduler: Option<String>,
    /// How much noise is added to what the sampler starts from, 0 to 1.
    pub denoise: Option<f64>,
    /// Shift of the noise schedule.
    pub shift: Option<f64>,
    /// Width in pixels; any number, the picture comes out exactly so wide.
    pub width: Option<u32>,
    /// Height in pixels, likewise.
    pub height: Option<u32>,
    /// Size in megapixels of 1024 × 1024, with the aspect of the first image, in place of width and height.
    pub megapixels: Option<f64>,
    /// Number of pictures.
    pub batch_size: Option<u32>,
    /// LoRAs, applied in this order after the template's own.
    pub loras: Vec<Lora>,
    /// The images, by the names under which LoadImage finds them (`folder/name.png`).
    pub images: Vec<String>,
    /// An image of the size of the first one, by its name: what is transparent in it is changed, the rest stays.
    pub mask: Option<String>,
    /// How the files of the pictures are called.
    pub filename_prefix: Option<String>,
}

/// A LoRA and how strongly it is applied.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lora {
    /// The file, as `LoraLoaderModelOnly` lists it.
    pub name: String,
    /// From -100 to 100; 1 is the strength it was trained for.
    pub strength: f64,
}

/// What a template does when a request leaves a parameter out, read from its graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Defaults {
    /// Sampling steps.
    pub steps: Option<u32>,
    /// Classifier-free guidance scale.
    pub cfg: Option<f64>,
    /// Sampler name.
    pub sampler: Option<String>,
    /// Scheduler name.
    pub scheduler: Option<String>,
    /// Shift of the noise schedule.
    pub shift: Option<f64>,
    /// Width in pixels; `None` where it follows from the image.
    pub width: Option<u32>,
    /// Height in pixels, likewise.
    pub height: Option<u32>,
    /// Number of pictures.
    pub batch_size: Option<u32>,
}

/// A graph with its bindings.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub(super) name: String,
    pub(super) graph: Graph,
    pub(super) bindings: Bindings,
}

impl Template {
    /// The template's name: its file's without the extension.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is, for people.
    pub fn title(&self) -> &str {
        &self.bindings.title
    }

    /// Whether it makes pictures from text alone.
    pub fn kind(&self) -> Kind {
        self.bindings.kind
    }

    /// The bindings.
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// The graph as it stands in the file.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// How many images it needs, and how many it takes.
    pub fn images(&self) -> std::ops::RangeInclusive<usize> {
        match &self.bindings.images {
            Some(images) => images.at_least..=images.nodes.len(),
            None => 0..=0,
        }
    }

    /// Width and height in pixels for an aspect ratio such as `16:9`: the template's own, or the usual ones.
    pub fn size_for_aspect_ratio(&self, ratio: &str) -> Option<(u32, u32)> {
        let own = self.bindings.sizes.get(ratio.trim()).copied();
        own.or_else(|| size_for_aspect_ratio(ratio))
    }

    /// What it does when a request leaves a parameter out.
    pub fn defaults(&self) -> Defaults {
        let value = |field| {
            let place = self.bindings.places(field).first()?;
            self.graph.get(&place.node)?.inputs.get(&place.input)
        };
        let whole = |field| value(field).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let number = |field| value(field).and_then(Value::as_f64);
        let text = |field| value(field).and_then(Value::as_str).map(str::to_owned);
        Defaults {
            steps: whole(Field::Steps),
            cfg: number(Field::Cfg),
            sampler: text(Field::Sampler),
            scheduler: text(Field::Scheduler),
            shift: number(Field::Shift),
            width: whole(Field::Width),
            height: whole(Field::Height),
            batch_size: whole(Field::BatchSize),
        }
    }

    /// The graph for a request. The error lists every parameter for which the template has no place.
    ///
    /// The size comes out exactly as asked. Latents go by 16 pixels, so a size between is generated larger and an
    /// `ImageCrop` node before the output cuts it, centred. Where the size follows from the image (edit templates), a
    /// given width and height replace what the sampler starts from by an empty latent of that size: at `denoise` 1 only
    /// its size counts, and the images still guide the sampler as references. One side alone is refused there. With a mask the
    /// picture keeps the image's shape, and is scaled and cut to the size at the end.
    pub fn render(&self, parameters: &Parameters) -> Result<Graph, JobError> {
        render::render(self, parameters)
    }
}

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
                Some(text) => toml::from_str::<Bindings>(text).map_err(|error| format!("{bindings_file}: {error}")),
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
            Ok(Self { templates })
        } else {
            Err(TemplateError { mistakes })
        }
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
            let error = JobError::invalid(format!("there is no template `{name}`"));
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
                    .filter(|template| render::takes(template, field))
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
    let value: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    Graph::parse(&value).map_err(|error| error.full_text())
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
