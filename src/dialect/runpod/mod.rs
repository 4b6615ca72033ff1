//! RunPod's job form: `{"input": …, "policy": …, "webhook": …}` in, `{"id", "status", "output"}` out.
//!
//! The output is that of worker-comfyui 5 (`output.images[]` with filename, subfolder and type). The shapes around it
//! are those of RunPod's operation reference (docs.runpod.io/serverless/endpoints/operation-reference), and what the
//! official clients read: Python's `runpod` 1.12.0 (`endpoint/runner.py`, `endpoint/asyncio/asyncio_runner.py`) and
//! npm's `runpod-sdk` 1.1.2 (`src/index.ts`).

mod answers;
mod control;
mod convert;
mod envelope;
mod events;
mod fields;
mod files;
mod input;
mod output;
mod platform;
mod saved;
mod strange;
mod synonyms;
mod templates;

pub use answers::{
    Brief, Cancelled, ErrorBody, Job, Purged, Requests, Streamed, accepted, brief, cancelled, purged, render,
    render_error, requests, status, status_word, status_words, stream,
};
pub use convert::{
    Body as ConversionBody, Conversion, Converted, conversion, conversion_form, converted, parse_conversion,
};
pub use envelope::{WAIT, WAIT_MS, parse, parse_status, parse_wait, wait};
pub use events::{Cursor, events, stopping};
pub use fields::request;
pub use platform::{Handed, handed_out, job_chunk, job_done, job_failed, job_progress};
pub use saved::{Workflow, parse_file};
pub use templates::{Templates, WorkerFacts, templates};

use std::time::Duration;

use input::Wishes;

/// What a request looks like, in the errors of those that do not.
const SHAPE: &str = "Send {\"input\": {\"workflow\": {…}}} or {\"input\": {\"prompt\": \"…\"}}";

/// How long the links in an answer work: as long as files are kept unless it is configured otherwise.
pub const LINKS_WORK: Duration = Duration::from_hours(14 * 24);

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod images_tests;
#[cfg(test)]
mod tests;
