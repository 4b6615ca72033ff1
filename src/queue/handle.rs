//! What is asked of the queue: jobs as they are, and their ends; and what owners do with their jobs: cancel them, send
//! them again, remove them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::Instrument as _;

use crate::engine::remote::{Remote, RemoteState, is_ticket};
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Progress;
use crate::job::{Dialect, JobId, JobRequest, JobState, JobView, Place, Policy, payload};

use super::core::view_of;
use super::live_job::LiveJob;
use super::store::{JobsOfV2, StoredJob};
use super::{Counts, Queue, expiry, known, stopping, unknown};

impl Queue {
    /// The job as it is now.
    pub async fn view(&self, id: &str) -> Result<JobView, JobError> {
        let id = known(id)?;
        match self.0.live(&id) {
            Some((job, position, eta)) => Ok(with_position(job.view(), position, eta)),
            None => match self.0.stored_view(&id).await {
                Ok(view) => Ok(view),
                Err(error) => self.0.foreign(&id, error).await,
            },
        }
    }

    /// The job as the store has it, where its end is not shown yet: an end is stored first, and its webhook is due then.
    pub async fn stored_view(&self, id: &JobId) -> Result<JobView, JobError> {
        match self.0.live(id) {
            Some((job, ..)) if job.state().is_final() => Ok(job.view()),
            _ => self.0.stored_view(id).await,
        }
    }

    /// The job as it is now, and each change; the last one is the final state.
    pub async fn watch(&self, id: &str) -> Result<watch::Receiver<JobView>, JobError> {
        let id = known(id)?;
        if let Some((job, position, eta)) = self.0.live(&id) {
            let receiver = job.subscribe();
            if let Some(position) = position {
                job.place_in_line(position, eta);
            }
            return Ok(receiver);
        }
        match self.0.stored_view(&id).await {
            Ok(view) => Ok(watch::channel(view).1),
            Err(error) => Ok(self.0.watch_foreign(self.0.foreign(&id, error).await?)),
        }
    }

    /// Waits for the job's end. Fails when the worker is stopped before, and with the reason
    /// ([`ErrorKind::ComfyUnavailable`]) when ComfyUI is away for longer than a client
    /// may be kept waiting; the job goes on waiting then.
    pub async fn wait(&self, id: &str) -> Result<JobView, JobError> {
        let mut receiver = self.watch(id).await?;
        let id = &known(id)?;
        let ended = receiver.wait_for(|view| view.state.is_final());
        tokio::select! {
            biased;
            view = ended => view.map(|view| view.clone()).map_err(|_| JobError::internal("the job is no longer watched")),
            error = self.stopped_before_the_end(id) => Err(error),
            reason = self.0.kept_waiting(id) => Err(reason),
        }
    }

