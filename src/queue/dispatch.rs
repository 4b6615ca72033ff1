//! Takes jobs from the backlog, one after the other, gives each to an engine, and sees it through to its end. Images of jobs that wait are fetched
//! ahead of their turn: a job whose images are slow to come lets others pass, and has its place again once they are here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::engine::{Member, Seat, Signature, Standing, Turn};
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Failed, Then};
use crate::executor::{Event, JobControl, Told};
use crate::job::{Dialect, JobRequest, JobState, Outcome, payload};
use crate::telemetry::traces;

use super::changes::Change;
use super::core::{Core, stored};
use super::elsewhere::is_unable;
use super::expiry;
use super::live_job::LiveJob;

/// Time between two log lines about a job that runs.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Time between two looks at the engines while jobs wait for them.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long a job that may run elsewhere waits for a ComfyUI that is away.
const PATIENCE: Duration = Duration::from_mins(1);

/// Gives jobs to the engines while the worker runs and one of them can be had: the others wait in the backlog, as long as they
/// live.
pub(super) async fn dispatch(core: Arc<Core>) {
    loop {
        // Registered before the look, so that no job is missed in between.
        let changed = core.changed.notified();
        let seen = core.engines.standings();
        while !core.stopping.is_cancelled()
            && let Some((job, seat, turn)) = core.assign()
        {
            let span = tracing::info_span!("job", job.id = job.name());
            core.tasks
                .spawn(drive(Arc::clone(&core), job, seat, turn).instrument(span));
        }
        core.recall_one();
        if core.engines.is_elsewhere() {
            // One that has a place again may be one for which nothing was fetched.
            core.fetch_due.notify_one();
        }
        let has_many_places = core.engines.has_choice() || core.engines.is_elsewhere();
        let may_have_changed = has_many_places && core.has_waiting();
        tokio::select! {
            biased;
            () = core.stopping.cancelled() => return,
            () = changed => {}
            // A process that was stopped from outside, and goes on, tells nothing of it; nor does an engine elsewhere that has
            // more places again.
            () = tokio::time::sleep(LOOK_AGAIN), if may_have_changed => {}
            () = core.engines.until_other(&seen) => {}
        }
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

async fn drive(core: Arc<Core>, job: Arc<LiveJob>, seat: Seat, turn: Turn) {
    let request = match request_of(&core, &job).await {
        Ok(request) => request,
        Err(error) => {
            core.end(&job, JobState::Failed, Err(Arc::new(error))).await;
            return;
        }
    };
    let member = Arc::clone(seat.member());
    if is_unable(&job, &member) {
        core.give_back(&job);
        return;
    }
    let stop = job.begins_at(&member);
    job.watch.engine(member.engine().name());
    let (events, mut heard) = mpsc::unbounded_channel();
    let timeout = job.policy.execution_timeout.unwrap_or(core.settings.timeout);
    if core.engines.has_choice() {
        tracing::info!(job.id = job.name(), "the job goes to `{}`", member.engine().name());
    }
    // The platform, or the fleet, gives its jobs to another worker, and we give ours to another engine.
    let may_go_elsewhere = job.policy.has_other_workers() || core.engines.has_choice();
    let owner = JobControl {
        name: job.name().to_owned(),
        events,
        stop: stop.clone(),
        turn: turn.before,
        resume: job.resume.clone().filter(|_| !job.has_come_back()),
        patience: may_go_elsewhere.then_some(PATIENCE),
        has_others: core.has_others(&job, &member),
        timeout,
        told: told(&job),
        watch: job.watch.clone(),
        commits: job.policy.dialect.commits_outputs(),
    };
    let (engine, id) = (Arc::clone(member.engine()), job.id.clone());
    // A task of its own: a panic in it ends this job and no other, and storing what it tells does not hold it up.
    let traceparent = job.watch.traceparent();
    let execution = async move { engine.run(&id, request, &owner).await }.in_current_span();
    let execution = tokio::spawn(traces::within(traceparent, execution));
    let (mut seat, mut submitted, mut prompt) = (Some(seat), Some(turn.submitted), None);
    let mut deadline = None;
    let mut log_times = tokio::time::interval(LOG_EVERY);
    loop {
        let event = tokio::select! {
            event = heard.recv() => event,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                deadline = None;
                let mut message = format!("The job's execution took longer than {} s", timeout.as_secs());
                if member.engine().elsewhere().is_some() {
                    let name = member.engine().name();
                    message = format!("{message}; engine `{name}` may charge for it");
                }
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
                    let submitted = core.store.submitted(&job.id, &prompt_id, member.engine().name()).await;
                    let is_kept = submitted.is_ok();
                    stored("prompt", submitted);
                    if is_kept {
                        // Whoever asked may be gone.
                        let _ = kept.send(());
                    }
                } else if member.engine().elsewhere().is_some() {
                    // By that it is cancelled there, after a restart too.
                    stored("id", core.store.taken_late(&job.id, &prompt_id).await);
                }
                prompt = Some(prompt_id);
            }
            Some(Event::Submitted) => submitted = None,
            // Those behind it have what they need, perhaps; they go first.
            Some(Event::Downloading) => {
                submitted = None;
                seat = None;
                job.stays();
            }
            Some(Event::Begun) => {
                job.stays();
                member.has_begun(job.signature());
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
                seat = None;
                deadline = None;
            }
        }
    }
    drop((seat, submitted));
    let result = execution.await.unwrap_or_else(|error| {
        let broke_off = JobError::internal(format!("the job's execution broke off: {error}"));
        Err(broke_off.hint("The log has the reason.").into())
    });
    if job.was_recalled() {
        core.recalls.fetch_sub(1, Ordering::Relaxed);
    }
    let result = match result {
        Err(Failed {
            error,
            then: Then::Elsewhere(again),
        }) => {
            core.goes_on(&job, member.engine().name(), error, again).await;
            return;
        }
        Err(failed) => Err(failed.error),
        Ok(outcome) => Ok(outcome),
    };
    match result {
        Err(error) if goes_elsewhere(&core, &job, &member, (&stop, &error)) => {
            if error.kind == ErrorKind::ComfyUnavailable
                && let Some(prompt_id) = prompt
            {
                core.tasks.spawn(take_back(Arc::clone(&core), member, prompt_id));
            }
            if job.state() == JobState::Running {
                stored("requeueing", core.store.requeued(&job.id).await);
            }
            core.give_back(&job);
        }
        result => settle(&core, &job, result).await,
    }
}

