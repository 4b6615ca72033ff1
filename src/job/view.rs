//! A job as anybody may see it at one moment.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::progress::Progress;
use super::{JobId, JobState, Outcome, Policy};
use crate::error::JobError;

/// A job as it is at one moment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// What its request says about its handling.
    pub policy: Arc<Policy>,
    /// Where it is in its life.
    pub state: JobState,
    /// How far it is.
    pub progress: Progress,
    /// Its place in the queue while it is queued: 1 is the next.
    pub position: Option<usize>,
    /// When it came.
    pub created: SystemTime,
    /// From its coming to the begin of its execution, or until now while it waits.
    pub delay: Duration,
    /// From the begin of its execution to its end, or until now.
    pub execution: Duration,
    /// What it made, once it is completed; why it ended otherwise.
    pub result: Option<Result<Arc<Outcome>, Arc<JobError>>>,
}
