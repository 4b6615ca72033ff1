//! A request becomes a job.

use bytes::Bytes;
use serde_json::Value;

use super::fields::{
    BACKGROUND, EDIT_SIDE, GUIDANCE_SCALE, IMAGE, IMAGES, LORAS, MASK, MASK_IMAGE, MODEL, N, NEGATIVE_PROMPT,
    NUM_INFERENCE_STEPS, OUTPUT_COMPRESSION, OUTPUT_FORMAT, PARTIAL_IMAGES, PROMPT, QUALITIES, QUALITY,
    RESPONSE_FORMAT, SEED, SIZE, STEPS, STREAM, all,
};
use super::form::{self, Form, Source};
use super::models::{self, Family, Model, Quality};
use super::{Asked, Form as ReplyForm, Operation, Options, Reply, strange};
use crate::config::{ImageFormat, ReturnImagesAs};
use crate::dialect::field::Field;
use crate::dialect::fields::{Fields, object_of};
use crate::dialect::loras;
use crate::dialect::part::Part;
use crate::echo::cut;
use crate::error::JobError;
use crate::job::{Delivery, Dialect, ImageName, InputImage, JobRequest, Policy, TemplateRequest, Work, check_mask};
use crate::workflow::limits;

/// What is asked of the model where a variation is wanted, which comes without a prompt.
pub(super) const VARIATION: &str = "A new variation of this picture, with the same subject and style";
/// How the mask is called among the images.
const MASK_NAME: &str = "mask";
/// The steps that a Lightning LoRA is still good for; a request for more means the full model.
const LIGHTNING_STEPS: u32 = 8;

/// What to send instead of a body that is neither.
const SHAPE: &str = "Send a JSON object, or a form (multipart/form-data) with its Content-Type.";

/// The body of a request.
#[derive(Debug)]
pub enum Body {
    /// JSON.
    Json(Bytes),
    /// A form.
    Form(Vec<Part>),
}

/// Reads a request. Decodes images. Fields that are not known are told of in its warnings, and refused where a picture or a
/// size is lost with them.
pub fn parse(operation: Operation, body: Body, options: Options) -> Result<Asked, JobError> {
    let Form {
        fields: mut object,
        mut images,
        mut masks,
        strange_files,
    } = match body {
        Body::Json(bytes) => Form {
            fields: object_of(&bytes, SHAPE)?,
            ..Form::default()
        },
        Body::Form(parts) => form::read(parts),
    };
    let known = all();
    let mut fields = Fields::new(&mut object, &known);
    let mut some_are_wrong = false;
    for field in [IMAGE, IMAGES] {
        let (found, all_are_right) = sources(&mut fields, &field);
        images.extend(found);
        some_are_wrong |= !all_are_right;
    }
    for field in [MASK, MASK_IMAGE] {
        masks.extend(sources(&mut fields, &field).0);
    }
    strange::refuse_files(&mut fields, &strange_files);
    if operation != Operation::Generate && images.is_empty() && !some_are_wrong {
        fields.problem(
            IMAGE.name,
            "is missing: send the picture as a file, a URL, a data URI or base64",
        );
    }
    let prompt = match operation {
        Operation::Vary => VARIATION.to_owned(),
        Operation::Generate | Operation::Edit => fields.prompt(&PROMPT),
    };
    let name = fields.read(&MODEL);
    // What else is wrong with it can be told only once the model is known.
    fields.finish()?;
    let (model, family) = models::find(name.as_deref(), !images.is_empty(), !masks.is_empty())?;
    let mut fields = Fields::new(&mut object, &known);
    let (mut template, quality, size) = template_request(&mut fields, model, prompt);
    let reply = Reply {
        size,
        quality,
        alpha: model.alpha,
        seed: template.seed,
        ..reply(&mut fields, operation, family, (model, options))
    };
    let mut told = Vec::new();
    if let Some(value) = fields.read(&LORAS) {
        template.loras = loras::read_any(&mut fields, LORAS.name, value, &mut told);
    }
    let compression = fields.read(&OUTPUT_COMPRESSION);
    if images.len() > model.images {
        let (most, count) = (model.images, images.len());
        let message = format!("{} takes {most} at most, and the request has {count}", model.id);
        fields.problem(IMAGE.name, message);
        images.clear();
    }
    if masks.len() > 1 {
        fields.problem(
            MASK.name,
            "there is more than one; send one, which belongs to the first image",
        );
    }
    if !masks.is_empty() && images.is_empty() {
        fields.problem(MASK.name, "needs an image that it belongs to");
    }
    let mut warnings = strange::told(&mut fields, reply.size.is_some());
    warnings.extend(told);
    if operation == Operation::Vary && fields.get(PROMPT.name).is_some() {
        warnings.push("`prompt` has no effect on a variation; send it to /v1/images/edits".to_owned());
    }
    fields.finish()?;
    let mut decoded = Vec::with_capacity(images.len() + 1);
    for (number, source) in (1..).zip(images) {
        decoded.push(decode(&format!("image_{number}"), IMAGE.name, source)?);
    }
    if let Some(source) = masks.pop() {
        let mask = decode(MASK_NAME, MASK.name, source)?;
        check_mask(&mask, &decoded[0])?;
        decoded.push(mask);
        template.mask = Some(MASK_NAME.to_owned());
    }
    let delivery = Delivery {
        return_images_as: Some(match reply.form {
            ReplyForm::Inline => ReturnImagesAs::Base64,
            ReplyForm::Url | ReplyForm::Both => options.url_form,
        }),
        output_format: reply.format,
        quality: compression
            .filter(|_| matches!(reply.format, Some(ImageFormat::Jpeg | ImageFormat::Webp)))
            // OpenAI counts from 0, encoders from 1.
            .map(|quality| quality.max(1)),
        ..Delivery::default()
    };
    let request = JobRequest {
        work: Work::Template(template),
        images: decoded,
        delivery,
        org_api_key: None,
        extra_data: serde_json::Map::new(),
        warnings,
    };
    let policy = Policy {
        dialect: Dialect::OpenAi,
        ..Policy::default()
    };
    Ok(Asked { request, policy, reply })
}

