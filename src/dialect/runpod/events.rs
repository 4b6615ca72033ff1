//! The events of `/events/{id}`: `progress` and `preview` while the job waits and runs, then one `status` with the final
//! answer.

use base64::Engine as _;
use serde::Serialize;

use super::answers::{ProgressBody, render_error, status, status_word};
use crate::dialect::answer::Event;
use crate::dialect::links::Links;
use crate::encoding::STANDARD;
use crate::error::JobError;
use crate::job::JobView;
use crate::job::progress::PreviewImage;

#[derive(Serialize)]
struct Seen<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(flatten)]
    progress: ProgressBody<'a>,
}

/// A picture of the work in progress.
#[derive(Serialize)]
pub(super) struct Preview<'a> {
    media_type: &'a str,
    image: String,
}

impl<'a> From<&'a PreviewImage> for Preview<'a> {
    fn from(preview: &'a PreviewImage) -> Self {
        Self {
            media_type: &preview.media_type,
            image: STANDARD.encode(&preview.image),
        }
    }
}

/// What one listener was told last.
#[derive(Debug, Default)]
pub struct Cursor {
    progress: Option<Event>,
    preview: Option<u32>,
}

/// The last event of a stream that ends before the job does, since the worker stops: the job is kept.
pub fn stopping(error: &JobError) -> Event {
    Event::of("stopping", render_error(error))
}

/// What is to be told about a job at one moment: what differs from what was told last.
pub fn events(view: &JobView, links: Option<&Links<'_>>, told: &mut Cursor) -> Vec<Event> {
    if view.state.is_final() {
        return vec![Event::of("status", status(view, links))];
    }
    let mut events = Vec::new();
    let seen = Seen {
        status: status_word(view.state),
        position: view.position,
        progress: ProgressBody::from(&view.progress),
    };
    let progress = Event::new("progress", &seen);
    if told.progress.as_ref() != Some(&progress) {
        told.progress = Some(progress.clone());
        events.push(progress);
    }
    if let Some(preview) = &view.progress.preview
        && told.preview != Some(preview.number)
    {
        told.preview = Some(preview.number);
        events.push(Event::new("preview", &Preview::from(&**preview)));
    }
    events
}
