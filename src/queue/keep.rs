//! What time does to jobs: those that wait too long end, and those that ended long ago are removed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::{ErrorKind, JobError};
use crate::job::JobState;

use super::entry::lock;
use super::inner::{Inner, stored};

/// Time between two looks at the jobs' times to live.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two removals of old jobs.
const REMOVE_EVERY: Duration = Duration::from_secs(10);

/// Ends jobs whose time to live is over.
pub(super) async fn watch_the_clock(inner: Arc<Inner>) {
    while pause(&inner, LOOK_EVERY).await {
        let now = SystemTime::now();
        let unfinished = lock(&inner.live).unfinished();
        for entry in unfinished {
            let ttl = entry.policy.ttl.unwrap_or(inner.settings.queue_ttl);
            if now.duration_since(entry.created).is_ok_and(|age| age > ttl) {
                let message = format!("The job did not end within {} s of its coming", ttl.as_secs());
                let error = JobError::new(ErrorKind::TimedOut, message)
                    .hint("The worker has too much to do, or was stopped meanwhile; policy.ttl and QUEUE_TTL_S give more time.");
                inner.end(&entry, JobState::TimedOut, Err(Arc::new(error))).await;
            }
        }
    }
}

/// Removes jobs that ended long ago, and the oldest ones when there are too many bytes, each with its files.
pub(super) async fn remove_the_old(inner: Arc<Inner>) {
    loop {
        remove_what_is_old(&inner, inner.settings.result_ttl).await;
        if !pause(&inner, REMOVE_EVERY).await {
            return;
        }
    }
}

pub(super) async fn remove_what_is_old(inner: &Inner, ttl: Duration) {
    let limit = inner.settings.output_max_bytes;
    let limit = if limit == 0 { u64::MAX } else { limit };
    let before = SystemTime::now().checked_sub(ttl).unwrap_or(SystemTime::UNIX_EPOCH);
    loop {
        let expired = match inner.store.expired(before, limit).await {
            Ok(expired) if expired.is_empty() => break,
            Ok(expired) => expired,
            Err(error) => {
                stored::<()>("removal", Err(error));
                break;
            }
        };
        // The files first: a kill in between leaves rows that are found again.
        for job in &expired {
            remove_files(inner, &job.files).await;
        }
        tracing::info!(jobs = expired.len(), "old jobs and their files are removed");
        let gone: Vec<_> = expired
            .iter()
            .filter(|job| !job.stays)
            .map(|job| job.id.clone())
            .collect();
        let removed = inner.store.expire(expired).await;
        let failed = removed.is_err();
        stored("removal", removed);
        if failed {
            break;
        }
        // What is no longer stored is no longer known.
        let mut live = lock(&inner.live);
        for id in &gone {
            live.forget(id);
        }
    }
}

pub(super) async fn remove_files(inner: &Inner, files: &[super::store::FileRef]) {
    let Some(folders) = inner.executor.comfy().folders() else {
        return;
    };
    for file in files {
        let Some(path) = folders.path(file.folder, &file.subfolder, &file.filename) else {
            continue;
        };
        if let Err(error) = tokio::fs::remove_file(&path).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the old output file {} could not be removed", path.display());
        }
    }
}

/// Sleeps; says whether to go on.
async fn pause(inner: &Inner, time: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = inner.stopping.cancelled() => false,
    }
}
