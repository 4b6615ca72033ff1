//! A request becomes a job.

use url::Url;

use super::{PREFIX, Task};
use crate::config::{ImageFormat, ReturnImagesAs};
use crate::dialect::fields::{Fields, object_of};
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, Dialect, JobRequest, Policy, TemplateRequest, Work};

/// Each size with its aspect ratio. Pictures have the size that Qwen-Image was trained for.
pub(super) const SIZES: &[(&str, &str)] = &[
    ("square", "1:1"),
    ("square_hd", "1:1"),
    ("portrait_4_3", "3:4"),
    ("portrait_3_2", "2:3"),
    ("portrait_16_9", "9:16"),
    ("landscape_4_3", "4:3"),
    ("landscape_3_2", "3:2"),
    ("landscape_16_9", "16:9"),
];
/// The side of `square`, in pixels; `square_hd` is the model's own size.
const SQUARE: u32 = 1024;
pub(super) const DEFAULT_SIZE: &str = "landscape_4_3";
/// The specification's defaults for a picture that is not accelerated.
pub(super) const DEFAULT_STEPS: u32 = 30;
pub(super) const DEFAULT_GUIDANCE: f64 = 7.5;
/// Steps and guidance as KIE takes them; the specification leaves the ranges open.
pub(super) const STEPS: std::ops::RangeInclusive<u32> = 1..=250;
pub(super) const GUIDANCE: std::ops::RangeInclusive<f64> = 0.0..=20.0;

/// How much faster than the model with all its steps; the first one is usual.
pub(super) const ACCELERATIONS: [&str; 3] = ["none", "regular", "high"];
/// The forms of a picture; the first one is usual.
pub(super) const FORMATS: [&str; 3] = ["png", "jpeg", "jpg"];

/// What is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The form of results, which are answered by URL.
    pub url_form: ReturnImagesAs,
}

/// How much faster than the model with all its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acceleration {
    None,
    Regular,
    High,
}

/// Reads a request. Fields that are not known are passed over.
pub fn parse(body: &[u8], options: Options) -> Result<Task, JobError> {
    let mut object = object_of(body, r#"Send {"prompt": "…"}."#)?;
    let mut fields = Fields::new(&mut object);
    let prompt = fields.prompt();
    let (size, ratio) = size(&mut fields);
    let steps = fields.small("num_inference_steps", STEPS);
    let cfg = fields.number("guidance_scale", GUIDANCE);
    let seed = fields.seed();
    let acceleration = acceleration(&mut fields);
    let format = format(&mut fields);
    let safety_check = fields.truth("safety_check").unwrap_or(true);
    let webhook = call_back_url(&mut fields);
    fields.finish()?;
    let (template, steps, cfg) = match acceleration {
        Acceleration::None => (
            "qwen-image",
            Some(steps.unwrap_or(DEFAULT_STEPS)),
            Some(cfg.unwrap_or(DEFAULT_GUIDANCE)),
        ),
        // The LoRAs are made for their own steps, without guidance; the specification's example sends others with them.
        Acceleration::Regular => ("qwen-image-lightning", None, None),
        Acceleration::High => ("qwen-image-lightning-4", None, None),
    };
    let template = TemplateRequest {
        template: Some(template.to_owned()),
        prompt,
        seed,
        width: size,
        height: size,
        aspect_ratio: ratio.map(str::to_owned),
        steps,
        cfg,
        ..TemplateRequest::default()
    };
    let request = JobRequest {
        work: Work::Template(template),
        images: Vec::new(),
        delivery: Delivery {
            return_images_as: Some(options.url_form),
            output_format: Some(format),
            safety_check,
            ..Delivery::default()
        },
        org_api_key: None,
        warnings: Vec::new(),
    };
    let policy = Policy {
        dialect: Dialect::Kie,
        webhook,
        ..Policy::default()
    };
    Ok(Task { request, policy })
}

/// The job's id in a task's id.
pub fn parse_task(task_id: Option<&str>) -> Result<&str, JobError> {
    let task_id = task_id.map(str::trim).filter(|id| !id.is_empty()).ok_or_else(|| {
        let error = JobError::invalid("`taskId` is missing");
        error.hint("Ask for /api/v1/qwen/record-info?taskId=…").at("taskId")
    })?;
    task_id.strip_prefix(PREFIX).ok_or_else(|| unknown(task_id))
}

/// There is no such task.
pub fn unknown(task_id: &str) -> JobError {
    let task_id: String = task_id.chars().take(80).collect();
    JobError::new(ErrorKind::NotFound, format!("There is no task {task_id:?}"))
        .hint("Use the taskId that /api/v1/qwen/generate answered; tasks are kept for 14 days at most.")
        .at("taskId")
}

/// The side of a square, or an aspect ratio.
fn size(fields: &mut Fields<'_>) -> (Option<u32>, Option<&'static str>) {
    let name = fields.text("image_size").unwrap_or_else(|| DEFAULT_SIZE.to_owned());
    if name == "square" {
        return (Some(SQUARE), None);
    }
    let known = SIZES.iter().find(|(known, _)| *known == name);
    if known.is_none() {
        let names: Vec<_> = SIZES.iter().map(|(name, _)| *name).collect();
        let name: String = name.chars().take(40).collect();
        fields.problem("image_size", format!("`{name}` is none of {}", names.join(", ")));
    }
    (None, known.map(|(_, ratio)| *ratio))
}

fn acceleration(fields: &mut Fields<'_>) -> Acceleration {
    match fields.text("acceleration_level").as_deref() {
        None | Some("none") => Acceleration::None,
        Some("regular") => Acceleration::Regular,
        Some("high") => Acceleration::High,
        Some(_) => {
            fields.problem("acceleration_level", "must be none, regular or high");
            Acceleration::None
        }
    }
}

fn format(fields: &mut Fields<'_>) -> ImageFormat {
    match fields.text("output_format").as_deref() {
        None | Some("png") => ImageFormat::Png,
        Some("jpeg" | "jpg") => ImageFormat::Jpeg,
        Some(_) => {
            fields.problem("output_format", "must be png or jpeg");
            ImageFormat::Png
        }
    }
}

fn call_back_url(fields: &mut Fields<'_>) -> Option<Url> {
    let text = fields.text("callBackUrl").filter(|text| !text.trim().is_empty())?;
    // The address may hold a secret, so the message does not repeat it.
    match Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            fields.problem("callBackUrl", "is no http or https address");
            None
        }
    }
}
