//! Jobs: taken in, kept, ordered, run, called off, and remembered.
//!
//! Memory owns the order of the jobs in hand; the [`store`] makes everything durable, so that a worker that is killed
//! goes on where it was. A job enters by [`Queue::submit`], which returns when it is stored. The dispatcher
//! ([`drive`]) takes it from the line when its turn comes, and a task sees it through. Its end happens once, in
//! [`inner::Inner::end`], whoever is first: the execution, its owner, or the clock; it is stored before it is shown.
//! Everybody who wants to know watches a [`JobView`](crate::job::JobView), and gets the present one first.

mod away;
mod change;
mod drive;
mod entry;
mod fetch;
mod inner;
mod keep;
mod line;
mod look;
mod payload;
mod resume;
pub mod store;
#[cfg(test)]
mod tests;
mod unstored;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::config::JobsConfig;
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::executor::Executor;
use crate::job::{JobId, JobRequest, JobState, Policy};

use entry::{Entry, lock};
use inner::Inner;
use store::{NewJob, Store, StoredJob};

/// Requests up to this size, in bytes as stored, are kept in memory until their turn; larger ones are read back.
///
/// Small ones, since a graph of small values takes a hundred times its text.
const KEPT_REQUEST: usize = 16 * 1024;

/// Takes jobs in and runs them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Inner>);

/// Jobs by state, as `/health` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Ended well, since the start of the worker.
    pub completed: u64,
    /// Ended otherwise, since the start of the worker.
    pub failed: u64,
    /// In ComfyUI's hands.
    pub in_progress: u64,
    /// Waiting.
    pub in_queue: u64,
    /// Sent again by `/retry`, since the start of the worker.
    pub retried: u64,
}

/// A place in the queue.
#[derive(Debug)]
pub struct Place(OwnedSemaphorePermit);

impl Queue {
    /// A queue on the given store, with the jobs that an earlier life of the worker left unfinished.
    pub async fn start(
        executor: Arc<Executor>,
        store: Store,
        unfinished: Vec<StoredJob>,
        settings: JobsConfig,
    ) -> Self {
        let inner = Arc::new(Inner {
            executor,
            store,
            settings,
            live: Mutex::default(),
            changed: Notify::new(),
            fetch_due: Notify::new(),
            webhook_due: Notify::new(),
            places: Arc::new(Semaphore::new(settings.queue_limit)),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            unstored: unstored::Unstored::default(),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            emptied: keep::Emptied::default(),
        });
        inner.take_up_all(unfinished).await;
        tokio::spawn(drive::dispatch(Arc::clone(&inner)));
        tokio::spawn(fetch::fetch_ahead(Arc::clone(&inner)));
        tokio::spawn(away::watch_comfy(Arc::clone(&inner)));
        tokio::spawn(keep::watch_the_clock(Arc::clone(&inner)));
        tokio::spawn(keep::remove_the_old(Arc::clone(&inner)));
        tokio::spawn(unstored::store_again(Arc::clone(&inner)));
        Self(inner)
    }

    /// Whether there is a place for one more job. Asked before a body is read, so that a full queue costs nothing.
    pub fn has_room(&self) -> Result<(), JobError> {
        self.place().map(drop)
    }

