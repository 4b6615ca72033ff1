//! `input` of a request: a graph in API format or a workflow that ComfyUI's page saved, or a prompt and what goes with it into
//! a template.

use url::Url;

use super::fields::{
    ACCESS_ID, ACCESS_SECRET, API_KEY_COMFY_ORG, ASPECT_RATIO, BATCH_SIZE, BUCKET_NAME, COMFY_ORG_API_KEY, COMMON,
    CONTROL, DENOISE, ENDPOINT_URL, HEIGHT, INPUTS, LAYERS, LORAS, MASK, MEGAPIXELS, NEGATIVE_PROMPT, OF_TEMPLATE,
    OUTPUT_FORMAT, PROMPT, QUALITY, REFRESH_WORKER, REGION, RETURN_IMAGES_AS, RETURN_WORKFLOW, S3_CONFIG, S3_FIELDS,
    SEED, STREAM, TEMPLATE, WIDTH, WORKFLOW,
};
use super::saved::{self, Workflow};
use super::{control, files, strange, synonyms};
use crate::config::{BucketAccess, ImageFormat, ReturnImagesAs, Secret};
use crate::dialect::field::{Field, Object, names};
use crate::dialect::fields::Fields;
use crate::dialect::loras;
use crate::echo;
use crate::error::JobError;
use crate::job::{Delivery, ImageName, InputImage, JobRequest, TemplateRequest, Work, check_mask, take_contents};
use crate::workflow::{Lora, limits, size_for_aspect_ratio};

/// What a request asks of the platform's queue. Served locally, `/stream` always has the progress, and there is no
/// worker to put in our place.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Wishes {
    /// Whether progress goes to `/stream` as it comes.
    pub(super) stream: bool,
    /// Whether a clean worker takes over afterwards.
    pub(super) refresh_worker: bool,
}

/// Reads `input`. Decodes images.
pub(super) fn parse(mut input: Object) -> Result<(JobRequest, Wishes), JobError> {
    let mut fields = Fields::new(&mut input, &[COMMON, OF_TEMPLATE].concat());
    let mut told = Vec::new();
    let mut images = files::read(&mut fields, &mut told);
    let delivery = delivery(&mut fields, &mut told);
    let wishes = Wishes {
        stream: fields.read_or_usual(&STREAM),
        refresh_worker: fields.read_or_usual(&REFRESH_WORKER),
    };
    let org_api_key = fields
        .read(&COMFY_ORG_API_KEY)
        .or_else(|| fields.read(&API_KEY_COMFY_ORG))
        .filter(|key| !key.trim().is_empty());
    let mut warnings = Vec::new();
    let work = if fields.has(WORKFLOW.name) {
        if fields.has(PROMPT.name) {
            fields.problem(
                PROMPT.name,
                "stands beside `workflow`; send one of them (in a workflow the prompt is an input of its text node)",
            );
        }
        if fields.says_something(MASK.name) {
            let message = "has no place in a graph: a mask is an image of `images` that the graph loads, or the alpha channel of one";
            fields.take(MASK.name);
            fields.problem(MASK.name, message);
        }
        if fields.says_something(CONTROL.name) {
            let message = "has no place in a graph: a control picture is an image of `images` that the graph loads";
            fields.take(CONTROL.name);
            fields.problem(CONTROL.name, message);
        }
        let inputs = fields.read(&INPUTS).unwrap_or_default();
        let mut workflow = match fields.read(&WORKFLOW) {
            Some(workflow) => Some(saved::read(workflow, inputs, &mut fields)?),
            None => None,
        };
        if let Some(Workflow::Saved(saved)) = &mut workflow {
            saved.seed = fields.read(&SEED).and_then(|seed| seed.0);
        }
        let mut unused = names(OF_TEMPLATE);
        unused.retain(|name| fields.has(name));
        if !unused.is_empty() {
            warnings.push(format!(
                "`{}` has no effect beside `workflow`, which is run as it is",
                unused.join("`, `")
            ));
        }
        workflow.map(Work::from)
    } else if fields.has(PROMPT.name) {
        if fields.read(&INPUTS).is_some_and(|inputs| !inputs.is_empty()) {
            fields.problem(
                INPUTS.name,
                "has no place beside `prompt`: it names the inputs of a saved `workflow`",
            );
        }
        let mask = mask(&mut fields, &images);
        let control = control::read(&mut fields, &images, &mut told);
        let mut request = template_request(&mut fields, &mut told);
        request.mask = mask.as_ref().map(|mask| mask.name.to_string());
        images.extend(mask);
        if let Some((control, picture)) = control {
            request.control = Some(control);
            images.extend(picture);
        }
        Some(Work::Template(request))
    } else {
        return Err(strange::without_work(&fields));
    };
    strange::unasked(
        &mut fields,
        "",
        matches!(work, Some(Work::Workflow(_) | Work::Saved(_))),
    );
    warnings.extend(told);
    warnings.extend(fields.unknown());
    fields.finish()?;
    // With no problem found there is work.
    let Some(mut work) = work else {
        return Err(JobError::internal("a request without work was let through"));
    };
    if let Work::Workflow(graph) = &mut work {
        take_contents(graph, None, &mut images)?;
    }
    let request = JobRequest {
        work,
        images,
        delivery,
        org_api_key: org_api_key.map(Secret::new),
        extra_data: serde_json::Map::new(),
        warnings,
    };
    Ok((request, wishes))
}

