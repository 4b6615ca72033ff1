//! What a ComfyUI that is away means for those who wait: jobs with an id of their own wait in the line, and whoever is
//! connected is told soon.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{ErrorKind, JobError};
use crate::job::progress::Stage;
use crate::job::{JobId, JobState};

use super::entry::{Entry, lock};
use super::inner::Inner;

/// How long ComfyUI may be away before those who wait for a job are told.
const SHORT: Duration = Duration::from_secs(5);
/// The same where the job has begun: what died under it is started again, most often.
const LONG: Duration = Duration::from_mins(1);

impl Inner {
    /// Resolves with the reason when ComfyUI has been away for longer than somebody may be kept waiting for this job.
    pub(super) async fn kept_waiting(&self, id: &str) -> JobError {
        let comfy = self.executor.comfy();
        loop {
            let reason = comfy.until_away().await;
            let has_begun = self.entry(id).is_some_and(|entry| entry.state() != JobState::Queued);
            let limit = if has_begun { LONG } else { SHORT };
            tokio::select! {
                () = comfy.until_back() => continue,
                () = tokio::time::sleep(limit) => {}
            }
            if self.needs_comfy(id) {
                return unavailable(reason);
            }
            comfy.until_back().await;
        }
    }

    /// Whether ComfyUI must come back for the job to end: not for one that is only being delivered, where its files are on
    /// this machine.
    pub(super) fn needs_comfy(&self, id: &str) -> bool {
        let is_delivered = |entry: Arc<Entry>| entry.view().progress.stage == Stage::Delivering;
        !(self.executor.comfy().is_supervised() && self.entry(id).is_some_and(is_delivered))
    }

    fn entry(&self, id: &str) -> Option<Arc<Entry>> {
        JobId::parse(id).and_then(|id| self.live(&id)).map(|(entry, ..)| entry)
    }
}

/// Whatever keeps ComfyUI from being there, the request may be sent again.
fn unavailable(reason: JobError) -> JobError {
    JobError {
        kind: ErrorKind::ComfyUnavailable,
        ..reason
    }
}

/// Ends jobs that live as long as their clients wait, while ComfyUI is away: these hear the reason and go elsewhere.
pub(super) async fn watch_comfy(inner: Arc<Inner>) {
    let comfy = inner.executor.comfy().clone();
    loop {
        let reason = tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            reason = comfy.until_away() => reason,
        };
        tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            () = comfy.until_back() => continue,
            () = tokio::time::sleep(SHORT) => {}
        }
        let unfinished = lock(&inner.live).unfinished();
        let reason = Arc::new(unavailable(reason));
        for entry in unfinished {
            if entry.policy.dialect.ends_with_its_client() && entry.state() == JobState::Queued {
                inner.end(&entry, JobState::Failed, Err(Arc::clone(&reason))).await;
            }
        }
    }
}
