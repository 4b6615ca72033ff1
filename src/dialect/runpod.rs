//! RunPod's job form, as `/runsync` takes and gives it: `{"input": …}` in, `{"id", "status", "output"}` out. The
//! output is that of worker-comfyui 5 (`output.images[]` with filename, subfolder and type).

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::{Answer, Places};
use super::fields::{Fields, describe};
use crate::config::{ReturnImagesAs, Secret};
use crate::error::{JobError, Problem};
use crate::job::{FileKind, ImageName, InputImage, JobRequest, Outcome, OutputFolder, Report, TemplateRequest, Work};
use crate::workflow::{Graph, Lora, limits, size_for_aspect_ratio, sizes};

/// Every field that `input` may have.
const FIELDS: &[&str] = &[
    "workflow",
    "prompt",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "aspect_ratio",
    "steps",
    "cfg",
    "batch_size",
    "loras",
    "template",
    "images",
    "comfy_org_api_key",
    "api_key_comfy_org",
    "return_images_as",
];
/// The fields that only a template can use.
const TEMPLATE_FIELDS: &[&str] = &[
    "negative_prompt",
    "seed",
    "width",
    "height",
    "aspect_ratio",
    "steps",
    "cfg",
    "batch_size",
    "loras",
    "template",
];
/// The most images in one request.
const MOST_IMAGES: usize = 64;

/// Reads a request body. Decodes images, so a large body belongs on a blocking thread.
pub fn parse(body: &[u8]) -> Result<JobRequest, JobError> {
    let shape = "Send {\"input\": {\"workflow\": {…}}} or {\"input\": {\"prompt\": \"…\"}}";
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(JobError::invalid("The request has no body").hint(shape));
    }
    // Windows editors put a byte order mark before JSON.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| JobError::invalid(format!("The request body is no JSON: {error}")).hint(shape))?;
    let Value::Object(mut envelope) = value else {
        return Err(JobError::invalid(format!(
            "The request body must be a JSON object, not {}",
            describe(&value)
        ))
        .hint(shape));
    };
    let input = match envelope.get_mut("input").map(Value::take) {
        None | Some(Value::Null) => return Err(JobError::invalid("The request has no `input`").hint(shape)),
        Some(Value::String(text)) => serde_json::from_str(&text).map_err(|error| {
            JobError::invalid(format!("`input` is a string that holds no JSON: {error}")).hint(shape)
        })?,
        Some(input) => input,
    };
    let Value::Object(input) = input else {
        return Err(JobError::invalid(format!("`input` must be an object, not {}", describe(&input))).hint(shape));
    };
    parse_input(input)
}

fn parse_input(mut input: Map<String, Value>) -> Result<JobRequest, JobError> {
    let mut fields = Fields::new(&mut input);
    let images = images(&mut fields);
    let return_images_as = return_images_as(&mut fields);
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
        Some(Work::Template(template_request(&mut fields)))
    } else {
        let error = JobError::invalid("`input` has neither `workflow` nor `prompt`");
        let misspelt = fields.misspelt(FIELDS);
        let hint =
            "Put a ComfyUI graph in API format into `input.workflow`, or what you want to see into `input.prompt`";
        return Err(if misspelt.is_empty() {
            error.hint(hint)
        } else {
            error.hint(misspelt.join("; "))
        });
    };
    warnings.extend(fields.misspelt(FIELDS));
    fields.finish()?;
    // With no problem found there is work.
    let Some(work) = work else {
        return Err(JobError::internal("a request without work was let through"));
    };
    Ok(JobRequest {
        work,
        images,
        return_images_as,
        org_api_key: org_api_key.map(Secret::new),
        warnings,
    })
}

/// A graph, given as an object or as a string that holds one.
fn parse_workflow(workflow: Value) -> Result<Graph, JobError> {
    let workflow = match workflow {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| {
            JobError::new(
                crate::error::ErrorKind::InvalidWorkflow,
                format!("Invalid workflow JSON structure: the string holds no JSON: {error}"),
            )
        })?,
        other => other,
    };
    Graph::parse(&workflow)
}

