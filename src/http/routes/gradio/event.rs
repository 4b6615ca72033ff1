//! The life of an event: its prompt is enhanced, it becomes a job, and its session is shown how far it is.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::quota::{Client, Reserved};
use crate::dialect::gradio::{Infer, Refusal, Snapshot};
use crate::error::{ErrorKind, JobError};
use crate::http::state::State;
use crate::job::{JobId, JobState, JobView};
use crate::queue::Permit;
use crate::telemetry::traces;

/// Takes an event in and sees it through. Its id is the job's.
pub(super) fn begin(
    state: &Arc<State>,
    place: Permit,
    client: Client,
    session: Option<String>,
    infer: Result<Infer, JobError>,
) -> Result<JobId, JobError> {
    let (id, stop) = (JobId::new(), CancellationToken::new());
    let session = session.unwrap_or_else(|| id.to_string());
    let seed = match infer.as_ref().ok().and_then(|infer| infer.seed) {
        Some(seed) => seed,
        None => random_seed()?,
    };
    state.gradio.sessions.add(&session, id.clone(), seed, stop.clone())?;
    let event = Event {
        state: Arc::clone(state),
        session,
        id: id.clone(),
        seed,
        stop,
    };
    let reserved = infer
        .map_err(|error| Refusal::from(&error))
        .and_then(|infer| Ok((infer, state.gradio.quota.reserve(client, Instant::now())?)));
    match reserved {
        Ok((infer, reserved)) => {
            tokio::spawn(traces::carried(event.carry(place, infer, reserved).in_current_span()));
        }
        Err(refusal) => event.refuse(refusal),
    }
    Ok(id)
}

/// A seed in the range of the Space's own.
fn random_seed() -> Result<u64, JobError> {
    let random =
        getrandom::u32().map_err(|error| JobError::internal(format!("the system gives no random numbers: {error}")))?;
    Ok(u64::from(random >> 1))
}

/// An event in flight.
struct Event {
    state: Arc<State>,
    session: String,
    id: JobId,
    seed: u64,
    stop: CancellationToken,
}

impl Event {
    fn show(&self, seen: Snapshot) {
        self.state.gradio.sessions.show(&self.session, &self.id, seen);
    }

    fn refuse(&self, refusal: Refusal) {
        self.show(Snapshot::Refused(Arc::new(refusal)));
    }

    async fn carry(self, place: Permit, infer: Infer, reserved: Reserved) {
        match self.run(place, infer).await {
            Ok(end) => {
                let completed = end.state == JobState::Completed;
                reserved.used(end.execution, completed && !end.execution.is_zero());
            }
            Err(error) => self.refuse(Refusal::from(&error)),
        }
    }

    /// Runs the job; gives it as it ended.
    async fn run(&self, place: Permit, infer: Infer) -> Result<JobView, JobError> {
        let queue = &self.state.queue;
        let mut prompt = infer.prompt.clone();
        if infer.enhance {
            prompt = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(cancelled()),
                () = queue.stopped() => return Err(stopping()),
                prompt = self.state.gradio.enhancer.enhance(&prompt) => prompt,
            };
        }
        if self.stop.is_cancelled() {
            return Err(cancelled());
        }
        let (request, policy) = infer.request(prompt, self.seed);
        queue.submit_as(self.id.clone(), place, request, policy).await?;
        let mut watch = queue.watch(self.id.as_str()).await?;
        let mut stop = self.stop.clone();
        loop {
            let view = watch.borrow_and_update().clone();
            self.show(Snapshot::Job(Box::new(view.clone())));
            if view.state.is_final() {
                return Ok(view);
            }
            tokio::select! {
                biased;
                changed = watch.changed() => changed.map_err(|_| JobError::internal("the job is no longer watched"))?,
                () = stop.cancelled() => {
                    queue.cancel(self.id.as_str()).await?;
                    // The end is shown by the job itself.
                    stop = CancellationToken::new();
                }
                () = queue.given_back(&self.id) => {
                    // Its client will not be there after the next start.
                    if let Err(error) = queue.cancel(self.id.as_str()).await {
                        tracing::debug!(job.id = self.id.as_str(), "a waiting job is not cancelled: {}", error.full_text());
                    }
                    return Err(stopping());
                }
            }
        }
    }
}

fn cancelled() -> JobError {
    JobError::new(ErrorKind::Cancelled, "The job was cancelled")
}

fn stopping() -> JobError {
    JobError::new(ErrorKind::Stopping, "The worker is stopping").hint("Send it again later.")
}