/// Whether a job that did not come to its end here is to run at another engine: it was taken back before its turn, or this one is
/// away.
fn goes_elsewhere(core: &Core, job: &LiveJob, member: &Member, (stop, error): (&CancellationToken, &JobError)) -> bool {
    if job.has_ended() || core.stopping.is_cancelled() {
        return false;
    }
    match error.kind {
        ErrorKind::Cancelled => stop.is_cancelled() && !job.stop.is_cancelled(),
        // The platform, or the fleet, has other workers.
        ErrorKind::ComfyUnavailable if core.engines.is_away() && job.policy.has_other_workers() => false,
        ErrorKind::ComfyUnavailable if core.engines.has_choice() => {
            let may_move = member.engine().standing() == Standing::Away && job.may_move();
            if may_move {
                let (name, reason) = (member.engine().name(), error.full_text());
                tracing::warn!("the job waits for another engine, since `{name}` is away: {reason}");
            }
            may_move
        }
        _ => false,
    }
}

/// Takes a prompt out of an engine that is away, once it is there again: its job runs elsewhere.
async fn take_back(core: Arc<Core>, member: Arc<Member>, prompt_id: String) {
    let engine = member.engine();
    if engine.keeps_jobs() {
        tokio::select! {
            () = core.stopping.cancelled() => {}
            () = async {
                engine.until_not(Standing::Away).await;
                engine.cancel_earlier(&[prompt_id]).await;
            } => {}
        }
    }
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
        // By another front, at an engine that both know.
        Err(error) if error.kind == ErrorKind::Cancelled => {
            core.end(job, JobState::Cancelled, Err(Arc::new(error))).await;
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
    if core.engines.has_choice() && job.signature().is_none() {
        job.loads(Signature::of(&request));
    }
    core.find_able(job, &request).await?;
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
    core.live.lock().next_to_fetch(|job| core.has_place_elsewhere(job))
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
