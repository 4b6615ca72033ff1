//! What the owners of jobs do with them: call them off, send them again, remove them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::error::{ErrorKind, JobError};
use crate::job::{JobState, JobView};

use super::entry::{Entry, lock};
use super::{Queue, keep, known, stopping, unknown};

impl Queue {
    /// Calls the job off. When this returns the job is cancelled, unless it had ended before.
    pub async fn cancel(&self, id: &str) -> Result<JobView, JobError> {
        let known = known(id)?;
        if let Some((entry, ..)) = self.0.live(&known) {
            let inner = Arc::clone(&self.0);
            return self
                .whole(async move {
                    let error = JobError::new(ErrorKind::Cancelled, "The job was cancelled");
                    inner.end(&entry, JobState::Cancelled, Err(Arc::new(error))).await;
                    if !entry.has_ended() {
                        // The worker has given up its jobs; the next start goes on with them.
                        return Err(stopping());
                    }
                    // Whoever else ended it may still be storing that. It is this entry that is waited for: the job
                    // may be retried at once.
                    let mut shown = entry.subscribe();
                    let _ = shown.wait_for(|view| view.state.is_final()).await;
                    Ok(entry.view())
                })
                .await;
        }
        self.view(id).await
    }

    /// Removes a job with its files; calls it off first where it has not ended.
    pub async fn remove(&self, id: &str) -> Result<(), JobError> {
        let id = self.cancel(id).await?.id;
        let inner = Arc::clone(&self.0);
        self.whole(async move {
            inner.store_what_is_left(&id).await?;
            while let Some(job) = inner.store.expired_now(&id).await? {
                // The files first: a kill in between leaves rows that are found again.
                keep::remove_files(&inner, &job.files, job.ended).await;
                if inner.store.expire(vec![job]).await? {
                    break;
                }
            }
            lock(&inner.live).forget(&id);
            Ok(())
        })
        .await
    }

    /// Queues a job again that did not complete, under its own id.
    pub async fn retry(&self, id: &str) -> Result<JobView, JobError> {
        let view = self.view(id).await?;
        if !view.state.is_final() || !view.state.may_become(JobState::Queued) {
            let message = format!(
                "The job {id} is {}; only one that failed, timed out or was cancelled can be retried",
                view.state
            );
            return Err(JobError::new(ErrorKind::Conflict, message));
        }
        let place = self.place()?;
        self.0.store_what_is_left(&view.id).await?;
        let job = self.0.store.get(&view.id).await?.ok_or_else(|| unknown(id))?;
        let entry = Entry::new(job.id, job.policy, SystemTime::now()).with(None, Some(place.0));
        let inner = Arc::clone(&self.0);
        self.whole(async move {
            // Of two retries at the same moment the store refuses one.
            inner.store.retried(&entry.id, entry.created).await?;
            let view = entry.view();
            inner.enqueue(entry);
            inner.retried.fetch_add(1, Ordering::Relaxed);
            Ok(view)
        })
        .await
    }

    /// Cancels every job that waits, and says how many there were.
    pub async fn purge(&self) -> Result<usize, JobError> {
        let waiting = lock(&self.0.live).waiting();
        let inner = Arc::clone(&self.0);
        self.whole(async move {
            let error = JobError::new(ErrorKind::Cancelled, "The job was cancelled: the queue was purged");
            let error = Arc::new(error);
            // All at once, so that the store takes them together.
            let ends = waiting
                .iter()
                .map(|entry| inner.end(entry, JobState::Cancelled, Err(Arc::clone(&error))));
            let ended = futures_util::future::join_all(ends).await;
            Ok(ended.into_iter().filter(|ended| *ended).count())
        })
        .await
    }
}