fn template_request(fields: &mut Fields<'_>, told: &mut Vec<String>) -> TemplateRequest {
    let prompt = if fields.get(PROMPT.name).is_some_and(strange::is_graph) {
        fields.take(PROMPT.name);
        fields.problem(
            PROMPT.name,
            "holds a graph; a graph belongs into `workflow`, and `prompt` says in words what the picture should show",
        );
        String::new()
    } else {
        fields.prompt(&PROMPT)
    };
    let aspect_ratio = fields.read(&ASPECT_RATIO);
    if let Some(ratio) = &aspect_ratio {
        if size_for_aspect_ratio(ratio).is_none() {
            fields.problem(
                ASPECT_RATIO.name,
                format!(
                    "`{}` is not known; the ratios are {}",
                    echo::cut(ratio),
                    limits::aspect_ratios().collect::<Vec<_>>().join(", ")
                ),
            );
        }
        if fields.has(WIDTH.name) || fields.has(HEIGHT.name) {
            fields.problem(
                ASPECT_RATIO.name,
                "stands beside `width` or `height`; send one or the other",
            );
        }
    }
    let (width, height) = synonyms::sides(fields, aspect_ratio.is_some());
    if let (Some(width), Some(height)) = (width, height)
        && u64::from(width) * u64::from(height) > limits::PIXELS
    {
        fields.problem(
            WIDTH.name,
            format!(
                "{width} x {height} is more than {} megapixels",
                limits::PIXELS / 1_000_000
            ),
        );
    }
    let megapixels = fields.read(&MEGAPIXELS);
    if megapixels.is_some() && (aspect_ratio.is_some() || width.is_some() || height.is_some()) {
        fields.problem(
            MEGAPIXELS.name,
            "stands beside `width`, `height`, `size` or `aspect_ratio`; with it the first image gives the shape",
        );
    }
    TemplateRequest {
        template: fields.read(&TEMPLATE),
        prompt,
        negative_prompt: fields.read(&NEGATIVE_PROMPT),
        seed: fields.read(&SEED).and_then(|seed| seed.0),
        width,
        height,
        megapixels,
        aspect_ratio,
        steps: synonyms::steps(fields),
        cfg: synonyms::cfg(fields),
        denoise: fields.read(&DENOISE),
        batch_size: fields.read(&BATCH_SIZE),
        layers: fields.read(&LAYERS),
        filename_prefix: None,
        loras: loras(fields, told),
        mask: None,
        control: None,
    }
}

fn loras(fields: &mut Fields<'_>, told: &mut Vec<String>) -> Vec<Lora> {
    let items = fields.read(&LORAS).unwrap_or_default();
    loras::read(fields, LORAS.name, items, told)
}

