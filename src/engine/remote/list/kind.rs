//! What the engines of a list speak, and which of its fields each of them has.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::{Written, plain_address};
use crate::config::{BrokerAddress, NotABroker, Secret};
use crate::echo::cut;

/// How long a worker of a fleet may be silent, where the list does not say.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The sides of a picture that an images API takes, where the list does not say: those of Modelverse's Qwen-Image.
const SIDES: (u32, u32) = (256, 1536);
/// Where images are put that are to be edited by KIE itself (docs.kie.ai, File Upload API).
const KIE_UPLOADS: &str = "https://kieai.redpandaai.co";

/// The kinds, as the list writes them.
const RUNPOD: &str = "runpod";
const OPENAI: &str = "openai";
const GRADIO: &str = "gradio";
const KIE: &str = "kie";
const FLEET: &str = "fleet";
const KINDS: [&str; 5] = [RUNPOD, OPENAI, GRADIO, KIE, FLEET];

/// The fields that not every kind has, with those that have them.
const FIELDS: [(&str, &[&str]); 16] = [
    ("endpoint", &[RUNPOD]),
    ("worker", &[RUNPOD]),
    ("space", &[GRADIO]),
    ("queue_timeout_s", &[RUNPOD, GRADIO, FLEET]),
    // What became of a job of a fleet can always be asked.
    ("unknown", &[RUNPOD, OPENAI, GRADIO, KIE]),
    ("approximates", &[OPENAI, GRADIO, KIE]),
    ("model", &[OPENAI]),
    ("edit_model", &[OPENAI]),
    ("sends", &[OPENAI]),
    ("min_side", &[OPENAI]),
    ("max_side", &[OPENAI]),
    ("max_images", &[OPENAI]),
    ("edits", &[OPENAI]),
    ("upload_url", &[KIE]),
    ("ack_wait_s", &[FLEET]),
    ("replicas", &[FLEET]),
];

/// What an engine speaks.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineKind {
    /// RunPod's API of serverless endpoints, before any worker of the form of worker-comfyui 5.
    Runpod {
        /// Whether the workers behind it are this program, and so take all that it takes.
        is_ours: bool,
    },
    /// OpenAI's Images API.
    Images(ImagesApi),
    /// A Space of Hugging Face with Gradio, of the form of Qwen/Qwen-Image.
    Gradio,
    /// KIE's tasks.
    Kie {
        /// Where images are put that are to be edited, without a slash at the end; [`None`]: into the bucket.
        uploads: Option<Url>,
    },
    /// The broker of workers of one's own.
    Fleet(FleetSpec),
}

/// A fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetSpec {
    /// Its broker.
    pub address: BrokerAddress,
    /// How long a worker may be silent before another gets its job.
    pub ack_wait: Duration,
    /// On how many servers the broker keeps everything.
    pub replicas: usize,
}

/// An API of OpenAI's form.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagesApi {
    /// The model of pictures from text; [`None`]: it makes none.
    pub model: Option<String>,
    /// The model of edits; [`None`]: it makes none.
    pub edit_model: Option<String>,
    /// What it takes beside a prompt, a size and a model.
    pub sends: Vec<Extra>,
    /// The shortest and the longest side in pixels.
    pub sides: (u32, u32),
    /// The most images that an edit takes.
    pub most_images: usize,
    /// How edits are sent.
    pub edits: Edits,
}

#[cfg(test)]
impl ImagesApi {
    /// One that makes pictures from text, and takes this beside it.
    pub(in crate::engine::remote) fn of_text(sends: &[Extra]) -> Self {
        Self {
            model: Some("m".to_owned()),
            edit_model: None,
            edits: Edits::Form,
            sends: sends.to_vec(),
            sides: SIDES,
            most_images: 1,
        }
    }
}

/// How an images API takes edits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edits {
    /// As OpenAI: a form at `/images/edits`.
    #[default]
    Form,
    /// As Modelverse: JSON at `/images/generations`, with `image` as a data URI.
    Json,
}

/// A field that not every images API has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extra {
    /// `seed`.
    Seed,
    /// `n`.
    N,
    /// `negative_prompt`.
    NegativePrompt,
    /// `num_inference_steps`.
    Steps,
    /// `guidance_scale`.
    Cfg,
    /// `response_format: b64_json`. Without it the API answers as it likes.
    ResponseFormat,
}

