//! The body of `/edit-image`.

use serde_json::Value;

use crate::config::ReturnImagesAs;
use crate::dialect::dropped;
use crate::dialect::fields::{Fields, object_of};
use crate::echo;
use crate::error::JobError;
use crate::job::{Delivery, Dialect, ImageName, InputImage, JobRequest, Policy, TemplateRequest, Work};
use crate::workflow::limits;

/// Where the images are, in their order: "image 1" of a prompt is the first.
pub(super) const IMAGES: [&str; 3] = ["image1_url", "image2_url", "image3_url"];
/// The fields of a request.
const KNOWN: [&str; 10] = [
    IMAGES[0],
    IMAGES[1],
    IMAGES[2],
    "prompt",
    "negative_prompt",
    "model",
    "seed",
    "steps",
    "cfg",
    "megapixels",
];
/// The steps of a request that asks for no number of them.
pub(super) const STEPS: u32 = 40;
/// The range of the steps.
pub(super) const STEPS_RANGE: std::ops::RangeInclusive<u32> = 1..=100;
/// Its guidance scale.
pub(super) const CFG: f64 = 4.0;
/// The range of the guidance scale.
pub(super) const CFG_RANGE: std::ops::RangeInclusive<f64> = 1.0..=20.0;
/// Its size.
pub(super) const MEGAPIXELS: f64 = 1.0;
/// What the names of output files begin with.
const FILENAME_PREFIX: &str = "QwenEdit/api_{job_id}";
/// The graphs that take three images; [`model`] reads their names.
pub(super) const TEMPLATES: [&str; 2] = ["qwen-image-edit-2511", "qwen-image-edit-2509"];

/// Reads a request; `template` is for one that names no model. Fields that are not known are told, but for images and sizes,
/// which are refused.
pub fn parse(body: &[u8], template: &str) -> Result<(JobRequest, Policy), JobError> {
    let mut body = object_of(body, r#"Send {"image1_url": "…", "prompt": "…"}."#)?;
    let is_empty = |value: &Value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
    // Forms send what nobody filled in.
    body.retain(|field, value| !is_image(field) || !is_empty(value));
    let is_beyond = |field: &&String| is_image(field) && !IMAGES.contains(&field.as_str());
    let beyond = body.keys().find(is_beyond).map(|field| echo::cut(field));
    let mut fields = Fields::new(&mut body);
    if let Some(field) = beyond {
        let message = "is one too many; three images at most are taken: image1_url, image2_url, image3_url";
        fields.problem(&field, message);
    }
    if !fields.has(IMAGES[0]) || fields.get("prompt").is_none_or(is_empty) {
        let missing = if fields.has(IMAGES[0]) { "prompt" } else { IMAGES[0] };
        return Err(JobError::invalid("Both image1_url and prompt are required").at(missing));
    }
    let images = images(&mut fields)?;
    let prompt = fields.text("prompt").unwrap_or_default();
    if prompt.chars().count() > limits::PROMPT_CHARS {
        fields.problem("prompt", format!("has more than {} characters", limits::PROMPT_CHARS));
    }
    let template = match fields.text("model") {
        Some(name) => model(&name).unwrap_or_else(|| {
            fields.problem(
                "model",
                format!("`{}` is none of {}", echo::cut(&name), TEMPLATES.join(", ")),
            );
            template.to_owned()
        }),
        None => template.to_owned(),
    };
    let request = TemplateRequest {
        template: Some(template),
        prompt,
        negative_prompt: Some(fields.text("negative_prompt").unwrap_or_default()),
        seed: fields.seed(),
        steps: Some(fields.small("steps", STEPS_RANGE).unwrap_or(STEPS)),
        cfg: Some(fields.number("cfg", CFG_RANGE).unwrap_or(CFG)),
        megapixels: Some(fields.number("megapixels", limits::MEGAPIXELS).unwrap_or(MEGAPIXELS)),
        filename_prefix: Some(FILENAME_PREFIX.to_owned()),
        ..TemplateRequest::default()
    };
    dropped::refuse(
        &mut fields,
        &KNOWN,
        "images belong into image1_url to image3_url, a size into megapixels",
    );
    let warnings = fields.unknown(&KNOWN);
    fields.finish()?;
    let request = JobRequest {
        work: Work::Template(request),
        images,
        // `/download` sends the file, wherever results go otherwise.
        delivery: Delivery {
            return_images_as: Some(ReturnImagesAs::Metadata),
            ..Delivery::default()
        },
        org_api_key: None,
        warnings,
    };
    let policy = Policy {
        dialect: Dialect::EditPlus,
        ..Policy::default()
    };
    Ok((request, policy))
}

/// Whether a field is called as those of the images are, whatever its number.
fn is_image(field: &str) -> bool {
    let number = field.strip_prefix("image").and_then(|rest| rest.strip_suffix("_url"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// The images in their order, each by the name of its field.
fn images(fields: &mut Fields<'_>) -> Result<Vec<InputImage>, JobError> {
    if fields.has(IMAGES[2]) && !fields.has(IMAGES[1]) {
        let message = "stands without image2_url; the images are numbered in their order, so fill in image2_url first";
        fields.problem(IMAGES[2], message);
    }
    let mut images = Vec::with_capacity(IMAGES.len());
    for field in IMAGES {
        let Some(text) = fields.text(field) else { continue };
        let name = ImageName::parse(field).map_err(JobError::internal)?;
        match InputImage::from_text(name, &text) {
            Ok(image) => images.push(image),
            Err(error) => fields.problem(field, error.full_text()),
        }
    }
    Ok(images)
}

/// The template of a model, by the ways in which its name is written: `2509`, `Qwen/Qwen-Image-Edit-2509`.
fn model(name: &str) -> Option<String> {
    let name = name.trim().to_ascii_lowercase();
    let name = name.strip_prefix("qwen/").unwrap_or(&name);
    let found = TEMPLATES
        .into_iter()
        .find(|template| name == *template || template.rsplit('-').next() == Some(name));
    found.map(str::to_owned)
}