    /// Resolves when the worker stops and this job will not end any more; it stays stored, and nothing more is seen of it: at
    /// once where it waits; where it runs, when the grace is over, or when it goes back since it began at the last moment.
    pub async fn given_back(&self, id: &JobId) {
        let core = &self.0;
        core.stopping.cancelled().await;
        if let Some((job, ..)) = core.live(id) {
            let mut seen = job.subscribe();
            tokio::select! {
                _ = seen.wait_for(|view| view.state == JobState::Queued) => {}
                () = core.abandoned.cancelled() => {}
            }
        }
        // Its end may be being stored.
        if core.live(id).is_some_and(|(job, ..)| job.has_ended()) {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves as [`Self::given_back`] does, with what is told to those who wait for the job.
    pub async fn stopped_before_the_end(&self, id: &JobId) -> JobError {
        self.given_back(id).await;
        let begun = self.0.live(id).is_some_and(|(job, ..)| job.state() != JobState::Queued);
        let before = if begun { "end" } else { "turn" };
        let error = JobError::new(
            ErrorKind::Stopping,
            format!("The worker stops before the job's {before}"),
        );
        error.hint(format!(
            "The job is kept and runs after the next start: ask for /status/{id} then."
        ))
    }

    /// The newest jobs: of one state or of all, of one API or of all. Those that ended long ago come without their results.
    pub async fn list(
        &self,
        state: Option<JobState>,
        dialect: Option<Dialect>,
        limit: usize,
    ) -> Result<Vec<JobView>, JobError> {
        let jobs = self.0.store.list(state, dialect, limit).await?;
        Ok(jobs
            .into_iter()
            .map(|job| match self.0.live(&job.id) {
                Some((job, position, eta)) => with_position(job.view(), position, eta),
                None => view_of(job),
            })
            // The store may be behind what is live.
            .filter(|view| state.is_none_or(|state| view.state == state))
            .collect())
    }

    /// A page of jobs of Comfy API v2, without their results, and the place after which others follow, if there may be some.
    pub async fn jobs_of_v2(&self, wanted: JobsOfV2) -> Result<(Vec<JobView>, Option<Place>), JobError> {
        let (jobs, next) = self.0.store.jobs_of_v2(wanted).await?;
        let view = |job: StoredJob| match self.0.live(&job.id) {
            Some((job, position, eta)) => with_position(job.view(), position, eta),
            None => view_of(job),
        };
        Ok((jobs.into_iter().map(view).collect(), next))
    }

    /// The jobs of an API whose end is not shown yet: those that run, then those that wait, in their order.
    pub fn line(&self, dialect: Dialect) -> Vec<JobView> {
        let line = self.0.live.lock().line();
        line.into_iter()
            .filter(|(job, ..)| job.policy.dialect == dialect)
            .map(|(job, position, eta)| with_position(job.view(), position, eta))
            .collect()
    }

    /// The request of a job as it came, while it is stored: a completed job has none any more.
    pub async fn request(&self, id: &JobId) -> Result<Option<JobRequest>, JobError> {
        let Some(text) = self.0.store.payload(id).await? else {
            return Ok(None);
        };
        // A job that was refused has an empty one.
        if text.is_empty() {
            return Ok(None);
        }
        payload::read(text).await.map(Some)
    }

    /// The job as it is now, and the progress that was not handed out yet.
    pub async fn stream(&self, id: &str) -> Result<(JobView, Vec<Progress>), JobError> {
        let known = known(id)?;
        // The state first: what comes after it is handed out the next time.
        let view = self.view(id).await?;
        let chunks = self.0.live(&known).map(|(job, ..)| job.take_chunks());
        Ok((view, chunks.unwrap_or_default()))
    }

    /// Jobs by state.
    pub fn counts(&self) -> Counts {
        let (in_queue, in_progress) = self.0.live.lock().counts();
        Counts {
            completed: self.0.completed.load(Ordering::Relaxed),
            failed: self.0.failed.load(Ordering::Relaxed),
            in_progress,
            in_queue,
            retried: self.0.retried.load(Ordering::Relaxed),
        }
    }

    /// Jobs that wait, and jobs that run, without warm-ups.
    pub fn counts_of_jobs(&self) -> (u64, u64) {
        self.0.live.lock().counts_of_jobs()
    }

    /// The engines elsewhere and how they stand; none in a worker that has a ComfyUI.
    pub fn remote_states(&self) -> Vec<RemoteState> {
        self.0.engines.remotes().map(Remote::state).collect()
    }

    /// What the engines elsewhere would tell of a request's graph, where none of them would take it.
    pub async fn refused_elsewhere(&self, request: &JobRequest) -> Option<JobError> {
        let engines = &self.0.engines;
        if engines.is_elsewhere() {
            engines.refuses(request).await
        } else {
            None
        }
    }

    /// The node classes that engines elsewhere tell of, as ComfyUI's `/object_info`, or one of them.
    pub async fn object_info(&self, class: Option<&str>) -> Option<Vec<u8>> {
        self.0.engines.object_info(class).await
    }

    /// The most jobs that may wait or run at once.
    pub fn limit(&self) -> usize {
        self.0.settings.queue_limit
    }

    /// The platform's jobs that have not ended, and those whose end it is still to be told.
    pub async fn platform_jobs(&self) -> Result<Vec<(JobId, Policy)>, JobError> {
        let live = self.0.live.lock().unfinished();
        let ended = self.0.store.unreported().await?;
        let live = live.into_iter().map(|job| (job.id.clone(), Policy::clone(&job.policy)));
        let ended = ended.into_iter().map(|job| (job.id, job.policy));
        // One that ended in between would be there twice.
        let mut seen = HashSet::new();
        Ok(live
            .chain(ended)
            .filter(|(id, policy)| policy.platform.is_some() && seen.insert(id.clone()))
            .collect())
    }

    /// The prompt in ComfyUI that carries the job, once there is one.
    pub async fn prompt_id(&self, id: &JobId) -> Result<Option<String>, JobError> {
        let kept = self.0.store.get(id).await?.and_then(|job| job.prompt_id);
        // What is put down of a job elsewhere is none.
        Ok(kept.filter(|prompt_id| !is_ticket(prompt_id)))
    }

    /// Cancels the job. When this returns the job is cancelled, unless it had ended before. One that came by ComfyUI's own API
    /// and runs is cancelled when ComfyUI has let go of it, since its entry tells what was made until then.
    pub async fn cancel(&self, id: &str) -> Result<JobView, JobError> {
        let known = known(id)?;
        if let Some((job, ..)) = self.0.live(&known) {
            let core = Arc::clone(&self.0);
            return self
                .whole(async move {
                    let error = JobError::new(ErrorKind::Cancelled, "The job was cancelled");
                    core.end(&job, JobState::Cancelled, Err(Arc::new(error))).await;
                    if !job.has_ended() {
                        // The worker has given up its jobs; the next start goes on with them.
                        return Err(stopping());
                    }
                    // Whoever else ended it may still be storing that. It is this job that is waited for: the job
                    // may be retried at once.
                    let mut shown = job.subscribe();
                    let _ = shown.wait_for(|view| view.state.is_final()).await;
                    Ok(job.view())
                })
                .await;
        }
        match self.0.stored_view(&known).await {
            Err(error) => {
                let view = self.0.foreign(&known, error).await?;
                if view.state.is_final() {
                    return Ok(view);
                }
                self.0.engines.cancel_foreign(&known).await;
                self.view(id).await
            }
            stored => stored,
        }
    }

    /// Cancels the job if it still waits. False: it runs, or is over.
    pub async fn cancel_waiting(&self, id: &JobId) -> Result<bool, JobError> {
        let Some((job, ..)) = self.0.live(id) else {
            return Ok(false);
        };
        let core = Arc::clone(&self.0);
        self.whole(async move {
            let error = Arc::new(JobError::new(ErrorKind::Cancelled, "The job was cancelled"));
            let claim = LiveJob::claim_end_of_waiting;
            let is_cancelled = core.end_if(&job, claim, JobState::Cancelled, Err(error)).await;
            if !is_cancelled && !job.has_ended() && !job.has_begun() {
                // The worker has given up its jobs; the next start goes on with them.
                return Err(stopping());
            }
            Ok(is_cancelled)
        })
        .await
    }

    /// Has a job that runs cancelled, and does not wait for that. False: it still waits, or is over.
    pub fn interrupt(&self, id: &JobId) -> bool {
        let Some((job, ..)) = self.0.live(id) else {
            return false;
        };
        if job.has_ended() || !job.has_begun() {
            return false;
        }
        let queue = self.clone();
        self.0.tasks.spawn(
            async move {
                if let Err(error) = queue.cancel(job.id.as_str()).await {
                    tracing::warn!("a job is not interrupted: {}", error.full_text());
                }
            }
            .in_current_span(),
        );
        true
    }

    /// Removes a job with its files; cancels it first where it has not ended.
    pub async fn remove(&self, id: &str) -> Result<(), JobError> {
        let id = self.cancel(id).await?.id;
        let core = Arc::clone(&self.0);
        self.whole(async move {
            core.store_what_is_left(&id).await?;
            while let Some(job) = core.store.expired_now(&id).await? {
                // The files first: a kill in between leaves rows that are found again.
                expiry::remove_files(&core, &job.files, job.ended).await;
                if core.store.expire(vec![job]).await? {
                    break;
                }
            }
            core.live.lock().forget(&id);
            Ok(())
        })
        .await
    }

    /// Queues a job again that did not complete, under its own id.
    pub async fn retry(&self, id: &str) -> Result<JobView, JobError> {
        let view = self.view(id).await?;
        if !view.policy.dialect.retries() {
            let message = format!("The job {id} came by an API whose jobs are not run again under their ids");
            return Err(JobError::new(ErrorKind::Conflict, message).hint("Send its request again."));
        }
        if !view.state.is_final() || !view.state.may_become(JobState::Queued) {
            let message = format!(
                "The job {id} is {}; only one that failed, timed out or was cancelled can be retried",
                view.state
            );
            return Err(JobError::new(ErrorKind::Conflict, message));
        }
        let place = self.permit()?;
        self.0.store_what_is_left(&view.id).await?;
        let job = self.0.store.get(&view.id).await?.ok_or_else(|| unknown(id))?;
        let now = SystemTime::now();
        let job = LiveJob::new(job.id, retried(job.policy, now), now).with(None, Some(place.0));
        let core = Arc::clone(&self.0);
        self.whole(async move {
            // Of two retries at the same moment the store refuses one.
            core.store.retried(&job.id, job.created, &job.policy).await?;
            let view = job.view();
            core.enqueue(job);
            core.retried.fetch_add(1, Ordering::Relaxed);
            Ok(view)
        })
        .await
    }

    /// Cancels every job that waits, and says how many there were.
    pub async fn purge(&self) -> Result<usize, JobError> {
        let waiting = self.0.live.lock().waiting();
        let core = Arc::clone(&self.0);
        self.whole(async move {
            let error = JobError::new(ErrorKind::Cancelled, "The job was cancelled: the queue was purged");
            let error = Arc::new(error);
            // All at once, so that the store takes them together.
            let ends = waiting
                .iter()
                .map(|job| core.end(job, JobState::Cancelled, Err(Arc::clone(&error))));
            let ended = futures_util::future::join_all(ends).await;
            Ok(ended.into_iter().filter(|ended| *ended).count())
        })
        .await
    }
}

/// How a job is handled that its owner wants again: a prompt is shown again, and comes after those that wait.
fn retried(mut policy: Policy, at: SystemTime) -> Policy {
    if let Some(prompt) = &mut policy.prompt {
        prompt.hidden = false;
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        prompt.number = if policy.priority > 0 { -number } else { number };
    }
    policy
}

fn with_position(mut view: JobView, position: Option<usize>, eta: Option<Duration>) -> JobView {
    if view.state == JobState::Queued {
        view.position = position;
        view.progress.eta = eta;
    }
    view
}