/// The mask of the first image. Whether it fits is looked at when both are here.
fn mask(fields: &mut Fields<'_>, images: &[InputImage]) -> Option<InputImage> {
    let text = said(fields, &MASK)?;
    if images.is_empty() {
        fields.problem(MASK.name, "is the mask of an image, and `images` has none");
        return None;
    }
    if images.iter().any(|image| image.name.as_str() == MASK.name) {
        fields.problem(
            MASK.name,
            "has the name of an image of `images`; give that another name",
        );
        return None;
    }
    let decoded = ImageName::parse(MASK.name).and_then(|name| {
        let mask = InputImage::from_text(name, &text).map_err(|error| error.full_text())?;
        check_mask(&mask, &images[0]).map_err(|error| error.full_text())?;
        Ok(mask)
    });
    decoded.map_err(|message| fields.problem(MASK.name, message)).ok()
}

/// How the result goes back. `s3Config` is here too where a client cannot put it beside `input`.
fn delivery(fields: &mut Fields<'_>, told: &mut Vec<String>) -> Delivery {
    let quality = fields.read(&QUALITY);
    let form = named(fields, &RETURN_IMAGES_AS, ReturnImagesAs::parse, &ReturnImagesAs::NAMES);
    let synonyms::Wanted {
        form,
        picture_url,
        safety_check,
    } = synonyms::wanted(fields, form);
    Delivery {
        return_images_as: form,
        output_format: named(fields, &OUTPUT_FORMAT, ImageFormat::parse, &ImageFormat::NAMES),
        quality,
        max_bytes: None,
        picture_url,
        safety_check,
        return_workflow: fields.read_or_usual(&RETURN_WORKFLOW),
        bucket: s3_config(fields, told),
    }
}

/// A field that is one of a few names.
fn named<T>(
    fields: &mut Fields<'_>,
    field: &Field<String>,
    parse: impl FnOnce(&str) -> Option<T>,
    names: &[&str],
) -> Option<T> {
    let name = fields.read(field)?;
    let parsed = parse(&name);
    if parsed.is_none() {
        fields.problem(
            field.name,
            format!("`{}` is none of {}", echo::cut(&name), names.join(", ")),
        );
    }
    parsed
}

/// A field that must be there and hold something.
fn needed(fields: &mut Fields<'_>, field: &Field<String>, what: &str) -> Option<String> {
    let text = said(fields, field);
    if text.is_none() {
        fields.problem(field.name, format!("is missing: {what}"));
    }
    text
}

/// A text that is not empty.
pub(super) fn said(fields: &mut Fields<'_>, field: &Field<String>) -> Option<String> {
    fields.read(field).filter(|text| !text.trim().is_empty())
}

/// A bucket of the user's.
pub(super) fn s3_config(fields: &mut Fields<'_>, told: &mut Vec<String>) -> Option<BucketAccess> {
    let mut object = fields.read(&S3_CONFIG).filter(|object| !object.is_empty())?;
    let mut inner = Fields::within("s3Config.", &mut object, S3_FIELDS);
    let endpoint = needed(&mut inner, &ENDPOINT_URL, "the bucket's S3 endpoint, https://…");
    let access_key_id = needed(&mut inner, &ACCESS_ID, "the id of the access key");
    let secret = needed(&mut inner, &ACCESS_SECRET, "the access key itself");
    let name = said(&mut inner, &BUCKET_NAME);
    let region = said(&mut inner, &REGION);
    // The address may hold a secret, so the message does not repeat it.
    let endpoint = endpoint.and_then(|text| match Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            inner.problem(ENDPOINT_URL.name, "is no http or https address; send https://…");
            None
        }
    });
    told.extend(inner.unknown());
    fields.adopt(inner);
    Some(BucketAccess {
        endpoint: endpoint?,
        access_key_id: access_key_id?,
        secret_access_key: Secret::new(secret?),
        name,
        region,
    })
}
