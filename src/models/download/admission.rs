//! What a download needs before it begins: the right to fetch its target, alone over all processes, and room on the disk
//! for all files of its batch together.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

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

/// Waits for the lock on the file `path`, and calls `waiting` while somebody else has it. [`None`] where the file system
/// has no locks.
pub(super) async fn acquire(path: PathBuf, mut waiting: impl FnMut()) -> Result<Option<Lock>, FetchError> {
    loop {
        let path = path.clone();
        match blocking(move || attempt(&path)).await {
            Ok(Ok(lock)) => return Ok(Some(lock)),
            Ok(Err(TryLockError::WouldBlock)) => {}
            Ok(Err(TryLockError::Error(error))) => {
                tracing::warn!("model files cannot be locked here ({error}); two workers may fetch the same one twice");
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        waiting();
        tokio::time::sleep(POLL).await;
    }
}

/// Tries once. An error of a lock: the file system has none.
fn attempt(path: &Path) -> Result<Result<Lock, TryLockError>, FetchError> {
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
            Err(TryLockError::Error(error)) if !has_no_locks(&error) => return Err(file("lock", path)(error)),
            Err(TryLockError::Error(error)) => {
                let _ = fs::remove_file(path);
                return Ok(Err(TryLockError::Error(error)));
            }
            Err(busy) => return Ok(Err(busy)),
        }
        // The one who had it may have removed it between our opening and our locking.
        if is_at(&opened, path) {
            return Ok(Ok(Lock {
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

/// How long files whose size is known wait for those whose server has not answered yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// The space that the files of one batch still need.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Has a token for each file of which nothing is known yet.
    preparing: TaskTracker,
    /// By the place of the file in the batch.
    claims: Mutex<BTreeMap<usize, Claim>>,
}

/// A file of which nothing is known yet; the others wait for it a little.
pub(super) type Preparing = TaskTrackerToken;

#[derive(Debug)]
struct Claim {
    folder: PathBuf,
    /// The file system, as its device number.
    device: u64,
    bytes: u64,
    /// [`None`]: not decided yet.
    verdict: Option<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Granted,
    Denied { needed: u64, free: u64 },
}

/// Space that was promised to a file and that it has not taken yet.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<Space>,
    index: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.claims.lock().remove(&self.index);
    }
}

impl Space {
    /// Announces a file.
    pub(super) fn prepare(&self) -> Preparing {
        self.preparing.token()
    }

    /// Asks for `bytes` for a file, whose folder exists. Waits a little for the other files' demands.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        index: usize,
        target: &Path,
        bytes: u64,
        preparing: Option<Preparing>,
    ) -> Result<Reservation, FetchError> {
        let folder = target.parent().unwrap_or(Path::new(".")).to_owned();
        let measured = folder.clone();
        let device = blocking(move || std::fs::metadata(&measured).map(|metadata| metadata.dev()))
            .await
            .map_err(file("look at", &folder))?;
        let claim = Claim {
            folder,
            device,
            bytes,
            verdict: None,
        };
        self.claims.lock().insert(index, claim);
        let reservation = Reservation {
            space: self.clone(),
            index,
        };
        drop(preparing);
        self.preparing.close();
        // Whoever does not answer in time is asked for alone.
        let _ = tokio::time::timeout(PATIENCE, self.preparing.wait()).await;
        let space = self.clone();
        match blocking(move || space.decide(index)).await {
            Verdict::Granted => Ok(reservation),
            Verdict::Denied { needed, free } => Err(FetchError::NoSpace {
                file: target.to_owned(),
                needed,
                free,
            }),
        }
    }

    /// Decides on all demands, in the order of the batch, and tells what came of one. Blocks.
    fn decide(&self, index: usize) -> Verdict {
        let mut claims = self.claims.lock();
        let undecided = claims.iter().filter(|(_, claim)| claim.verdict.is_none());
        for at in undecided.map(|(at, _)| *at).collect::<Vec<_>>() {
            let claim = &claims[&at];
            let others = claims.values().filter(|other| other.device == claim.device);
            let granted = others.clone().filter(|other| other.verdict == Some(Verdict::Granted));
            let granted: u64 = granted.map(|other| other.bytes).sum();
            let verdict = match free_bytes(&claim.folder) {
                Some(free) if granted + claim.bytes > free => Verdict::Denied {
                    needed: others.map(|other| other.bytes).sum(),
                    free,
                },
                _ => Verdict::Granted,
            };
            if let Some(claim) = claims.get_mut(&at) {
                claim.verdict = Some(verdict);
            }
        }
        claims
            .get(&index)
            .and_then(|claim| claim.verdict)
            .unwrap_or(Verdict::Granted)
    }
}

/// The bytes that an ordinary user may still write in `folder`; [`None`] where the file system does not tell.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    // Some network file systems answer with nothing but zeros.
    (stat.blocks() > 0).then(|| stat.blocks_available().saturating_mul(stat.fragment_size()))
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

    #[tokio::test]
    async fn files_are_counted_together() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_bytes(folder.path()).unwrap();
        let space = Arc::new(Space::default());
        let share = free / 5 * 2;
        let preparing: Vec<_> = (0..3).map(|_| space.prepare()).collect();
        let asked = preparing.into_iter().enumerate().map(|(index, preparing)| {
            let (space, file) = (space.clone(), folder.path().join("x"));
            async move { space.reserve(index, &file, share, Some(preparing)).await }
        });
        let mut answers = futures_util::future::join_all(asked).await;
        assert!(answers[0].is_ok() && answers[1].is_ok());
        match answers.remove(2) {
            Err(FetchError::NoSpace { needed, .. }) => assert_eq!(needed, 3 * share),
            other => panic!("{other:?}"),
        }
        drop(answers);
        // What was given back is there for others.
        space.reserve(3, &folder.path().join("y"), share, None).await.unwrap();
    }
}
