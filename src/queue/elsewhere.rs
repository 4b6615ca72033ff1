//! Jobs at engines elsewhere: what becomes of one that its engine did not run, and which engines may have it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::engine::Member;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::Again;
use crate::job::{JobId, JobRequest, JobState, JobView};

use super::core::{Core, stored};
use super::live_job::LiveJob;
use super::store::StoredJob;

/// How often a job is looked at that another worker took in.
const FOREIGN_POLL: Duration = Duration::from_secs(1);

/// How long after its end here a job may run elsewhere that was cancelled. It does no harm to have it cancelled again.
const STILL_THERE: Duration = Duration::from_hours(24);

/// Whether an engine cannot do a job after all, which goes back then: a job of a previous run of the worker is looked at when
/// it is read.
pub(super) fn is_unable(job: &LiveJob, member: &Member) -> bool {
    let name = member.engine().name();
    job.had().is_none() && job.able().is_some_and(|able| !able.iter().any(|able| able == name))
}

impl Core {
    /// A job that another worker took in and gave to an engine that both know. Fails with `error` where there is none.
    pub(super) async fn foreign(&self, id: &JobId, error: JobError) -> Result<JobView, JobError> {
        if error.kind != ErrorKind::NotFound {
            return Err(error);
        }
        self.engines.foreign(id).await?.ok_or(error)
    }

    /// Each change of such a job, until its end.
    pub(super) fn watch_foreign(self: &Arc<Self>, view: JobView) -> watch::Receiver<JobView> {
        let id = view.id.clone();
        let is_over = view.state.is_final();
        let (sender, receiver) = watch::channel(view);
        if is_over {
            return receiver;
        }
        let core = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = core.stopping.cancelled() => return,
                    () = sender.closed() => return,
                    () = tokio::time::sleep(FOREIGN_POLL) => {}
                }
                match core.engines.foreign(&id).await {
                    Ok(Some(view)) => {
                        let is_over = view.state.is_final();
                        sender.send_replace(view);
                        if is_over {
                            return;
                        }
                    }
                    // It is the other worker's alone by now, or is forgotten.
                    Ok(None) => return,
                    Err(_) => {}
                }
            }
        });
        receiver
    }

    /// Has jobs cancelled once more that may run on at engines elsewhere: whoever cancelled them here may have ended before that
    /// was heard there.
    pub(super) async fn cancel_left(self: Arc<Self>) {
        let since = SystemTime::now()
            .checked_sub(STILL_THERE)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let left = match self.store.left_elsewhere(since).await {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(
                    "jobs that are cancelled may run on at their engines: {}",
                    error.full_text()
                );
                return;
            }
        };
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = self.engines.cancel_earlier(&left) => {}
        }
    }

    /// Has a job cancelled at the engine that a previous run of the worker gave it to, where it ended before it was asked for
    /// again.
    pub(super) fn cancel_held(&self, job: &LiveJob, state: JobState) {
        let held = job
            .had()
            .filter(|name| self.engines.may_have(name))
            .zip(job.resume.clone());
        let is_asked_for = self.is_picked(job) || job.has_begun();
        let Some((name, ticket)) = held.filter(|_| state != JobState::Completed && !is_asked_for) else {
            return;
        };
        let (engines, left) = (self.engines.clone(), [(Some(name.to_owned()), ticket)]);
        self.tasks.spawn(async move { engines.cancel_earlier(&left).await });
    }

    fn is_picked(&self, job: &LiveJob) -> bool {
        let live = self.live.lock();
        live.picked()
            .iter()
            .any(|picked| std::ptr::eq(&raw const **picked, job))
    }

    /// Puts down which engines elsewhere can do a job. Fails where none can.
    pub(super) async fn find_able(&self, job: &LiveJob, request: &JobRequest) -> Result<(), JobError> {
        // One that has the job already need not be able to do it.
        if self.engines.is_elsewhere() && job.able().is_none() && job.had().is_none() {
            job.is_able_at(self.engines.able(request).await?);
        }
        Ok(())
    }

    /// Whether one of several engines elsewhere would take a job now. Not where it is not known which of them can do it, as it is
    /// of one that came before the worker was started, until it is read.
    pub(super) fn has_place_elsewhere(&self, job: &LiveJob) -> bool {
        self.engines.is_elsewhere()
            && job.able().is_some()
            && self.engines.has_place_for(&self.waiting(job, &job.tries()))
    }

    /// Whether an engine elsewhere beside this one could do a job, and is not resting.
    pub(super) fn has_others(&self, job: &LiveJob, member: &Member) -> bool {
        self.engines.is_elsewhere() && self.engines.has_others(&self.waiting(job, &job.tries()), member)
    }

    /// An engine elsewhere did not run a job, and has nothing of it: another one gets it, or the same again once it has rested, or
    /// it ends with what each engine said.
    pub(super) async fn goes_on(&self, job: &Arc<LiveJob>, engine: &str, error: JobError, again: Again) {
        if job.has_ended() {
            return;
        }
        tracing::warn!(
            job.id = job.name(),
            "the job is not run by engine `{engine}`: {}",
            error.full_text()
        );
        // Before it is sent again: a worker that is ended here must not take it for one that is still there.
        stored("return", self.store.given_back(&job.id).await);
        job.tried(engine, error, again);
        let tries = job.tries();
        if !self.engines.is_left(&self.waiting(job, &tries)) {
            self.end(job, JobState::Failed, Err(Arc::new(tries.told()))).await;
        } else if self.stopping.is_cancelled() {
            job.go_back();
            self.unpick(job);
        } else {
            self.give_back(job);
        }
    }

    /// The engine that may have a job of a previous run of the worker. Fails where that is gone from the list: nobody can ask it.
    pub(super) fn holder(&self, kept: &StoredJob) -> Result<Option<String>, JobError> {
        let is_elsewhere = kept.prompt_id.as_deref().is_some_and(crate::engine::remote::is_ticket);
        if !is_elsewhere {
            return Ok(None);
        }
        let name = kept.engine.clone().unwrap_or_default();
        if self.engines.may_have(&name) {
            return Ok(Some(name));
        }
        let message = format!(
            "the job {} was sent to engine `{name}`, which ENGINES does not name any more; it may have run there, and been charged",
            kept.id
        );
        Err(JobError::new(ErrorKind::Internal, message).hint("Put the engine back, or send the job again."))
    }

    /// Whether a job is with an engine elsewhere, begun or not: it needs no other.
    pub(super) fn is_with_one_elsewhere(&self, job: &Arc<LiveJob>) -> bool {
        self.engines.is_elsewhere() && (job.state() == JobState::Running || self.is_picked(job))
    }
}
