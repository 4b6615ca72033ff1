//! Jobs: taken in, kept, ordered, run, cancelled, and remembered.
//!
//! Memory owns the order of the live jobs; the [`store`] makes everything durable, so that a worker that is killed goes on
//! where it was. A job enters by [`Queue::submit`], which returns when it is stored. The dispatcher ([`dispatch`]) takes it
//! from the [`backlog`] when its turn comes, and a task sees it through. Its end happens once, in [`self::core::Core::end`],
//! whoever is first: the execution, its owner, or the clock; it is stored before it is shown.
//! Everybody who wants to know watches a [`JobView`](crate::job::JobView), and gets the present one first.

mod away;
mod backlog;
mod changes;
mod chunks;
mod core;
mod dispatch;
mod elsewhere;
mod expiry;
mod handle;
mod history;
mod live_job;
mod recovery;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unstored;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::config::JobsConfig;
use crate::echo;
use crate::engine::{Pool, Signature};
use crate::error::{ErrorKind, JobError};
use crate::executor::Executor;
use crate::job::{JobId, JobRequest, JobState, Policy, payload};
use crate::telemetry::traces;

pub use changes::Change;

use self::core::Core;
use live_job::LiveJob;
use store::{Claims, NewJob, Store, StoreError, StoredJob};

/// Requests up to this size, in bytes as stored, are kept in memory until their turn; larger ones are read back.
///
/// Small ones, since a graph of small values takes a hundred times its text.
const KEPT_REQUEST: usize = 16 * 1024;

/// Takes jobs in and runs them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Core>);

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

/// Why a job was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Another request came with its idempotency key before.
    #[error("the idempotency key has been used")]
    KeyUsed,
    /// For another reason.
    #[error(transparent)]
    Failed(#[from] JobError),
}

impl From<NotTaken> for JobError {
    fn from(not_taken: NotTaken) -> Self {
        match not_taken {
            NotTaken::KeyUsed => StoreError::KeyUsed.into(),
            NotTaken::Failed(error) => error,
        }
    }
}

/// A place in the queue.
#[derive(Debug)]
pub struct Permit(OwnedSemaphorePermit);

impl Queue {
    /// A queue for these engines on the given store, with the jobs that a previous run of the worker left unfinished.
    pub async fn start(
        executor: Arc<Executor>,
        engines: Pool,
        store: Store,
        unfinished: Vec<StoredJob>,
        settings: JobsConfig,
    ) -> Self {
        let core = Arc::new(Core {
            executor,
            engines,
            recalls: AtomicUsize::new(0),
            wanted: Notify::new(),
            store,
            settings,
            live: Mutex::default(),
            changed: Arc::default(),
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
            emptied: expiry::Emptied::default(),
            changes: changes::Changes::default(),
        });
        if core.engines.is_elsewhere() {
            tokio::spawn(Arc::clone(&core).cancel_left());
        }
        core.recover_all(unfinished).await;
        tokio::spawn(dispatch::dispatch(Arc::clone(&core)));
        for member in core.engines.members() {
            tokio::spawn(away::call_back(Arc::clone(&core), Arc::clone(member)));
        }
        tokio::spawn(dispatch::fetch_ahead(Arc::clone(&core)));
        tokio::spawn(away::watch_comfy(Arc::clone(&core)));
        tokio::spawn(expiry::watch_the_clock(Arc::clone(&core)));
        tokio::spawn(expiry::remove_the_old(Arc::clone(&core)));
        tokio::spawn(unstored::store_again(Arc::clone(&core)));
        Self(core)
    }

    /// Whether there is a place for one more job. Asked before a body is read, so that a full queue costs nothing.
    pub fn has_room(&self) -> Result<(), JobError> {
        self.permit().map(drop)
    }

