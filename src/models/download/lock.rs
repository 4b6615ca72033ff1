//! One download of a target at a time, over all processes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::error::{FetchError, file};
use crate::disk::blocking;

/// How often a waiter looks whether the lock has become free.
const POLL: Duration = Duration::from_millis(200);

/// The right to fetch a target. Given back, and its file removed, when it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// Held open, and with it the lock.
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held: whoever opened it before finds that it is gone once they have the lock, and begins again.
        let _ = fs::remove_file(&self.path);
    }
}

/// What came of a try.
enum Try {
    Held(Lock),
    Busy,
    /// The file system has no locks.
    Impossible(io::Error),
}

/// Waits for the lock on the file `path`, and calls `waiting` while somebody else has it. [`None`] where the file system
/// has no locks.
pub(super) async fn acquire(path: PathBuf, mut waiting: impl FnMut()) -> Result<Option<Lock>, FetchError> {
    loop {
        let path = path.clone();
        match blocking(move || attempt(&path)).await? {
            Try::Held(lock) => return Ok(Some(lock)),
            Try::Busy => {}
            Try::Impossible(error) => {
                tracing::warn!("model files cannot be locked here ({error}); two workers may fetch the same one twice");
                return Ok(None);
            }
        }
        waiting();
        tokio::time::sleep(POLL).await;
    }
}

fn attempt(path: &Path) -> Result<Try, FetchError> {
    loop {
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(file("create", path))?;
        match opened.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Try::Busy),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => {
                let _ = fs::remove_file(path);
                return Ok(Try::Impossible(error));
            }
            Err(TryLockError::Error(error)) => return Err(file("lock", path)(error)),
        }
        // The one who had it may have removed it between our opening and our locking.
        if is_at(&opened, path) {
            return Ok(Try::Held(Lock {
                path: path.to_owned(),
                _file: opened,
            }));
        }
    }
}

/// Whether the open file is the one at `path`.
fn is_at(opened: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(there)) = (opened.metadata(), fs::metadata(path)) else {
        return false;
    };
    (opened.dev(), opened.ino()) == (there.dev(), there.ino())
}

fn has_no_locks(error: &io::Error) -> bool {
    let none = [Errno::ENOSYS, Errno::EOPNOTSUPP, Errno::ENOLCK, Errno::EINVAL];
    error.kind() == io::ErrorKind::Unsupported || none.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Whether somebody holds the lock on `path`.
pub(super) fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|opened| matches!(opened.try_lock(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".x.lock");
        let within = AtomicUsize::new(0);
        let turns = (0..8).map(|_| async {
            let lock = acquire(path.clone(), || {}).await.unwrap().unwrap();
            assert!(is_held(&path));
            assert_eq!(within.fetch_add(1, Ordering::SeqCst), 0);
            tokio::task::yield_now().await;
            within.fetch_sub(1, Ordering::SeqCst);
            drop(lock);
        });
        futures_util::future::join_all(turns).await;
        assert!(!is_held(&path));
        assert!(!path.exists());
    }
}
