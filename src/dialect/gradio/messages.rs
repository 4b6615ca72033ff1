//! The events of a session's stream.
//!
//! Each is one line of JSON after `data: `, and an empty line. Python's client takes nothing else: no comments, no
//! `event:` lines, no carriage returns.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use crate::dialect::answer::Places;
use crate::dialect::event::framed;
use crate::error::{ErrorKind, JobError};
use crate::job::{FileKind, JobId, JobState, JobView, Outcome};

/// Keeps a quiet stream open.
pub const HEARTBEAT: Bytes = Bytes::from_static(b"data: {\"msg\":\"heartbeat\",\"event_id\":null}\n\n");
/// The session has no event left; the stream ends after it. Sent earlier it would cut the others off.
pub const CLOSE_STREAM: Bytes = Bytes::from_static(b"data: {\"msg\":\"close_stream\",\"event_id\":null}\n\n");
/// The session has no event at all; the stream ends after it.
pub const UNKNOWN_SESSION: Bytes = Bytes::from_static(
    b"data: {\"msg\":\"unexpected_error\",\"event_id\":null,\"message\":\"404: Not Found\",\"session_not_found\":true,\"success\":false}\n\n",
);
/// Keeps a quiet stream of `/call` open.
pub const CALL_HEARTBEAT: Bytes = Bytes::from_static(b"event: heartbeat\ndata: null\n\n");

/// How long a page shows an error, in seconds (Gradio's own default).
const SHOWN_S: u32 = 10;

/// Why an event failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What stands above the message.
    pub title: &'static str,
    /// What went wrong.
    pub message: String,
}

impl From<&JobError> for Refusal {
    fn from(error: &JobError) -> Self {
        let title = match error.kind {
            ErrorKind::Cancelled => "Cancelled",
            ErrorKind::TimedOut => "Timed out",
            _ => "Error",
        };
        Self {
            title,
            message: error.full_text(),
        }
    }
}

/// Where an event is.
#[derive(Debug, Clone)]
pub enum Seen {
    /// It is no job yet: its prompt is made better.
    Waiting,
    /// It is a job.
    Job(Box<JobView>),
    /// It becomes none.
    Refused(Arc<Refusal>),
}

impl Seen {
    /// Whether nothing can follow.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Waiting => false,
            Self::Job(view) => view.state.is_final(),
            Self::Refused(_) => true,
        }
    }
}

/// What was told of an event.
#[derive(Debug, Default)]
pub struct Told {
    rank: Option<usize>,
    started: bool,
    step: Option<(u32, u32)>,
}

/// What is new of an event, up to its end, which [`completed`] tells: its place, its begin, its steps. `queued` is how
/// many jobs wait; `usual` is how long one takes.
pub fn messages(id: &JobId, seen: &Seen, queued: usize, usual: Option<Duration>, told: &mut Told) -> Vec<Bytes> {
    let mut news = Vec::new();
    let (rank, queued, eta) = match seen {
        Seen::Waiting => (Some(queued), queued + 1, None),
        Seen::Job(view) if view.state == JobState::Queued => {
            let rank = view.position.map(|position| position.saturating_sub(1));
            let rank = rank.or_else(|| told.rank.is_none().then_some(queued.saturating_sub(1)));
            (rank, queued, view.progress.eta)
        }
        // It is the next to run, or has run.
        Seen::Job(_) | Seen::Refused(_) if told.rank.is_none() => (Some(0), 1, usual),
        Seen::Job(_) | Seen::Refused(_) => (None, queued, None),
    };
    if let Some(rank) = rank.filter(|rank| told.rank != Some(*rank)) {
        told.rank = Some(rank);
        let size = queued.max(rank + 1);
        news.push(line(&json!({
            "msg": "estimation", "event_id": id, "rank": rank, "queue_size": size, "rank_eta": eta.map(seconds),
        })));
    }
    let waits = match seen {
        Seen::Waiting => true,
        Seen::Job(view) => view.state == JobState::Queued,
        Seen::Refused(_) => false,
    };
    if !waits && !told.started {
        told.started = true;
        news.push(line(
            &json!({"msg": "process_starts", "event_id": id, "eta": usual.map(seconds)}),
        ));
    }
    if let Seen::Job(view) = seen
        && !view.state.is_final()
        && let Some((done, all)) = view.progress.step
        && told.step != Some((done, all))
    {
        told.step = Some((done, all));
        let class = view.progress.class_type.as_deref().unwrap_or_default();
        let desc = if class.contains("Sampler") { "denoising" } else { class };
        news.push(line(&json!({
            "msg": "progress", "event_id": id,
            "progress_data": [{"index": done, "length": all, "unit": "steps", "progress": null, "desc": desc}],
        })));
    }
    news
}

