//! Bodies in: an event that joins the queue, and what `/infer` is asked for.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::config::{ImageFormat, ReturnImagesAs};
use crate::dialect::field::{Object, Seed, fields, names, number, prompt, seed, shaped, truth};
use crate::dialect::fields::{Fields, describe, object_of};
use crate::dialect::schema::{JOB, SCENE, Schema};
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, Dialect, JobRequest, Policy, TemplateRequest, Work};
use crate::workflow::limits;

/// The seeds that are taken: what a JavaScript number holds exactly. The Space stops at 2^31 - 1; a larger one may come
/// from another dialect.
const SEEDS: RangeInclusive<u64> = 0..=9_007_199_254_740_991;

fields! {
    /// The seven parameters in their order, with the Space's defaults.
    PARAMETERS:
    PROMPT: String = prompt().required();
    SEED: Seed = seed(SEEDS).or(0).means("The seed, unless `randomize_seed`; -1 is a random one.");
    RANDOMIZE_SEED: bool = truth("randomize_seed").or(true).means("Whether any seed will do.");
    ASPECT_RATIO: String = shaped("aspect_ratio", || Schema::one_of(limits::aspect_ratios())).or("16:9");
    GUIDANCE_SCALE: f64 = number("guidance_scale", 0.0..=20.0).or(4.0).means("How closely to follow the prompt.");
    STEPS: u32 = number("num_inference_steps", 1..=100).or(50);
    PROMPT_ENHANCE: bool = truth("prompt_enhance").or(true).means("Whether the prompt is made better.");
}

fields! {
    /// An event that joins the queue.
    JOIN:
    DATA: Value = shaped("data", values).required();
    SESSION_HASH: String = shaped("session_hash", || Schema::said().with("maxLength", SESSION_BYTES))
        .means("The client's session.").required();
    FN_INDEX: u32 = number("fn_index", 0..=0).means("The one function is 0, `/infer`.");
}

/// The body of `/gradio_api/queue/join`.
pub fn join() -> Schema {
    Schema::object()
        .fields(JOIN)
        .example(json!({ DATA.name: example(), SESSION_HASH.name: SESSION }))
        .named("Join")
}

/// The body of `/gradio_api/cancel`.
pub fn cancel() -> Schema {
    Schema::object()
        .needs("event_id", Schema::text())
        .takes("session_hash", Schema::any().means("The client's session."))
        .example(json!({ "event_id": JOB, "session_hash": SESSION }))
}

/// `?session_hash=`, the session whose events are asked for.
pub fn session() -> Schema {
    Schema::text().means("The client's session.").example(SESSION)
}

/// The parameters of `/infer` by name.
pub fn infer() -> Schema {
    let example = json!({ PROMPT.name: SCENE, ASPECT_RATIO.name: "1:1", STEPS.name: 20, PROMPT_ENHANCE.name: false });
    Schema::object().fields(PARAMETERS).example(example).named("Infer")
}

/// The same by position.
pub fn call() -> Schema {
    Schema::object()
        .fields(&[&DATA])
        .example(json!({ DATA.name: example() }))
}

/// The values of an example.
fn example() -> Value {
    json!([SCENE, 7, false, "1:1", 4.0, 20, false])
}

fn values() -> Schema {
    let values = PARAMETERS
        .iter()
        .map(|field| field.schema().with("title", field.name()).into_value());
    Schema::any()
        .with("type", "array")
        .with("minItems", 1)
        .with("maxItems", PARAMETERS.len())
        .with("prefixItems", values.collect::<Vec<_>>())
        .named("Values")
}

/// The template behind `/infer`: the steps are asked for, so it has no Lightning LoRA.
const TEMPLATE: &str = "qwen-image";

/// The id of a session in examples.
pub const SESSION: &str = "docs";

/// The longest id of a session; the clients' have about 36 bytes.
const SESSION_BYTES: usize = 128;

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
    let session = match object.get(SESSION_HASH.name) {
        Some(Value::String(session)) if (1..=SESSION_BYTES).contains(&session.len()) => session.clone(),
        _ => {
            return Err(JobError::invalid(format!(
                "session_hash: must be a string of 1 to {SESSION_BYTES} bytes"
            )));
        }
    };
    if let Some(index) = object.get(FN_INDEX.name).filter(|index| !index.is_null())
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

fn data(object: &mut Object) -> Result<Vec<Value>, JobError> {
    match object.get_mut(DATA.name).map(Value::take) {
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
        let names = PARAMETERS.iter().map(|field| field.name().to_owned());
        Self::by_name(names.zip(data).collect())
    }

    /// What is missing or null has the Space's default.
    fn by_name(mut values: Object) -> Result<Self, JobError> {
        let mut fields = Fields::new(&mut values, PARAMETERS);
        let prompt = fields.prompt(&PROMPT);
        let seed = fields.read_or_usual(&SEED).0;
        let randomize = fields.read_or_usual(&RANDOMIZE_SEED);
        let aspect_ratio = fields.read_or_usual(&ASPECT_RATIO);
        if limits::aspect_ratios().all(|known| known != aspect_ratio) {
            let known: Vec<_> = limits::aspect_ratios().collect();
            let shown = describe(&Value::String(aspect_ratio.clone()));
            fields.problem(ASPECT_RATIO.name, format!("{shown} is none of {}", known.join(", ")));
        }
        let guidance_scale = fields.read_or_usual(&GUIDANCE_SCALE);
        let steps = fields.read_or_usual(&STEPS);
        let enhance = fields.read_or_usual(&PROMPT_ENHANCE);
        let strange: Vec<String> = fields.strange().take(MOST_TOLD).map(cut).collect();
        for name in strange {
            let message = format!("is no parameter of /infer; it takes {}", names(PARAMETERS).join(", "));
            fields.problem(&name, message);
        }
        fields.finish()?;
        Ok(Self {
            prompt,
            seed: seed.filter(|_| !randomize),
            aspect_ratio,
            guidance_scale,
            steps,
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
            extra_data: serde_json::Map::new(),
            warnings: Vec::new(),
        };
        let policy = Policy {
            dialect: Dialect::Gradio,
            ..Policy::default()
        };
        (request, policy)
    }
}
