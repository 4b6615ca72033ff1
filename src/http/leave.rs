//! Jobs that belong to one request: when its client goes away before the end, the job is called off.

use crate::error::JobError;
use crate::job::{JobId, JobRequest, Policy};
use crate::queue::{Place, Queue};

/// A job that is called off when this is dropped before [`Self::ended`].
#[derive(Debug)]
pub(super) struct Attended {
    queue: Queue,
    id: Option<JobId>,
}

impl Attended {
    /// Takes a job in. A client that goes away while it is stored calls it off too.
    pub(super) async fn submit(
        queue: &Queue,
        place: Place,
        request: JobRequest,
        policy: Policy,
    ) -> Result<(Self, JobId), JobError> {
        let queue = queue.clone();
        // What a dropped task would have given is dropped at its end, and the job is called off.
        let submitted = tokio::spawn(async move {
            let id = queue.submit(place, request, policy).await?;
            let attended = Self {
                queue,
                id: Some(id.clone()),
            };
            Ok((attended, id))
        });
        submitted
            .await
            .unwrap_or_else(|error| Err(JobError::internal(format!("the job's handling broke off: {error}"))))
    }

    /// The job has ended, or shall go on by itself.
    pub(super) fn ended(&mut self) {
        self.id = None;
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let queue = self.queue.clone();
        let cancel = async move {
            tracing::info!(job.id = id.as_str(), "the client is gone; its job is called off");
            if let Err(error) = queue.cancel(id.as_str()).await {
                tracing::warn!(
                    job.id = id.as_str(),
                    "the job could not be called off: {}",
                    error.full_text()
                );
            }
        };
        // Without a runtime the worker is ending, and the job is ended with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(cancel));
        }
    }
}