/// Images in JSON: a text, `{"image_url": …}`, or a list of these; and whether nothing was wrong with them.
fn sources(fields: &mut Fields<'_>, field: &Field<Value>) -> (Vec<Source>, bool) {
    let name = field.name;
    let items = match fields.read(field) {
        None => return (Vec::new(), true),
        Some(Value::Array(items)) => items,
        Some(item) => vec![item],
    };
    let count = items.len();
    let mut sources = Vec::with_capacity(count);
    for item in items {
        let text = match item {
            Value::String(text) => Some(text),
            Value::Object(mut object) => {
                if object.contains_key("file_id") {
                    fields.problem(
                        name,
                        "names a `file_id`; files are not kept here, send the image itself or a URL",
                    );
                    continue;
                }
                match object.remove("image_url").or_else(|| object.remove("url")) {
                    Some(Value::String(text)) => Some(text),
                    // As in chat messages: {"image_url": {"url": …}}.
                    Some(Value::Object(mut inner)) => match inner.remove("url") {
                        Some(Value::String(text)) => Some(text),
                        _ => None,
                    },
                    _ => None,
                }
            }
            _ => None,
        };
        match text.filter(|text| !text.trim().is_empty()) {
            Some(text) => sources.push(Source::Text(text)),
            None => fields.problem(name, "must be a URL, a data URI or base64, or a list of these"),
        }
    }
    let all_are_right = sources.len() == count;
    (sources, all_are_right)
}

fn decode(name: &str, field: &str, source: Source) -> Result<InputImage, JobError> {
    let name = ImageName::parse(name).map_err(JobError::internal)?;
    let image = match source {
        Source::File(content) => InputImage::from_bytes(name, content),
        Source::Text(text) => InputImage::from_text(name, &text),
    };
    image.map_err(|error| error.at(field))
}

/// What goes into the template, the quality that it was chosen for, and the size as it was written.
fn template_request(
    fields: &mut Fields<'_>,
    model: &Model,
    prompt: String,
) -> (TemplateRequest, Quality, Option<String>) {
    let size = size(fields, model);
    let seed = fields.read(&SEED).and_then(|seed| seed.0);
    let negative_prompt = fields.read(&NEGATIVE_PROMPT).filter(|text| !text.trim().is_empty());
    let steps = fields.read(&STEPS).or(fields.read(&NUM_INFERENCE_STEPS));
    let cfg = fields.read(&GUIDANCE_SCALE);
    let batch_size = fields.read(&N).filter(|count| *count > 1);
    let wants_guidance = negative_prompt.is_some()
        || cfg.is_some_and(|cfg| cfg > 1.0)
        || steps.is_some_and(|steps| steps > LIGHTNING_STEPS);
    let quality = quality(fields).unwrap_or(if wants_guidance { Quality::High } else { Quality::Medium });
    let template = TemplateRequest {
        template: Some(model.template(quality).to_owned()),
        prompt,
        negative_prompt,
        seed,
        width: size.as_ref().map(|(_, width, _)| *width),
        height: size.as_ref().map(|(_, _, height)| *height),
        steps,
        cfg,
        batch_size,
        ..TemplateRequest::default()
    };
    (template, quality, size.map(|(text, ..)| text))
}