/// The picture and the seed.
#[derive(Serialize)]
struct Data(String, u64);

/// How an event ended: the picture's data URI, with its base64 in its place, or why there is none.
fn result(event: &Seen, seed: u64, places: &mut Places) -> Result<Data, Refusal> {
    let not_yet = || Err(Refusal::from(&JobError::internal("the event has not ended")));
    match event {
        Seen::Job(view) => match &view.result {
            Some(Ok(outcome)) => picture(outcome, places).map(|picture| Data(picture, seed)),
            Some(Err(error)) => Err(Refusal::from(&**error)),
            None => not_yet(),
        },
        Seen::Refused(refusal) => Err(Refusal::clone(refusal)),
        Seen::Waiting => not_yet(),
    }
}

/// The first picture: in the answer, or its address where it lies in a bucket since it is too large for an answer.
fn picture(outcome: &Outcome, places: &mut Places) -> Result<String, Refusal> {
    let image = outcome.wanted().find(|file| file.kind == FileKind::Image);
    let image = image.ok_or_else(|| {
        let error = JobError::new(ErrorKind::NodeFailed, "The graph made no picture");
        Refusal::from(&error.hint("Look at the template `qwen-image` in WORKFLOWS_DIR."))
    })?;
    match (&image.base64, &image.url) {
        (Some(text), _) => {
            let media_type = image.media_type();
            Ok(format!("data:{media_type};base64,{}", places.take(text.clone())))
        }
        (None, Some(url)) => Ok(url.clone()),
        (None, None) => Err(Refusal::from(&JobError::internal("the picture was not read"))),
    }
}

/// An error as the clients take it: Python's raises a `TypeError` for any other key.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    title: &'a str,
    duration: u32,
    visible: bool,
}

impl<'a> ErrorBody<'a> {
    fn of(refusal: &'a Refusal) -> Self {
        Self {
            error: &refusal.message,
            title: refusal.title,
            duration: SHOWN_S,
            visible: true,
        }
    }
}

/// The end of an event: what to know of it, and the picture and the seed, or an error. A job's files must be in its outcome.
pub fn completed(id: &JobId, event: &Seen, seed: u64, usual: Option<Duration>) -> Vec<Bytes> {
    #[derive(Serialize)]
    struct Completed<'a, T> {
        msg: &'static str,
        event_id: &'a JobId,
        success: bool,
        title: Option<&'a str>,
        output: T,
    }
    #[derive(Serialize)]
    struct Output {
        data: Data,
        is_generating: bool,
        duration: f64,
        average_duration: f64,
        render_config: Option<()>,
        changed_state_ids: [(); 0],
    }
    let msg = "process_completed";
    let mut places = Places::default();
    let body = match result(event, seed, &mut places) {
        Ok(data) => {
            let duration = match event {
                Seen::Job(view) => seconds(view.execution),
                Seen::Waiting | Seen::Refused(_) => 0.0,
            };
            let output = Output {
                data,
                is_generating: false,
                duration,
                average_duration: usual.map_or(duration, seconds),
                render_config: None,
                changed_state_ids: [],
            };
            places.answer(
                200,
                &Completed {
                    msg,
                    event_id: id,
                    success: true,
                    title: None,
                    output,
                },
            )
        }
        Err(refusal) => places.answer(
            200,
            &Completed {
                msg,
                event_id: id,
                success: false,
                title: Some(refusal.title),
                output: ErrorBody::of(&refusal),
            },
        ),
    };
    let mut told = warnings(id, event);
    told.extend(framed("data: ", body.pieces));
    told
}

/// What the user should know although the event succeeded, as `gr.Warning` tells it.
fn warnings(id: &JobId, event: &Seen) -> Vec<Bytes> {
    let Seen::Job(view) = event else { return Vec::new() };
    let Some(Ok(outcome)) = &view.result else {
        return Vec::new();
    };
    let tell = |warning: &String| {
        line(&json!({
            "msg": "log", "event_id": id, "log": warning, "level": "warning", "duration": SHOWN_S, "visible": true,
            "title": "Warning",
        }))
    };
    outcome.warnings.iter().map(tell).collect()
}

/// The end of an event as `/call` tells it: `event: complete` with the values, or `event: error`.
pub fn call_result(event: &Seen, seed: u64) -> Vec<Bytes> {
    let mut places = Places::default();
    match result(event, seed, &mut places) {
        Ok(data) => framed("event: complete\ndata: ", places.answer(200, &data).pieces),
        Err(refusal) => framed(
            "event: error\ndata: ",
            places.answer(200, &ErrorBody::of(&refusal)).pieces,
        ),
    }
}

fn line(body: &serde_json::Value) -> Bytes {
    Bytes::from(format!("data: {body}\n\n"))
}

/// Seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
