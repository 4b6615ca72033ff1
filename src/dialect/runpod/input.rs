//! `input` of a request: a graph in API format, or a prompt and what goes with it into a template.

use std::collections::HashSet;

use serde_json::{Map, Value};
use url::Url;

use super::{strange, synonyms};
use crate::config::{BucketAccess, ImageFormat, ReturnImagesAs, Secret};
use crate::dialect::fields::{Fields, describe};
use crate::echo;
use crate::error::JobError;
use crate::job::{Delivery, ImageName, InputImage, JobRequest, Takes, TemplateRequest, Work};
use crate::workflow::{Graph, Lora, limits, size_for_aspect_ratio, sizes};

/// The fields of `input` beside those of a template.
const COMMON_FIELDS: &[&str] = &[
    "workflow",
    "prompt",
    "images",
    "comfy_org_api_key",
    "api_key_comfy_org",
    "return_images_as",
    "output_format",
    "quality",
    "s3Config",
    "stream",
    "refresh_worker",
    "image",
    "image_url",
    "enable_safety_checker",
    "enable_base64_output",
    "enable_sync_mode",
];
/// The fields that only a template can use.
const TEMPLATE_FIELDS: &[&str] = &[
    "negative_prompt",
    "seed",
    "width",
    "height",
    "megapixels",
    "aspect_ratio",
    "steps",
    "cfg",
    "batch_size",
    "loras",
    "template",
    "size",
    "num_inference_steps",
    "guidance",
    "guidance_scale",
];
/// The fields of `s3Config`.
const S3_FIELDS: &[&str] = &["endpointUrl", "accessId", "accessSecret", "bucketName", "region"];
/// The most images in one request.
pub(super) const MOST_IMAGES: usize = 64;

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
pub(super) fn parse(mut input: Map<String, Value>) -> Result<(JobRequest, Wishes), JobError> {
    let mut fields = Fields::new(&mut input);
    let mut told = Vec::new();
    let images = images(&mut fields, &mut told);
    let delivery = delivery(&mut fields, &mut told);
    let wishes = Wishes {
        stream: fields.truth("stream").unwrap_or_default(),
        refresh_worker: fields.truth("refresh_worker").unwrap_or_default(),
    };
    let org_api_key = fields
        .text("comfy_org_api_key")
        .or_else(|| fields.text("api_key_comfy_org"))
        .filter(|key| !key.trim().is_empty());
    let mut warnings = Vec::new();
    let work = if fields.has("workflow") {
        if fields.has("prompt") {
            fields.problem(
                "prompt",
                "stands beside `workflow`; send one of them (in a workflow the prompt is an input of its text node)",
            );
        }
        let unused: Vec<&str> = TEMPLATE_FIELDS
            .iter()
            .copied()
            .filter(|name| fields.has(name))
            .collect();
        if !unused.is_empty() {
            warnings.push(format!(
                "`{}` has no effect beside `workflow`, which is run as it is",
                unused.join("`, `")
            ));
        }
        fields
            .take("workflow")
            .map(|workflow| parse_workflow(workflow).map(Work::Workflow))
            .transpose()?
    } else if fields.has("prompt") {
        Some(Work::Template(template_request(&mut fields, &mut told)))
    } else {
        return Err(strange::without_work(&fields));
    };
    strange::unasked(&mut fields, &known(), "", matches!(work, Some(Work::Workflow(_))));
    warnings.extend(told);
    warnings.extend(fields.unknown(&known()));
    fields.finish()?;
    // With no problem found there is work.
    let Some(work) = work else {
        return Err(JobError::internal("a request without work was let through"));
    };
    let request = JobRequest {
        work,
        images,
        delivery,
        org_api_key: org_api_key.map(Secret::new),
        warnings,
    };
    Ok((request, wishes))
}

/// All fields of `input`.
pub(super) fn known() -> Vec<&'static str> {
    [COMMON_FIELDS, TEMPLATE_FIELDS].concat()
}

/// The field of this name.
pub(super) fn field(name: &str) -> Option<&'static str> {
    known().into_iter().find(|known| *known == name)
}

/// A graph, given as an object or as a string that holds one.
fn parse_workflow(workflow: Value) -> Result<Graph, JobError> {
    match workflow {
        Value::String(text) => Graph::read(&text),
        other => Graph::from_value(other),
    }
}

