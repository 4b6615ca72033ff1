//! What a previous run of the worker left unfinished: most of it goes on, and what nobody can ask for any more ends.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::engine::remote::is_ticket;
use crate::error::{ErrorKind, JobError};
use crate::job::JobState;

use super::Queue;
use super::core::{Core, stored};
use super::live_job::LiveJob;
use super::store::StoredJob;

/// Whether nobody asks for what a job left that the worker's end cut short.
fn leaves_nothing(kept: &StoredJob) -> bool {
    kept.policy.warm_up || kept.policy.fleet
}

impl Core {
    /// Goes on with the jobs of a previous run of the worker. Those whose clients are gone with it are cancelled, as a stop
    /// does with them, and so are warm-ups, and jobs of a fleet, which its broker hands to somebody else: these leave nothing.
    pub(super) async fn recover_all(self: &Arc<Self>, unfinished: Vec<StoredJob>) {
        let (left, others): (Vec<_>, Vec<_>) = unfinished
            .into_iter()
            .partition(|kept| leaves_nothing(kept) || kept.policy.dialect.ends_with_its_client());
        let removed: Vec<_> = left
            .iter()
            .filter(|kept| leaves_nothing(kept))
            .map(|kept| kept.id.clone())
            .collect();
        self.end_left(left).await;
        for id in removed {
            if let Err(error) = Queue(Arc::clone(self)).remove(id.as_str()).await {
                tracing::warn!(
                    "what a warm-up, or a job of a fleet, left is not removed: {}",
                    error.full_text()
                );
            }
        }
        for kept in others {
            self.recover(kept).await;
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
        let jobs = left.iter().filter(|kept| !leaves_nothing(kept)).count();
        let (entries, prompts): (Vec<_>, Vec<_>) = left
            .into_iter()
            .map(|kept| {
                let prompt = kept.prompt_id.map(|prompt_id| (kept.engine, prompt_id));
                (LiveJob::new(kept.id, kept.policy, kept.created), prompt)
            })
            .unzip();
        // All at once, so that the store takes them together.
        let ends = entries
            .iter()
            .map(|job| self.end(job, JobState::Cancelled, Err(Arc::clone(&error))));
        join_all(ends).await;
        if jobs > 0 {
            tracing::info!(
                jobs,
                "jobs of OpenAI's requests and Gradio's events, whose clients are gone, were cancelled"
            );
        }
        let prompts: Vec<_> = prompts.into_iter().flatten().collect();
        if prompts.is_empty() {
            return;
        }
        let core = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = core.stopping.cancelled() => {}
                () = core.engines.cancel_earlier(&prompts) => {}
            }
        });
    }

    async fn recover(&self, kept: StoredJob) {
        // Where it may still be.
        let keeper = self.engines.keeper(kept.engine.as_deref());
        let may_have_it = kept.prompt_id.is_some() && self.engines.has_choice() && !self.engines.is_elsewhere();
        let keeper = keeper.filter(|_| may_have_it);
        let engine = keeper.map(|member| member.engine().name().to_owned());
        let holder = self.holder(&kept);
        let is_held = matches!(holder, Ok(Some(_)));
        let prompt = kept.prompt_id.filter(|prompt| is_held || !is_ticket(prompt));
        let job = LiveJob::new(kept.id.clone(), kept.policy, kept.created);
        let job = match holder {
            Ok(holder) => job.resuming(prompt, holder.or(engine), kept.attempts),
            Err(error) => {
                self.end(&job, JobState::Failed, Err(Arc::new(error))).await;
                return;
            }
        };
        // What another one has is asked for again, and not run again.
        if !is_held && kept.state == JobState::Running && kept.attempts > self.settings.retries {
            let message = format!("The worker was ended under the job {} times", kept.attempts);
            let error = JobError::new(ErrorKind::Internal, message)
                .hint("Send it again; the worker's log tells why it was ended.");
            self.end(&job, JobState::Failed, Err(Arc::new(error))).await;
            return;
        }
        if kept.state == JobState::Running {
            stored("requeueing", self.store.requeued(&kept.id).await);
        }
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        self.enqueue(job.with(None, place));
    }
}
