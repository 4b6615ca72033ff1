//! Jobs: taken in, kept, ordered, run, called off, and remembered.
//!
//! Memory owns the order of the jobs in hand; the [`store`] makes everything durable, so that a worker that is killed
//! goes on where it was. A job enters by [`Queue::submit`], which returns when it is stored. The dispatcher
//! ([`drive`]) takes it from the line when its turn comes, and a task sees it through. Its end happens once, in
//! [`inner::Inner::end`], whoever is first: the execution, its owner, or the clock; it is stored before it is shown.
//! Everybody who wants to know watches a [`JobView`], and gets the present one first.

mod drive;
mod entry;
mod fetch;
mod inner;
mod keep;
mod line;
mod payload;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::config::JobsConfig;
use crate::error::{ErrorKind, JobError};
use crate::executor::Executor;
use crate::job::progress::Progress;
use crate::job::{JobId, JobRequest, JobState, JobView, OutputFile, Policy};

use entry::{Entry, lock};
use inner::{Inner, view_of};
use store::{NewJob, Store, StoredJob};

/// Requests up to this size, in bytes as stored, are kept in memory until their turn; larger ones are read back.
const KEPT_REQUEST: usize = 64 * 1024;

/// Takes jobs in and runs them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Inner>);

/// Jobs by state, as `/health` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
            abandoned: AtomicBool::new(false),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
        });
        for job in unfinished {
            inner.take_up(job).await;
        }
        tokio::spawn(drive::dispatch(Arc::clone(&inner)));
        tokio::spawn(fetch::fetch_ahead(Arc::clone(&inner)));
        tokio::spawn(keep::watch_the_clock(Arc::clone(&inner)));
        tokio::spawn(keep::remove_the_old(Arc::clone(&inner)));
        Self(inner)
    }

    /// Keeps a place for one more job. Asked for before a body is read, so that a full queue costs nothing.
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

    /// Does something that must not stop half-way: a request's future is dropped when its client goes away.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, JobError>> + Send + 'static,
    ) -> Result<T, JobError> {
        let done = self.0.tasks.spawn(work.in_current_span()).await;
        done.unwrap_or_else(|error| Err(JobError::internal(format!("the job's handling broke off: {error}"))))
    }

    /// The job as it is now.
    pub async fn view(&self, id: &str) -> Result<JobView, JobError> {
        let id = known(id)?;
        match self.0.live(&id) {
            Some((entry, position, eta)) => Ok(with_position(entry.view(), position, eta)),
            None => self.0.stored_view(&id).await,
        }
    }

    /// The job as it is now, and each change; the last one is the final state.
    pub async fn watch(&self, id: &str) -> Result<watch::Receiver<JobView>, JobError> {
        let id = known(id)?;
        if let Some((entry, position, eta)) = self.0.live(&id) {
            let receiver = entry.subscribe();
            if let Some(position) = position {
                entry.place_in_line(position, eta);
            }
            return Ok(receiver);
        }
        let view = self.0.stored_view(&id).await?;
        Ok(watch::channel(view).1)
    }

    /// Waits for the job's end. Fails when the worker is stopped before the job's turn.
    pub async fn wait(&self, id: &str) -> Result<JobView, JobError> {
        let mut receiver = self.watch(id).await?;
        let ended = receiver.wait_for(|view| view.state.is_final());
        tokio::select! {
            biased;
            view = ended => view.map(|view| view.clone()).map_err(|_| JobError::internal("the job is no longer watched")),
            () = self.0.given_back(id) => Err(JobError::new(ErrorKind::Stopping, "The worker stops before the job's turn")
                .hint(format!("The job is kept and runs after the next start: ask for /status/{id} then."))),
        }
    }

    /// The platform's jobs that have not ended, and those whose end it is still to be told.
    pub async fn platform_jobs(&self) -> Result<Vec<(JobId, Policy)>, JobError> {
        let live = lock(&self.0.live).unfinished();
        let ended = self.0.store.unreported().await?;
        let live = live
            .into_iter()
            .map(|entry| (entry.id.clone(), Policy::clone(&entry.policy)));
        let ended = ended.into_iter().map(|job| (job.id, job.policy));
        // One that ended in between would be there twice.
        let mut seen = HashSet::new();
        Ok(live
            .chain(ended)
            .filter(|(id, policy)| policy.platform.is_some() && seen.insert(id.clone()))
            .collect())
    }

    /// The platform was told the job's end, or is given up.
    pub async fn reported(&self, id: &JobId) -> Result<(), JobError> {
        Ok(self.0.store.reported(id).await?)
    }

    /// Calls the job off. When this returns the job is cancelled, unless it had ended before.
    pub async fn cancel(&self, id: &str) -> Result<JobView, JobError> {
        let known = known(id)?;
        if let Some((entry, ..)) = self.0.live(&known) {
            let inner = Arc::clone(&self.0);
            return self
                .whole(async move {
                    let error = JobError::new(ErrorKind::Cancelled, "The job was cancelled");
                    inner.end(&entry, JobState::Cancelled, Err(Arc::new(error))).await;
                    if !entry.has_ended() {
                        // The worker has given up its jobs; the next start goes on with them.
                        return Err(stopping());
                    }
                    // Whoever else ended it may still be storing that. It is this entry that is waited for: the job
                    // may be retried at once.
                    let mut shown = entry.subscribe();
                    let _ = shown.wait_for(|view| view.state.is_final()).await;
                    Ok(entry.view())
                })
                .await;
        }
        self.view(id).await
    }

    /// Removes a job with its files; calls it off first where it has not ended.
    pub async fn remove(&self, id: &str) -> Result<(), JobError> {
        let id = self.cancel(id).await?.id;
        let inner = Arc::clone(&self.0);
        self.whole(async move {
            // The files first: a kill in between leaves rows that are found again.
            let files = inner.store.own_files(&id).await?;
            keep::remove_files(&inner, &files).await;
            inner.store.remove(vec![id.clone()]).await?;
            lock(&inner.live).forget(&id);
            Ok(())
        })
        .await
    }

    /// The prompt in ComfyUI that carries the job, once there is one.
    pub async fn prompt_id(&self, id: &JobId) -> Result<Option<String>, JobError> {
        Ok(self.0.store.get(id).await?.and_then(|job| job.prompt_id))
    }

    /// Whether a template has nodes whose class begins with `prefix`, and the ComfyUI that is ready now has them all.
    pub async fn has_nodes(&self, template: &str, prefix: &str) -> bool {
        self.0.executor.has_nodes(template, prefix).await
    }

    /// Queues a job again that did not complete, under its own id.
    pub async fn retry(&self, id: &str) -> Result<JobView, JobError> {
        let view = self.view(id).await?;
        if !view.state.is_final() || !view.state.may_become(JobState::Queued) {
            let message = format!(
                "The job {id} is {}; only one that failed, timed out or was cancelled can be retried",
                view.state
            );
            return Err(JobError::invalid(message));
        }
        let place = self.place()?;
        let job = self.0.store.get(&view.id).await?.ok_or_else(|| unknown(id))?;
        let entry = Entry::new(job.id, job.policy, SystemTime::now()).with(None, Some(place.0));
        let inner = Arc::clone(&self.0);
        self.whole(async move {
            // Of two retries at the same moment the store refuses one.
            inner.store.requeued(&entry.id).await?;
            let view = entry.view();
            inner.enqueue(entry);
            inner.retried.fetch_add(1, Ordering::Relaxed);
            Ok(view)
        })
        .await
    }

    /// Cancels every job that waits, and says how many there were.
    pub async fn purge(&self) -> Result<usize, JobError> {
        let waiting = lock(&self.0.live).waiting();
        let inner = Arc::clone(&self.0);
        self.whole(async move {
            let error = JobError::new(ErrorKind::Cancelled, "The job was cancelled: the queue was purged");
            let error = Arc::new(error);
            // All at once, so that the store takes them together.
            let ends = waiting
                .iter()
                .map(|entry| inner.end(entry, JobState::Cancelled, Err(Arc::clone(&error))));
            let ended = futures_util::future::join_all(ends).await;
            Ok(ended.into_iter().filter(|ended| *ended).count())
        })
        .await
    }

    /// The newest jobs, of one state or of all.
    pub async fn list(&self, state: Option<JobState>, limit: usize) -> Result<Vec<JobView>, JobError> {
        let jobs = self.0.store.list(state, limit, None).await?;
        Ok(jobs
            .into_iter()
            .map(|job| match self.0.live(&job.id) {
                Some((entry, position, eta)) => with_position(entry.view(), position, eta),
                None => view_of(job),
            })
            .collect())
    }

    /// The job as it is now, and the progress that was not handed out yet.
    pub async fn stream(&self, id: &str) -> Result<(JobView, Vec<Progress>), JobError> {
        let known = known(id)?;
        // The state first: what comes after it is handed out the next time.
        let view = self.view(id).await?;
        let chunks = self.0.live(&known).map(|(entry, ..)| entry.take_chunks());
        Ok((view, chunks.unwrap_or_default()))
    }

    /// Fills the files into a finished job's outcome, where its answer is to hold them.
    pub async fn inlined(&self, mut view: JobView) -> JobView {
        view.result = match view.result {
            Some(Ok(outcome)) => Some(self.0.executor.inlined(outcome).await.map_err(Arc::new)),
            failed => failed,
        };
        view
    }

    /// The finished job with a smaller result, of at most so many bytes: in the bucket if there is one, else with its
    /// images encoded anew; the reason where neither does. Its owner knows the job by `name`.
    pub async fn shrunk(&self, name: &str, mut view: JobView, max_bytes: u64) -> JobView {
        view.result = match view.result {
            Some(Ok(outcome)) => {
                let smaller = self.0.executor.shrink(name, outcome, max_bytes).await;
                Some(smaller.map_err(Arc::new))
            }
            failed => failed,
        };
        view
    }

    /// The content of a finished job's file, wherever ComfyUI is.
    pub async fn content(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        self.0.executor.content(file).await
    }

    /// Jobs by state.
    pub fn counts(&self) -> Counts {
        let (in_queue, in_progress) = lock(&self.0.live).counts();
        Counts {
            completed: self.0.completed.load(Ordering::Relaxed),
            failed: self.0.failed.load(Ordering::Relaxed),
            in_progress,
            in_queue,
            retried: self.0.retried.load(Ordering::Relaxed),
        }
    }

    /// Whether no more jobs are taken.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// Resolves when the worker stops before the job's turn: it stays stored, and nothing more is seen of it.
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
        self.0.abandoned.store(true, Ordering::Release);
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
fn with_position(mut view: JobView, position: Option<usize>, eta: Option<Duration>) -> JobView {
    if view.state == JobState::Queued {
        view.position = position;
        view.progress.eta = eta;
    }
    view
}

fn known(id: &str) -> Result<JobId, JobError> {
    JobId::parse(id).ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> JobError {
    let id: String = id.chars().take(80).collect();
    JobError::new(ErrorKind::NotFound, format!("There is no job {id:?}"))
        .hint("Use the id that /run answered; finished jobs are kept for RESULT_TTL.")
}

fn stopping() -> JobError {
    JobError::new(ErrorKind::Stopping, "The worker is stopping").hint("Send the job to another worker, or again later.")
}
