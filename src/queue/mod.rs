//! Jobs in hand: takes them in up to a limit, runs each in a task of its own, and counts them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::error::{ErrorKind, JobError};
use crate::executor::Executor;
use crate::job::progress::{Progress, Stage};
use crate::job::{JobId, JobRequest, JobState, JobView, Policy, Report};

/// Takes jobs in and runs them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    executor: Arc<Executor>,
    limit: usize,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    running: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
}

/// A job of this process.
#[derive(Debug)]
struct Job {
    request: JobRequest,
    view: watch::Sender<JobView>,
    stop: Mutex<CancellationToken>,
    chunks: Mutex<Vec<Progress>>,
}

/// Jobs by state, as `/health` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Ended well, since the start of the worker.
    pub completed: u64,
    /// Ended otherwise, since the start of the worker.
    pub failed: u64,
    /// On the GPU, or on their way to and from it.
    pub in_progress: u64,
    /// Waiting.
    pub in_queue: u64,
    /// Sent again by `/retry`.
    pub retried: u64,
}

impl Queue {
    /// A queue of at most `limit` jobs in hand.
    pub fn new(executor: Arc<Executor>, limit: usize) -> Self {
        Self(Arc::new(Inner {
            executor,
            limit,
            places: Arc::new(Semaphore::new(limit)),
            tasks: TaskTracker::new(),
            running: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            jobs: Mutex::default(),
        }))
    }

