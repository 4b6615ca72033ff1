//! Takes jobs from the backlog, one after the other, and sees each through to its end. Images of jobs that wait are fetched
//! ahead of their turn: a job whose images are slow to come lets others pass, and has its place again once they are here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::error::{ErrorKind, JobError};
use crate::executor::{Event, JobControl, Told};
use crate::job::{Dialect, JobRequest, JobState, Outcome};
use crate::telemetry::traces;

use super::changes::Change;
use super::core::{Core, stored};
use super::live_job::LiveJob;
use super::{expiry, payload};

/// Time between two log lines about a job that runs.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How long jobs of the platform wait for a ComfyUI that is away.
const PLATFORMS_PATIENCE: Duration = Duration::from_mins(1);

/// Takes jobs while the worker runs and ComfyUI can be had: the others wait in the backlog, as long as they live. One more than
/// ComfyUI holds is taken, so that its images are uploaded and its graph is checked when its turn comes.
pub(super) async fn dispatch(core: Arc<Core>) {
    let picks = Arc::new(Semaphore::new(1 + core.settings.prefetch.max(1)));
    let mut before = CancellationToken::new();
    before.cancel();
    loop {
        let pick = tokio::select! {
            biased;
            () = core.stopping.cancelled() => return,
            pick = Arc::clone(&picks).acquire_owned() => pick,
        };
        let Ok(pick) = pick else { return };
        let job = loop {
            // Registered before the look, so that no job is missed in between.
            let changed = core.changed.notified();
            let comfy = core.executor.comfy();
            let is_away = comfy.is_away();
            if let Some(job) = core.pick(is_away) {
                break job;
            }
            tokio::select! {
                biased;
                () = core.stopping.cancelled() => return,
                () = changed => {}
                // That a job waits may have it started once more. A failure is for good.
                Ok(_) = comfy.available(None), if is_away && core.has_waiting() => {}
            }
        };
        let submitted = CancellationToken::new();
        let turn = Turn {
            before: std::mem::replace(&mut before, submitted.clone()),
            submitted: submitted.drop_guard(),
        };
        let span = tracing::info_span!("job", job.id = job.name());
        core.tasks
            .spawn(drive(Arc::clone(&core), job, pick, turn).instrument(span));
    }
}

/// Who is told of the job in ComfyUI's own words.
fn told(job: &LiveJob) -> Option<Told> {
    if job.policy.dialect != Dialect::Comfyui {
        return None;
    }
    Some(Told {
        id: job.id.clone(),
        created: job.created,
        owner: job.policy.prompt.as_deref().cloned().unwrap_or_default(),
        entry: job.entry_sender()?,
    })
}

/// Keeps the order of jobs that are prepared at the same time: one whose preparation is quicker waits for those before.
struct Turn {
    /// Cancelled when the job before has been submitted, or is over.
    before: CancellationToken,
    /// The same of this job; dropped then.
    submitted: DropGuard,
}

