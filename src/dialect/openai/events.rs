//! The events of a streamed answer: pictures of the work in progress, then the finished ones.

use std::borrow::Cow;

use base64::Engine as _;
use serde::Serialize;

use super::Reply;
use super::answers::{ErrorObject, Usage, format_of, outcome, seconds, seed};
use super::models::Quality;
use crate::config::ImageFormat;
use crate::delivery::encode::Picture;
use crate::dialect::answer::{Event, Splices};
use crate::dialect::links::{Links, pictures};
use crate::encoding::STANDARD;
use crate::error::JobError;
use crate::job::JobView;
use crate::job::progress::{PreviewImage, Progress};

/// The quality of a preview that is encoded again, where its format has one.
const PREVIEW_QUALITY: u8 = 85;

/// A picture, finished or in progress.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "type")]
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64_json: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_image_index: Option<u32>,
    created_at: u64,
    size: &'a str,
    quality: Quality,
    background: &'static str,
    output_format: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

impl<'a> Shown<'a> {
    fn new(name: &'static str, reply: &'a Reply, view: &JobView, output_format: &'a str) -> Self {
        Self {
            name,
            b64_json: None,
            url: None,
            partial_image_index: None,
            created_at: seconds(view.created),
            size: reply.size.as_deref().unwrap_or("auto"),
            quality: reply.quality,
            background: reply.background(),
            output_format,
            usage: None,
            seed: None,
            warnings: &[],
        }
    }
}

/// What one listener was told.
#[derive(Debug, Default)]
pub struct Cursor {
    partials: u32,
    preview: Option<u32>,
}

/// What is to be told about a job at one moment. The last events hold the finished pictures, or the error. A preview may be
/// encoded again here: not for the async runtime.
pub fn events(reply: &Reply, view: &JobView, links: &Links<'_>, request_id: &str, told: &mut Cursor) -> Vec<Event> {
    if view.state.is_final() {
        return finished(reply, view, links).unwrap_or_else(|error| vec![error_event(&error, request_id)]);
    }
    partial(reply, view, told).into_iter().collect()
}

/// The preview, if it is time for one: they are spread over the steps of the work.
fn partial(reply: &Reply, view: &JobView, told: &mut Cursor) -> Option<Event> {
    let most = reply.stream.unwrap_or_default();
    let preview = view.progress.preview.as_ref()?;
    let news = told.preview != Some(preview.number);
    if !news || told.partials >= most || done(&view.progress) < f64::from(told.partials) / f64::from(most) {
        return None;
    }
    told.preview = Some(preview.number);
    let index = told.partials;
    told.partials += 1;
    let name = reply.operation.event(true);
    let (image, format) = shown_as(reply.format, preview);
    let shown = Shown {
        b64_json: Some(STANDARD.encode(image)),
        partial_image_index: Some(index),
        ..Shown::new(name, reply, view, format)
    };
    Some(Event::new(name, &shown))
}

/// A preview in the format that was asked for. Where none was it stays as ComfyUI made it, and so does one that cannot be
/// encoded: it is told as what it is.
fn shown_as(asked: Option<ImageFormat>, preview: &PreviewImage) -> (Cow<'_, [u8]>, &str) {
    let own = preview.media_type.trim_start_matches("image/");
    let Some(format) = asked.filter(|format| format.as_str() != own) else {
        return (Cow::Borrowed(&preview.image), own);
    };
    match Picture::decode(&preview.image).and_then(|picture| picture.encode(format, PREVIEW_QUALITY)) {
        Ok(image) => (Cow::Owned(image), format.as_str()),
        Err(error) => {
            tracing::debug!(%error, "a preview stays as it is");
            (Cow::Borrowed(&preview.image), own)
        }
    }
}

/// The share of the work that is done, 0 to 1.
fn done(progress: &Progress) -> f64 {
    match progress.step {
        Some((step, steps)) if steps > 0 => f64::from(step) / f64::from(steps),
        _ => f64::from(progress.percent) / 100.0,
    }
}

fn finished(reply: &Reply, view: &JobView, links: &Links<'_>) -> Result<Vec<Event>, JobError> {
    let outcome = outcome(view)?;
    let name = reply.operation.event(false);
    let shown = pictures(outcome).map(|(index, file)| {
        let mut splices = Splices::default();
        let text = file.base64.clone().map(|text| splices.insert(text));
        let shown = Shown {
            url: text.is_none().then(|| links.of(view, index, file)),
            b64_json: text,
            usage: Some(Usage::default()),
            seed: seed(reply, outcome),
            warnings: &outcome.warnings,
            ..Shown::new(name, reply, view, format_of(outcome))
        };
        Event::of(name, splices.answer(200, &shown))
    });
    Ok(shown.collect())
}

/// An error once the stream has begun; the clients raise it as they raise an answer's.
pub fn error_event(error: &JobError, request_id: &str) -> Event {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(rename = "type")]
        name: &'static str,
        error: ErrorObject<'a>,
    }
    let body = Body {
        name: "error",
        error: ErrorObject::of(error.kind.status(), error, request_id),
    };
    Event::new("error", &body)
}
