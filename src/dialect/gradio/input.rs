//! Bodies in: an event that joins the queue, and what `/infer` is asked for.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::config::{ImageFormat, ReturnImagesAs};
use crate::dialect::fields::{Fields, describe, object_of};
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, Dialect, JobRequest, Policy, TemplateRequest, Work};
use crate::workflow::sizes;

/// The names of the seven parameters, in their order.
pub(super) const PARAMETERS: [&str; 7] = [
    "prompt",
    "seed",
    "randomize_seed",
    "aspect_ratio",
    "guidance_scale",
    "num_inference_steps",
    "prompt_enhance",
];

/// The seeds that are taken: what a JavaScript number holds exactly. The Space stops at 2^31 - 1; a larger one may come
/// from another dialect.
pub(super) const SEED: RangeInclusive<u64> = 0..=9_007_199_254_740_991;
/// The range of `guidance_scale`.
pub(super) const GUIDANCE_SCALE: [u32; 2] = [0, 20];
/// The range of `num_inference_steps`.
pub(super) const STEPS: RangeInclusive<u32> = 1..=100;

/// The template behind `/infer`: the steps are asked for, so it has no Lightning LoRA.
const TEMPLATE: &str = "qwen-image";
/// The Space's defaults.
pub(super) const DEFAULT_ASPECT_RATIO: &str = "16:9";
pub(super) const DEFAULT_GUIDANCE_SCALE: f64 = 4.0;
pub(super) const DEFAULT_STEPS: u32 = 50;

/// The longest id of a session; the clients' have about 36 bytes.
pub(super) const SESSION_BYTES: usize = 128;

/// The most unknown parameters that are named.
const MOST_TOLD: usize = 5;

/// What to send.
const SHAPE: &str = "Send {\"data\": [prompt, seed, randomize_seed, aspect_ratio, …]}.";

/// What `/infer` is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Infer {
    /// What to see.
    pub prompt: String,
    /// The seed; [`None`]: any.
    pub seed: Option<u64>,
    /// `16:9` and the like.
    pub aspect_ratio: String,
    /// How closely to follow the prompt.
    pub guidance_scale: f64,
    /// Steps of the sampler.
    pub steps: u32,
    /// Whether the prompt is to be made better.
    pub enhance: bool,
}

/// An event that joins the queue. Its values are judged apart: what is wrong with them is told in the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// The values.
    pub infer: Result<Infer, JobError>,
    /// The session that gets its events.
    pub session: String,
}

/// Reads the body of `/gradio_api/queue/join`.
pub fn parse_join(body: &[u8]) -> Result<Join, JobError> {
    let mut object = object_of(body, SHAPE)?;
    let data = data(&mut object)?;
    let session = match object.get("session_hash") {
        Some(Value::String(session)) if (1..=SESSION_BYTES).contains(&session.len()) => session.clone(),
        _ => {
            return Err(JobError::invalid(format!(
                "session_hash: must be a string of 1 to {SESSION_BYTES} bytes"
            )));
        }
    };
    if let Some(index) = object.get("fn_index").filter(|index| !index.is_null())
        && index.as_u64() != Some(0)
    {
        let message = format!("fn_index: there is no function {}", describe(index));
        return Err(JobError::new(ErrorKind::NotFound, message).hint("The one function is 0, /infer."));
    }
    let infer = Infer::by_position(data);
    Ok(Join { infer, session })
}

/// Reads the body of `/gradio_api/call/infer`: values by position.
pub fn parse_call(body: &[u8]) -> Result<Result<Infer, JobError>, JobError> {
    Ok(Infer::by_position(data(&mut object_of(body, SHAPE)?)?))
}

