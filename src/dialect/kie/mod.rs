//! KIE's tasks for Qwen images. `/api/v1/jobs/createTask` takes one in, `/api/v1/jobs/recordInfo` tells how it is, and
//! `callBackUrl` hears of its end. `/api/v1/qwen/generate` and `/api/v1/qwen/record-info` do the same in the words of the
//! specification. A task of one can be looked at by the other.
//!
//! Every answer is `{"code", "msg", "data"}`; what the specification shows of a record without that envelope stands
//! beside it.

mod fields;
mod input;
mod jobs;
mod models;
mod record;

use std::time::Duration;

use crate::job::{JobId, JobRequest, Policy};

pub use fields::{request, task, task_asked_for};
pub use input::{Options, parse, parse_create, parse_task, unknown};
pub use jobs::{JobAnswer, record_info};
pub use record::{Accepted, ErrorBody, RecordAnswer, accepted, call_back, record, render_error};

/// How long links to a task's pictures work, as the specification promises: "Storage: 14 days".
pub const LINKS_WORK: Duration = Duration::from_hours(14 * 24);

/// What stands before the id of a job in the id of its task.
const PREFIX: &str = "qwen_task_";

/// A task: its job, and how that is handled.
#[derive(Debug)]
pub struct Task {
    /// The job.
    pub request: JobRequest,
    /// How it is handled.
    pub policy: Policy,
}

/// The id of a job's task.
fn task_id(job: &JobId) -> String {
    format!("{PREFIX}{job}")
}

/// The id of a task's job; any other text as it is.
pub fn job_of(id: &str) -> &str {
    id.strip_prefix(PREFIX).unwrap_or(id)
}

#[cfg(test)]
mod jobs_tests;
#[cfg(test)]
mod tests;
