//! A job: what was asked, how far it is, what came of it; its id, and its one life (queued → running → completed | failed |
//! cancelled | timed out).

mod assets;
mod committed;
mod content_hash;
mod contents;
mod image_header;
mod image_parts;
mod image_tiny;
mod image_whole;
mod images;
mod mask;
mod media;
mod medium;
mod outcome;
pub(crate) mod payload;
pub mod progress;
mod request;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::JobError;
use progress::Progress;

pub use assets::{AssetContent, ModelPlace, put_references};
pub use committed::{Committed, Source};
pub use content_hash::ContentHash;
pub use contents::take_contents;
pub use image_header::{BadImage, ImageHeader};
pub use images::{ImageContent, ImageName, InputImage, MOST_IMAGES, Origin, Takes};
pub use mask::{check_mask, check_mask_pixels, check_own_mask};
pub use media::weights;
pub use medium::Medium;
pub use outcome::{FileKind, Outcome, OutputFile, OutputFolder, OutputText, Recoded, shown_as};
pub use progress::Tracker;
pub use request::{
    Asked, Delivery, Dialect, JobRequest, PlatformJob, Policy, PromptOwner, SavedRequest, TemplateRequest, V2Owner,
    Work,
};
pub use watch::{End, Execution, Fetches, JobWatch};

/// A job's id: a UUID of version 7, so that ids sort by the time of their making.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct JobId(String);

impl JobId {
    /// A new id.
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// Reads an id that somebody sent; [`None`] when it cannot be one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let id = uuid::Uuid::try_parse(text).ok()?.to_string();
        (id == text).then_some(Self(id))
    }

    /// A seed that is this job's, at each attempt: it fits a JavaScript number, since clients read it back from JSON.
    pub fn seed(&self) -> u64 {
        // The last 62 bits of an id are random.
        let bits = uuid::Uuid::try_parse(&self.0).map_or(0, |id| id.as_u64_pair().1);
        bits & ((1 << 53) - 1)
    }

    /// The id as text: lower-case letters, digits and hyphens, so it may stand in a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for JobId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a job is in its life. Every dialect says it in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// It is in ComfyUI's hands, or on its way to or from there.
    Running,
    /// It made what it was asked for.
    Completed,
    /// It could not.
    Failed,
    /// Its owner cancelled it.
    Cancelled,
    /// Its time was over.
    TimedOut,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
    ];

    /// Whether nothing can follow but a retry that the owner asks for.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// Whether `next` may follow: the one place that knows the legal steps.
    ///
    /// A queued job may complete: that it began may not have been stored. A running job goes back to the queue when the
    /// worker was ended under it. A job that did not complete may be
    /// queued again by its owner (RunPod's `/retry`).
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => next != Self::Queued,
            Self::Running => next != Self::Running,
            Self::Failed | Self::TimedOut | Self::Cancelled => next == Self::Queued,
            Self::Completed => false,
        }
    }

    /// As the store and the logs write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
    /// Its outputs that have ids of their own, in the order of their coming: for jobs of [`Dialect::ComfyV2`].
    pub outputs: Arc<Vec<Committed>>,
    /// What it made, once it is completed; why it ended otherwise.
    pub result: Option<Result<Arc<Outcome>, Arc<JobError>>>,
    /// What ComfyUI's `/history/{prompt_id}` held of it, as JSON, with the job's id for the prompt's: for jobs of
    /// [`Dialect::Comfyui`] that have ended, where ComfyUI got so far.
    pub entry: Option<Arc<str>>,
}

/// A place in a list of jobs, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// When the job came that stands there, in microseconds since 1970.
    pub created: i64,
    /// Its id.
    pub id: String,
}

impl Place {
    /// Where the list begins.
    pub fn before_all() -> Self {
        Self {
            created: i64::MAX,
            id: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_completed_stays_so_and_final_states_lead_only_back_to_the_queue() {
        for state in JobState::ALL {
            assert!(!JobState::Completed.may_become(state));
            assert_eq!(JobState::parse(state.as_str()), Some(state));
            for next in JobState::ALL {
                if state.is_final() && state.may_become(next) {
                    assert_eq!(next, JobState::Queued);
                }
            }
        }
    }
}
