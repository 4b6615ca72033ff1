//! A template: a graph with bindings, so that a prompt and a few numbers become a graph.

use serde_json::Value;

use super::bindings::{Bindings, Field, Kind, Needs};
use super::control::{Control, ControlType, Preprocessor};
use super::graph::Graph;
use super::limits::size_for_aspect_ratio;
use super::render::takes;

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
    /// Number of layers that a picture is taken apart into.
    pub layers: Option<u32>,
    /// How the first image is taken as a control picture.
    pub control: Option<Control>,
    /// What draws the control picture from it; [`None`]: it is one already, or its edges are drawn.
    pub preprocessor: Option<Preprocessor>,
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
    /// From -20 to 20; 1 is the strength it was trained for.
    pub strength: f64,
}

/// A card of 24 GB tells of some less.
const TOLERATED_MIB: u64 = 1024;

/// A graph with its bindings.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub(super) name: String,
    pub(super) graph: Graph,
    pub(super) bindings: Bindings,
}

/// What ComfyUI lacks for a template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Their names, as the graph has them.
    pub models: Vec<String>,
    /// Whether all of them are fetched for the first job that needs them.
    pub obtainable: bool,
    /// Why this ComfyUI cannot run it, in words, where it is too old.
    pub too_old: Option<String>,
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

    /// The memory in GB of the smallest card that has room for each of its models whole, where that was worked out.
    pub fn card_gb(&self) -> Option<u32> {
        self.bindings.card_gb
    }

    /// Whether a card of so much memory in MiB has room for each of its models whole; unknown where its need is.
    pub fn fits(&self, card_mib: u64) -> Option<bool> {
        let needed = u64::from(self.card_gb()?) * 1024;
        Some(card_mib + TOLERATED_MIB >= needed)
    }

    /// What its model files come to, in GB and rounded.
    pub fn disk_gb(&self) -> Option<u32> {
        self.bindings.disk_gb
    }

    /// Whether its pictures have transparency that counts.
    pub fn has_alpha(&self) -> bool {
        self.bindings.alpha
    }

    /// Whether it fills in what a mask marks, and does nothing without one.
    pub fn needs_mask(&self) -> bool {
        self.bindings.mask.is_some()
    }

    /// The kinds of control picture that it knows, the usual one first; none where it takes no control picture.
    pub fn control_types(&self) -> &[ControlType] {
        self.bindings.control.as_ref().map_or(&[], |control| &control.types)
    }

    /// The sides of what is sampled go by so many pixels.
    pub fn step(&self) -> u32 {
        self.bindings.step
    }

    /// The megapixels (of 1024 × 1024) that a picture which gives the size is scaled down to, where nothing else is asked.
    pub fn most_megapixels(&self) -> Option<f64> {
        self.bindings.size.as_ref()?.most
    }

    /// What it needs of ComfyUI that not every version has.
    pub fn needs(&self) -> Option<&Needs> {
        self.bindings.needs.as_ref()
    }

    /// What it makes.
    pub fn kind(&self) -> Kind {
        self.bindings.kind
    }

    /// What to choose it for, where its bindings say so.
    pub fn good_for(&self) -> Option<&str> {
        self.bindings.good_for.as_deref()
    }

    /// Whether it has a place for a field of a request.
    pub fn takes(&self, field: &str) -> bool {
        takes(self, field)
    }

    /// What is in force where a request leaves a field out: a number or a text of its graph.
    pub fn usual(&self, field: &str) -> Option<&Value> {
        let value = self.default(Field::named(field)?)?;
        (value.is_number() || value.is_string()).then_some(value)
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

    /// What stands in its graph for a parameter that a request leaves out.
    pub(super) fn default(&self, field: Field) -> Option<&Value> {
        let place = self.bindings.places(field).first()?;
        self.graph.get(&place.node)?.inputs.get(&place.input)
    }
}
