//! A worker of RunPod's serverless platform: it takes jobs from the platform's queue and gives their results back.
//!
//! ```text
//!              job-take ──► [take] ──► queue ──► ComfyUI
//!              job-stop ──► [stop] ──► queue.cancel       (each job: one task of [report])
//!  job-done, job-stream ◄── [report] ◄── the job's progress and end, kept in the store until they are taken
//!                  ping ◄── [heartbeat], a thread of its own
//! ```
//!
//! The protocol is that of Python's `runpod` 1.12.0 (`serverless/modules/`): long polls for jobs and stop signals,
//! results as JSON text under a form's content type, the raw API key in `Authorization`. What the SDK loses is not lost
//! here: a result is in the store before the first post, and is posted until the platform takes it.

mod addresses;
mod client;
mod end;
mod fitness;
mod hand;
mod heartbeat;
mod poll;
mod report;
mod stop;
mod take;
mod worker;

pub use fitness::{Machine, Unfit};
pub use worker::{Limits, Reports, StartError, Worker};

/// How the worker names itself to the platform.
const AGENT: &str = concat!("qwen-image-worker/", env!("CARGO_PKG_VERSION"));
