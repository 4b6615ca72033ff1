//! What is asked of the queue: jobs as they are, their ends, and what they made.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{ErrorKind, JobError};
use crate::job::progress::Progress;
use crate::job::{Dialect, JobId, JobRequest, JobState, JobView, OutputFile, Policy};

use super::entry::lock;
use super::inner::view_of;
use super::{Counts, Queue, known};

impl Queue {
    /// The job as it is now.
    pub async fn view(&self, id: &str) -> Result<JobView, JobError> {
        let id = known(id)?;
        match self.0.live(&id) {
            Some((entry, position, eta)) => Ok(with_position(entry.view(), position, eta)),
            None => self.0.stored_view(&id).await,
        }
    }

    /// The job as the store has it, where its end is not shown yet: an end is stored first, and its webhook is due then.
    pub async fn stored_view(&self, id: &JobId) -> Result<JobView, JobError> {
        match self.0.live(id) {
            Some((entry, ..)) if entry.state().is_final() => Ok(entry.view()),
            _ => self.0.stored_view(id).await,
        }
    }

    /// The job as it is now, and each change; the last one is the final state.
    pub async fn watch(&self, id: &str) -> Result<watch::Receiver<JobView>, JobError> {
        let id = known(id)?;
        if let Some((entry, position, eta)) = self.0.live(&id) {
            let receiver = entry.subscribe();
            if let Some(position) = position {
                entry.place_in_line(position, eta);
            }
            return Ok(receiver);
        }
        let view = self.0.stored_view(&id).await?;
        Ok(watch::channel(view).1)
    }

    /// Waits for the job's end. Fails when the worker is stopped before, and with the reason
    /// ([`ErrorKind::ComfyUnavailable`]) when ComfyUI is away for longer than a client
    /// may be kept waiting; the job goes on waiting then.
    pub async fn wait(&self, id: &str) -> Result<JobView, JobError> {
        let mut receiver = self.watch(id).await?;
        let ended = receiver.wait_for(|view| view.state.is_final());
        tokio::select! {
            biased;
            view = ended => view.map(|view| view.clone()).map_err(|_| JobError::internal("the job is no longer watched")),
            error = self.stopped_before_the_end(id) => Err(error),
            reason = self.0.kept_waiting(id) => Err(reason),
        }
    }

    /// Resolves as [`Self::given_back`] does, with what is told to those who wait for the job.
    pub async fn stopped_before_the_end(&self, id: &str) -> JobError {
        self.0.given_back(id).await;
        let begun = known(id).ok().and_then(|id| self.0.live(&id));
        let begun = begun.is_some_and(|(entry, ..)| entry.state() != JobState::Queued);
        let before = if begun { "end" } else { "turn" };
        let error = JobError::new(
            ErrorKind::Stopping,
            format!("The worker stops before the job's {before}"),
        );
        error.hint(format!(
            "The job is kept and runs after the next start: ask for /status/{id} then."
        ))
    }

    /// The newest jobs: of one state or of all, of one API or of all.
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
                Some((entry, position, eta)) => with_position(entry.view(), position, eta),
                None => view_of(job),
            })
            // The store may be behind what is in hand.
            .filter(|view| state.is_none_or(|state| view.state == state))
            .collect())
    }

    /// The job as it is now, and the progress that was not handed out yet.
    pub async fn stream(&self, id: &str) -> Result<(JobView, Vec<Progress>), JobError> {
        let known = known(id)?;
        // The state first: what comes after it is handed out the next time.
        let view = self.view(id).await?;
        let chunks = self.0.live(&known).map(|(entry, ..)| entry.take_chunks());
        Ok((view, chunks.unwrap_or_default()))
    }

    /// Jobs by state.
    pub fn counts(&self) -> Counts {
        let (in_queue, in_progress) = lock(&self.0.live).counts();
        Counts {
            completed: self.0.completed.load(Ordering::Relaxed),
            failed: self.0.failed.load(Ordering::Relaxed),
            in_progress,
            in_queue,
            retried: self.0.retried.load(Ordering::Relaxed),
        }
    }

    /// The platform's jobs that have not ended, and those whose end it is still to be told.
    pub async fn platform_jobs(&self) -> Result<Vec<(JobId, Policy)>, JobError> {
        let live = lock(&self.0.live).unfinished();
        let ended = self.0.store.unreported().await?;
        let live = live
            .into_iter()
            .map(|entry| (entry.id.clone(), Policy::clone(&entry.policy)));
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
        Ok(self.0.store.get(id).await?.and_then(|job| job.prompt_id))
    }

    /// Whether a template has nodes whose class begins with `prefix`, and the ComfyUI that is ready now has them all.
    pub async fn has_nodes(&self, template: &str, prefix: &str) -> bool {
        self.0.executor.has_nodes(template, prefix).await
    }

    /// Whether a job's result can go back as its request asks for, as far as that can be told before it runs.
    pub async fn check_delivery(&self, request: &JobRequest) -> Result<(), JobError> {
        self.0.executor.check_delivery(&request.delivery).await
    }

    /// Fills the files into a finished job's outcome, where its answer is to hold them.
    pub async fn inlined(&self, mut view: JobView) -> JobView {
        view.result = match view.result {
            Some(Ok(outcome)) => Some(self.0.executor.inlined(outcome).await.map_err(Arc::new)),
            failed => failed,
        };
        view
    }

    /// Fills the pictures into a finished job's outcome, as far as they can be read, where its answer has their addresses
    /// too.
    pub async fn with_pictures(&self, mut view: JobView) -> JobView {
        if let Some(Ok(outcome)) = view.result {
            view.result = Some(Ok(self.0.executor.with_pictures(outcome).await));
        }
        view
    }

    /// The finished job with a smaller result, of at most so many bytes: in the bucket if there is one, else with its
    /// images encoded anew; the reason where neither does. Its owner knows the job by `name`.
    pub async fn shrunk(&self, name: &str, mut view: JobView, max_bytes: u64) -> JobView {
        view.result = match view.result {
            Some(Ok(outcome)) => {
                let smaller = self.0.executor.shrink(name, outcome, max_bytes).await;
                Some(smaller.map_err(Arc::new))
            }
            failed => failed,
        };
        view
    }

    /// The content of a finished job's file, wherever ComfyUI is.
    pub async fn content(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        self.0.executor.content(file).await
    }
}

fn with_position(mut view: JobView, position: Option<usize>, eta: Option<Duration>) -> JobView {
    if view.state == JobState::Queued {
        view.position = position;
        view.progress.eta = eta;
    }
    view
}
