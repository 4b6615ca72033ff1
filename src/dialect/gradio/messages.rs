//! The events of a session's stream.
//!
//! Each is one line of JSON after `data: `, and an empty line. Python's client takes nothing else: no comments, no
//! `event:` lines, no carriage returns.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::dialect::answer::{Answer, Splices, framed};
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
pub enum Snapshot {
    /// It is no job yet: its prompt is made better.
    Waiting,
    /// It is a job.
    Job(Box<JobView>),
    /// It becomes none.
    Refused(Arc<Refusal>),
}

impl Snapshot {
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
pub struct Cursor {
    rank: Option<usize>,
    started: bool,
    step: Option<(u32, u32)>,
}

/// A message of the stream. It begins with its kind.
#[derive(Serialize)]
#[serde(tag = "msg", rename_all = "snake_case")]
enum Message<'a> {
    Estimation {
        event_id: &'a JobId,
        rank: usize,
        queue_size: usize,
        rank_eta: Option<f64>,
    },
    ProcessStarts {
        event_id: &'a JobId,
        eta: Option<f64>,
    },
    Progress {
        event_id: &'a JobId,
        progress_data: [Steps<'a>; 1],
    },
    Log {
        event_id: &'a JobId,
        log: &'a str,
        level: &'static str,
        duration: u32,
        visible: bool,
        title: &'static str,
    },
    ProcessCompleted {
        event_id: &'a JobId,
        success: bool,
        title: Option<&'a str>,
        output: Output<'a>,
    },
}

#[derive(Serialize)]
struct Steps<'a> {
    index: u32,
    length: u32,
    unit: &'static str,
    progress: Option<f64>,
    desc: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Output<'a> {
    Made {
        data: Data,
        is_generating: bool,
        duration: f64,
        average_duration: f64,
        render_config: Option<()>,
        changed_state_ids: [(); 0],
    },
    Failed(Failure<'a>),
}

/// The picture and the seed.
#[derive(Serialize, Clone)]
struct Data(String, u64);

/// An error as the clients take it: Python's raises a `TypeError` for any other key.
#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
    title: &'a str,
    duration: u32,
    visible: bool,
}

impl<'a> Failure<'a> {
    fn of(refusal: &'a Refusal) -> Self {
        Self {
            error: &refusal.message,
            title: refusal.title,
            duration: SHOWN_S,
            visible: true,
        }
    }
}

/// What is new of an event, up to its end, which [`completed`] tells: its place, its begin, its steps. `queued` is how
/// many jobs wait; `usual` is how long one takes.
pub fn messages(id: &JobId, seen: &Snapshot, queued: usize, usual: Option<Duration>, told: &mut Cursor) -> Vec<Bytes> {
    let mut news = Vec::new();
    let (rank, queued, eta) = match seen {
        Snapshot::Waiting => (Some(queued), queued + 1, None),
        Snapshot::Job(view) if view.state == JobState::Queued => {
            let rank = view.position.map(|position| position.saturating_sub(1));
            let rank = rank.or_else(|| told.rank.is_none().then_some(queued.saturating_sub(1)));
            (rank, queued, view.progress.eta)
        }
        // It is the next to run, or has run.
        Snapshot::Job(_) | Snapshot::Refused(_) if told.rank.is_none() => (Some(0), 1, usual),
        Snapshot::Job(_) | Snapshot::Refused(_) => (None, queued, None),
    };
    if let Some(rank) = rank.filter(|rank| told.rank != Some(*rank)) {
        told.rank = Some(rank);
        news.extend(line(&Message::Estimation {
            event_id: id,
            rank,
            queue_size: queued.max(rank + 1),
            rank_eta: eta.map(seconds),
        }));
    }
    let waits = match seen {
        Snapshot::Waiting => true,
        Snapshot::Job(view) => view.state == JobState::Queued,
        Snapshot::Refused(_) => false,
    };
    if !waits && !told.started {
        told.started = true;
        news.extend(line(&Message::ProcessStarts {
            event_id: id,
            eta: usual.map(seconds),
        }));
    }
    if let Snapshot::Job(view) = seen
        && !view.state.is_final()
        && let Some((done, all)) = view.progress.step
        && told.step != Some((done, all))
    {
        told.step = Some((done, all));
        let class = view.progress.class_type.as_deref().unwrap_or_default();
        let desc = if class.contains("Sampler") { "denoising" } else { class };
        let steps = Steps {
            index: done,
            length: all,
            unit: "steps",
            progress: None,
            desc,
        };
        news.extend(line(&Message::Progress {
            event_id: id,
            progress_data: [steps],
        }));
    }
    news
}

