//! A folder for one run of the worker.

use std::fs::File;
use std::path::{Path, PathBuf};

/// A folder of ours cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the folder {} cannot be used; let DATA_DIR name a folder that can be written to", folder.display())]
pub struct FolderError {
    folder: PathBuf,
    #[source]
    source: std::io::Error,
}

impl FolderError {
    fn new(folder: &Path, source: std::io::Error) -> Self {
        let folder = folder.to_owned();
        Self { folder, source }
    }
}

/// Makes a folder with those above it.
pub(super) fn make_folder(folder: &Path) -> Result<(), FolderError> {
    std::fs::create_dir_all(folder).map_err(|source| FolderError::new(folder, source))
}

/// A folder for one run of the worker: ComfyUI's temporary files. Held by a lock, so that the next run knows which
/// ones are left over from workers that were killed.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// A new folder under `parent`. Those of runs that were killed are removed.
    pub fn claim(parent: &Path) -> Result<Self, FolderError> {
        make_folder(parent)?;
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let abandoned = File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
            if abandoned && let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, "the folder {} of a previous run could not be removed", entry.path().display());
            }
        }
        let path = parent.join(uuid::Uuid::now_v7().simple().to_string());
        let failed = |source| FolderError::new(&path, source);
        std::fs::create_dir(&path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_killed_runs_are_removed_and_those_in_use_are_kept() {
        let parent = tempfile::tempdir().unwrap();
        let living = RunDir::claim(parent.path()).unwrap();
        let killed = parent.path().join("killed");
        std::fs::create_dir(&killed).unwrap();
        std::fs::write(killed.join("lock"), "").unwrap();
        let next = RunDir::claim(parent.path()).unwrap();
        assert!(living.path.exists() && next.path.exists() && !killed.exists());
        let path = next.path.clone();
        drop(next);
        assert!(!path.exists());
    }
}
