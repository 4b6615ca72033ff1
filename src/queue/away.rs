//! What a ComfyUI that is away means for those who wait: jobs with an id of their own wait in the backlog, and whoever is
//! connected is told soon.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Member, Pool, Standing};
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Stage;
use crate::job::{JobId, JobState};

use super::core::Core;
use super::live_job::LiveJob;

/// How long ComfyUI may be away before those who wait for a job are told.
const SHORT: Duration = Duration::from_secs(5);
/// The same where the job has begun: what died under it is started again, most often.
const LONG: Duration = Duration::from_mins(1);

impl Core {
    /// Resolves with the reason when every engine has been away for longer than somebody may be kept waiting for this job.
    pub(super) async fn kept_waiting(&self, id: &JobId) -> JobError {
        let engines = &self.engines;
        loop {
            let reason = engines.until_away().await;
            let has_begun = self.job(id).is_some_and(|job| job.state() != JobState::Queued);
            let limit = if has_begun { LONG } else { short(engines) };
            tokio::select! {
                () = engines.until_back() => continue,
                () = tokio::time::sleep(limit) => {}
            }
            if self.needs_comfy(id) {
                return unavailable(reason);
            }
            engines.until_back().await;
        }
    }

    /// Whether an engine must come back for the job to end: not for one that is only being delivered, where its files are on
    /// this machine.
    pub(super) fn needs_comfy(&self, id: &JobId) -> bool {
        let is_delivered = |job: Arc<LiveJob>| job.view().progress.stage == Stage::Delivering;
        if let Some(job) = self.job(id)
            && self.is_with_one_elsewhere(&job)
        {
            return false;
        }
        !(self.executor.comfy().folders().is_some() && self.job(id).is_some_and(is_delivered))
    }

    fn job(&self, id: &JobId) -> Option<Arc<LiveJob>> {
        self.live(id).map(|(job, ..)| job)
    }
}

/// The same for these engines. Those elsewhere rest for half a minute when they have too much to do, and are back.
fn short(engines: &Pool) -> Duration {
    if engines.is_elsewhere() { LONG } else { SHORT }
}

/// Whatever keeps ComfyUI from being there, the request may be sent again.
fn unavailable(reason: JobError) -> JobError {
    JobError {
        kind: ErrorKind::ComfyUnavailable,
        ..reason
    }
}

/// Looks for an engine that is away, or has it started once more, while a job waits.
pub(super) async fn call_back(core: Arc<Core>, member: Arc<Member>) {
    let engine = member.engine();
    let work = async {
        loop {
            drop(engine.until_away().await);
            let wanted = core.wanted.notified();
            if !core.has_waiting() {
                tokio::select! {
                    () = wanted => {}
                    () = engine.until_not(Standing::Away) => {}
                }
                continue;
            }
            engine.called().await;
            core.changed.notify_one();
        }
    };
    tokio::select! {
        () = core.stopping.cancelled() => {}
        () = work => {}
    }
}

/// Ends jobs that live as long as their clients wait, while ComfyUI is away: these hear the reason and go elsewhere.
pub(super) async fn watch_comfy(core: Arc<Core>) {
    let engines = core.engines.clone();
    loop {
        let reason = tokio::select! {
            biased;
            () = core.stopping.cancelled() => return,
            reason = engines.until_away() => reason,
        };
        tokio::select! {
            biased;
            () = core.stopping.cancelled() => return,
            () = engines.until_back() => continue,
            () = tokio::time::sleep(short(&engines)) => {}
        }
        let unfinished = core.live.lock().unfinished();
        let reason = Arc::new(unavailable(reason));
        for job in unfinished {
            let waits = job.state() == JobState::Queued && !core.is_with_one_elsewhere(&job);
            if job.policy.dialect.ends_with_its_client() && waits {
                core.end(&job, JobState::Failed, Err(Arc::clone(&reason))).await;
            }
        }
    }
}
