//! What the routes answer.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use utoipa::ToSchema;

use super::models::{Quality, STAND_INS, canonical, each};
use super::{Form, Operation, Reply};
use crate::config::ImageFormat;
use crate::dialect::answer::{Answer, Splices};
use crate::dialect::links::{Links, pictures};
use crate::dialect::schema::Schema;
use crate::error::{ErrorKind, JobError};
use crate::job::{JobView, Outcome, OutputFile};

/// The pictures of a job.
#[derive(Serialize, ToSchema)]
pub struct Images<'a> {
    /// Seconds since 1970.
    created: u64,
    data: Vec<Picture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<&'a str>,
    quality: Quality,
    /// `transparent` for layers, else `opaque`.
    background: &'static str,
    #[schema(schema_with = formats)]
    output_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    usage: Usage,
    /// What you should know although the pictures were made.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

fn formats() -> Schema {
    Schema::one_of(ImageFormat::NAMES)
}

/// A picture: one of the two, or both.
#[derive(Serialize, Default, ToSchema)]
struct Picture {
    /// Where the picture is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = "uri")]
    url: Option<String>,
    /// Base64, or a data URI with `OPENAI_B64_DATA_URI`.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64_json: Option<String>,
}

/// Always 0: nothing is counted in tokens here, but the clients' types want the numbers.
#[derive(Serialize, Default, ToSchema)]
pub(super) struct Usage {
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
    input_tokens_details: Tokens,
}

#[derive(Serialize, Default, ToSchema)]
struct Tokens {
    text_tokens: u64,
    image_tokens: u64,
}

/// The answer to a request whose job has completed. The error where it has not.
pub fn answer(reply: &Reply, view: &JobView, links: &Links<'_>) -> Result<Answer, JobError> {
    let outcome = outcome(view)?;
    let mut splices = Splices::default();
    let data = pictures(outcome)
        .map(|(index, file)| {
            let text = file.base64.as_ref().filter(|_| reply.form != Form::Url);
            // Also what was asked for inline and is too large for that: it lies in the bucket.
            let is_named = reply.form != Form::Inline || text.is_none();
            Picture {
                url: is_named.then(|| links.of(view, index, file)),
                b64_json: text.map(|text| prefixed(reply, file) + &splices.insert(text.clone())),
            }
        })
        .collect();
    let body = Images {
        created: seconds(view.created),
        data,
        size: reply.size.as_deref(),
        quality: reply.quality,
        background: reply.background(),
        output_format: format_of(outcome),
        seed: seed(reply, outcome),
        usage: Usage::default(),
        warnings: &outcome.warnings,
    };
    Ok(splices.answer(200, &body).of_job(view))
}

/// What a job made; the error where it made nothing.
pub(super) fn outcome(view: &JobView) -> Result<&Outcome, JobError> {
    match &view.result {
        Some(Ok(outcome)) if pictures(outcome).next().is_some() => Ok(outcome),
        Some(Ok(_)) => Err(JobError::internal("The graph ended without a picture")),
        Some(Err(error)) => Err(JobError::clone(error)),
        None => Err(JobError::internal("The job has not ended")),
    }
}

/// The seed of the pictures, chosen or asked for.
pub(super) fn seed(reply: &Reply, outcome: &Outcome) -> Option<u64> {
    outcome.seed.or(reply.seed)
}

/// What stands before the base64 of a picture.
fn prefixed(reply: &Reply, file: &OutputFile) -> String {
    if !reply.data_uri {
        return String::new();
    }
    let ending = file.filename.rsplit_once('.').map_or("", |(_, ending)| ending);
    let format = ImageFormat::parse(ending).map_or("png", ImageFormat::as_str);
    format!("data:image/{format};base64,")
}

/// The format of the pictures, by the ending of the first.
pub(super) fn format_of(outcome: &Outcome) -> &'static str {
    let name = pictures(outcome).next().map(|(_, file)| file.filename.as_str());
    let ending = name
        .and_then(|name| name.rsplit_once('.'))
        .map_or("", |(_, ending)| ending);
    ImageFormat::parse(ending).map_or("png", ImageFormat::as_str)
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Operation {
    /// The events of this operation: `image_generation.completed` and the like.
    pub(super) fn event(self, partial: bool) -> &'static str {
        match (self, partial) {
            (Self::Generate, true) => "image_generation.partial_image",
            (Self::Generate, false) => "image_generation.completed",
            (Self::Edit | Self::Vary, true) => "image_edit.partial_image",
            (Self::Edit | Self::Vary, false) => "image_edit.completed",
        }
    }
}

