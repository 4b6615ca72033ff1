//! The short answers, and errors outside the stream.

use serde::Serialize;
use utoipa::ToSchema;

use crate::dialect::answer::Answer;
use crate::error::JobError;
use crate::job::JobId;

/// What is answered where an event joins the queue.
#[derive(Serialize, ToSchema)]
pub struct Joined<'a> {
    /// The event's id, which is the job's.
    event_id: &'a str,
}

/// An event joined the queue.
pub fn joined(id: &JobId) -> Answer {
    let event_id = id.as_str();
    Answer::json(200, &Joined { event_id })
}

/// What `/cancel` and `/reset` answer.
#[derive(Serialize, ToSchema)]
pub struct Success {
    success: bool,
}

/// The answer, whether or not there was something to do.
pub fn success() -> Answer {
    Answer::json(200, &Success { success: true })
}

/// An error outside the stream.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    detail: Detail,
}

/// What is wrong with a body is a list, as FastAPI's.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Detail {
    Text(String),
    Problems([Problem; 1]),
}

#[derive(Serialize, ToSchema)]
struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    loc: [&'static str; 1],
    msg: String,
}

/// An error with the statuses that the clients know: 422 for a body that is wrong in itself, 503 for a queue that is full.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    let text = error.full_text();
    let (status, detail) = match status {
        400 => {
            let (kind, loc) = ("value_error", ["body"]);
            (422, Detail::Problems([Problem { kind, loc, msg: text }]))
        }
        429 => (503, Detail::Text(text)),
        status => (status, Detail::Text(text)),
    };
    Answer::json(status, &ErrorBody { detail })
}
