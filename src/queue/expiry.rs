//! What time does to jobs: those that wait too long end, and those that ended long ago are removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::error::{ErrorKind, JobError};
use crate::executor::LeftFile;
use crate::job::{JobState, OutputFolder};

use super::core::{Core, stored};
use super::live_job::LiveJob;

/// Time between two looks at the jobs' times to live.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two removals of old jobs.
const REMOVE_EVERY: Duration = Duration::from_secs(10);

/// How long after its end, and the time that a node has to hear of it, a job's file may have been written: clocks of other
/// machines differ a little.
const STILL_ITS_OWN: Duration = Duration::from_mins(1);

/// Ends jobs whose time to live is over.
pub(super) async fn watch_the_clock(core: Arc<Core>) {
    while pause(&core, LOOK_EVERY).await {
        let now = SystemTime::now();
        let unfinished = core.live.lock().unfinished();
        for job in unfinished {
            let ttl = job.policy.ttl.unwrap_or(core.settings.queue_ttl);
            if now.duration_since(job.created).is_ok_and(|age| age > ttl) {
                let message = format!("The job did not end within {} s of its coming", ttl.as_secs());
                let error = JobError::new(ErrorKind::TimedOut, message)
                    .hint("The worker has too much to do, or was stopped meanwhile; policy.ttl gives more time.");
                // One whose end takes time does not keep the others from theirs.
                let core = Arc::clone(&core);
                core.tasks
                    .clone()
                    .spawn(async move { core.end(&job, JobState::TimedOut, Err(Arc::new(error))).await });
            }
        }
    }
}

/// Removes jobs that ended long ago, and the oldest ones when there are too many bytes, each with its files.
pub(super) async fn remove_the_old(core: Arc<Core>) {
    loop {
        remove_what_is_old(&core, core.settings.result_ttl).await;
        remove_empty_folders(&core).await;
        if !pause(&core, REMOVE_EVERY).await {
            return;
        }
    }
}

pub(super) async fn remove_what_is_old(core: &Core, ttl: Duration) {
    let limit = core.settings.output_max_bytes;
    let limit = if limit == 0 { u64::MAX } else { limit };
    let before = SystemTime::now().checked_sub(ttl).unwrap_or(SystemTime::UNIX_EPOCH);
    loop {
        let expired = match core.store.expired(before, limit).await {
            Ok(expired) if expired.is_empty() => break,
            Ok(expired) => expired,
            Err(error) => {
                stored::<()>("removal", Err(error));
                break;
            }
        };
        // The files first: a kill in between leaves rows that are found again.
        for job in &expired {
            remove_files(core, &job.files, job.ended).await;
        }
        tracing::info!(jobs = expired.len(), "old jobs and their files are removed");
        let gone: Vec<_> = expired
            .iter()
            .filter(|job| !job.stays)
            .map(|job| job.id.clone())
            .collect();
        let removed = core.store.expire(expired).await;
        let failed = removed.is_err();
        stored("removal", removed);
        if failed {
            break;
        }
        // What is no longer stored is no longer known.
        let mut live = core.live.lock();
        for id in &gone {
            live.forget(id);
        }
    }
}

/// Writes down files that a job left, so that they are removed in its time. Those of a job that was removed meanwhile are
/// removed at once, however late they are found; one that the store has lost, since its database was damaged, keeps them for
/// its result.
pub(super) async fn take_down(core: &Core, job: &LiveJob, files: Vec<LeftFile>) {
    // Its end stores them as well, should this fail.
    job.leaves(&files);
    match core.store.left(&job.id, files).await {
        Ok(Some(own)) if was_removed(core, job) => remove_files(core, &own, None).await,
        Ok(_) => {}
        Err(error) => stored::<()>("list of files", Err(error)),
    }
}

/// Whether a job that the store does not know was removed: what is still live, or has a result that is shown, was not.
fn was_removed(core: &Core, job: &LiveJob) -> bool {
    let state = job.state();
    state.is_final() && (state != JobState::Completed || core.live(&job.id).is_none())
}

/// Folders whose last file may have gone. They are removed while no job is live, since a graph that runs may have found
/// its folder there and be about to save into it.
#[derive(Debug, Default)]
pub(super) struct Emptied(Mutex<BTreeSet<PathBuf>>);

impl Emptied {
    /// So many folders are remembered; further ones stay.
    const MOST: usize = 10_000;
    /// So many are looked at before others get their turn.
    const AT_ONCE: usize = 16;

    fn add(&self, folder: &Path) {
        let mut folders = self.0.lock();
        if folders.len() < Self::MOST {
            folders.insert(folder.to_owned());
        }
    }

    /// Removes some of the folders, if they are empty, and the ones above them that are empty then, below `root`. Says
    /// whether there are more. Blocks.
    fn remove(&self, root: &Path) -> bool {
        for _ in 0..Self::AT_ONCE {
            let Some(folder) = self.0.lock().pop_last() else {
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

/// Removes the folders that jobs left empty, when no job is live.
async fn remove_empty_folders(core: &Arc<Core>) {
    let Some(root) = core.executor.comfy().folders().map(|folders| folders.output.clone()) else {
        return;
    };
    if core.emptied.0.lock().is_empty() {
        return;
    }
    let core = Arc::clone(core);
    let removed = tokio::task::spawn_blocking(move || {
        // Jobs have their turn in between.
        while let Some(_pause) = Pause::begin(&core)
            && core.emptied.remove(&root)
        {}
    });
    // A panic in it is logged.
    let _ = removed.await;
}

/// No job is taken until this is dropped. Requests are answered meanwhile: the disk may be far away, and slow.
pub(super) struct Pause<'a>(&'a Core);

impl<'a> Pause<'a> {
    /// [`None`] while a job is live.
    pub(super) fn begin(core: &'a Core) -> Option<Self> {
        // Its end takes the lock again, so none is made before the lock is free.
        let is_paused = core.live.lock().pause();
        is_paused.then(|| Self(core))
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.live.lock().go_on();
        self.0.changed.notify_one();
    }
}

/// Removes files of a job that ended then. A file that was written well after that has only the name of the job's: ComfyUI
/// counts on from what is there, so a name that became free is given again.
pub(super) async fn remove_files(core: &Core, files: &[LeftFile], ended: Option<SystemTime>) {
    let until = ended.and_then(|ended| ended.checked_add(core.settings.cancel_grace + STILL_ITS_OWN));
    let Some(folders) = core.executor.comfy().folders() else {
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
            core.emptied.add(folder);
        }
    }
}

/// Sleeps; says whether to go on.
async fn pause(core: &Core, time: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = core.stopping.cancelled() => false,
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