/// A model, as `/v1/models` tells of it.
#[derive(Serialize, ToSchema)]
pub struct Model {
    id: Cow<'static, str>,
    /// Always `model`.
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

fn entries() -> impl Iterator<Item = Model> {
    let own = each().map(|model| (model.id, model.owner()));
    let stand_ins = STAND_INS.iter().map(|id| (*id, "qwen-image-worker"));
    own.chain(stand_ins)
        .map(|(id, owned_by)| entry(Cow::Borrowed(id), owned_by))
}

fn entry(id: Cow<'static, str>, owned_by: &'static str) -> Model {
    Model {
        id,
        object: "model",
        created: 0,
        owned_by,
    }
}

/// What `GET /v1/models` answers.
#[derive(Serialize, ToSchema)]
pub struct Models {
    /// Always `list`.
    object: &'static str,
    data: Vec<Model>,
}

/// Every model that is taken.
pub fn models() -> Answer {
    let data = entries().collect();
    Answer::json(200, &Models { object: "list", data })
}

/// What `GET /v1/models/{model}` answers. The error where there is no such model.
pub fn model(name: &str) -> Result<Answer, JobError> {
    let id = canonical(name)?;
    let listed = entries().find(|entry| entry.id == id);
    // A version of OpenAI's that is not listed is taken all the same.
    let entry = listed.unwrap_or_else(|| entry(id, "qwen-image-worker"));
    Ok(Answer::json(200, &entry))
}

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

/// All four keys are there in every error (openai-openapi 2.3.0, `Error`).
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorObject<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field at fault, else the request's id.
    param: &'a str,
    code: &'static str,
}

/// An error; `param` names the field at fault, else the request, as the specification has it.
pub fn render_error(status: u16, error: &JobError, request_id: &str) -> Answer {
    let error = ErrorObject::of(status, error, request_id);
    Answer::json(status, &ErrorBody { error })
}

impl<'a> ErrorObject<'a> {
    pub(super) fn of(status: u16, error: &'a JobError, request_id: &'a str) -> Self {
        let (kind, code) = words(status, error);
        Self {
            message: error.full_text(),
            kind,
            param: field(error).unwrap_or(request_id),
            code,
        }
    }
}

/// OpenAI's words for a kind of error: its type and its code.
fn words(status: u16, error: &JobError) -> (&'static str, &'static str) {
    const REQUEST: &str = "invalid_request_error";
    const SERVER: &str = "server_error";
    match (status, error.kind) {
        (401, _) => (REQUEST, "invalid_api_key"),
        (403, _) => (REQUEST, "permission_denied"),
        (405, _) => (REQUEST, "method_not_allowed"),
        (404, _) if error.field.as_deref() == Some("model") => (REQUEST, "model_not_found"),
        (404, _) => (REQUEST, "not_found"),
        (408, _) => (REQUEST, "request_timeout"),
        (413, _) => (REQUEST, "request_too_large"),
        (_, ErrorKind::Busy) => ("rate_limit_error", "rate_limit_exceeded"),
        (_, ErrorKind::InvalidRequest | ErrorKind::TooLarge) => (REQUEST, "invalid_value"),
        (_, ErrorKind::InvalidWorkflow) => (REQUEST, "invalid_workflow"),
        (_, ErrorKind::ModelMissing) => (REQUEST, "model_missing"),
        (_, ErrorKind::NodeFailed) => (REQUEST, "generation_failed"),
        (_, ErrorKind::AsksTooMuch) => (REQUEST, "out_of_memory"),
        (_, ErrorKind::OutOfMemory) => (SERVER, "out_of_memory"),
        (_, ErrorKind::Cancelled | ErrorKind::Interrupted) => (SERVER, "cancelled"),
        (_, ErrorKind::TimedOut) => (SERVER, "timeout"),
        (_, ErrorKind::Stopping | ErrorKind::StoreUnavailable | ErrorKind::ComfyUnavailable) => {
            (SERVER, "service_unavailable")
        }
        _ => (SERVER, "internal_error"),
    }
}

/// Whether it is the name by which a job knows one of the images.
fn is_image(name: &str) -> bool {
    name.strip_prefix("image_")
        .is_some_and(|number| number.parse::<u8>().is_ok())
}

/// The field at fault, as OpenAI calls it: templates have names of their own.
fn field(error: &JobError) -> Option<&str> {
    let of_template = || {
        let problem = error.problems.first()?;
        // The input of a node is nothing that the request holds.
        problem.input.as_deref().filter(|_| problem.node_id.is_none())
    };
    let field = error.field.as_deref().or_else(of_template)?;
    Some(match field {
        "width" | "height" => "size",
        "cfg" => "guidance_scale",
        "batch_size" => "n",
        "images" => "image",
        field if is_image(field) => "image",
        field => field,
    })
}
