//! A request becomes a job. Both APIs have the same fields: those of `generate` stand at the top, those of `createTask` in
//! `input`, beside `model`.

use serde_json::Value;
use url::Url;

use super::fields::{
    ACCELERATION, ACCELERATION_LEVEL, CALL_BACK, ENABLE_SAFETY_CHECKER, GUIDANCE, IMAGE, IMAGE_SIZE, INPUT, LORA_URLS,
    MODEL, NEGATIVE_PROMPT, NSFW_CHECKER, NUM_IMAGES, OUTPUT_FORMAT, PICTURE, PROMPT, SAFETY_CHECK, SEED, SIZES, STEPS,
    STRENGTH, SYNC_MODE, TASK, size_names,
};
use super::jobs::asked;
use super::models::{self, GENERATE, IMAGE_EDIT, IMAGE_TO_IMAGE, Model};
use super::{PREFIX, Task};
use crate::config::{ImageFormat, ReturnImagesAs};
use crate::dialect::dropped;
use crate::dialect::fields::{Fields, describe, object_of};
use crate::dialect::loras;
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::job::{Asked, Delivery, Dialect, ImageName, InputImage, JobRequest, Policy, TemplateRequest, Work};
use crate::workflow::limits;

/// The side of `square`, in pixels; `square_hd` is the model's own size.
const SQUARE: u32 = 1024;
/// Where things belong that have another name here.
const ADVICE: &str = "an image belongs into image_url, a size into image_size; there is no mask";

/// What is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The form of results, which are answered by URL.
    pub url_form: ReturnImagesAs,
}

/// How much faster than the model with all its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acceleration {
    None,
    Regular,
    High,
}

