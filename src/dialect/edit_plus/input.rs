//! The body of `/edit-image`.

use serde_json::{Value, json};

use crate::config::ReturnImagesAs;
use crate::dialect::dropped;
use crate::dialect::field::{Field, Seed, fields, number, prompt, seed, shaped, text};
use crate::dialect::fields::{Fields, object_of};
use crate::dialect::schema::{BALL, CHANGE, Schema};
use crate::echo;
use crate::error::JobError;
use crate::job::{Delivery, Dialect, ImageName, InputImage, JobRequest, Policy, TemplateRequest, Work};
use crate::workflow::limits;

fields! {
    FIELDS:
    IMAGE1: String = shaped("image1_url", Schema::picture).required();
    PROMPT: String = prompt().required();
    IMAGE2: String = shaped("image2_url", further_picture);
    IMAGE3: String = shaped("image3_url", further_picture);
    MODEL: String = shaped("model", || Schema::text().with("examples", TEMPLATES.to_vec()))
        .means("The model, by its number or its name. The default is configured.");
    NEGATIVE_PROMPT: String = text("negative_prompt").or("").means("What the picture does not show.");
    SEED: Seed = seed(0..=u64::MAX);
    STEPS: u32 = number("steps", 1..=100).or(40);
    CFG: f64 = number("cfg", 1.0..=20.0).or(4.0).means("Guidance scale.");
    MEGAPIXELS: f64 = number("megapixels", limits::MEGAPIXELS).or(1.0)
        .means("The picture's size, with the shape of the first image.");
}

/// Where the images are, in their order: "image 1" of a prompt is the first.
const IMAGES: [&Field<String>; 3] = [&IMAGE1, &IMAGE2, &IMAGE3];
/// What the names of output files begin with.
const FILENAME_PREFIX: &str = "QwenEdit/api_{job_id}";
/// The graphs that take three images; [`model`] reads their names.
const TEMPLATES: [&str; 2] = ["qwen-image-edit-2511", "qwen-image-edit-2509"];

/// The body of a request.
pub fn request() -> Schema {
    Schema::object()
        .fields(FIELDS)
        .example(json!({ IMAGE1.name: BALL, PROMPT.name: CHANGE }))
        .named("Request")
}

/// Forms send what nobody filled in.
fn further_picture() -> Schema {
    Schema::maybe_picture()
}

/// Reads a request; `template` is for one that names no model. Fields that are not known are told, but for images and sizes,
/// which are refused.
pub fn parse(body: &[u8], template: &str) -> Result<(JobRequest, Policy), JobError> {
    let mut body = object_of(body, r#"Send {"image1_url": "…", "prompt": "…"}."#)?;
    let is_empty = |value: &Value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
    body.retain(|field, value| !is_image(field) || !is_empty(value));
    let is_beyond = |field: &&String| is_image(field) && !is_image_field(field);
    let beyond = body.keys().find(is_beyond).map(|field| echo::cut(field));
    let mut fields = Fields::new(&mut body, FIELDS);
    if let Some(field) = beyond {
        let message = "is one too many; three images at most are taken: image1_url, image2_url, image3_url";
        fields.problem(&field, message);
    }
    let has_image = fields.has(IMAGE1.name);
    if !has_image || fields.get(PROMPT.name).is_none_or(is_empty) {
        let missing = if has_image { PROMPT.name } else { IMAGE1.name };
        return Err(JobError::invalid("Both image1_url and prompt are required").at(missing));
    }
    let images = images(&mut fields)?;
    let prompt = fields.read(&PROMPT).unwrap_or_default();
    if prompt.chars().count() > limits::PROMPT_CHARS {
        fields.problem(
            PROMPT.name,
            format!("has more than {} characters", limits::PROMPT_CHARS),
        );
    }
    let template = match fields.read(&MODEL) {
        Some(name) => model(&name).unwrap_or_else(|| {
            fields.problem(
                MODEL.name,
                format!("`{}` is none of {}", echo::cut(&name), TEMPLATES.join(", ")),
            );
            template.to_owned()
        }),
        None => template.to_owned(),
    };
    let request = TemplateRequest {
        template: Some(template),
        prompt,
        negative_prompt: Some(fields.read_or_usual(&NEGATIVE_PROMPT)),
        seed: fields.read(&SEED).and_then(|seed| seed.0),
        steps: Some(fields.read_or_usual(&STEPS)),
        cfg: Some(fields.read_or_usual(&CFG)),
        megapixels: Some(fields.read_or_usual(&MEGAPIXELS)),
        filename_prefix: Some(FILENAME_PREFIX.to_owned()),
        ..TemplateRequest::default()
    };
    dropped::refuse(
        &mut fields,
        "images belong into image1_url to image3_url, a size into megapixels",
    );
    let warnings = fields.unknown();
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
        extra_data: serde_json::Map::new(),
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

/// Whether it is the field of an image.
pub(super) fn is_image_field(name: &str) -> bool {
    IMAGES.iter().any(|field| field.name == name)
}

/// The images in their order, each by the name of its field.
fn images(fields: &mut Fields<'_>) -> Result<Vec<InputImage>, JobError> {
    if fields.has(IMAGE3.name) && !fields.has(IMAGE2.name) {
        let message = "stands without image2_url; the images are numbered in their order, so fill in image2_url first";
        fields.problem(IMAGE3.name, message);
    }
    let mut images = Vec::with_capacity(IMAGES.len());
    for field in IMAGES {
        let Some(text) = fields.read(field) else { continue };
        let name = ImageName::parse(field.name).map_err(JobError::internal)?;
        match InputImage::from_text(name, &text) {
            Ok(image) => images.push(image),
            Err(error) => fields.problem(field.name, error.full_text()),
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
