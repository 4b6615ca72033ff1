//! Is there room for all the files together?

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::{FetchError, file};
use crate::disk::blocking;

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
    use super::*;

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
