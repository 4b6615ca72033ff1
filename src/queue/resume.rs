//! What an earlier life of the worker left unfinished: most of it goes on, and what nobody can ask for any more ends.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::error::{ErrorKind, JobError};
use crate::job::JobState;

use super::entry::Entry;
use super::inner::{Inner, stored};
use super::store::StoredJob;

impl Inner {
    /// Takes up the jobs of an earlier life of the worker. Those whose clients are gone with it are cancelled, as a stop
    /// does with them.
    pub(super) async fn take_up_all(self: &Arc<Self>, unfinished: Vec<StoredJob>) {
        let (left, others): (Vec<_>, Vec<_>) = unfinished
            .into_iter()
            .partition(|job| job.policy.dialect.ends_with_its_client());
        self.end_left(left).await;
        for job in others {
            self.take_up(job).await;
        }
    }

    /// Cancels jobs whose clients waited when the worker ended, and takes their prompts out of a ComfyUI that lived on.
    async fn end_left(self: &Arc<Self>, left: Vec<StoredJob>) {
        if left.is_empty() {
            return;
        }
        let error =
            JobError::new(ErrorKind::Cancelled, "The worker ended while the client waited").hint("Send it again.");
        let error = Arc::new(error);
        let jobs = left.len();
        let (entries, prompts): (Vec<_>, Vec<_>) = left
            .into_iter()
            .map(|job| (Entry::new(job.id, job.policy, job.created), job.prompt_id))
            .unzip();
        // All at once, so that the store takes them together.
        let ends = entries
            .iter()
            .map(|entry| self.end(entry, JobState::Cancelled, Err(Arc::clone(&error))));
        join_all(ends).await;
        tracing::info!(
            jobs,
            "jobs of OpenAI's requests and Gradio's events, whose clients are gone, were cancelled"
        );
        let prompts: Vec<_> = prompts.into_iter().flatten().collect();
        if prompts.is_empty() {
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = inner.stopping.cancelled() => {}
                () = inner.executor.call_off_earlier(&prompts) => {}
            }
        });
    }

    async fn take_up(&self, job: StoredJob) {
        let entry = Entry::new(job.id.clone(), job.policy, job.created).resuming(job.prompt_id, job.attempts);
        if job.state == JobState::Running && job.attempts > self.settings.retries {
            let message = format!("The worker was ended under the job {} times", job.attempts);
            let error = JobError::new(ErrorKind::Internal, message)
                .hint("Send it again; the worker's log tells why it was ended.");
            self.end(&entry, JobState::Failed, Err(Arc::new(error))).await;
            return;
        }
        if job.state == JobState::Running {
            stored("requeueing", self.store.requeued(&job.id).await);
        }
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        self.enqueue(entry.with(None, place));
    }
}