/// Reads the body of `/gradio_api/call/v2/infer`: values by name.
pub fn parse_named_call(body: &[u8]) -> Result<Result<Infer, JobError>, JobError> {
    Ok(Infer::by_name(object_of(body, r#"Send {"prompt": "…"}."#)?))
}

/// Reads the body of `/gradio_api/cancel`: the event, and its session if that is said.
pub fn parse_cancel(body: &[u8]) -> Result<(String, Option<String>), JobError> {
    let mut object = object_of(body, r#"Send {"event_id": "…"}."#)?;
    let mut text = |name: &str| match object.get_mut(name).map(Value::take) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let session = text("session_hash");
    match text("event_id") {
        Some(event) => Ok((event, session)),
        None => Err(JobError::invalid("event_id: must be a string")),
    }
}

fn data(object: &mut Map<String, Value>) -> Result<Vec<Value>, JobError> {
    match object.get_mut("data").map(Value::take) {
        Some(Value::Array(data)) => Ok(data),
        None => Err(JobError::invalid("data: is missing").hint(SHAPE)),
        Some(other) => Err(JobError::invalid(format!(
            "data: must be a list, not {}",
            describe(&other)
        ))),
    }
}

impl Infer {
    fn by_position(data: Vec<Value>) -> Result<Self, JobError> {
        if data.len() > PARAMETERS.len() {
            return Err(JobError::invalid(format!(
                "Invalid request: data: has {} values, and /infer takes {}",
                data.len(),
                PARAMETERS.len()
            )));
        }
        Self::by_name(PARAMETERS.iter().map(|name| (*name).to_owned()).zip(data).collect())
    }

    /// What is missing or null has the Space's default.
    fn by_name(mut values: Map<String, Value>) -> Result<Self, JobError> {
        let mut fields = Fields::new(&mut values);
        let prompt = fields.prompt();
        let seed = match fields.take("seed") {
            None => Some(0),
            // A random one, as in other APIs.
            Some(value) if value.as_f64() == Some(-1.0) => None,
            Some(value) => fields.integer_of("seed", &value, SEED),
        };
        let randomize = fields.truth("randomize_seed").unwrap_or(true);
        let aspect_ratio = fields
            .text("aspect_ratio")
            .unwrap_or_else(|| DEFAULT_ASPECT_RATIO.to_owned());
        if sizes::aspect_ratios().all(|known| known != aspect_ratio) {
            let known: Vec<_> = sizes::aspect_ratios().collect();
            let shown = describe(&Value::String(aspect_ratio.clone()));
            fields.problem("aspect_ratio", format!("{shown} is none of {}", known.join(", ")));
        }
        let [low, high] = GUIDANCE_SCALE.map(f64::from);
        let guidance_scale = fields.number("guidance_scale", low..=high);
        let steps = fields.small("num_inference_steps", STEPS);
        let enhance = fields.truth("prompt_enhance").unwrap_or(true);
        let strange: Vec<String> = fields.strange(&PARAMETERS).take(MOST_TOLD).map(cut).collect();
        for name in strange {
            let message = format!("is no parameter of /infer; it takes {}", PARAMETERS.join(", "));
            fields.problem(&name, message);
        }
        fields.finish()?;
        Ok(Self {
            prompt,
            seed: seed.filter(|_| !randomize),
            aspect_ratio,
            guidance_scale: guidance_scale.unwrap_or(DEFAULT_GUIDANCE_SCALE),
            steps: steps.unwrap_or(DEFAULT_STEPS),
            enhance,
        })
    }

    /// The job, with the prompt and the seed that were settled on.
    pub fn request(self, prompt: String, seed: u64) -> (JobRequest, Policy) {
        let template = TemplateRequest {
            template: Some(TEMPLATE.to_owned()),
            prompt,
            seed: Some(seed),
            aspect_ratio: Some(self.aspect_ratio),
            steps: Some(self.steps),
            // Below 1 Qwen's pipeline does without guidance (`true_cfg_scale` of diffusers' QwenImagePipeline), which is
            // what 1 means to ComfyUI; 0 would follow the negative prompt there.
            cfg: Some(self.guidance_scale.max(1.0)),
            ..TemplateRequest::default()
        };
        let request = JobRequest {
            work: Work::Template(template),
            images: Vec::new(),
            // The picture stands in the event, as a PNG.
            delivery: Delivery {
                return_images_as: Some(ReturnImagesAs::Base64),
                output_format: Some(ImageFormat::Png),
                ..Delivery::default()
            },
            org_api_key: None,
            warnings: Vec::new(),
        };
        let policy = Policy {
            dialect: Dialect::Gradio,
            ..Policy::default()
        };
        (request, policy)
    }
}