    /// Keeps a place for one more job. Asked for before a body is read, so that a full queue costs nothing.
    pub fn place(&self) -> Result<Place, JobError> {
        if self.0.tasks.is_closed() {
            return Err(JobError::new(ErrorKind::Busy, "The worker is stopping")
                .hint("Send the job to another worker, or again later."));
        }
        let permit = Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| {
            JobError::new(
                ErrorKind::Busy,
                format!("{} jobs are in hand, which is the limit", self.0.limit),
            )
            .hint("Send the job again later, or raise QUEUE_LIMIT.")
        })?;
        Ok(Place { permit })
    }

    /// Takes a job in and starts it.
    #[expect(clippy::unused_async, reason = "the store will be waited for")]
    pub async fn submit(&self, place: Place, request: JobRequest, _policy: Policy) -> Result<JobId, JobError> {
        let id = JobId::new();
        let view = JobView {
            id: id.clone(),
            state: JobState::Queued,
            progress: Progress::default(),
            position: None,
            created: SystemTime::now(),
            delay: Duration::ZERO,
            execution: Duration::ZERO,
            result: None,
        };
        let job = Arc::new(Job {
            request,
            view: watch::Sender::new(view),
            stop: Mutex::default(),
            chunks: Mutex::default(),
        });
        lock(&self.0.jobs).insert(id.as_str().to_owned(), Arc::clone(&job));
        self.start(place, job);
        Ok(id)
    }

    fn start(&self, place: Place, job: Arc<Job>) {
        let id = job.view.borrow().id.clone();
        let (progress_sender, progress) = watch::channel(Progress::default());
        let inner = Arc::clone(&self.0);
        let stop = CancellationToken::new();
        *lock(&job.stop) = stop.clone();
        let span = tracing::info_span!("job", job.id = id.as_str());
        self.0.tasks.spawn(
            async move {
                let mut progress = progress;
                let counted = Counted(&inner);
                let run = inner.executor.run(id, job.request.clone(), progress_sender);
                tokio::pin!(run);
                let mut begun = None;
                let report = loop {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break None,
                        report = &mut run => break Some(report),
                        Ok(()) = progress.changed() => {
                            let seen = progress.borrow_and_update().clone();
                            if begun.is_none() && seen.stage != Stage::Waiting {
                                inner.running.fetch_add(1, Ordering::Relaxed);
                                begun = Some(Running(&inner));
                            }
                            if seen.stage == Stage::Running {
                                lock(&job.chunks).push(seen.clone());
                            }
                            job.view.send_modify(|view| {
                                if begun.is_some() {
                                    view.state = JobState::Running;
                                }
                                view.progress = seen;
                            });
                        }
                    }
                };
                if let Some(report) = report {
                    counted.end(&report);
                    job.view.send_modify(|view| {
                        view.state = if report.result.is_ok() {
                            JobState::Completed
                        } else {
                            JobState::Failed
                        };
                        (view.delay, view.execution) = (report.delay, report.execution);
                        view.result = Some(report.result.map(Arc::new).map_err(Arc::new));
                    });
                }
                drop(begun);
                drop(place);
            }
            .instrument(span),
        );
    }

    /// The job as it is.
    #[expect(clippy::unused_async, reason = "the store will be waited for")]
    pub async fn view(&self, id: &str) -> Result<JobView, JobError> {
        Ok(self.job(id)?.view.borrow().clone())
    }

    /// The job as it is, and each change of it.
    #[expect(clippy::unused_async, reason = "the store will be waited for")]
    pub async fn watch(&self, id: &str) -> Result<watch::Receiver<JobView>, JobError> {
        Ok(self.job(id)?.view.subscribe())
    }

    /// Calls a job off.
    #[expect(clippy::unused_async, reason = "the store will be waited for")]
    pub async fn cancel(&self, id: &str) -> Result<JobView, JobError> {
        let job = self.job(id)?;
        lock(&job.stop).cancel();
        job.view.send_if_modified(|view| {
            let open = !view.state.is_final();
            if open {
                view.state = JobState::Cancelled;
                let error = JobError::new(ErrorKind::Cancelled, "The job was cancelled");
                view.result = Some(Err(Arc::new(error)));
            }
            open
        });
        Ok(job.view.borrow().clone())
    }

    /// Queues a job again.
    #[expect(clippy::unused_async, reason = "the store will be waited for")]
    pub async fn retry(&self, id: &str) -> Result<JobView, JobError> {
        let job = self.job(id)?;
        let state = job.view.borrow().state;
        if !state.may_become(JobState::Queued) || !state.is_final() {
            return Err(JobError::invalid(format!(
                "The job is {state}; only one that failed, timed out or was cancelled can be run again"
            )));
        }
        let place = self.place()?;
        job.view.send_modify(|view| {
            view.state = JobState::Queued;
            view.progress = Progress::default();
            view.result = None;
        });
        self.0.retried.fetch_add(1, Ordering::Relaxed);
        self.start(place, Arc::clone(&job));
        Ok(job.view.borrow().clone())
    }

    /// Removes the queued jobs; gives their number.
    pub async fn purge(&self) -> Result<usize, JobError> {
        let queued = self.list(Some(JobState::Queued), usize::MAX).await?;
        for view in &queued {
            self.cancel(view.id.as_str()).await?;
        }
        Ok(queued.len())
    }

    /// Jobs, newest first.
    #[expect(clippy::unused_async, reason = "the store will be waited for")]
    pub async fn list(&self, state: Option<JobState>, limit: usize) -> Result<Vec<JobView>, JobError> {
        let jobs = lock(&self.0.jobs);
        let views = jobs.values().rev().map(|job| job.view.borrow().clone());
        Ok(views
            .filter(|view| state.is_none_or(|state| view.state == state))
            .take(limit)
            .collect())
    }

    /// The progress that was not handed out yet.
    #[expect(clippy::unused_async, reason = "the store will be waited for")]
    pub async fn stream(&self, id: &str) -> Result<(JobView, Vec<Progress>), JobError> {
        let job = self.job(id)?;
        // The state first: what comes after it is in the chunks of a later call.
        let view = job.view.borrow().clone();
        Ok((view, std::mem::take(&mut *lock(&job.chunks))))
    }

    fn job(&self, id: &str) -> Result<Arc<Job>, JobError> {
        let job = lock(&self.0.jobs).get(id).cloned();
        job.ok_or_else(|| JobError::new(ErrorKind::NotFound, "There is no job of this id"))
    }

    /// Jobs by state.
    pub fn counts(&self) -> Counts {
        let in_hand = (self.0.limit - self.0.places.available_permits()) as u64;
        let in_progress = self.0.running.load(Ordering::Relaxed);
        Counts {
            completed: self.0.completed.load(Ordering::Relaxed),
            failed: self.0.failed.load(Ordering::Relaxed),
            in_progress,
            in_queue: in_hand.saturating_sub(in_progress),
            retried: self.0.retried.load(Ordering::Relaxed),
        }
    }

    /// Takes no more jobs, and waits for those in hand.
    pub async fn drain(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the queue.
#[derive(Debug)]
pub struct Place {
    #[expect(dead_code, reason = "it is held, not read")]
    permit: OwnedSemaphorePermit,
}

/// Counts a job as failed unless its end is reported: a panic ends it too.
struct Counted<'a>(&'a Inner);

impl Counted<'_> {
    fn end(self, report: &Report) {
        if report.result.is_ok() {
            self.0.completed.fetch_add(1, Ordering::Relaxed);
            std::mem::forget(self);
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a job as running for as long as it is held.
struct Running<'a>(&'a Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