    /// Keeps a place for one more job.
    pub fn permit(&self) -> Result<Permit, JobError> {
        if self.is_stopping() {
            return Err(stopping());
        }
        let permit = Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| {
            let message = format!("{} jobs wait or run, which is the limit", self.0.settings.queue_limit);
            JobError::new(ErrorKind::Busy, message).hint("Send the job again later, or raise QUEUE_LIMIT.")
        })?;
        Ok(Permit(permit))
    }

    /// Takes a job in. It is stored when this returns.
    pub async fn submit(&self, place: Permit, request: JobRequest, policy: Policy) -> Result<JobId, JobError> {
        self.submit_as(JobId::new(), place, request, policy).await
    }

    /// [`Self::submit`] under an id that its owner knows already. An id that is taken is a [`ErrorKind::Conflict`].
    pub async fn submit_as(
        &self,
        id: JobId,
        place: Permit,
        request: JobRequest,
        policy: Policy,
    ) -> Result<JobId, JobError> {
        let submitted = self.take_in(id, place, request, policy, Claims::default(), ()).await;
        submitted.map_err(JobError::from)
    }

    /// [`Self::submit`] of a job that claims something with its coming, or does not come ([`NotTaken::KeyUsed`]). `held` is
    /// dropped when it is stored, whether its client is still there or not.
    pub async fn submit_with(
        &self,
        place: Permit,
        request: JobRequest,
        policy: Policy,
        claims: Claims,
        held: impl Send + 'static,
    ) -> Result<JobId, NotTaken> {
        self.take_in(JobId::new(), place, request, policy, claims, held).await
    }

    async fn take_in(
        &self,
        id: JobId,
        place: Permit,
        mut request: JobRequest,
        mut policy: Policy,
        claims: Claims,
        held: impl Send + 'static,
    ) -> Result<JobId, NotTaken> {
        let key = if policy.dialect.stores_keys() {
            None
        } else {
            request.org_api_key.take()
        };
        policy.fetches_images = request.has_images_to_fetch();
        policy.image_hosts = request.image_hosts();
        policy.traceparent = policy.traceparent.or_else(traces::current);
        let created = SystemTime::now();
        let able = if self.0.engines.is_elsewhere() {
            Some(self.0.engines.able(&request).await?)
        } else {
            None
        };
        let payload = payload::encode(&request)?;
        let has_choice = self.0.engines.has_choice();
        let signature = if has_choice { Signature::of(&request) } else { None };
        let bytes = payload.len();
        let new = NewJob {
            id: id.clone(),
            created,
            policy: policy.clone(),
            payload,
            claims,
        };
        let job = LiveJob::new(id.clone(), policy, created)
            .asked(&request)
            .with((bytes <= KEPT_REQUEST).then_some(request), Some(place.0))
            .with_key(key);
        job.loads(signature);
        if let Some(able) = able {
            job.is_able_at(able);
        }
        let core = Arc::clone(&self.0);
        let taken = self.whole(async move {
            let _held = held;
            if core.live(&id).is_some() {
                // The store may have lost it.
                return Ok(Err(StoreError::Duplicate(id)));
            }
            match core.store.insert(new).await {
                Ok(()) => {
                    job.watch.taken_in(bytes);
                    core.enqueue(job);
                    Ok(Ok(id))
                }
                Err(error) => {
                    if !matches!(error, StoreError::KeyUsed) {
                        tracing::error!("a job is refused: {}", error.full_text());
                    }
                    Ok(Err(error))
                }
            }
        });
        match taken.await? {
            Err(StoreError::KeyUsed) => Err(NotTaken::KeyUsed),
            taken => Ok(taken.map_err(JobError::from)?),
        }
    }

    /// Keeps a job that is refused as one that failed, so that its owner is told after a restart too.
    pub async fn refuse(&self, policy: Policy, error: JobError) -> Result<JobId, JobError> {
        let (id, created) = (JobId::new(), SystemTime::now());
        let new = NewJob {
            id: id.clone(),
            created,
            policy: policy.clone(),
            payload: Bytes::new(),
            claims: Claims::default(),
        };
        let job = LiveJob::new(id.clone(), policy, created);
        let core = Arc::clone(&self.0);
        self.whole(async move {
            core.store.insert(new).await?;
            core.end(&job, JobState::Failed, Err(Arc::new(error))).await;
            Ok(id)
        })
        .await
    }

    /// Does something that must not stop half-way: a request's future is dropped when its client goes away.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, JobError>> + Send + 'static,
    ) -> Result<T, JobError> {
        let done = self.0.tasks.spawn(work.in_current_span()).await;
        done.unwrap_or_else(|error| Err(JobError::internal(format!("the job's handling broke off: {error}"))))
    }

    /// How many jobs the engine of this name has.
    pub fn jobs_at(&self, engine: &str) -> usize {
        let members = self.0.engines.members().iter();
        let named = members.filter(|member| member.engine().name() == engine);
        named.map(|member| member.taken()).sum()
    }

    /// How many jobs run at the same time: one at each engine that is ready.
    pub fn lanes(&self) -> usize {
        self.0.engines.lanes()
    }

    /// Whether no more jobs are taken.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// Resolves when the worker stops and no job runs any more: nothing is left to watch.
    pub async fn stopped(&self) {
        self.0.stopping.cancelled().await;
        self.0.tasks.wait().await;
    }

    /// Takes no more jobs and begins none; those that wait stay stored. Waits for the ones that run.
    pub async fn drain(&self) {
        self.0.stopping.cancel();
        let waiting = self.0.live.lock().waiting();
        // What an engine elsewhere has stays there, and is asked for after the next start.
        for job in waiting.iter().filter(|job| !self.0.is_with_one_elsewhere(job)) {
            job.stop.cancel();
        }
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Leaves whatever happens from now on to the next start: jobs that run stay stored as running.
    pub fn abandon(&self) {
        self.0.stopping.cancel();
        self.0.abandoned.cancel();
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
