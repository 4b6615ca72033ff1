//! The bindings of a template: which node and input takes which parameter (`workflows/NAME.bindings.toml`).
//!
//! ```toml
//! title = "Qwen-Image"
//! kind = "generate"              # or "edit"
//! good_for = "Fast drafts."      # may be left out
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

use super::graph::Graph;

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
    #[serde(default)]
    inputs: IndexMap<Field, Places>,
    /// Where LoRAs go.
    pub loras: Option<LoraBinding>,
    /// What the sampler starts from, where that is made from an image.
    pub latent: Option<LatentBinding>,
    /// Where the request's images go.
    pub images: Option<ImageBinding>,
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

/// What saves the pictures.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputBinding {
    /// The node's id.
    pub node: String,
    /// Its input that takes the pictures.
    pub images: String,
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
        mistakes
    }
}
