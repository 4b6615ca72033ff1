//! The short answers, and errors outside the stream.

use serde_json::json;

use crate::dialect::answer::Answer;
use crate::error::JobError;
use crate::job::JobId;

/// An event joined the queue.
pub fn joined(id: &JobId) -> Answer {
    Answer::json(200, &json!({"event_id": id}))
}

/// What `/cancel` and `/reset` answer, whether or not there was something to do.
pub fn success() -> Answer {
    Answer::json(200, &json!({"success": true}))
}

/// An error outside the stream, with the statuses that the clients know: 422 for a body that is wrong in itself (its
/// `detail` is a list, as FastAPI's), 503 for a queue that is full.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    let text = error.full_text();
    match status {
        400 => Answer::json(
            422,
            &json!({"detail": [{"type": "value_error", "loc": ["body"], "msg": text}]}),
        ),
        429 => Answer::json(503, &json!({ "detail": text })),
        status => Answer::json(status, &json!({ "detail": text })),
    }
}
