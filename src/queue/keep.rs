//! What time does to jobs: those that wait too long end, and those that ended long ago are removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::error::{ErrorKind, JobError};
use crate::executor::LeftFile;
use crate::job::{JobState, OutputFolder};

use super::entry::{Entry, lock};
use super::inner::{Inner, stored};

/// Time between two looks at the jobs' times to live.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two removals of old jobs.
const REMOVE_EVERY: Duration = Duration::from_secs(10);

/// How long after its end, and the time that a node has to hear of it, a job's file may have been written: clocks of other
/// machines differ a little.
const STILL_ITS_OWN: Duration = Duration::from_mins(1);

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
        remove_empty_folders(&inner).await;
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
            remove_files(inner, &job.files, job.ended).await;
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

/// Writes down files that a job left, so that they are removed in its time. Those of a job that was removed meanwhile are
/// removed at once, however late they are found; one that the store has lost, since its database was damaged, keeps them for
/// its result.
pub(super) async fn take_down(inner: &Inner, entry: &Entry, files: Vec<LeftFile>) {
    // Its end stores them as well, should this fail.
    entry.leaves(&files);
    match inner.store.left(&entry.id, files).await {
        Ok(Some(own)) if was_removed(inner, entry) => remove_files(inner, &own, None).await,
        Ok(_) => {}
        Err(error) => stored::<()>("list of files", Err(error)),
    }
}

/// Whether a job that the store does not know was removed: what is still in hand, or has a result that is shown, was not.
fn was_removed(inner: &Inner, entry: &Entry) -> bool {
    let state = entry.state();
    state.is_final() && (state != JobState::Completed || inner.live(&entry.id).is_none())
}

/// Folders whose last file may have gone. They are removed while no job is in hand, since a graph that runs may have found
/// its folder there and be about to save into it.
#[derive(Debug, Default)]
pub(super) struct Emptied(Mutex<BTreeSet<PathBuf>>);

impl Emptied {
    /// So many folders are remembered; further ones stay.
    const MOST: usize = 10_000;
    /// So many are looked at before others get their turn.
    const AT_ONCE: usize = 16;

    fn add(&self, folder: &Path) {
        let mut folders = lock(&self.0);
        if folders.len() < Self::MOST {
            folders.insert(folder.to_owned());
        }
    }

    /// Removes some of the folders, if they are empty, and the ones above them that are empty then, below `root`. Says
    /// whether there are more. Blocks.
    fn remove(&self, root: &Path) -> bool {
        for _ in 0..Self::AT_ONCE {
            let Some(folder) = lock(&self.0).pop_last() else {
                return false;
            };
            let above = folder
                .ancestors()
                .take_while(|folder| *folder != root && folder.starts_with(root));
            for folder in above {
                // Refused where there is anything in it.
                if std::fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
        true
    }
}

/// Removes the folders that jobs left empty, when no job is in hand.
async fn remove_empty_folders(inner: &Arc<Inner>) {
    let Some(root) = inner.executor.comfy().folders().map(|folders| folders.output.clone()) else {
        return;
    };
    if lock(&inner.emptied.0).is_empty() {
        return;
    }
    let inner = Arc::clone(inner);
    let removed = tokio::task::spawn_blocking(move || {
        // Jobs have their turn in between.
        while let Some(_pause) = Pause::begin(&inner)
            && inner.emptied.remove(&root)
        {}
    });
    // A panic in it is logged.
    let _ = removed.await;
}

/// No job is taken until this is dropped. Requests are answered meanwhile: the disk may be far away, and slow.
pub(super) struct Pause<'a>(&'a Inner);

impl<'a> Pause<'a> {
    /// [`None`] while a job is in hand.
    pub(super) fn begin(inner: &'a Inner) -> Option<Self> {
        // Its end takes the lock again, so none is made before the lock is free.
        let is_paused = lock(&inner.live).pause();
        is_paused.then(|| Self(inner))
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        lock(&self.0.live).go_on();
        self.0.changed.notify_one();
    }
}

/// Removes files of a job that ended then. A file that was written well after that has only the name of the job's: ComfyUI
/// counts on from what is there, so a name that became free is given again.
pub(super) async fn remove_files(inner: &Inner, files: &[LeftFile], ended: Option<SystemTime>) {
    let until = ended.and_then(|ended| ended.checked_add(inner.settings.cancel_grace + STILL_ITS_OWN));
    let Some(folders) = inner.executor.comfy().folders() else {
        return;
    };
    for file in files {
        let Some(path) = folders.path(file.folder, &file.subfolder, &file.filename) else {
            continue;
        };
        if let Some(until) = until
            && let Ok(facts) = tokio::fs::symlink_metadata(&path).await
            && facts.modified().is_ok_and(|written| written > until)
        {
            tracing::info!(
                "the file {} stays: it was written after the end of the job that had this name",
                path.display()
            );
            continue;
        }
        if let Err(error) = tokio::fs::remove_file(&path).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the old output file {} could not be removed", path.display());
        }
        if file.folder == OutputFolder::Output
            && !file.subfolder.is_empty()
            && let Some(folder) = path.parent()
        {
            inner.emptied.add(folder);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_folders_go_and_others_stay_with_all_above_them() {
        let data = tempfile::tempdir().unwrap();
        let root = data.path().join("output");
        for folder in ["a/b/c", "a/d", "e", "f"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("e/keep.png"), "x").unwrap();
        let emptied = Emptied::default();
        for folder in ["a/b/c", "a/d", "e", "gone", ".."] {
            emptied.add(&root.join(folder));
        }
        emptied.add(&root);
        while emptied.remove(&root) {}
        assert!(!root.join("a").exists());
        assert!(
            root.join("e/keep.png").exists() && root.join("f").exists(),
            "no job of ours left it"
        );
        std::fs::remove_file(root.join("e/keep.png")).unwrap();
        emptied.add(&root.join("e"));
        std::fs::remove_dir(root.join("f")).unwrap();
        while emptied.remove(&root) {}
        assert!(root.exists() && !root.join("e").exists());
    }
}
