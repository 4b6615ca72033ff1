//! The bindings of a template: which node and input takes which parameter (`workflows/NAME.bindings.toml`).
//!
//! ```toml
//! title = "Qwen-Image"
//! kind = "generate"              # or "edit"
//! good_for = "Fast drafts."      # may be left out
//! alpha = true                   # its pictures have transparency that counts; may be left out
//! card_gb = 24                   # memory of the smallest card that holds each of its models whole; may be left out
//! disk_gb = 31                   # what its model files come to, about; may be left out
//! step = 32                      # sides go by so many pixels; 16 where it is left out
//!
//! [inputs]                       # parameter = "node.input", or a list of them; leave out what there is no place for
//! prompt = "positive.text"
//! seed = "sample.seed"
//!
//! [loras]
//! after = "unet"                 # the node whose first output, a MODEL, the LoRAs are chained to
//!
//! [latent]                       # only where the size comes from an image: what the sampler starts from
//! node = "latent"
//!
//! [images]
//! nodes = ["image1", "image2"]   # LoadImage nodes, in the order of the request's images
//! at_least = 1
//!
//! [control]                      # where the first image is a control picture
//! strength = "control.strength"
//! edges = "canny"                # the Canny node between the picture and what takes it
//! types = ["canny", "depth"]     # the kinds of picture that the model knows, the usual one first
//!
//! [mask]                         # where a part of the image is filled in, and nothing without a mask
//! input = "grow.mask"            # takes it; 1 is what is to be changed
//!
//! [size]                         # where the size is that of a picture
//! node = "scale"                 # the node that scales that picture, or loads it
//! most = 4.0                     # megapixels that a larger one is scaled down to; may be left out
//!
//! [needs]                        # where an older ComfyUI does not do
//! comfyui = "0.37"
//! classes = ["QwenImage21Cache"] # by these it is known
//!
//! [output]
//! node = "save"
//! images = "images"              # its input that takes the pictures; a crop is put before it
//!
//! [sizes]                        # where they differ from the usual ones
//! "4:3" = [1472, 1104]
//! ```

use std::fmt;

use indexmap::IndexMap;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Serialize};

use super::control::ControlType;
use super::graph::Graph;
use super::limits::SIZE_STEP;

/// What a template makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Pictures from text alone.
    Generate,
    /// Pictures from pictures and text.
    Edit,
}

/// A parameter that a template's inputs can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// What the picture shows.
    Prompt,
    /// What it does not show.
    NegativePrompt,
    /// The seed of the noise.
    Seed,
    /// Sampling steps.
    Steps,
    /// Classifier-free guidance scale.
    Cfg,
    /// Sampler name.
    Sampler,
    /// Scheduler name.
    Scheduler,
    /// How much noise is added.
    Denoise,
    /// Shift of the noise schedule.
    Shift,
    /// Width in pixels.
    Width,
    /// Height in pixels.
    Height,
    /// Number of pictures.
    BatchSize,
    /// Number of layers that a picture is taken apart into.
    Layers,
    /// How the files of the pictures are called.
    FilenamePrefix,
}

impl Field {
    /// The parameter of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name: StrDeserializer<'_, ValueError> = name.into_deserializer();
        Self::deserialize(name).ok()
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As the file has it.
        self.serialize(f)
    }
}

/// One input of one node, written `node.input`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The node's id.
    pub node: String,
    /// The input's name; it may have dots itself.
    pub input: String,
}

/// The places that take one parameter, written as one text or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PlaceTexts")]
struct Places(Vec<Place>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"<node id>.<input>\" or a list of them")]
enum PlaceTexts {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<PlaceTexts> for Places {
    type Error = String;

    fn try_from(texts: PlaceTexts) -> Result<Self, String> {
        let texts = match texts {
            PlaceTexts::One(text) => vec![text],
            PlaceTexts::Many(texts) => texts,
        };
        let places = texts.iter().map(|text| match text.split_once('.') {
            Some((node, input)) => Ok(Place {
                node: node.to_owned(),
                input: input.to_owned(),
            }),
            None => Err(format!("`{text}` should be \"<node id>.<input>\"")),
        });
        places.collect::<Result<_, _>>().map(Self)
    }
}

/// All bindings of one template; the module's documentation shows the file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bindings {
    /// What the template is, for people.
    pub title: String,
    /// What it makes.
    pub kind: Kind,
    /// What to choose it for, in a sentence for people.
    pub good_for: Option<String>,
    /// The memory in GB of the smallest card that has room for each of its models, one after another, and for a step of the
    /// usual size.
    pub card_gb: Option<u32>,
    /// What its model files come to, in GB and rounded.
    pub disk_gb: Option<u32>,
    /// Whether its pictures have transparency that counts.
    #[serde(default)]
    pub alpha: bool,
    /// The sides of what is sampled go by so many pixels.
    #[serde(default = "usual_step")]
    pub step: u32,
    #[serde(default)]
    inputs: IndexMap<Field, Places>,
    /// Where LoRAs go.
    pub loras: Option<LoraBinding>,
    /// What the sampler starts from, where that is made from an image.
    pub latent: Option<LatentBinding>,
    /// Where the request's images go.
    pub images: Option<ImageBinding>,
    /// How the first image is taken as a control picture.
    pub control: Option<ControlBinding>,
    /// Where a mask goes that there must be.
    pub mask: Option<MaskBinding>,
    /// What gives the size, where that is a picture.
    pub size: Option<SizeBinding>,
    /// What an older ComfyUI lacks.
    pub needs: Option<Needs>,
    /// What saves the pictures.
    pub output: OutputBinding,
    /// Sizes for aspect ratios, in pixels, where they differ from
    /// [`size_for_aspect_ratio`](crate::workflow::limits::size_for_aspect_ratio).
    #[serde(default)]
    pub sizes: IndexMap<String, (u32, u32)>,
}

