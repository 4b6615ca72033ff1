//! ComfyUI's own API: a prompt is a job, and its `prompt_id` the job's id. Written after `server.py`, `execution.py` and
//! `comfy_execution/jobs.py` of ComfyUI 0.30.
//!
//! `/queue`, `/history` and `/api/jobs` tell of jobs that came by this API alone. What ComfyUI would have kept of a prompt is
//! its [`entry()`]: ComfyUI's own, or one that is made here of a job that ended without it.

mod actions;
mod asked;
mod described;
mod entry;
pub mod frames;
mod input;
mod jobs;
mod partial;
mod refusal;
mod tuple;

pub use actions::{
    Cancellation, Freeing, Interrupt, Removal, cancelled_jobs, freeing, interrupt, named_client, removal,
};
pub use asked::{JobsAsked, Order, Page, Status};
pub use described::{
    Accepted, Cancelled, ErrorBody, Job, Jobs, QueueInfo, QueueLine, cancel_request, freeing_request, history,
    interrupt_request, prompt_request, removal_request, status_words,
};
pub use entry::{EXECUTION_ERROR, EXECUTION_INTERRUPTED, EXECUTION_SUCCESS, End, end_of, entry, has_entry, timestamp};
pub use input::{LONGEST_CLIENT_ID, Numbers, Prompt, parse};
pub use jobs::{JobOf, cancelled, job, job_answer, jobs_answer, no_job};
pub use partial::{Checked, narrowed, without_what_fails};
pub use refusal::{Refusal, render_error};
pub use tuple::{accepted, queue_remaining, tuple};

use serde_json::{Map, Value};

use crate::job::JobView;

/// Keys for API nodes in `extra_data`, which nobody is shown (`SENSITIVE_EXTRA_DATA_KEYS` in `execution.py`).
const SENSITIVE: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];

/// What is shown of a prompt's `extra_data`.
fn shown(mut extra_data: Map<String, Value>, view: &JobView) -> Map<String, Value> {
    for key in SENSITIVE {
        extra_data.shift_remove(key);
    }
    for (name, value) in known(view) {
        extra_data.insert(name.to_owned(), value);
    }
    extra_data
}

/// What `extra_data` holds that is known without it.
fn known(view: &JobView) -> impl Iterator<Item = (&'static str, Value)> {
    let client_id = view.policy.prompt.as_ref().and_then(|prompt| prompt.client_id.clone());
    let client_id = client_id.map(|id| ("client_id", Value::from(id)));
    let create_time = ("create_time", Value::from(timestamp(view.created)));
    client_id.into_iter().chain([create_time])
}

#[cfg(test)]
mod tests;
