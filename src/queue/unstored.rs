//! Ends that could not be stored when they came: the disk was full, or another program held the database. They are kept in
//! memory, with their webhooks, and written again until they are stored or the store says that they never can be. Whoever
//! asks for such a job is answered from memory meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::JobError;
use crate::net::retry::RetryPolicy;

use super::Queue;
use super::core::Core;
use super::store::{Finished, StoreError};
use crate::job::JobId;

/// The waits between two tries.
const AGAIN: RetryPolicy = RetryPolicy::doubling(Duration::from_millis(250), Duration::from_secs(5));
/// How long a worker that ends goes on trying.
const LAST_TRIES: Duration = Duration::from_secs(10);

/// What is still to be stored of jobs that ended.
#[derive(Debug, Default)]
pub(super) struct Unstored {
    ends: Mutex<BTreeMap<JobId, Step>>,
    /// Held while one of them is written: what is known of it changes only in between.
    writing: tokio::sync::Mutex<()>,
    came: Notify,
    /// Ends that are being stored for the first time.
    on_their_way: TaskTracker,
}

#[derive(Debug, Clone)]
enum Step {
    /// The job's end.
    End(Box<Finished>),
    /// That the platform was told.
    Reported,
}

impl Unstored {
    fn keep(&self, id: &JobId, step: Step) {
        self.ends.lock().insert(id.clone(), step);
        self.came.notify_one();
    }

    /// An end comes. It is on its way until what this gives is dropped.
    pub(super) fn end_comes(&self) -> TaskTrackerToken {
        self.on_their_way.token()
    }

    /// Keeps an end that the store did not take.
    pub(super) fn keep_end(&self, id: &JobId, end: Finished) {
        self.keep(id, Step::End(Box::new(end)));
    }

    fn get(&self, id: &JobId) -> Option<Step> {
        self.ends.lock().get(id).cloned()
    }

    fn ids(&self) -> Vec<JobId> {
        self.ends.lock().keys().cloned().collect()
    }
}

impl Core {
    /// Stores what is left to be stored of this job, before anything else is done with it.
    pub(super) async fn store_what_is_left(&self, id: &JobId) -> Result<(), StoreError> {
        if self.unstored.get(id).is_none() {
            return Ok(());
        }
        let _writing = self.unstored.writing.lock().await;
        let Some(mut step) = self.unstored.get(id) else {
            return Ok(());
        };
        if let Step::End(end) = &mut step
            && let Some((job, ..)) = self.live(id)
            && job.has_ended()
        {
            // Some may have been told since the end.
            end.files = job.left();
        }
        let written = match &step {
            Step::End(end) => self.store.finish(id, Finished::clone(end)).await.map(|_| ()),
            Step::Reported => self.store.reported(id).await,
        };
        match written {
            Ok(()) => tracing::info!(job.id = id.as_str(), "what could not be stored of a job is stored now"),
            Err(error) if error.is_final() => {
                tracing::error!(
                    job.id = id.as_str(),
                    "what could not be stored of a job never can be: {}",
                    error.full_text()
                );
            }
            Err(error) => return Err(error),
        }
        self.unstored.ends.lock().remove(id);
        if let Step::End(end) = step {
            self.live.lock().stored(id, end.result.len());
            if end.webhook.is_some() {
                self.webhook_due.notify_one();
            }
        }
        Ok(())
    }

    /// Tries to store all of it; says whether nothing is left.
    async fn store_all(&self) -> bool {
        let mut all = true;
        for id in self.unstored.ids() {
            if let Err(error) = self.store_what_is_left(&id).await {
                all = false;
                tracing::debug!(
                    job.id = id.as_str(),
                    "the end of a job cannot be stored yet: {}",
                    error.full_text()
                );
                if error.is_busy() {
                    // The others would wait as long.
                    break;
                }
            }
        }
        all
    }
}

impl Queue {
    /// The platform was told the job's end, or is given up.
    pub async fn reported(&self, id: &JobId) -> Result<(), JobError> {
        let unstored = &self.0.unstored;
        let _writing = unstored.writing.lock().await;
        if let Some(Step::End(end)) = unstored.ends.lock().get_mut(id) {
            end.unreported = false;
            return Ok(());
        }
        let stored = self.0.store.reported(id).await;
        if stored.as_ref().is_err_and(|error| !error.is_final()) {
            unstored.keep(id, Step::Reported);
        }
        Ok(stored?)
    }

    /// Stores what could not be stored before, as far as that is possible within a few seconds: the last thing to do.
    pub async fn store_at_last(&self) {
        let unstored = &self.0.unstored;
        let all = async {
            let mut delays = AGAIN.delays();
            loop {
                // Looked at first: one that arrives meanwhile is seen the next time.
                let all_arrived = unstored.on_their_way.is_empty();
                if self.0.store_all().await && all_arrived {
                    break;
                }
                delays.wait().await;
            }
        };
        if tokio::time::timeout(LAST_TRIES, all).await.is_err() {
            let jobs = unstored.ids();
            tracing::error!(
                jobs = jobs.len() + unstored.on_their_way.len(),
                "the ends of jobs could not be stored; the next start runs them again: {}",
                jobs.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ")
            );
        }
    }
}

/// Stores what could not be stored before, as soon as that is possible.
pub(super) async fn store_again(core: Arc<Core>) {
    loop {
        core.unstored.came.notified().await;
        let mut delays = AGAIN.delays();
        loop {
            delays.wait().await;
            if core.store_all().await {
                break;
            }
        }
    }
}
