//! Fetches the images of jobs that wait, ahead of their turn. A job whose images are slow to come lets others pass, and
//! has its place again once they are here.

use std::sync::Arc;

use tracing::Instrument as _;

use crate::error::JobError;
use crate::job::{JobRequest, JobState};

use super::drive::request_of;
use super::entry::{Entry, lock};
use super::inner::Inner;

/// Begins to fetch for the jobs of the line, in order, while the worker runs.
pub(super) async fn fetch_ahead(inner: Arc<Inner>) {
    loop {
        // Registered before the look, so that no job is missed in between.
        let changed = inner.fetch_due.notified();
        while let Some(entry) = next(&inner) {
            let span = tracing::info_span!("job", job.id = entry.name());
            inner.tasks.spawn(fetch(Arc::clone(&inner), entry).instrument(span));
        }
        tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            () = changed => {}
        }
    }
}

fn next(inner: &Inner) -> Option<Arc<Entry>> {
    lock(&inner.live).next_to_fetch()
}

async fn fetch(inner: Arc<Inner>, entry: Arc<Entry>) {
    // A task of its own: a panic in it ends this job and no other.
    let fetching = tokio::spawn(request_with_images(Arc::clone(&inner), Arc::clone(&entry)).in_current_span());
    let fetched = fetching
        .await
        .unwrap_or_else(|error| Err(JobError::internal(format!("the fetching of images broke off: {error}"))));
    match fetched {
        // The job is over, or the worker stops: it stays stored as it came.
        Ok(None) => {}
        Ok(Some(request)) => {
            entry.keep_request(request);
            lock(&inner.live).fetched(&entry);
            inner.changed.notify_one();
        }
        Err(error) => {
            inner.end(&entry, JobState::Failed, Err(Arc::new(error))).await;
        }
    }
    inner.fetch_due.notify_one();
}

async fn request_with_images(inner: Arc<Inner>, entry: Arc<Entry>) -> Result<Option<JobRequest>, JobError> {
    let fetched = async {
        let mut request = request_of(&inner, &entry).await?;
        inner.executor.fetch(&mut request).await?;
        Ok(Some(request))
    };
    tokio::select! {
        biased;
        () = entry.stop.cancelled() => Ok(None),
        fetched = fetched => fetched,
    }
}
