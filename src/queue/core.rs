//! What the queue's parts share, and the one place where a job ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::JobsConfig;
use crate::engine::{self, Pool, Seat, Tries, Turn, Waiting};
use crate::error::JobError;
use crate::executor::Executor;
use crate::job::progress::Progress;
use crate::job::{Committed, End, JobId, JobState, JobView, Outcome, Policy};

use super::backlog::Backlog;
use super::changes::{Change, Changes};
use super::expiry::Emptied;
use super::live_job::{Ending, LiveJob};
use super::store::{Finished, Store, StoreError, StoredJob, WebhookRow};
use super::unknown;
use super::unstored::Unstored;

/// How far the line is looked through for a job that one of several engines elsewhere can do, where the first ones wait for others.
const MOST_LOOKS: usize = 10_000;

#[derive(Debug)]
pub(super) struct Core {
    /// Fetches what requests name, and has ComfyUI's folders.
    pub(super) executor: Arc<Executor>,
    /// Who runs the jobs.
    pub(super) engines: Pool,
    /// Jobs that are on their way back from engines that they were taken from.
    pub(super) recalls: AtomicUsize,
    /// A job came, or came back.
    pub(super) wanted: Notify,
    pub(super) store: Store,
    pub(super) settings: JobsConfig,
    pub(super) live: Mutex<Backlog>,
    /// A job came, or a place at an engine became free.
    pub(super) changed: Arc<Notify>,
    /// The images of another job may be fetched.
    pub(super) fetch_due: Notify,
    /// A webhook is due.
    pub(super) webhook_due: Notify,
    pub(super) places: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    /// What happens from now on is left to the next start.
    pub(super) abandoned: CancellationToken,
    /// Ends that the store has not taken yet.
    pub(super) unstored: Unstored,
    pub(super) completed: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) retried: AtomicU64,
    /// Folders that may be empty now.
    pub(super) emptied: Emptied,
    /// Who hears what happens to jobs.
    pub(super) changes: Changes,
}

/// What a job ended with, as it is stored: an outcome or an error, and beside it the outputs that have ids of their own, and
/// ComfyUI's history entry.
#[derive(Default, Serialize, Deserialize)]
struct StoredEnd {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Arc<Outcome>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Arc<JobError>>,
    #[serde(default, skip_serializing_if = "are_none")]
    outputs: Arc<Vec<Committed>>,
    /// JSON of its own, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<Arc<str>>,
}

fn are_none(outputs: &Arc<Vec<Committed>>) -> bool {
    outputs.is_empty()
}

impl Core {
    pub(super) fn enqueue(&self, job: LiveJob) {
        let id = job.id.clone();
        {
            let mut live = self.live.lock();
            live.add(Arc::new(job));
            // Before anybody can begin with it.
            self.changes.tell(|| Change::Came(id.clone()));
        }
        self.wanted.notify_waiters();
        self.changed.notify_one();
        self.fetch_due.notify_one();
    }

    /// The next job of the backlog and its place at an engine; it is still queued until ComfyUI begins with it. While all
    /// engines are away only the jobs of the platform, or of a fleet, are taken, which fail then.
    pub(super) fn assign(&self) -> Option<(Arc<LiveJob>, Seat, Turn)> {
        let (is_away, has_choice) = (self.engines.is_away(), self.engines.has_choice());
        let mut live = self.live.lock();
        let may_be_elsewhere = |job: &LiveJob| job.had().is_some_and(|name| self.engines.may_have(name));
        let wanted = |job: &LiveJob| !is_away || job.policy.has_other_workers() || may_be_elsewhere(job);
        let looks: &[usize] = match (has_choice, self.engines.is_elsewhere()) {
            // What many jobs wait for may be something that those behind them do not need.
            (_, true) => &[engine::LOOKS, MOST_LOOKS],
            (true, false) => &[engine::LOOKS],
            (false, false) => &[1],
        };
        let choose = |line: &[Arc<LiveJob>]| {
            let tries: Vec<_> = line.iter().map(|job| job.tries()).collect();
            let waiting = line.iter().zip(&tries).map(|(job, tries)| self.waiting(job, tries));
            let (member, index) = self.engines.choose(&waiting.collect::<Vec<_>>())?;
            for passed in line.get(..index).unwrap_or_default() {
                passed.pass_over();
            }
            Some((member, index))
        };
        let mut picked = looks.iter().map(|looks| live.pick_by(*looks, wanted, choose));
        let (job, member) = picked.find_map(|picked| picked)?;
        drop(picked);
        let (seat, turn) = Pool::take(&member, job.signature(), &self.changed);
        if has_choice || self.engines.is_elsewhere() {
            live.run_at_once(self.engines.lanes());
        }
        self.fetch_due.notify_one();
        live.tell_positions();
        Some((job, seat, turn))
    }

