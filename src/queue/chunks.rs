//! The progress that `/stream` hands out, each chunk once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::job::progress::Progress;

/// The most progress chunks that wait to be handed out by `/stream`; the oldest go first.
const MOST_CHUNKS: usize = 200;
/// The shortest time between two chunks.
const CHUNK_EVERY: Duration = Duration::from_millis(250);

/// Chunks that wait to be handed out.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    waiting: VecDeque<Progress>,
    last: Option<(Instant, u8)>,
}

impl Chunks {
    /// The job is so far.
    pub(super) fn add(&mut self, progress: &Progress) {
        let now = Instant::now();
        let due = self
            .last
            .is_none_or(|(last, percent)| progress.percent != percent && now - last >= CHUNK_EVERY);
        if due && progress.percent > 0 {
            self.last = Some((now, progress.percent));
            if self.waiting.len() == MOST_CHUNKS {
                self.waiting.pop_front();
            }
            self.waiting.push_back(Progress {
                preview: None,
                ..progress.clone()
            });
        }
    }

    /// Those that have not been handed out yet.
    pub(super) fn take(&mut self) -> Vec<Progress> {
        self.waiting.drain(..).collect()
    }
}
