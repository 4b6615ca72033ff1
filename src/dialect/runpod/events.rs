//! The events of `/events/{id}`: `progress` and `preview` while the job waits and runs, then one `status` with the final
//! answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::answers::{ProgressBody, status, status_word};
use crate::dialect::event::{Event, line};
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
pub struct Told {
    progress: String,
    preview: Option<u32>,
}

/// What is to be told about a job at one moment: what differs from what was told last.
pub fn events(view: &JobView, told: &mut Told) -> Vec<Event> {
    if view.state.is_final() {
        let data = String::from_utf8_lossy(&status(view).to_vec()).into_owned();
        return vec![Event { name: "status", data }];
    }
    let mut events = Vec::new();
    let seen = Seen {
        status: status_word(view.state),
        position: view.position,
        progress: ProgressBody::from(&view.progress),
    };
    let data = line(&seen);
    if data != told.progress {
        told.progress.clone_from(&data);
        events.push(Event { name: "progress", data });
    }
    if let Some(preview) = &view.progress.preview
        && told.preview != Some(preview.number)
    {
        told.preview = Some(preview.number);
        let data = line(&Preview::from(&**preview));
        events.push(Event { name: "preview", data });
    }
    events
}