    /// A job as the choice of its engine sees it.
    pub(super) fn waiting<'a>(&self, job: &'a LiveJob, tries: &'a Tries) -> Waiting<'a> {
        Waiting {
            signature: job.signature(),
            priority: job.policy.priority,
            passed: job.passed(),
            had: job.had(),
            able: job.able(),
            tries: Some(tries),
            fallback: job.fallback(self.settings.fallback),
        }
    }

    /// Takes a job that waits for its turn from its engine, where another has nothing to do. It comes back by itself.
    pub(super) fn recall_one(&self) {
        // What is on its way back goes to an idle one.
        if !self.engines.has_choice() || self.engines.idle() <= self.recalls.load(Ordering::Relaxed) {
            return;
        }
        let picked = self.live.lock().picked().to_vec();
        // The last one is the furthest from its turn.
        let mut from_the_last = picked.iter().rev();
        let recalled = from_the_last.find(|job| job.recall_if(|member| self.engines.begins_sooner_elsewhere(member)));
        if let Some(job) = recalled {
            self.recalls.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(job.id = job.name(), "the job goes to an engine that has nothing to do");
        }
    }

    /// A job that an engine had waits again in its place.
    pub(super) fn give_back(&self, job: &Arc<LiveJob>) {
        job.go_back();
        {
            let mut live = self.live.lock();
            live.give_back(job);
            live.tell_positions();
        }
        self.wanted.notify_waiters();
        self.changed.notify_one();
    }

    /// Whether a job waits.
    pub(super) fn has_waiting(&self) -> bool {
        self.live.lock().counts().0 > 0
    }

    /// The job no longer waits in ComfyUI.
    pub(super) fn unpick(&self, job: &LiveJob) {
        let mut live = self.live.lock();
        live.unpick(job);
        live.tell_positions();
    }

    pub(super) fn live(&self, id: &JobId) -> Option<(Arc<LiveJob>, Option<usize>, Option<Duration>)> {
        self.live.lock().get(id)
    }

    pub(super) async fn stored_view(&self, id: &JobId) -> Result<JobView, JobError> {
        let job = self.store.get(id).await?.ok_or_else(|| unknown(id.as_str()))?;
        Ok(view_of(job))
    }

    /// Ends a job, cancels its execution, stores the end, and shows it. Only the first call for a job does anything,
    /// and says so. Once begun it must come to its own end: nobody else may end the job then.
    pub(super) async fn end(&self, job: &LiveJob, state: JobState, ending: Ending) -> bool {
        self.end_if(job, LiveJob::claim_end, state, ending).await
    }

    /// [`Self::end`], where `claim` gets the right to it.
    pub(super) async fn end_if(
        &self,
        job: &LiveJob,
        claim: impl Fn(&LiveJob) -> bool,
        state: JobState,
        ending: Ending,
    ) -> bool {
        // A worker that ends waits for it. Known before the end is claimed, so that it is missed at no moment.
        let _on_its_way = self.unstored.end_comes();
        if self.abandoned.is_cancelled() || !claim(job) {
            return false;
        }
        // ComfyUI need not wait for the store.
        job.stop.cancel();
        let entry = self.entry_of(job).await;
        let (delay, execution) = job.times();
        let outputs = job.view().outputs;
        let kept = StoredEnd {
            outcome: ending.as_ref().ok().cloned(),
            error: ending.as_ref().err().cloned(),
            outputs: Arc::clone(&outputs),
            entry: entry.clone(),
        };
        let result = serde_json::to_vec(&kept).unwrap_or_default();
        let finished = Finished {
            state,
            at: SystemTime::now(),
            delay,
            execution,
            attempts: job.attempts_made(),
            result: result.into(),
            keeps_payload: keeps_request(&job.policy, state),
            // They were told while it ran; what is told later is added.
            files: job.left(),
            outputs: outputs.iter().map(|output| output.id.clone()).collect(),
            webhook: job.policy.webhook.clone().map(|url| WebhookRow {
                id: format!("msg_{}", uuid::Uuid::now_v7().simple()),
                url,
            }),
            // The platform knows of a job that it cancelled itself.
            unreported: job.policy.platform.is_some() && state != JobState::Cancelled,
        };
        let bytes = finished.result.len();
        job.watch.ended(End {
            state,
            error: ending.as_ref().err().map(|error| error.kind),
            delay: job.has_begun().then_some(delay),
            bytes: finished.files.iter().map(|file| file.bytes).sum(),
        });
        let unstored = match self.store.finish(&job.id, finished.clone()).await {
            Err(error) if !error.is_final() => {
                tracing::error!(
                    "the end of a job could not be stored; it is kept in memory and stored as soon as that is possible: {}",
                    JobError::from(error).full_text()
                );
                Some(finished)
            }
            finished => {
                stored("end", finished);
                None
            }
        };
        log_end(job, state, &ending, execution);
        // A warm-up tells nothing of jobs.
        let is_usual = !job.policy.warm_up;
        match state {
            _ if !is_usual => 0,
            JobState::Completed => self.completed.fetch_add(1, Ordering::Relaxed),
            _ => self.failed.fetch_add(1, Ordering::Relaxed),
        };
        {
            let mut live = self.live.lock();
            live.ended(job, (is_usual && state == JobState::Completed).then_some(execution));
            if unstored.is_none() {
                live.stored(&job.id, bytes);
            }
            live.tell_positions();
        }
        // What cannot be stored is shown all the same: those who wait get their result.
        if let Some(finished) = unstored {
            self.unstored.keep_end(&job.id, finished);
        }
        self.fetch_due.notify_one();
        self.cancel_held(job, state);
        job.show_end(state, (delay, execution), ending, entry);
        self.changes.tell(|| Change::Ended(Box::new(job.view())));
        if job.policy.webhook.is_some() {
            self.webhook_due.notify_one();
        }
        true
    }
}

