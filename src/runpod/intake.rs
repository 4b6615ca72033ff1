//! Takes jobs: asks for as many as there is room for, and puts them into the queue.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::DEBOUNCE;
use super::fitness::Unfit;
use super::in_flight::InFlight;
use super::long_poll::{Answer, LongPoll, PollError};
use super::report::Reporter;
use crate::config::RunpodConfig;
use crate::dialect::runpod::{self, Handed};
use crate::disk::blocking;
use crate::error::JobError;
use crate::job::{JobId, PlatformJob, Policy};
use crate::net::retry::RetryPolicy;

/// The most bytes of a result of `/run` and of `/runsync` (docs.runpod.io/serverless/endpoints/send-requests, payload
/// limits; those of handlers are the same).
const RUN_MAX_BYTES: u64 = 10_000_000;
const RUNSYNC_MAX_BYTES: u64 = 20_000_000;
/// Requests of at least this many bytes are read on a blocking thread: they hold images to decode.
const LARGE: usize = 128 * 1024;
/// How long an attached ComfyUI may be away before this worker gives up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Results that may wait for the platform before no more jobs are taken.
const MOST_UNDELIVERED: usize = 32;
/// The shortest time between two questions that brought no job, so that a platform that does not hold them open is not
/// flooded.
const PACE: Duration = Duration::from_millis(200);
/// The waits after questions that failed.
const RETRIES: RetryPolicy = RetryPolicy::doubling(Duration::from_millis(250), Duration::from_secs(5));

/// The way of jobs into the worker.
pub(super) struct Intake {
    pub(super) reporter: Arc<Reporter>,
    pub(super) in_flight: Arc<InFlight>,
    /// Jobs on the GPU, or waiting for it.
    pub(super) slots: Arc<Semaphore>,
    /// How many of these there are.
    pub(super) all_slots: usize,
    /// The most jobs at once, where no more engines are ready.
    pub(super) concurrency: usize,
    /// The most bytes of a result; [`None`]: as RunPod limits it.
    pub(super) max_bytes: Option<u64>,
    /// The longest execution, unless the request says otherwise.
    pub(super) execution_timeout: Duration,
}

impl Intake {
    /// Takes jobs until `leave`; fails when ComfyUI cannot be started any more. Every job that was handed out is in the
    /// queue when this returns.
    pub(super) async fn run(&self, config: &RunpodConfig, leave: &CancellationToken) -> Result<(), Unfit> {
        let mut poll = LongPoll::new(config.api_key.clone(), leave.clone());
        let mut delays = RETRIES.delays();
        loop {
            let Some(mut slots) = self.free_slots(leave).await else {
                return Ok(());
            };
            tokio::select! {
                biased;
                () = leave.cancelled() => return Ok(()),
                ready = self.reporter.comfy.available(Some(PATIENCE)) => drop(ready.map_err(|error| Unfit::new("comfyui", &error))?),
            }
            let in_progress = self.in_flight.count() > 0;
            let url = match self.reporter.client.addresses.take(slots.len(), in_progress) {
                Ok(url) => url,
                Err(error) => {
                    let reason = format!("RUNPOD_WEBHOOK_GET_JOB is no address: {error}");
                    return Err(Unfit::new("configuration", &JobError::internal(reason)));
                }
            };
            let asked = Instant::now();
            let wait = match poll.ask(&url).await {
                Ok(Some(Answer {
                    status: StatusCode::OK,
                    body,
                    ..
                })) if !body.is_empty() => {
                    delays.reset();
                    let (jobs, wrong) = runpod::handed_out(&body);
                    for what in wrong {
                        tracing::error!("the platform handed out what is no job: {what}");
                    }
                    let taken = !jobs.is_empty();
                    for job in jobs {
                        self.accept(job, slots.pop()).await;
                    }
                    if taken { Duration::ZERO } else { PACE }
                }
                answer => match pause(&answer) {
                    Some(wait) => {
                        delays.reset();
                        wait
                    }
                    None => delays.next().unwrap_or(RETRIES.longest),
                },
            };
            drop(slots);
            tokio::select! {
                () = leave.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(asked + wait) => {}
            }
        }
    }

    /// Waits for a slot, and takes all that are free.
    async fn free_slots(&self, leave: &CancellationToken) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = tokio::select! {
            biased;
            () = leave.cancelled() => return None,
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok()?,
        };
        let mut slots = vec![first];
        loop {
            if self.in_flight.count() < self.all_slots + MOST_UNDELIVERED {
                while let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                    slots.push(slot);
                }
                let taken = self.all_slots.saturating_sub(slots.len());
                // Each engine that is ready has a job, but where the worker is another after each.
                let engines = if self.reporter.refresh_worker {
                    0
                } else {
                    self.reporter.comfy.ready()
                };
                let most = self.concurrency.max(engines);
                let free = slots.len().min(most.saturating_sub(taken));
                if free > 0 {
                    slots.truncate(free);
                    return Some(slots);
                }
            }
            tokio::select! {
                () = leave.cancelled() => return None,
                () = tokio::time::sleep(RETRIES.initial) => {}
            }
        }
    }

    async fn accept(&self, handed: Handed, slot: Option<OwnedSemaphorePermit>) {
        let Some(job) = self.in_flight.take(&handed.id) else {
            tracing::warn!(
                job.id = handed.id,
                "the platform handed a job out again that is here already; it runs once"
            );
            return;
        };
        tracing::info!(job.id = handed.id, bytes = handed.size(), "took a job");
        let limit = if handed.is_sync() {
            RUNSYNC_MAX_BYTES
        } else {
            RUN_MAX_BYTES
        };
        let limit = self.max_bytes.unwrap_or(limit);
        let error = match self.submit(handed, limit).await {
            Ok((id, policy)) => return self.reporter.follow(job, id, policy, slot),
            Err(error) => error,
        };
        let policy = Policy {
            platform: Some(PlatformJob {
                id: job.id.clone(),
                ..PlatformJob::default()
            }),
            ..Policy::default()
        };
        match self.reporter.queue.refuse(policy.clone(), error.clone()).await {
            Ok(id) => self.reporter.follow(job, id, policy, None),
            // What cannot be kept is told all the same.
            Err(_) => self.reporter.fail(job, error),
        }
    }

    async fn submit(&self, handed: Handed, limit: u64) -> Result<(JobId, Policy), JobError> {
        let (mut request, mut policy) = if handed.size() < LARGE {
            handed.read()?
        } else {
            blocking(move || handed.read()).await?
        };
        request.delivery.max_bytes = Some(limit);
        policy.execution_timeout.get_or_insert(self.execution_timeout);
        let queue = &self.reporter.queue;
        Box::pin(self.reporter.results.check(&request.delivery)).await?;
        let place = queue.permit()?;
        let id = queue.submit(place, request, policy.clone()).await?;
        Ok((id, policy))
    }
}

/// How long to wait, from the question on, after an answer without a job; [`None`] after a failure.
fn pause(answer: &Result<Option<Answer>, PollError>) -> Option<Duration> {
    match answer {
        // No job; 400 is what RunPod answers with FlashBoot on (`rp_job.py`).
        Ok(None) => Some(PACE),
        Ok(Some(answer)) => match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::BAD_REQUEST => Some(PACE),
            StatusCode::TOO_MANY_REQUESTS => Some(answer.retry_after.unwrap_or(DEBOUNCE)),
            status => {
                tracing::warn!("no job could be taken: the platform answers {status}");
                None
            }
        },
        Err(error) => {
            tracing::warn!("no job could be taken: {error}");
            None
        }
    }
}
