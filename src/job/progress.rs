//! How far a job is: percent over the whole graph, the node at work, steps, and the time still needed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It waits for ComfyUI or for its turn.
    #[default]
    Waiting,
    /// Its images are uploaded and its graph is checked.
    Preparing,
    /// Models that its graph names are fetched.
    Downloading,
    /// Its graph runs.
    Running,
    /// What it left is looked for.
    Collecting,
    /// Its files are made ready for the answer, or uploaded.
    Delivering,
    /// It is over, well or not.
    Done,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Percent of the whole graph, 0 to 100; never falls, and is 100 only at the end.
    pub percent: u8,
    /// The node at work.
    pub node_id: Option<String>,
    /// Its class.
    pub class_type: Option<String>,
    /// Steps of that node that are done, and in all.
    pub step: Option<(u32, u32)>,
    /// The time still needed, by the pace so far.
    pub eta: Option<Duration>,
    /// The models that are fetched for it.
    pub download: Option<Download>,
    /// The last preview picture.
    #[serde(skip)]
    pub preview: Option<Arc<PreviewImage>>,
}

/// How far the models are that are being fetched.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Download {
    /// The file at work, as `folder/name`; the first one if there are several.
    pub file: String,
    /// Bytes of all files that are there.
    pub bytes: u64,
    /// Bytes of all files, once every size is known.
    pub total_bytes: Option<u64>,
    /// The time still needed, by the pace so far.
    pub eta: Option<Duration>,
}

impl Download {
    /// Percent of the bytes, 0 to 100, where their sum is known.
    pub fn percent(&self) -> Option<u8> {
        let total = self.total_bytes.filter(|total| *total > 0)?;
        u8::try_from(self.bytes.min(total).saturating_mul(100) / total).ok()
    }
}

impl Progress {
    /// The job is over. Only one that completed is at 100 percent; another stays where it came to.
    pub fn end(&mut self, completed: bool) {
        let percent = if completed { 100 } else { self.percent };
        *self = Self {
            stage: Stage::Done,
            percent,
            ..Self::default()
        };
    }
}

/// A picture of the work in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewImage {
    /// Counts up from 1 within a job.
    pub number: u32,
    /// `image/jpeg` or `image/png`.
    pub media_type: String,
    /// The encoded picture.
    pub image: Bytes,
}
