//! What the queue's parts share, and the one place where a job ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::JobsConfig;
use crate::error::JobError;
use crate::executor::Executor;
use crate::job::progress::Progress;
use crate::job::{JobId, JobState, JobView, Outcome};

use super::entry::{Ending, Entry, lock};
use super::keep::Emptied;
use super::line::Line;
use super::store::{Finished, Store, StoreError, StoredJob, WebhookRow};
use super::unknown;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) executor: Arc<Executor>,
    pub(super) store: Store,
    pub(super) settings: JobsConfig,
    pub(super) live: Mutex<Line>,
    /// A job came, or a place in ComfyUI became free.
    pub(super) changed: Notify,
    /// The images of another job may be fetched.
    pub(super) fetch_due: Notify,
    /// A webhook is due.
    pub(super) webhook_due: Notify,
    pub(super) places: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    /// What happens from now on is left to the next start.
    pub(super) abandoned: AtomicBool,
    pub(super) completed: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) retried: AtomicU64,
    /// Folders that may be empty now.
    pub(super) emptied: Emptied,
}

/// What a job ended with, as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredResult {
    Outcome(Arc<Outcome>),
    Error(Arc<JobError>),
}

impl Inner {
    pub(super) fn enqueue(&self, entry: Entry) {
        lock(&self.live).add(Arc::new(entry));
        self.changed.notify_one();
        self.fetch_due.notify_one();
    }

    /// The next job of the line; it is still queued until ComfyUI begins with it.
    pub(super) fn pick(&self) -> Option<Arc<Entry>> {
        let mut live = lock(&self.live);
        let entry = live.pick();
        self.fetch_due.notify_one();
        live.tell_positions();
        entry
    }

    /// The job no longer waits in ComfyUI.
    pub(super) fn unpick(&self, entry: &Entry) {
        let mut live = lock(&self.live);
        live.unpick(entry);
        live.tell_positions();
    }

    pub(super) fn live(&self, id: &JobId) -> Option<(Arc<Entry>, Option<usize>, Option<Duration>)> {
        lock(&self.live).get(id)
    }

    pub(super) async fn stored_view(&self, id: &JobId) -> Result<JobView, JobError> {
        let job = self.store.get(id).await?.ok_or_else(|| unknown(id.as_str()))?;
        Ok(view_of(job))
    }

    /// Ends a job, calls its execution off, stores the end, and shows it. Only the first call for a job does anything,
    /// and says so. Once begun it must come to its own end: nobody else may end the job then.
    pub(super) async fn end(&self, entry: &Entry, state: JobState, ending: Ending) -> bool {
        if self.abandoned.load(Ordering::Acquire) || !entry.claim_end() {
            return false;
        }
        // ComfyUI need not wait for the store.
        entry.stop.cancel();
        let (delay, execution) = entry.times();
        let kept = match &ending {
            Ok(outcome) => StoredResult::Outcome(Arc::clone(outcome)),
            Err(error) => StoredResult::Error(Arc::clone(error)),
        };
        let result = serde_json::to_vec(&kept).unwrap_or_default();
        let finished = Finished {
            state,
            at: SystemTime::now(),
            delay,
            execution,
            result: result.into(),
            // They were told while it ran; what is told later is added.
            files: entry.left(),
            webhook: entry.policy.webhook.clone().map(|url| WebhookRow {
                id: format!("msg_{}", uuid::Uuid::now_v7().simple()),
                url,
                // Made when it is sent, from what is stored anyway.
                body: Bytes::new(),
            }),
            // The platform knows of a job that it called off itself.
            unreported: entry.policy.platform.is_some() && state != JobState::Cancelled,
        };
        // What cannot be stored is shown all the same: those who wait get their result.
        stored("end", self.store.finish(&entry.id, finished).await);
        log_end(entry, state, &ending, execution);
        match state {
            JobState::Completed => self.completed.fetch_add(1, Ordering::Relaxed),
            _ => self.failed.fetch_add(1, Ordering::Relaxed),
        };
        {
            let mut live = lock(&self.live);
            live.ended(entry, (state == JobState::Completed).then_some(execution));
            live.tell_positions();
        }
        self.fetch_due.notify_one();
        entry.show_end(state, delay, execution, ending);
        if entry.policy.webhook.is_some() {
            self.webhook_due.notify_one();
        }
        true
    }

    /// Resolves when the worker stops and this job will not be run any more.
    pub(super) async fn given_back(&self, id: &str) {
        self.stopping.cancelled().await;
        let running = JobId::parse(id)
            .and_then(|id| self.live(&id))
            .is_some_and(|(entry, ..)| entry.state() != JobState::Queued);
        if running {
            std::future::pending::<()>().await;
        }
    }
}

/// Logs what could not be stored. The worker goes on: what it cannot keep it can still do.
pub(super) fn stored<T>(what: &str, result: Result<T, StoreError>) {
    if let Err(error) = result {
        let error = JobError::from(error);
        tracing::error!("the {what} of a job could not be stored: {}", error.full_text());
    }
}

pub(super) fn view_of(job: StoredJob) -> JobView {
    let result = job.result.as_deref().map(|text| match serde_json::from_slice(text) {
        Ok(StoredResult::Outcome(outcome)) => Ok(outcome),
        Ok(StoredResult::Error(error)) => Err(error),
        Err(error) => Err(Arc::new(JobError::internal(format!(
            "the stored result is damaged: {error}"
        )))),
    });
    let mut progress = Progress::default();
    if job.state.is_final() {
        progress.end(job.state == JobState::Completed);
    }
    JobView {
        id: job.id,
        policy: Arc::new(job.policy),
        state: job.state,
        progress,
        position: None,
        created: job.created,
        delay: job.delay.unwrap_or_default(),
        execution: job.execution.unwrap_or_default(),
        result: if job.state.is_final() { result } else { None },
    }
}

fn log_end(entry: &Entry, state: JobState, ending: &Ending, execution: Duration) {
    let (id, execution_ms) = (entry.name(), execution.as_millis());
    match ending {
        Ok(outcome) => {
            tracing::info!(
                job.id = id,
                job.execution_ms = execution_ms,
                files = outcome.files.len(),
                "job {state}"
            );
        }
        Err(error) => {
            tracing::warn!(job.id = id, job.execution_ms = execution_ms, kind = ?error.kind, "job {state}: {}", error.full_text());
        }
    }
}