impl Core {
    /// ComfyUI's history entry of a job that ends. Where the job is ended while ComfyUI is at it, the entry is there once
    /// ComfyUI has let go of it: what was made until then stands in it.
    async fn entry_of(&self, job: &LiveJob) -> Option<Arc<str>> {
        if !job.has_begun() {
            return None;
        }
        tokio::select! {
            entry = tokio::time::timeout(self.settings.cancel_grace, job.entry()) => entry.unwrap_or_default(),
            () = self.abandoned.cancelled() => None,
        }
    }
}

/// Whether the request of a job that ended so is kept: where its owner may have it run again, as it may not where its client
/// sends requests again itself; and where its owner may ask what it was.
fn keeps_request(policy: &Policy, state: JobState) -> bool {
    let may_be_retried = state.may_become(JobState::Queued) && policy.platform.is_none() && policy.dialect.retries();
    may_be_retried || policy.dialect.shows_requests()
}

/// Logs what could not be stored. The worker goes on: what it cannot keep it can still do.
pub(super) fn stored<T>(what: &str, result: Result<T, StoreError>) {
    if let Err(error) = result {
        let error = JobError::from(error);
        tracing::error!("the {what} of a job could not be stored: {}", error.full_text());
    }
}

pub(super) fn view_of(job: StoredJob) -> JobView {
    let is_final = job.state.is_final();
    let end = job.result.as_deref().filter(|_| is_final).map(read_end);
    let (result, outputs, entry) = match end {
        Some(end) => (Some(end.result), end.outputs, end.entry),
        None => (None, Arc::default(), None),
    };
    let mut progress = Progress::default();
    if is_final {
        progress.end(job.state == JobState::Completed);
    }
    JobView {
        id: job.id,
        policy: Arc::new(job.policy),
        state: job.state,
        progress,
        position: None,
        created: job.created,
        delay: job.delay.unwrap_or_default(),
        execution: job.execution.unwrap_or_default(),
        outputs,
        result,
        entry,
    }
}

/// What is stored of an end, as it is shown.
struct ShownEnd {
    result: Ending,
    outputs: Arc<Vec<Committed>>,
    entry: Option<Arc<str>>,
}

fn read_end(text: &[u8]) -> ShownEnd {
    let damaged = |why: String| {
        Err(Arc::new(JobError::internal(format!(
            "the stored result is damaged: {why}"
        ))))
    };
    match serde_json::from_slice(text) {
        Ok(StoredEnd {
            outcome,
            error,
            outputs,
            entry,
        }) => {
            let result = match (outcome, error) {
                (Some(outcome), _) => Ok(outcome),
                (None, Some(error)) => Err(error),
                (None, None) => damaged("it holds neither an outcome nor an error".to_owned()),
            };
            ShownEnd { result, outputs, entry }
        }
        Err(error) => ShownEnd {
            result: damaged(error.to_string()),
            outputs: Arc::default(),
            entry: None,
        },
    }
}

fn log_end(job: &LiveJob, state: JobState, ending: &Ending, execution: Duration) {
    let (id, execution_ms) = (job.name(), execution.as_millis());
    match ending {
        Ok(outcome) => {
            tracing::info!(
                job.id = id,
                job.execution_ms = execution_ms,
                files = outcome.files.len(),
                "job {state}"
            );
        }
        Err(error) => {
            tracing::warn!(job.id = id, job.execution_ms = execution_ms, kind = ?error.kind, "job {state}: {}", error.full_text());
        }
    }
}
