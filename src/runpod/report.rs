//! One job of the platform from its coming to the delivery of its result.
//!
//! Everything that is posted for a job is posted by one task, one after the other: progress can neither overtake nor
//! follow the result. The result is in the store by then, and is posted until the platform takes it, or until the job is
//! older than its time to live; a restart of this process goes on with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{NotTaken, PlatformClient};
use super::end::{End, Posted};
use super::in_flight::InFlightJob;
use crate::comfy::{ComfyState, Comfys};
use crate::delivery::Results;
use crate::dialect::runpod;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::{Download, Stage};
use crate::job::{JobId, JobState, JobView, Policy};
use crate::net::retry::RetryPolicy;
use crate::queue::Queue;

/// The waits between two tries to post a result.
const RETRIES: RetryPolicy = RetryPolicy::doubling(Duration::from_millis(250), Duration::from_secs(30));
/// The longest wait that the platform may ask for.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// A result of this size, in bytes, is not made smaller; a failure takes its place.
const SMALL: usize = 100_000;
/// How often what cannot be made any smaller may be refused for its size before it is given up.
const MOST_REFUSALS: u32 = 7;
/// The same where the platform says nothing of the size: that may pass.
const MOST_UNEXPLAINED: u32 = 20;

/// What a report needs to know.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) queue: Queue,
    pub(super) results: Arc<Results>,
    pub(super) comfy: Comfys,
    pub(super) client: PlatformClient,
    /// Whether a clean worker is asked for after each job.
    pub(super) refresh_worker: bool,
    pub(super) progress_interval: Option<Duration>,
    /// The longest time from a job's coming to the delivery of its result, unless its request says otherwise.
    pub(super) ttl: Duration,
    /// Cancelled when a clean worker was asked for: this one takes no more jobs.
    pub(super) retire: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Reporter {
    /// Sees a job through. Its slot becomes free as soon as the GPU is done with it.
    pub(super) fn follow(
        self: &Arc<Self>,
        job: InFlightJob,
        id: JobId,
        policy: Policy,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        let reporter = Arc::clone(self);
        self.tasks.spawn(async move {
            let Some(view) = reporter.watch(&job, &id, &policy, slot).await else {
                return;
            };
            if view.state == JobState::Cancelled {
                // The platform knows, and wants to hear nothing.
                tracing::info!(job.id = job.id, "the platform had the job stopped");
                return;
            }
            reporter.deliver(&job, &policy, view).await;
            if let Err(error) = reporter.queue.reported(&id).await {
                tracing::error!(
                    job.id = job.id,
                    "that the job's result was delivered could not be stored, so it is posted again after a restart: {}",
                    error.full_text()
                );
            }
        });
    }

    /// Tells the platform that a job cannot even begin.
    pub(super) fn fail(self: &Arc<Self>, job: InFlightJob, error: JobError) {
        let reporter = Arc::clone(self);
        self.tasks.spawn(async move {
            tracing::warn!(job.id = job.id, "the job is refused: {}", error.full_text());
            let created = SystemTime::now();
            let end = End::failed(Arc::new(error), reporter.refresh_worker, false);
            reporter.post(&job, end, created + reporter.ttl).await;
            if reporter.refresh_worker {
                reporter.retire.cancel();
            }
        });
    }

    /// Posts the job's progress until its end. [`None`] when it does not end in this run of the worker.
    async fn watch(
        &self,
        job: &InFlightJob,
        id: &JobId,
        policy: &Policy,
        mut slot: Option<OwnedSemaphorePermit>,
    ) -> Option<JobView> {
        let mut watch = match self.queue.watch(id.as_str()).await {
            Ok(watch) => watch,
            Err(error) => {
                tracing::error!(job.id = job.id, "the job is no longer known: {}", error.full_text());
                return None;
            }
        };
        let stream = policy.platform.as_ref().is_some_and(|job| job.stream);
        let (mut told, mut last, mut is_stopped) = (None, Instant::now(), false);
        loop {
            let view = watch.borrow_and_update().clone();
            if view.state.is_final() {
                return Some(view);
            }
            if matches!(view.progress.stage, Stage::Collecting | Stage::Delivering | Stage::Done) {
                drop(slot.take());
            }
            let download = view.progress.download.as_ref();
            let now = (view.progress.percent, download.map(Download::percent));
            let news = (view.state == JobState::Running || download.is_some()) && told != Some(now);
            let due = self.progress_interval.filter(|_| news).map(|interval| last + interval);
            tokio::select! {
                biased;
                () = job.stop.cancelled(), if !is_stopped => {
                    is_stopped = true;
                    if let Err(error) = self.queue.cancel(id.as_str()).await {
                        tracing::warn!(job.id = job.id, "the job could not be stopped: {}", error.full_text());
                    }
                }
                changed = watch.changed() => changed.ok()?,
                () = tokio::time::sleep_until(due.unwrap_or(last)), if due.is_some() => {
                    told = Some(now);
                    self.client.progress(&job.id, &runpod::job_progress(&view.progress)).await;
                    if stream {
                        self.client.chunk(&job.id, &runpod::job_chunk(&view.progress)).await;
                    }
                    last = Instant::now();
                }
            }
        }
    }

    async fn deliver(&self, job: &InFlightJob, policy: &Policy, view: JobView) {
        let asked = policy.platform.as_ref();
        let stop_pod = self.refresh_worker
            || asked.is_some_and(|job| job.refresh_worker)
            || matches!(&view.result, Some(Err(error)) if self.is_broken(error).await);
        let until = view.created + policy.ttl.unwrap_or(self.ttl);
        let stream = asked.is_some_and(|job| job.stream);
        let end = End::new(&view, &self.results.inlined(view.clone()).await, stop_pod, stream);
        let taken = self.post(job, end, until).await;
        if !taken && !job.stop.is_cancelled() {
            tracing::error!(
                job.id = job.id,
                "the platform did not take the job's result, so it is given up; its files: {}",
                self.paths(&view)
            );
        }
        if stop_pod {
            tracing::info!(
                job.id = job.id,
                "a clean worker was asked for; this one takes no more jobs"
            );
            self.retire.cancel();
        }
    }

    /// Posts until the platform takes it (true), wants it no more, refuses it in its shortest form again and again, or
    /// `until`. After each post there is a pause; what was refused for its size is smaller the next time.
    async fn post(&self, job: &InFlightJob, mut end: End, until: SystemTime) -> bool {
        let mut delays = RETRIES.delays();
        let (mut refused, mut refused_at_least) = (0, 0);
        loop {
            let posted = tokio::select! {
                biased;
                () = job.stop.cancelled() => return false,
                posted = self.client.done(&job.id, &end.answer, end.stream) => posted,
            };
            let not_taken = match posted {
                Ok(()) => {
                    tracing::debug!(
                        job.id = job.id,
                        bytes = end.answer.length(),
                        "the platform has the result"
                    );
                    return true;
                }
                Err(not_taken) => not_taken,
            };
            let mut wait = delays.next().unwrap_or(RETRIES.longest);
            if let NotTaken::Later { wait: Some(asked), .. } = &not_taken {
                // However soon it would have it, there is a pause.
                wait = wait.max(*asked).min(LONGEST_WAIT);
            }
            if matches!(not_taken, NotTaken::Refused { .. }) {
                refused += 1;
                let bytes = end.answer.length();
                // Without a word about the size the first refusal may mean anything.
                if refused == 1 && !not_taken.names_size() {
                    // It is posted again as it is.
                } else if self.shrink(&job.id, &mut end, &not_taken).await {
                    tracing::warn!(
                        job.id = job.id,
                        "{not_taken}; it had {bytes} bytes and is made smaller: {}",
                        end.answer.length()
                    );
                } else {
                    refused_at_least += 1;
                    let most = if not_taken.names_size() {
                        MOST_REFUSALS
                    } else {
                        MOST_UNEXPLAINED
                    };
                    if refused_at_least >= most {
                        tracing::error!(
                            job.id = job.id,
                            "{not_taken}; it has {bytes} bytes, which is the least, and was refused {refused} times"
                        );
                        return false;
                    }
                }
            }
            if SystemTime::now() + wait > until {
                return false;
            }
            tracing::warn!(
                job.id = job.id,
                "the result is kept and posted again in {:.1} s: {not_taken}",
                wait.as_secs_f64()
            );
            tokio::select! {
                () = job.stop.cancelled() => return false,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Makes what is posted smaller: a result with fewer bytes, or else the reason why that cannot be; of a failure the
    /// begin. False: it is as small as it gets.
    async fn shrink(&self, job: &str, end: &mut End, not_taken: &NotTaken) -> bool {
        let before = end.answer.length();
        if let Posted::Output(view) = &end.result {
            if before > SMALL {
                let most = (before / 2).max(SMALL);
                // The next time it is made of the whole again.
                let smaller = self.results.shrunk(job, JobView::clone(view), most as u64).await;
                *end = End::new(view, &smaller, end.stop_pod, end.stream);
                if end.answer.length() < before {
                    return true;
                }
            }
            // A word about the size is needed to give a small result up.
            if before <= SMALL && !not_taken.names_size() {
                return false;
            }
            let message = format!("The platform refuses the result for its size: it has {before} bytes");
            let error = JobError::new(ErrorKind::Undeliverable, message)
                .hint("Ask for less, or for files in a bucket: s3Config, or the BUCKET_ variables of the worker.");
            *end = End::failed(Arc::new(error), end.stop_pod, end.stream);
            return end.answer.length() < before;
        }
        end.cut()
    }

    /// Where the files of a result are.
    fn paths(&self, view: &JobView) -> String {
        let outcome = view.result.as_ref().and_then(|result| result.as_ref().ok());
        let files = outcome.map_or(&[][..], |outcome| &outcome.files);
        let paths = files.iter().map(|file| {
            let folders = self.comfy.folders();
            let path = folders.and_then(|folders| folders.path(file.folder, &file.subfolder, &file.filename));
            path.map_or_else(|| file.filename.clone(), |path| path.display().to_string())
        });
        let paths: Vec<String> = paths.collect();
        if paths.is_empty() {
            "none".to_owned()
        } else {
            paths.join(", ")
        }
    }

    /// Whether a job failed in a way that leaves this worker unusable: ComfyUI cannot be started any more, or the CUDA
    /// driver refuses everything until its process, or the machine, is another (docs.nvidia.com/cuda, error handling,
    /// sticky errors).
    async fn is_broken(&self, error: &JobError) -> bool {
        let signs = ["CUDA error", "device-side assert", "CUDNN_STATUS_", "fell off the bus"];
        let text = error.full_text();
        let named = error.kind == ErrorKind::NodeFailed && signs.iter().any(|sign| text.contains(sign));
        let of_the_gpu = named || error.kind == ErrorKind::GpuFailed;
        if self.comfy.are_several() && self.comfy.ready() > 0 {
            // The others go on, and that one is started again.
            return false;
        }
        // An attached ComfyUI is asked over the network, and the result need not wait for that.
        of_the_gpu || (self.comfy.is_supervised() && matches!(self.comfy.state().await, ComfyState::Failed { .. }))
    }
}
