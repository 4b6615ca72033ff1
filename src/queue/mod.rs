//! Jobs in hand: takes them in up to a limit, runs each in a task of its own, and counts them.

pub mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::error::{ErrorKind, JobError};
use crate::executor::Executor;
use crate::job::progress::{Progress, Stage};
use crate::job::{JobId, JobRequest, Report};

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

/// A job that was taken in. Dropping it does not end the job.
#[derive(Debug)]
pub struct Ticket {
    /// The job's id.
    pub id: JobId,
    /// How far it is.
    pub progress: watch::Receiver<Progress>,
    report: oneshot::Receiver<Report>,
}

impl Ticket {
    /// Waits for the job's end.
    pub async fn report(self) -> Report {
        let Self { id, report, .. } = self;
        report.await.unwrap_or_else(|_| Report {
            id,
            result: Err(JobError::internal(
                "the job's task ended without a result; the log has the reason",
            )),
            delay: std::time::Duration::ZERO,
            execution: std::time::Duration::ZERO,
        })
    }
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
    pub fn submit(&self, place: Place, request: JobRequest) -> Ticket {
        let id = JobId::new();
        let (progress_sender, progress) = watch::channel(Progress::default());
        let (report_sender, report) = oneshot::channel();
        let inner = Arc::clone(&self.0);
        let span = tracing::info_span!("job", job.id = id.as_str());
        let job = id.clone();
        self.0.tasks.spawn(
            async move {
                let mut running = progress_sender.subscribe();
                let counted = Counted(&inner);
                let run = inner.executor.run(job, request, progress_sender);
                tokio::pin!(run);
                let mut begun = None;
                let report = loop {
                    tokio::select! {
                        report = &mut run => break report,
                        Ok(seen) = running.wait_for(|progress| progress.stage != Stage::Waiting), if begun.is_none() => {
                            drop(seen);
                            inner.running.fetch_add(1, Ordering::Relaxed);
                            begun = Some(Running(&inner));
                        }
                    }
                };
                counted.end(&report);
                drop(begun);
                drop(place);
                // Nobody waits when the client has gone; the job is done all the same.
                let _ = report_sender.send(report);
            }
            .instrument(span),
        );
        Ticket { id, progress, report }
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
            retried: 0,
        }
    }

    /// Takes no more jobs, and waits for those in hand.
    pub async fn drain(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
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