fn template_request(fields: &mut Fields<'_>, told: &mut Vec<String>) -> TemplateRequest {
    let prompt = if fields.get("prompt").is_some_and(strange::is_graph) {
        fields.take("prompt");
        fields.problem(
            "prompt",
            "holds a graph; a graph belongs into `workflow`, and `prompt` says in words what the picture should show",
        );
        String::new()
    } else {
        fields.prompt()
    };
    let aspect_ratio = fields.text("aspect_ratio");
    if let Some(ratio) = &aspect_ratio {
        if size_for_aspect_ratio(ratio).is_none() {
            fields.problem(
                "aspect_ratio",
                format!(
                    "`{}` is not known; the ratios are {}",
                    echo::cut(ratio),
                    sizes::aspect_ratios().collect::<Vec<_>>().join(", ")
                ),
            );
        }
        if fields.has("width") || fields.has("height") {
            fields.problem(
                "aspect_ratio",
                "stands beside `width` or `height`; send one or the other",
            );
        }
    }
    let (width, height) = synonyms::sides(fields, aspect_ratio.is_some());
    if let (Some(width), Some(height)) = (width, height)
        && u64::from(width) * u64::from(height) > limits::PIXELS
    {
        fields.problem(
            "width",
            format!(
                "{width} x {height} is more than {} megapixels",
                limits::PIXELS / 1_000_000
            ),
        );
    }
    let megapixels = fields.number("megapixels", limits::MEGAPIXELS);
    if megapixels.is_some() && (aspect_ratio.is_some() || width.is_some() || height.is_some()) {
        fields.problem(
            "megapixels",
            "stands beside `width`, `height`, `size` or `aspect_ratio`; with it the first image gives the shape",
        );
    }
    TemplateRequest {
        template: fields.text("template"),
        prompt,
        negative_prompt: fields.text("negative_prompt"),
        seed: fields.seed(),
        width,
        height,
        megapixels,
        aspect_ratio,
        steps: synonyms::steps(fields),
        cfg: synonyms::cfg(fields),
        denoise: None,
        batch_size: fields.small("batch_size", limits::BATCH_SIZE),
        filename_prefix: None,
        loras: loras(fields, told),
        mask: None,
    }
}

fn loras(fields: &mut Fields<'_>, told: &mut Vec<String>) -> Vec<Lora> {
    let items = fields.list("loras");
    if items.len() > limits::LORAS {
        fields.problem(
            "loras",
            format!("has {} entries, the limit is {}", items.len(), limits::LORAS),
        );
        return Vec::new();
    }
    let mut loras = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let place = format!("loras[{index}]");
        let (name, strength) = match &item {
            Value::String(name) => (Some(name.clone()), Some(1.0)),
            Value::Object(lora) => {
                told.extend(strange::others_of(lora, &["name", "strength"], &place));
                let strength = match lora.get("strength") {
                    None | Some(Value::Null) => Some(1.0),
                    Some(value) => value
                        .as_f64()
                        .filter(|strength| limits::LORA_STRENGTH.contains(strength)),
                };
                (lora.get("name").and_then(Value::as_str).map(str::to_owned), strength)
            }
            _ => (None, Some(1.0)),
        };
        match (name.filter(|name| !name.trim().is_empty()), strength) {
            (Some(name), Some(strength)) => loras.push(Lora { name, strength }),
            (None, _) => fields.problem(
                &place,
                "needs a `name`: the file's name as in ComfyUI's loras folder, and a `strength`",
            ),
            (_, None) => {
                let (low, high) = (limits::LORA_STRENGTH.start(), limits::LORA_STRENGTH.end());
                fields.problem(&place, format!("`strength` must be a number from {low} to {high}"));
            }
        }
    }
    loras
}

