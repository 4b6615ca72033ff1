//! What a client hears of a job on `GET /api/v2/jobs/{id}/events`.
//!
//! Its SDKs stop reading at the terminal `status`, so all else comes before that; and npm's passes over a progress that is lower
//! than one before, so the value never falls.

use base64::Engine as _;
use serde::Serialize;

use super::jobs::{self, Snapshot, Status};
use super::outputs::{Output, Places};
use crate::dialect::answer::{Answer, Event, Splices};
use crate::encoding::STANDARD;
use crate::job::progress::PreviewImage;
use crate::job::{JobState, JobView};

/// What a client has heard so far.
#[derive(Debug, Default)]
pub struct Cursor {
    status: Option<(&'static str, Option<usize>)>,
    progress: Option<String>,
    value: f64,
    preview: u32,
    outputs: Vec<String>,
    /// The nodes of the graph.
    nodes: u32,
}

#[derive(Serialize)]
struct StatusEvent {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<usize>,
}

#[derive(Serialize)]
struct PreviewEvent<'a> {
    node_id: &'a str,
    content_type: &'a str,
    data_base64: String,
}

/// Whether a change is told at once: others wait, so that there are some two a second.
pub fn is_urgent(told: &JobView, now: &JobView) -> bool {
    told.state != now.state || told.position != now.position || told.outputs.len() != now.outputs.len()
}

/// What is news to the client.
pub fn events(view: &JobView, places: &Places, cursor: &mut Cursor) -> Vec<Event> {
    let mut events = Vec::new();
    let is_over = view.state.is_final();
    if !is_over {
        events.extend(status(view, cursor));
    }
    cursor.nodes = cursor.nodes.max(jobs::nodes(view));
    if let Some(mut snapshot) = jobs::progress(view) {
        snapshot.value = snapshot.value.max(cursor.value);
        cursor.value = snapshot.value;
        events.extend(progress(&snapshot, cursor));
    }
    if let Some(preview) = view.progress.preview.as_deref().filter(|_| !is_over)
        && preview.number > cursor.preview
    {
        cursor.preview = preview.number;
        events.push(picture(view, preview));
    }
    for output in view.outputs.iter() {
        if !cursor.outputs.contains(&output.id) {
            cursor.outputs.push(output.id.clone());
            events.push(Event::new("output", &Output::of(view, output, places)));
        }
    }
    if is_over {
        if view.state == JobState::Completed {
            events.extend(progress(&Snapshot::whole(cursor.nodes), cursor));
        }
        events.extend(status(view, cursor));
    }
    events
}

fn status(view: &JobView, cursor: &mut Cursor) -> Option<Event> {
    let status = Status::of(view).as_str();
    let queue_position = view.position.filter(|_| view.state == JobState::Queued);
    let news = cursor.status != Some((status, queue_position));
    cursor.status = Some((status, queue_position));
    news.then(|| Event::new("status", &StatusEvent { status, queue_position }))
}

fn progress(snapshot: &Snapshot<'_>, cursor: &mut Cursor) -> Option<Event> {
    let text = serde_json::to_string(snapshot).unwrap_or_default();
    if cursor.progress.as_ref() == Some(&text) {
        return None;
    }
    cursor.progress = Some(text);
    Some(Event::new("progress", snapshot))
}

fn picture(view: &JobView, preview: &PreviewImage) -> Event {
    let mut splices = Splices::default();
    let body = PreviewEvent {
        node_id: view.progress.node_id.as_deref().unwrap_or_default(),
        content_type: &preview.media_type,
        data_base64: splices.insert(STANDARD.encode(&preview.image).into()),
    };
    let answer: Answer = splices.answer(200, &body);
    Event::of("preview", answer)
}