/// `1024x1024`; [`None`] for `auto`.
fn size(fields: &mut Fields<'_>, model: &Model) -> Option<(String, u32, u32)> {
    let text = fields.read(&SIZE)?;
    let plain = text.trim().to_ascii_lowercase();
    if plain.is_empty() || plain == "auto" {
        return None;
    }
    let sides = limits::parse_size(&plain);
    let range = if model.images > 0 { EDIT_SIDE } else { limits::SIDE };
    match sides {
        Some((width, height))
            if range.contains(&width)
                && range.contains(&height)
                && u64::from(width) * u64::from(height) <= limits::PIXELS =>
        {
            Some((format!("{width}x{height}"), width, height))
        }
        Some(_) => {
            let message = format!(
                "`{}` is out of range: each side must be from {} to {} pixels{}",
                cut(&plain),
                range.start(),
                range.end(),
                if model.images > 0 {
                    ""
                } else {
                    ", at most 16 megapixels in all"
                }
            );
            fields.problem(SIZE.name, message);
            None
        }
        None => {
            let message = format!("`{}` is no size; write `1024x1024`, or `auto`", cut(&plain));
            fields.problem(SIZE.name, message);
            None
        }
    }
}

/// OpenAI's words for GPT image and for DALL-E; [`None`] for those that leave it to the model.
fn quality(fields: &mut Fields<'_>) -> Option<Quality> {
    let text = fields.read(&QUALITY)?;
    match text.trim().to_ascii_lowercase().as_str() {
        "" | "auto" | "standard" => None,
        "low" => Some(Quality::Low),
        "medium" => Some(Quality::Medium),
        "high" | "xhigh" | "max" | "hd" => Some(Quality::High),
        _ => {
            fields.problem(QUALITY.name, format!("must be one of {}", QUALITIES.join(", ")));
            None
        }
    }
}

/// What pictures come as where the request does not say. Clients decode `b64_json` where OpenAI sends nothing else, which
/// is for GPT image and where pictures are edited, and read `url` where they were made for DALL-E.
fn usual_form(operation: Operation, family: Family) -> ReplyForm {
    match (family, operation) {
        (Family::GptImage, _) => ReplyForm::Inline,
        (Family::DallE, Operation::Generate | Operation::Vary) => ReplyForm::Url,
        (Family::DallE, Operation::Edit) | (Family::Own, _) => ReplyForm::Both,
    }
}

/// How the answer looks, but for what is read with the template.
fn reply(fields: &mut Fields<'_>, operation: Operation, family: Family, (model, options): (&Model, Options)) -> Reply {
    let form = match fields.read(&RESPONSE_FORMAT).as_deref() {
        None | Some("") => usual_form(operation, family),
        Some("url") => ReplyForm::Url,
        Some("b64_json") => ReplyForm::Inline,
        Some(_) => {
            fields.problem(RESPONSE_FORMAT.name, "must be url or b64_json");
            ReplyForm::Url
        }
    };
    let format = fields.read(&OUTPUT_FORMAT).and_then(|name| {
        let format = ImageFormat::parse(&name);
        if format.is_none() {
            fields.problem(OUTPUT_FORMAT.name, "must be png, jpeg or webp");
        }
        format
    });
    match fields.read(&BACKGROUND).as_deref() {
        None | Some("" | "auto") => {}
        Some("opaque") if !model.alpha => {}
        Some("transparent") if model.alpha => {}
        Some("opaque") => fields.problem(
            BACKGROUND.name,
            format!(
                "cannot be opaque: {} makes transparent pictures; send transparent or auto",
                model.id
            ),
        ),
        Some("transparent") => fields.problem(
            BACKGROUND.name,
            format!(
                "cannot be transparent: {} makes opaque pictures; send opaque or auto",
                model.id
            ),
        ),
        Some(_) => fields.problem(BACKGROUND.name, "must be auto, opaque or transparent"),
    }
    let streamed = fields.read_or_usual(&STREAM);
    let partials = fields.read_or_usual(&PARTIAL_IMAGES);
    Reply {
        operation,
        // Events hold their pictures themselves, whatever the request says of the answer.
        form: if streamed { ReplyForm::Inline } else { form },
        data_uri: options.data_uri && !streamed,
        stream: streamed.then_some(partials),
        size: None,
        quality: Quality::Medium,
        format,
        alpha: false,
        seed: None,
    }
}
