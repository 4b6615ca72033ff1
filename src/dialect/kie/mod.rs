//! KIE's tasks.

use crate::dialect::answer::Answer;
use crate::error::JobError;

/// The answer to a request that never became a task, or that asks for one that is not there.
pub fn render_error(status: u16, error: &JobError) -> Answer {
    Answer::json(
        status,
        &serde_json::json!({"code": status, "msg": error.full_text(), "data": null}),
    )
}