impl EngineKind {
    /// As the list writes it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Runpod { .. } => RUNPOD,
            Self::Images(_) => OPENAI,
            Self::Gradio => GRADIO,
            Self::Kie { .. } => KIE,
            Self::Fleet(_) => FLEET,
        }
    }

    /// Where engines of the kind are, where the list does not say.
    pub(super) fn usual_address(&self) -> Result<&'static str, &'static str> {
        match self {
            Self::Kie { .. } => Ok("https://api.kie.ai"),
            Self::Runpod { .. } => Err("url: is missing; give it, or the id of the endpoint as endpoint"),
            Self::Gradio => Err("url: is missing; give it, or the name of the Space as space"),
            Self::Images(_) | Self::Fleet(_) => Err("url: is missing"),
        }
    }
}

/// What the engine speaks. A field of another kind is a mistake.
pub(super) fn kind(engine: &toml::Value, written: &Written, key: Option<&Secret>) -> Result<EngineKind, String> {
    let kind = written.kind.as_str();
    if !KINDS.contains(&kind) {
        return Err(format!("kind: `{}` is none of {}", cut(kind), KINDS.join(", ")));
    }
    let is_foreign = |(field, kinds): &&(&str, &[&str])| engine.get(field).is_some() && !kinds.contains(&kind);
    if let Some((field, _)) = FIELDS.iter().find(is_foreign) {
        return Err(format!("{field}: an engine of the kind {kind} has none"));
    }
    match kind {
        RUNPOD => match written.worker.as_deref() {
            None | Some("worker-comfyui") => Ok(EngineKind::Runpod { is_ours: false }),
            Some("qwen-image-worker") => Ok(EngineKind::Runpod { is_ours: true }),
            Some(other) => Err(format!(
                "worker: `{}` is neither worker-comfyui nor qwen-image-worker",
                cut(other)
            )),
        },
        OPENAI => images_api(written).map(EngineKind::Images),
        GRADIO => Ok(EngineKind::Gradio),
        KIE => Ok(EngineKind::Kie {
            uploads: match (&written.upload_url, &written.url) {
                (Some(text), _) => Some(plain_address(text).map_err(|why| format!("upload_url: {why}"))?),
                (None, None) => KIE_UPLOADS.parse().ok(),
                (None, Some(_)) => None,
            },
        }),
        _ => fleet(written, key).map(EngineKind::Fleet),
    }
}

fn images_api(written: &Written) -> Result<ImagesApi, String> {
    let sides = (written.min_side.unwrap_or(SIDES.0), written.max_side.unwrap_or(SIDES.1));
    if sides.0 == 0 || sides.0 > sides.1 {
        return Err("min_side: must be 1 to max_side".to_owned());
    }
    if written.model.is_none() && written.edit_model.is_none() {
        return Err("model: name the model that makes the pictures, or edit_model".to_owned());
    }
    Ok(ImagesApi {
        model: written.model.clone(),
        edit_model: written.edit_model.clone(),
        sends: written.sends.clone().unwrap_or_default(),
        sides,
        most_images: written.max_images.unwrap_or(1),
        edits: written.edits.unwrap_or_default(),
    })
}

fn fleet(written: &Written, key: Option<&Secret>) -> Result<FleetSpec, String> {
    let url = written.url.as_deref().ok_or("url: is missing")?;
    let address: BrokerAddress = url.parse().map_err(|why: NotABroker| format!("url: {why}"))?;
    if address.login().is_some() {
        return Err("url: has a name or a password; env:NAME of key may hold NAME:PASSWORD or a token".to_owned());
    }
    Ok(FleetSpec {
        address: key.map_or(address.clone(), |key| address.with_key(key)),
        ack_wait: match written.ack_wait_s {
            None => ACK_WAIT,
            Some(seconds @ 2..=3600) => Duration::from_secs(seconds),
            Some(_) => return Err("ack_wait_s: must be 2 to 3600 seconds".to_owned()),
        },
        replicas: match written.replicas {
            None => 1,
            Some(replicas @ 1..=5) => replicas,
            Some(_) => return Err("replicas: must be 1 to 5".to_owned()),
        },
    })
}