/// How an event ended: the picture's data URI, with its base64 in its place, or why there is none.
fn result(event: &Snapshot, seed: u64, splices: &mut Splices) -> Result<Data, Refusal> {
    let not_yet = || Err(Refusal::from(&JobError::internal("the event has not ended")));
    match event {
        Snapshot::Job(view) => match &view.result {
            Some(Ok(outcome)) => picture(outcome, splices).map(|picture| Data(picture, seed)),
            Some(Err(error)) => Err(Refusal::from(&**error)),
            None => not_yet(),
        },
        Snapshot::Refused(refusal) => Err(Refusal::clone(refusal)),
        Snapshot::Waiting => not_yet(),
    }
}

/// The first picture: in the answer, or its address where it lies in a bucket since it is too large for an answer.
fn picture(outcome: &Outcome, splices: &mut Splices) -> Result<String, Refusal> {
    let image = outcome.wanted().find(|file| file.kind == FileKind::Image);
    let image = image.ok_or_else(|| {
        let error = JobError::new(ErrorKind::NodeFailed, "The graph made no picture");
        Refusal::from(&error.hint("Look at the template `qwen-image` in WORKFLOWS_DIR."))
    })?;
    match (&image.base64, &image.url) {
        (Some(text), _) => {
            let media_type = image.media_type();
            Ok(format!("data:{media_type};base64,{}", splices.insert(text.clone())))
        }
        (None, Some(url)) => Ok(url.clone()),
        (None, None) => Err(Refusal::from(&JobError::internal("the picture was not read"))),
    }
}

/// The end of an event: what to know of it, and the picture and the seed, or an error. A job's files must be in its outcome.
pub fn completed(id: &JobId, event: &Snapshot, seed: u64, usual: Option<Duration>) -> Vec<Bytes> {
    let mut splices = Splices::default();
    let made = result(event, seed, &mut splices);
    let output = match &made {
        Ok(data) => {
            let duration = match event {
                Snapshot::Job(view) => seconds(view.execution),
                Snapshot::Waiting | Snapshot::Refused(_) => 0.0,
            };
            Output::Made {
                data: data.clone(),
                is_generating: false,
                duration,
                average_duration: usual.map_or(duration, seconds),
                render_config: None,
                changed_state_ids: [],
            }
        }
        Err(refusal) => Output::Failed(Failure::of(refusal)),
    };
    let completed = Message::ProcessCompleted {
        event_id: id,
        success: made.is_ok(),
        title: made.as_ref().err().map(|refusal| refusal.title),
        output,
    };
    let mut told = warnings(id, event);
    told.extend(framed("data: ", splices.answer(200, &completed).pieces));
    told
}

/// What the user should know although the event succeeded, as `gr.Warning` tells it.
fn warnings(id: &JobId, event: &Snapshot) -> Vec<Bytes> {
    let Snapshot::Job(view) = event else { return Vec::new() };
    let Some(Ok(outcome)) = &view.result else {
        return Vec::new();
    };
    let tell = |warning: &String| {
        line(&Message::Log {
            event_id: id,
            log: warning,
            level: "warning",
            duration: SHOWN_S,
            visible: true,
            title: "Warning",
        })
    };
    outcome.warnings.iter().flat_map(tell).collect()
}

/// The end of an event as `/call` tells it: `event: complete` with the values, or `event: error`.
pub fn call_result(event: &Snapshot, seed: u64) -> Vec<Bytes> {
    let mut splices = Splices::default();
    match result(event, seed, &mut splices) {
        Ok(data) => framed("event: complete\ndata: ", splices.answer(200, &data).pieces),
        Err(refusal) => framed(
            "event: error\ndata: ",
            splices.answer(200, &Failure::of(&refusal)).pieces,
        ),
    }
}

fn line(message: &Message<'_>) -> Vec<Bytes> {
    framed("data: ", Answer::json(200, message).pieces)
}

/// Seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