async fn drive(core: Arc<Core>, job: Arc<LiveJob>, pick: OwnedSemaphorePermit, turn: Turn) {
    let request = match request_of(&core, &job).await {
        Ok(request) => request,
        Err(error) => {
            core.end(&job, JobState::Failed, Err(Arc::new(error))).await;
            return;
        }
    };
    let (events, mut heard) = mpsc::unbounded_channel();
    let timeout = job.policy.execution_timeout.unwrap_or(core.settings.timeout);
    let owner = JobControl {
        name: job.name().to_owned(),
        events,
        stop: job.stop.clone(),
        turn: turn.before,
        resume: job.resume.clone(),
        // The platform gives its jobs to another worker.
        patience: job.policy.platform.as_ref().map(|_| PLATFORMS_PATIENCE),
        timeout,
        told: told(&job),
        watch: job.watch.clone(),
        commits: job.policy.dialect.commits_outputs(),
    };
    let (executor, id) = (Arc::clone(&core.executor), job.id.clone());
    // A task of its own: a panic in it ends this job and no other, and storing what it tells does not hold it up.
    let traceparent = job.watch.traceparent();
    let execution = async move { executor.run(&id, request, &owner).await }.in_current_span();
    let execution = tokio::spawn(traces::within(traceparent, execution));
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
                // What the execution tells meanwhile is heard.
                let (core, job) = (Arc::clone(&core), Arc::clone(&job));
                core.tasks.clone().spawn(
                    async move { core.end(&job, JobState::TimedOut, Err(Arc::new(error))).await }.in_current_span(),
                );
                continue;
            }
            _ = log_times.tick(), if deadline.is_some() => {
                log_progress(&job);
                continue;
            }
        };
        match event {
            // The execution is over and has dropped its end.
            None => break,
            // What is told after the end is not stored: under this id the job may be queued again.
            Some(Event::Submitting(prompt_id, kept)) => {
                if !job.has_ended() {
                    stored("prompt", core.store.submitted(&job.id, &prompt_id).await);
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
                if job.begin() {
                    core.unpick(&job);
                    deadline = Some(Instant::now() + timeout);
                    log_times.reset();
                    let attempt = job.attempts + 1;
                    stored("begin", core.store.started(&job.id, attempt).await);
                    core.changes.tell(|| Change::Began(job.id.clone()));
                }
            }
            Some(Event::Progress(progress)) => job.progress(progress),
            Some(Event::Outputs(outputs)) => {
                let ids = outputs.iter().map(|output| output.id.clone()).collect();
                // Before anybody is told of them.
                stored("outputs", core.store.committed(&job.id, ids).await);
                job.outputs(outputs);
            }
            Some(Event::Left(files)) => expiry::take_down(&core, &job, files).await,
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
    settle(&core, &job, result).await;
}

pub(super) async fn settle(core: &Core, job: &LiveJob, result: Result<Outcome, JobError>) {
    match result {
        Ok(outcome) => {
            core.end(job, JobState::Completed, Ok(Arc::new(outcome))).await;
        }
        // Cancelled because the worker stops: it stays queued and runs after the next start.
        Err(error) if error.kind == ErrorKind::Cancelled && core.stopping.is_cancelled() && !job.has_ended() => {
            if job.state() == JobState::Running {
                // It began at the last moment. Its prompt was interrupted and must not be found again.
                stored("requeueing", core.store.requeued(&job.id).await);
                job.go_back();
            }
            core.unpick(job);
            tracing::info!("the job goes back to the queue");
        }
        Err(error) => {
            core.end(job, JobState::Failed, Err(Arc::new(error))).await;
        }
    }
}

fn log_progress(job: &LiveJob) {
    let progress = job.view().progress;
    let (node, class) = (
        progress.node_id.unwrap_or_default(),
        progress.class_type.unwrap_or_default(),
    );
    let step = progress.step.map(|(step, steps)| format!(", step {step} of {steps}"));
    let left = progress.eta.filter(|eta| eta.as_secs() > 0);
    let left = left.map(|eta| format!(", about {} s left", eta.as_secs()));
    tracing::info!(
        job.id = job.name(),
        job.percent = progress.percent,
        "job at {} %: node {node} ({class}){}{}",
        progress.percent,
        step.unwrap_or_default(),
        left.unwrap_or_default()
    );
}

async fn request_of(core: &Core, job: &LiveJob) -> Result<JobRequest, JobError> {
    let mut request = if let Some(request) = job.take_request() {
        request
    } else {
        let missing = || JobError::internal("the request of the job is no longer stored");
        let text = core.store.payload(&job.id).await?.ok_or_else(missing)?;
        payload::read(text).await?
    };
    if let Some(key) = job.org_api_key() {
        request.org_api_key = Some(key);
    }
    Ok(request)
}

/// Begins to fetch for the jobs of the backlog, in order, while the worker runs.
pub(super) async fn fetch_ahead(core: Arc<Core>) {
    loop {
        // Registered before the look, so that no job is missed in between.
        let changed = core.fetch_due.notified();
        while let Some(job) = next_to_fetch(&core) {
            let span = tracing::info_span!("job", job.id = job.name());
            core.tasks.spawn(fetch(Arc::clone(&core), job).instrument(span));
        }
        tokio::select! {
            biased;
            () = core.stopping.cancelled() => return,
            () = changed => {}
        }
    }
}

fn next_to_fetch(core: &Core) -> Option<Arc<LiveJob>> {
    core.live.lock().next_to_fetch()
}

async fn fetch(core: Arc<Core>, job: Arc<LiveJob>) {
    // A task of its own: a panic in it ends this job and no other.
    let fetching = tokio::spawn(request_with_images(Arc::clone(&core), Arc::clone(&job)).in_current_span());
    let fetched = fetching
        .await
        .unwrap_or_else(|error| Err(JobError::internal(format!("the fetching of images broke off: {error}"))));
    match fetched {
        // The job is over, or the worker stops: it stays stored as it came.
        Ok(None) => {}
        Ok(Some(request)) => {
            job.keep_request(request);
            core.live.lock().fetched(&job);
            core.changed.notify_one();
        }
        Err(error) => {
            core.end(&job, JobState::Failed, Err(Arc::new(error))).await;
        }
    }
    core.fetch_due.notify_one();
}

async fn request_with_images(core: Arc<Core>, job: Arc<LiveJob>) -> Result<Option<JobRequest>, JobError> {
    let fetched = async {
        let mut request = request_of(&core, &job).await?;
        let fetching = job.watch.fetches(&request);
        core.executor.fetch(&mut request).await?;
        drop(fetching);
        Ok(Some(request))
    };
    tokio::select! {
        biased;
        () = job.stop.cancelled() => Ok(None),
        fetched = fetched => fetched,
    }
}
