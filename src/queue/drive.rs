//! Takes jobs from the line, one after the other, and sees each through to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::error::{ErrorKind, JobError};
use crate::executor::{Event, Owner};
use crate::job::{JobRequest, JobState, Outcome};

use super::entry::Entry;
use super::inner::{Inner, stored};
use super::{keep, payload};

/// Time between two log lines about a job that runs.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How long jobs of the platform wait for a ComfyUI that is away.
const PLATFORMS_PATIENCE: Duration = Duration::from_mins(1);

/// Takes jobs while the worker runs, and ComfyUI can be had: the others wait in the line, as long as they live. One more than ComfyUI holds is taken, so that its images are uploaded and its
/// graph is checked when its turn comes.
pub(super) async fn dispatch(inner: Arc<Inner>) {
    let picks = Arc::new(Semaphore::new(1 + inner.settings.prefetch.max(1)));
    let mut before = CancellationToken::new();
    before.cancel();
    loop {
        let pick = tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            pick = Arc::clone(&picks).acquire_owned() => pick,
        };
        let Ok(pick) = pick else { return };
        let entry = loop {
            // Registered before the look, so that no job is missed in between.
            let changed = inner.changed.notified();
            let comfy = inner.executor.comfy();
            let is_away = comfy.is_away();
            if let Some(entry) = inner.pick(is_away) {
                break entry;
            }
            tokio::select! {
                biased;
                () = inner.stopping.cancelled() => return,
                () = changed => {}
                // That a job waits may have it started once more. A failure is for good.
                Ok(_) = comfy.available(None), if is_away && inner.has_waiting() => {}
            }
        };
        let submitted = CancellationToken::new();
        let turn = Turn {
            before: std::mem::replace(&mut before, submitted.clone()),
            submitted: submitted.drop_guard(),
        };
        let span = tracing::info_span!("job", job.id = entry.name());
        inner
            .tasks
            .spawn(drive(Arc::clone(&inner), entry, pick, turn).instrument(span));
    }
}

/// Keeps the order of jobs that are prepared at the same time: one whose preparation is quicker waits for those before.
struct Turn {
    /// Cancelled when the job before has been submitted, or is over.
    before: CancellationToken,
    /// The same of this job; dropped then.
    submitted: DropGuard,
}

async fn drive(inner: Arc<Inner>, entry: Arc<Entry>, pick: OwnedSemaphorePermit, turn: Turn) {
    let request = match request_of(&inner, &entry).await {
        Ok(request) => request,
        Err(error) => {
            inner.unpick(&entry);
            inner.end(&entry, JobState::Failed, Err(Arc::new(error))).await;
            return;
        }
    };
    let (events, mut heard) = mpsc::unbounded_channel();
    let timeout = entry.policy.execution_timeout.unwrap_or(inner.settings.timeout);
    let owner = Owner {
        name: entry.name().to_owned(),
        events,
        stop: entry.stop.clone(),
        turn: turn.before,
        resume: entry.resume.clone(),
        // The platform gives its jobs to another worker.
        patience: entry.policy.platform.as_ref().map(|_| PLATFORMS_PATIENCE),
        timeout,
    };
    let (executor, id) = (Arc::clone(&inner.executor), entry.id.clone());
    // A task of its own: a panic in it ends this job and no other, and storing what it tells does not hold it up.
    let execution = tokio::spawn(async move { executor.run(&id, request, &owner).await }.in_current_span());
    let (mut pick, mut submitted) = (Some(pick), Some(turn.submitted));
    let mut deadline = None;
    let mut log_times = tokio::time::interval(LOG_EVERY);
    loop {
        let event = tokio::select! {
            event = heard.recv() => event,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                deadline = None;
                let message = format!("The job's execution took longer than {} s", timeout.as_secs());
                let hint = "Ask for less (steps, size, batch), or for more time: policy.executionTimeout, JOB_TIMEOUT_S.";
                let error = JobError::new(ErrorKind::TimedOut, message).hint(hint);
                inner.end(&entry, JobState::TimedOut, Err(Arc::new(error))).await;
                continue;
            }
            _ = log_times.tick(), if deadline.is_some() => {
                log_progress(&entry);
                continue;
            }
        };
        match event {
            // The execution is over and has dropped its end.
            None => break,
            // What is told after the end is not stored: under this id the job may be queued anew.
            Some(Event::Submitting(prompt_id, kept)) => {
                if !entry.has_ended() {
                    stored("prompt", inner.store.submitted(&entry.id, &prompt_id).await);
                }
                drop(kept);
            }
            Some(Event::Submitted) => submitted = None,
            // Those behind it have what they need, perhaps; they go first.
            Some(Event::Downloading) => {
                submitted = None;
                pick = None;
            }
            Some(Event::Begun) => {
                if entry.begin() {
                    inner.unpick(&entry);
                    deadline = Some(Instant::now() + timeout);
                    log_times.reset();
                    let attempt = entry.attempts + 1;
                    stored("begin", inner.store.started(&entry.id, attempt).await);
                }
            }
            Some(Event::Progress(progress)) => entry.progress(progress),
            Some(Event::Left(files)) => keep::take_down(&inner, &entry, files).await,
            Some(Event::ComfyFree) => {
                pick = None;
                deadline = None;
            }
        }
    }
    drop((pick, submitted));
    let result = execution.await.unwrap_or_else(|error| {
        Err(JobError::internal(format!("the job's execution broke off: {error}")).hint("The log has the reason."))
    });
    settle(&inner, &entry, result).await;
}

pub(super) async fn settle(inner: &Inner, entry: &Entry, result: Result<Outcome, JobError>) {
    inner.unpick(entry);
    match result {
        Ok(outcome) => {
            inner.end(entry, JobState::Completed, Ok(Arc::new(outcome))).await;
        }
        // Called off because the worker stops: it stays queued and runs after the next start.
        Err(error) if error.kind == ErrorKind::Cancelled && inner.stopping.is_cancelled() && !entry.has_ended() => {
            if entry.state() == JobState::Running {
                // It began at the last moment. Its prompt was interrupted and must not be found again.
                stored("requeueing", inner.store.requeued(&entry.id).await);
                entry.go_back();
            }
            tracing::info!("the job goes back to the queue");
        }
        Err(error) => {
            inner.end(entry, JobState::Failed, Err(Arc::new(error))).await;
        }
    }
}

fn log_progress(entry: &Entry) {
    let progress = entry.view().progress;
    let (node, class) = (
        progress.node_id.unwrap_or_default(),
        progress.class_type.unwrap_or_default(),
    );
    let step = progress.step.map(|(step, steps)| format!(", step {step} of {steps}"));
    let left = progress.eta.filter(|eta| eta.as_secs() > 0);
    let left = left.map(|eta| format!(", about {} s left", eta.as_secs()));
    tracing::info!(
        job.id = entry.name(),
        job.percent = progress.percent,
        "job at {} %: node {node} ({class}){}{}",
        progress.percent,
        step.unwrap_or_default(),
        left.unwrap_or_default()
    );
}

pub(super) async fn request_of(inner: &Inner, entry: &Entry) -> Result<JobRequest, JobError> {
    if let Some(request) = entry.take_request() {
        return Ok(request);
    }
    let missing = || JobError::internal("the request of the job is no longer stored");
    let text = inner.store.payload(&entry.id).await?.ok_or_else(missing)?;
    tokio::task::spawn_blocking(move || payload::decode(&text))
        .await
        .unwrap_or_else(|error| {
            Err(JobError::internal(format!(
                "the stored request could not be read: {error}"
            )))
        })
}