    /// Keeps a place for one more job.
    pub fn place(&self) -> Result<Place, JobError> {
        if self.is_stopping() {
            return Err(stopping());
        }
        let permit = Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| {
            let message = format!("{} jobs are in hand, which is the limit", self.0.settings.queue_limit);
            JobError::new(ErrorKind::Busy, message).hint("Send the job again later, or raise QUEUE_LIMIT.")
        })?;
        Ok(Place(permit))
    }

    /// Takes a job in. It is stored when this returns.
    pub async fn submit(&self, place: Place, request: JobRequest, policy: Policy) -> Result<JobId, JobError> {
        self.submit_as(JobId::new(), place, request, policy).await
    }

    /// [`Self::submit`] under an id that its owner knows already.
    pub async fn submit_as(
        &self,
        id: JobId,
        place: Place,
        request: JobRequest,
        mut policy: Policy,
    ) -> Result<JobId, JobError> {
        policy.fetches_images = request.has_images_to_fetch();
        policy.image_hosts = request.image_hosts();
        let created = SystemTime::now();
        let payload = payload::encode(&request)?;
        let kept = (payload.len() <= KEPT_REQUEST).then_some(request);
        let job = NewJob {
            id: id.clone(),
            created,
            policy: policy.clone(),
            payload,
        };
        let entry = Entry::new(id.clone(), policy, created).with(kept, Some(place.0));
        let inner = Arc::clone(&self.0);
        self.whole(async move {
            let inserted = inner.store.insert(job).await;
            inserted.inspect_err(|error| tracing::error!("a job is refused: {}", error.full_text()))?;
            inner.enqueue(entry);
            Ok(id)
        })
        .await
    }

    /// Keeps a job that is refused as one that failed, so that its owner is told after a restart too.
    pub async fn refuse(&self, policy: Policy, error: JobError) -> Result<JobId, JobError> {
        let (id, created) = (JobId::new(), SystemTime::now());
        let job = NewJob {
            id: id.clone(),
            created,
            policy: policy.clone(),
            payload: Bytes::new(),
        };
        let entry = Entry::new(id.clone(), policy, created);
        let inner = Arc::clone(&self.0);
        self.whole(async move {
            inner.store.insert(job).await?;
            inner.end(&entry, JobState::Failed, Err(Arc::new(error))).await;
            Ok(id)
        })
        .await
    }

    /// The platform was told the job's end, or is given up.
    pub async fn reported(&self, id: &JobId) -> Result<(), JobError> {
        Ok(self.0.store_reported(id).await?)
    }

    /// Does something that must not stop half-way: a request's future is dropped when its client goes away.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, JobError>> + Send + 'static,
    ) -> Result<T, JobError> {
        let done = self.0.tasks.spawn(work.in_current_span()).await;
        done.unwrap_or_else(|error| Err(JobError::internal(format!("the job's handling broke off: {error}"))))
    }

    /// Whether no more jobs are taken.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// Resolves when the worker stops before the job's turn, or before its end: it stays stored, and nothing more is seen
    /// of it.
    pub async fn given_back(&self, id: &JobId) {
        self.0.given_back(id.as_str()).await;
    }

    /// Resolves when the worker stops and no job runs any more: nothing is left to watch.
    pub async fn stopped(&self) {
        self.0.stopping.cancelled().await;
        self.0.tasks.wait().await;
    }

    /// Takes no more jobs and begins none; those that wait stay stored. Waits for the ones that run.
    pub async fn drain(&self) {
        self.0.stopping.cancel();
        for entry in lock(&self.0.live).waiting() {
            entry.stop.cancel();
        }
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Leaves whatever happens from now on to the next start: jobs that run stay stored as running.
    pub fn abandon(&self) {
        self.0.stopping.cancel();
        self.0.abandoned.cancel();
    }

    /// Stores what could not be stored before, as far as that is possible within a few seconds: the last thing to do.
    pub async fn store_at_last(&self) {
        self.0.store_at_last().await;
    }

    /// Why no jobs can be stored at the moment, if so.
    pub fn trouble(&self) -> Option<JobError> {
        self.0.store.is_full().then(store::full)
    }

    /// The store, for those who deliver what it keeps.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Resolves when a webhook may be due.
    pub async fn webhook_due(&self) {
        self.0.webhook_due.notified().await;
    }
}

fn known(id: &str) -> Result<JobId, JobError> {
    JobId::parse(id).ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> JobError {
    JobError::new(ErrorKind::NotFound, format!("There is no job `{}`", echo::cut(id)))
        .hint("Use the id that /run answered; finished jobs are kept for RESULT_TTL.")
}

fn stopping() -> JobError {
    JobError::new(ErrorKind::Stopping, "The worker is stopping").hint("Send the job to another worker, or again later.")
}