fn template_request(fields: &mut Fields<'_>) -> TemplateRequest {
    let prompt = fields.text("prompt").unwrap_or_default();
    if prompt.trim().is_empty() {
        fields.problem("prompt", "is empty; say what the picture should show");
    }
    if prompt.chars().count() > limits::PROMPT_CHARS {
        fields.problem(
            "prompt",
            format!(
                "has {} characters, the limit is {}",
                prompt.chars().count(),
                limits::PROMPT_CHARS
            ),
        );
    }
    let aspect_ratio = fields.text("aspect_ratio");
    if let Some(ratio) = &aspect_ratio {
        if size_for_aspect_ratio(ratio).is_none() {
            fields.problem(
                "aspect_ratio",
                format!(
                    "`{ratio}` is not known; the ratios are {}",
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
    let (width, height) = (
        fields.small("width", limits::SIDE),
        fields.small("height", limits::SIDE),
    );
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
    TemplateRequest {
        template: fields.text("template"),
        prompt,
        negative_prompt: fields.text("negative_prompt"),
        seed: fields.integer("seed", 0..=u64::MAX),
        width,
        height,
        aspect_ratio,
        steps: fields.small("steps", limits::STEPS),
        cfg: fields.number("cfg", limits::CFG),
        batch_size: fields.small("batch_size", limits::BATCH_SIZE),
        loras: loras(fields),
    }
}

fn loras(fields: &mut Fields<'_>) -> Vec<Lora> {
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

fn images(fields: &mut Fields<'_>) -> Vec<InputImage> {
    let items = fields.list("images");
    if items.len() > MOST_IMAGES {
        fields.problem(
            "images",
            format!("has {} entries, the limit is {MOST_IMAGES}", items.len()),
        );
        return Vec::new();
    }
    let mut images: Vec<InputImage> = Vec::with_capacity(items.len());
    let mut names = HashSet::new();
    for (index, item) in items.into_iter().enumerate() {
        let place = format!("images[{index}]");
        let default_name = format!("image_{}", index + 1);
        let (name, text) = match &item {
            Value::String(text) => (default_name.as_str(), Some(text.as_str())),
            Value::Object(image) => {
                let name = match image.get("name") {
                    None | Some(Value::Null) => default_name.as_str(),
                    Some(Value::String(name)) => name,
                    Some(other) => {
                        fields.problem(&place, format!("`name` must be a string, not {}", describe(other)));
                        continue;
                    }
                };
                (name, image.get("image").and_then(Value::as_str))
            }
            _ => ("", None),
        };
        let Some(text) = text else {
            fields.problem(&place, "needs a `name` and an `image`: base64 or a data URI");
            continue;
        };
        let decoded =
            ImageName::parse(name).and_then(|name| InputImage::decode(name, text).map_err(|error| error.full_text()));
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

fn return_images_as(fields: &mut Fields<'_>) -> Option<ReturnImagesAs> {
    let name = fields.text("return_images_as")?;
    let parsed = ReturnImagesAs::parse(&name);
    if parsed.is_none() {
        fields.problem(
            "return_images_as",
            format!("`{name}` is none of {}", ReturnImagesAs::NAMES.join(", ")),
        );
    }
    parsed
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Output<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    details: &'a [Problem],
    execution_time: f64,
    #[serde(rename = "delayTime")]
    delay_ms: u64,
    #[serde(rename = "executionTime")]
    execution_ms: u64,
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    images: Vec<File<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<OtherFile<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    texts: &'a [crate::job::OutputText],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct File<'a> {
    filename: &'a str,
    subfolder: &'a str,
    #[serde(rename = "type")]
    form: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

#[derive(Serialize)]
struct OtherFile<'a> {
    kind: FileKind,
    node_id: &'a str,
    #[serde(flatten)]
    file: File<'a>,
}

/// The answer to a job that has ended.
pub fn render(report: &Report) -> Answer {
    let mut places = Places::default();
    let body = |status, output, error, details| Body {
        id: report.id.as_str(),
        status,
        output,
        error,
        details,
        execution_time: (report.execution.as_secs_f64() * 100.0).round() / 100.0,
        delay_ms: milliseconds(report.delay),
        execution_ms: milliseconds(report.execution),
    };
    match &report.result {
        Ok(outcome) => {
            let output = output(outcome, &mut places);
            places.answer(200, &body("COMPLETED", Some(output), None, &[]))
        }
        Err(error) => places.answer(
            error.kind.status(),
            &body("FAILED", None, Some(error.full_text()), &error.problems),
        ),
    }
}

/// The answer to a request that never became a job.
pub fn render_error(error: &JobError) -> Answer {
    #[derive(Serialize)]
    struct ErrorBody<'a> {
        error: String,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        details: &'a [Problem],
    }
    Answer::json(
        error.kind.status(),
        &ErrorBody {
            error: error.full_text(),
            details: &error.problems,
        },
    )
}

fn output<'a>(outcome: &'a Outcome, places: &mut Places) -> Output<'a> {
    // worker-comfyui leaves previews out; where a graph has nothing else, they are its result.
    let kept = outcome.files.iter().any(|file| file.folder == OutputFolder::Output);
    let mut images = Vec::new();
    let mut files = Vec::new();
    let wanted: Vec<_> = outcome
        .files
        .iter()
        .filter(|file| !kept || file.folder == OutputFolder::Output)
        .collect();
    // Places are filled in the order of the body: images come before the other files.
    let (pictures, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|file| file.kind == FileKind::Image);
    let mut entry = |file: &'a crate::job::OutputFile| File {
        filename: &file.filename,
        subfolder: &file.subfolder,
        form: if file.base64.is_some() {
            "base64"
        } else {
            file.folder.as_str()
        },
        data: file.base64.clone().map(|text| places.take(text)),
    };
    for file in pictures {
        images.push(entry(file));
    }
    for file in others {
        files.push(OtherFile {
            kind: file.kind,
            node_id: &file.node_id,
            file: entry(file),
        });
    }
    let nothing = images.is_empty() && files.is_empty() && outcome.texts.is_empty();
    Output {
        status: nothing.then_some("success_no_images"),
        images,
        files,
        texts: &outcome.texts,
        seed: outcome.seed,
        warnings: &outcome.warnings,
    }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "runpod_tests.rs"]
mod tests;