/// Reads a request to `generate`. With an image it is an edit.
pub fn parse(body: &[u8], options: Options) -> Result<Task, JobError> {
    let mut object = object_of(body, r#"Send {"prompt": "…"}."#)?;
    let mut fields = Fields::new(&mut object, &[PICTURE, &[&CALL_BACK]].concat());
    let webhook = call_back_url(&mut fields);
    let model = match (has_image(&fields), fields.get(STRENGTH.name)) {
        (false, _) => &GENERATE,
        (true, None) => &IMAGE_EDIT,
        (true, Some(_)) => &IMAGE_TO_IMAGE,
    };
    let mut picture = read(&mut fields, model);
    dropped::refuse(&mut fields, ADVICE);
    picture.warnings.extend(fields.unknown());
    fields.finish()?;
    Ok(picture.task(options, webhook, None))
}

/// Reads a request to `createTask`.
pub fn parse_create(body: &[u8], options: Options) -> Result<Task, JobError> {
    let shape = r#"Send {"model": "qwen/text-to-image", "input": {"prompt": "…"}}."#;
    let mut object = object_of(body, shape)?;
    let mut fields = Fields::new(&mut object, TASK);
    let webhook = call_back_url(&mut fields);
    let name = fields.read(&MODEL).unwrap_or_default();
    let input = fields.read(&INPUT);
    if input.is_some() {
        dropped::refuse(&mut fields, "what the picture is like belongs into `input`");
    }
    let warnings = fields.unknown();
    fields.finish()?;
    if name.trim().is_empty() {
        return Err(models::missing().hint(shape));
    }
    let model = models::find(&name)?;
    let Some(mut input) = input else {
        return Err(JobError::invalid("`input` is missing").hint(shape).at("input"));
    };
    let asked = asked(model, &input);
    let mut fields = Fields::within("input.", &mut input, PICTURE);
    let mut picture = read(&mut fields, model);
    dropped::refuse(&mut fields, ADVICE);
    picture.warnings.extend(fields.unknown());
    picture.warnings.extend(warnings);
    fields.finish()?;
    Ok(picture.task(options, webhook, Some(asked)))
}

/// The job's id in a task's id.
pub fn parse_task(task_id: Option<&str>) -> Result<&str, JobError> {
    let task_id = task_id.map(str::trim).filter(|id| !id.is_empty()).ok_or_else(|| {
        let error = JobError::invalid("`taskId` is missing");
        error.hint("Ask with ?taskId=…").at("taskId")
    })?;
    task_id.strip_prefix(PREFIX).ok_or_else(|| unknown(task_id))
}

/// There is no such task.
pub fn unknown(task_id: &str) -> JobError {
    let task_id = Value::from(task_id);
    JobError::new(
        ErrorKind::NotFound,
        format!("There is no task {}", echo::json(&task_id)),
    )
    .hint("Use the taskId that the request was answered with; tasks are kept for 14 days at most.")
    .at("taskId")
}

/// A picture that is asked for.
pub(super) struct Picture {
    template: TemplateRequest,
    images: Vec<InputImage>,
    format: ImageFormat,
    safety_check: bool,
    warnings: Vec<String>,
}

impl Picture {
    fn task(self, options: Options, webhook: Option<Url>, asked: Option<Asked>) -> Task {
        let request = JobRequest {
            work: Work::Template(self.template),
            images: self.images,
            delivery: Delivery {
                return_images_as: Some(options.url_form),
                output_format: Some(self.format),
                safety_check: self.safety_check,
                ..Delivery::default()
            },
            org_api_key: None,
            extra_data: serde_json::Map::new(),
            warnings: self.warnings,
        };
        let policy = Policy {
            dialect: Dialect::Kie,
            webhook,
            asked: asked.map(Box::new),
            ..Policy::default()
        };
        Task { request, policy }
    }
}

/// Reads the fields of a picture that a model is to make.
pub(super) fn read(fields: &mut Fields<'_>, model: &Model) -> Picture {
    let mut warnings = Vec::new();
    if let Some(stand_in) = model.stand_in {
        warnings.push(format!("{} is not to be had; {stand_in} made the picture", model.name));
    }
    let prompt = fields.prompt(&PROMPT);
    let negative = negative_prompt(fields);
    let images = images(fields, model);
    let strength = fields.read(&STRENGTH);
    if strength.is_some() && model.strength.is_none() {
        let name = IMAGE_TO_IMAGE.name;
        warnings.push(format!(
            "`strength` was ignored: it is for {name}, with an image in image_url"
        ));
    }
    let (side, ratio) = size(fields, model.size);
    let steps = fields.read(&STEPS);
    let cfg = fields.read(&GUIDANCE);
    let batch_size = pictures(fields);
    let seed = fields.read(&SEED).and_then(|seed| seed.0);
    let loras = match fields.read(&LORA_URLS) {
        Some(value) => loras::read_any(fields, LORA_URLS.name, value, &mut warnings),
        None => Vec::new(),
    };
    let acceleration = acceleration(fields);
    let format = format(fields);
    let safety_check = safety_check(fields);
    if fields.read_or_usual(&SYNC_MODE) {
        warnings
            .push("`sync_mode` was ignored: a task is answered at once, and its record tells of its end".to_owned());
    }
    // The LoRAs are made for their own steps, without guidance; the specification's example sends others with them.
    let own = acceleration == Acceleration::None;
    if !own {
        let without_effect = [
            (STEPS.name, steps.is_some()),
            (GUIDANCE.name, cfg.is_some()),
            (NEGATIVE_PROMPT.name, negative.is_some()),
        ];
        let names = without_effect.iter().filter(|(_, given)| *given);
        warnings
            .extend(names.map(|(name, _)| format!("`{name}` has no effect where `{}` is not none", ACCELERATION.name)));
    }
    let template = TemplateRequest {
        template: Some(model.template(acceleration).to_owned()),
        prompt,
        negative_prompt: negative,
        seed,
        width: side,
        height: side,
        aspect_ratio: ratio.map(str::to_owned),
        steps: steps.or(model.steps).filter(|_| own),
        cfg: cfg.or(model.guidance).filter(|_| own),
        denoise: model.strength.map(|usual| strength.unwrap_or(usual)),
        batch_size,
        loras,
        ..TemplateRequest::default()
    };
    Picture {
        template,
        images,
        format,
        safety_check,
        warnings,
    }
}

/// A text that says something.
fn said(value: Option<&Value>) -> bool {
    value.is_some_and(|value| value.as_str().is_none_or(|text| !text.trim().is_empty()))
}

fn has_image(fields: &Fields<'_>) -> bool {
    said(fields.get(IMAGE.name))
        && fields
            .get(IMAGE.name)
            .and_then(Value::as_array)
            .is_none_or(|list| !list.is_empty())
}

fn negative_prompt(fields: &mut Fields<'_>) -> Option<String> {
    let text = fields.read(&NEGATIVE_PROMPT)?;
    if text.chars().count() > limits::PROMPT_CHARS {
        let message = format!("has more than {} characters", limits::PROMPT_CHARS);
        fields.problem(NEGATIVE_PROMPT.name, message);
    }
    Some(text).filter(|text| !text.trim().is_empty())
}

/// The images in their order. KIE takes one; a list is for models that take more.
fn images(fields: &mut Fields<'_>, model: &Model) -> Vec<InputImage> {
    let texts = match fields.read(&IMAGE) {
        None => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
    };
    let texts: Vec<Value> = texts.into_iter().filter(|text| said(Some(text))).collect();
    let complaint = match (texts.len(), model.images) {
        (0, 0) => None,
        (0, _) => Some(format!("is missing: {} makes a picture from an image", model.name)),
        (_, 0) => Some(format!(
            "is not taken by {}, which makes pictures from text alone; ask for {} or {}, or leave it out",
            model.name, IMAGE_EDIT.name, IMAGE_TO_IMAGE.name
        )),
        (count, most) if count > most => Some(format!("has {count} images; {} takes {most}", model.name)),
        _ => None,
    };
    if let Some(complaint) = complaint {
        fields.problem(IMAGE.name, complaint);
        return Vec::new();
    }
    let mut images = Vec::with_capacity(texts.len());
    for (number, text) in (1..).zip(texts) {
        let Value::String(text) = text else {
            fields.problem(IMAGE.name, format!("must be a string, not {}", describe(&text)));
            continue;
        };
        let name = if number == 1 {
            IMAGE.name.to_owned()
        } else {
            format!("{}_{number}", IMAGE.name)
        };
        let image = ImageName::parse(&name).map_err(JobError::internal);
        match image.and_then(|name| InputImage::from_text(name, &text)) {
            Ok(image) => images.push(image),
            Err(error) => fields.problem(IMAGE.name, error.full_text()),
        }
    }
    images
}

/// The side of a square, or an aspect ratio.
fn size(fields: &mut Fields<'_>, usual: Option<&'static str>) -> (Option<u32>, Option<&'static str>) {
    let given = fields.read(&IMAGE_SIZE).filter(|name| !name.trim().is_empty());
    let Some(name) = given.as_deref().map(str::trim).or(usual) else {
        return (None, None);
    };
    if name == "square" {
        return (Some(SQUARE), None);
    }
    let known = SIZES.iter().find(|(known, ratio)| *known == name || *ratio == name);
    if known.is_none() {
        let names: Vec<_> = size_names().collect();
        let name = echo::cut(name);
        fields.problem(IMAGE_SIZE.name, format!("`{name}` is none of {}", names.join(", ")));
    }
    (None, known.map(|(_, ratio)| *ratio))
}

/// How many pictures; KIE writes the number as a text.
fn pictures(fields: &mut Fields<'_>) -> Option<u32> {
    let value = fields.take(NUM_IMAGES.name)?;
    let number = value.as_str().and_then(|text| text.trim().parse::<u64>().ok());
    fields.read_value(&NUM_IMAGES, number.map_or(value, Value::from))
}

fn acceleration(fields: &mut Fields<'_>) -> Acceleration {
    let (first, second) = (fields.read(&ACCELERATION), fields.read(&ACCELERATION_LEVEL));
    let (name, other) = (ACCELERATION.name, ACCELERATION_LEVEL.name);
    if first.is_some() && second.is_some() && first != second {
        let message = format!("says otherwise than `{name}`, which means the same; send one of them");
        fields.problem(other, message);
    }
    let name = if first.is_some() { name } else { other };
    match first.or(second).as_deref() {
        None | Some("none") => Acceleration::None,
        Some("regular") => Acceleration::Regular,
        Some("high") => Acceleration::High,
        Some(_) => {
            fields.problem(name, "must be none, regular or high");
            Acceleration::None
        }
    }
}

fn format(fields: &mut Fields<'_>) -> ImageFormat {
    match fields.read(&OUTPUT_FORMAT).as_deref() {
        None | Some("png") => ImageFormat::Png,
        Some("jpeg" | "jpg") => ImageFormat::Jpeg,
        Some(_) => {
            fields.problem(OUTPUT_FORMAT.name, "must be png or jpeg");
            ImageFormat::Png
        }
    }
}

/// Whether the pictures are to be judged: where any of the names says so, and where none says anything.
fn safety_check(fields: &mut Fields<'_>) -> bool {
    let given = [ENABLE_SAFETY_CHECKER, NSFW_CHECKER, SAFETY_CHECK].map(|field| fields.read(&field));
    given.contains(&Some(true)) || given == [None; 3]
}

fn call_back_url(fields: &mut Fields<'_>) -> Option<Url> {
    let text = fields.read(&CALL_BACK).filter(|text| !text.trim().is_empty())?;
    // The address may hold a secret, so the message does not repeat it.
    match Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            fields.problem(CALL_BACK.name, "is no http or https address");
            None
        }
    }
}
