//! Qwen Image Edit Plus: a job with one to three images, asked for by `/edit-image` and looked after by its id.
//!
//! The shapes and sentences are those of the API's documentation, version 2.0.0; what is wrong is told as
//! `{"detail": "…"}`.

mod answers;
mod input;

pub use answers::{
    About, Accepted, DebugFile, DebugFiles, DebugJob, Deleted, ErrorBody, Facts, Job, Jobs, about, accepted,
    debug_files, debug_job, deleted, jobs, no_job, not_ready, render_error, status,
};
pub use input::{parse, request};

use crate::job::{Dialect, JobView};

/// Whether the job is one of this API's. It knows no others.
pub fn is_ours(view: &JobView) -> bool {
    view.policy.dialect == Dialect::EditPlus
}

#[cfg(test)]
mod tests;