/// Where LoRAs go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraBinding {
    /// The node whose output 0 is the model that they are chained to.
    pub after: String,
}

/// What the sampler starts from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentBinding {
    /// The node whose output 0 is the latent.
    pub node: String,
}

/// Where the request's images go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageBinding {
    /// The LoadImage nodes in order; those for which there is no image are taken out.
    pub nodes: Vec<String>,
    /// How many images are needed.
    #[serde(default)]
    pub at_least: usize,
}

/// How the first image is taken as a control picture.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlBinding {
    strength: Places,
    /// The node that draws the edges of its input `image`. One that is to be taken as it is, or is drawn by another node, goes
    /// past it.
    pub edges: String,
    /// The kinds of control picture that the model knows, the usual one first.
    pub types: Vec<ControlType>,
}

impl ControlBinding {
    /// The places that take how strongly the picture counts.
    pub fn strength(&self) -> &[Place] {
        &self.strength.0
    }
}

/// Where a mask goes that there must be: its own, or what is transparent in the first image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskBinding {
    input: Places,
}

impl MaskBinding {
    /// The places that take the mask.
    pub fn input(&self) -> &[Place] {
        &self.input.0
    }
}

/// What gives the size.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeBinding {
    /// The node that scales its input `image`, or one that loads the picture.
    pub node: String,
    /// The megapixels that a larger picture is scaled down to, where no size is asked.
    pub most: Option<f64>,
}

/// What an older ComfyUI lacks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// The first version that does: `0.37`.
    pub comfyui: String,
    /// The classes that came with it.
    pub classes: Vec<String>,
}

/// What saves the pictures.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputBinding {
    /// The node's id.
    pub node: String,
    /// Its input that takes the pictures.
    pub images: String,
}

fn usual_step() -> u32 {
    SIZE_STEP
}

impl Bindings {
    /// The places that take a parameter; none where the template has none for it.
    pub fn places(&self, field: Field) -> &[Place] {
        self.inputs.get(&field).map_or(&[], |places| &places.0)
    }

    /// Every place or node that is named here but not in the graph, in words.
    pub(super) fn mistakes(&self, graph: &Graph) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut node = |what: &str, id: &str, input: Option<&str>| {
            let Some(node) = graph.get(id) else {
                let ids: Vec<_> = graph.nodes.keys().map(String::as_str).collect();
                mistakes.push(format!("{what}: there is no node `{id}`; there are {}", ids.join(", ")));
                return;
            };
            if let Some(input) = input.filter(|input| !node.inputs.contains_key(*input)) {
                let inputs: Vec<_> = node.inputs.keys().map(String::as_str).collect();
                mistakes.push(format!(
                    "{what}: node `{id}` ({}) has no input `{input}`; it has {}",
                    node.class_type,
                    inputs.join(", ")
                ));
            }
        };
        for (field, places) in &self.inputs {
            for place in &places.0 {
                node(&format!("inputs.{field}"), &place.node, Some(&place.input));
            }
        }
        if let Some(loras) = &self.loras {
            node("loras.after", &loras.after, None);
        }
        if let Some(latent) = &self.latent {
            node("latent.node", &latent.node, None);
        }
        for id in self.images.iter().flat_map(|images| &images.nodes) {
            node("images.nodes", id, Some("image"));
        }
        if let Some(control) = &self.control {
            for place in control.strength() {
                node("control.strength", &place.node, Some(&place.input));
            }
            node("control.edges", &control.edges, Some("image"));
        }
        for place in self.mask.iter().flat_map(MaskBinding::input) {
            node("mask.input", &place.node, Some(&place.input));
        }
        if let Some(size) = &self.size {
            node("size.node", &size.node, None);
        }
        node("output", &self.output.node, Some(&self.output.images));
        if let Some(images) = &self.images
            && images.at_least > images.nodes.len()
        {
            mistakes.push(format!(
                "images.at_least is {}, but images.nodes names {}",
                images.at_least,
                images.nodes.len()
            ));
        }
        if self.step == 0 {
            mistakes.push("step is 0; sides go by 1 pixel at least".to_owned());
        }
        if let Some(control) = &self.control {
            if control.types.is_empty() {
                mistakes.push("control.types names none".to_owned());
            }
            if self.images.as_ref().is_none_or(|images| images.nodes.is_empty()) {
                mistakes.push("control needs images.nodes: the first is the control picture".to_owned());
            }
        }
        mistakes
    }
}