fn images(fields: &mut Fields<'_>, told: &mut Vec<String>) -> Vec<InputImage> {
    // A graph loads what its nodes load, a template pictures.
    let takes = if fields.has("workflow") {
        Takes::Media
    } else {
        Takes::Pictures
    };
    let items = synonyms::images(fields);
    if items.len() > MOST_IMAGES {
        fields.problem(
            "images",
            format!("has {} entries, the limit is {MOST_IMAGES}", items.len()),
        );
        return Vec::new();
    }
    let mut images: Vec<InputImage> = Vec::with_capacity(items.len());
    let mut names = HashSet::new();
    for (index, (place, item)) in items.into_iter().enumerate() {
        let default_name = format!("image_{}", index + 1);
        let (name, text) = match &item {
            Value::String(text) => (default_name.as_str(), Some(text.as_str())),
            Value::Object(image) => {
                let name = match image.get("name") {
                    None | Some(Value::Null) => {
                        if let Some(field) = strange::misnamed(image) {
                            let field = echo::cut(field);
                            fields.problem(
                                &place,
                                format!("`{field}` is not known; what the graph calls the image stands in `name`"),
                            );
                            continue;
                        }
                        default_name.as_str()
                    }
                    Some(Value::String(name)) => name,
                    Some(other) => {
                        fields.problem(&place, format!("`name` must be a string, not {}", describe(other)));
                        continue;
                    }
                };
                told.extend(strange::others_of(image, &["name", "image"], &place));
                (name, image.get("image").and_then(Value::as_str))
            }
            _ => ("", None),
        };
        let Some(text) = text else {
            fields.problem(&place, "needs a `name` and an `image`: base64, a data URI, or a URL");
            continue;
        };
        let decoded = ImageName::parse(name)
            .and_then(|name| InputImage::from_text_as(name, text, takes).map_err(|error| error.full_text()));
        match decoded {
            Ok(image) if names.insert(image.name.clone()) => images.push(image),
            Ok(image) => fields.problem(
                &place,
                format!("has the name `{}` a second time; give each image its own", image.name),
            ),
            Err(message) => fields.problem(&place, message),
        }
    }
    images
}

/// How the result goes back. `s3Config` is here too where a client cannot put it beside `input`.
fn delivery(fields: &mut Fields<'_>, told: &mut Vec<String>) -> Delivery {
    let quality = fields.small("quality", limits::QUALITY);
    let form = named(
        fields,
        "return_images_as",
        ReturnImagesAs::parse,
        &ReturnImagesAs::NAMES,
    );
    let synonyms::Wanted {
        form,
        picture_url,
        safety_check,
    } = synonyms::wanted(fields, form);
    Delivery {
        return_images_as: form,
        output_format: named(fields, "output_format", ImageFormat::parse, &ImageFormat::NAMES),
        quality: quality.and_then(|quality| u8::try_from(quality).ok()),
        max_bytes: None,
        picture_url,
        safety_check,
        bucket: s3_config(fields, told),
    }
}

/// A field that is one of a few names.
fn named<T>(fields: &mut Fields<'_>, field: &str, parse: impl FnOnce(&str) -> Option<T>, names: &[&str]) -> Option<T> {
    let name = fields.text(field)?;
    let parsed = parse(&name);
    if parsed.is_none() {
        fields.problem(field, format!("`{}` is none of {}", echo::cut(&name), names.join(", ")));
    }
    parsed
}

/// A field that must be there and hold something.
fn needed(fields: &mut Fields<'_>, name: &str, what: &str) -> Option<String> {
    let text = fields.text(name).filter(|text| !text.trim().is_empty());
    if text.is_none() {
        fields.problem(name, format!("is missing: {what}"));
    }
    text
}

/// A bucket of the user's, as RunPod documents it (docs.runpod.io/serverless/endpoints/send-requests, S3-compatible
/// storage integration): `{accessId, accessSecret, bucketName, endpointUrl}`; `region` is ours.
pub(super) fn s3_config(fields: &mut Fields<'_>, told: &mut Vec<String>) -> Option<BucketAccess> {
    let mut object = fields.object("s3Config").filter(|object| !object.is_empty())?;
    let mut inner = Fields::within("s3Config.", &mut object);
    let endpoint = needed(&mut inner, "endpointUrl", "the bucket's S3 endpoint, https://…");
    let access_key_id = needed(&mut inner, "accessId", "the id of the access key");
    let secret = needed(&mut inner, "accessSecret", "the access key itself");
    let name = inner.text("bucketName").filter(|text| !text.trim().is_empty());
    let region = inner.text("region").filter(|text| !text.trim().is_empty());
    // The address may hold a secret, so the message does not repeat it.
    let endpoint = endpoint.and_then(|text| match Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            inner.problem("endpointUrl", "is no http or https address; send https://…");
            None
        }
    });
    told.extend(inner.unknown(S3_FIELDS));
    fields.adopt(inner);
    Some(BucketAccess {
        endpoint: endpoint?,
        access_key_id: access_key_id?,
        secret_access_key: Secret::new(secret?),
        name,
        region,
    })
}
