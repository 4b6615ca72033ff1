//! Is there room for all the files together?

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::error::{FetchError, file};
use crate::disk::blocking;

/// How long files whose size is known wait for those whose server has not answered yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// The space that the files of one batch still need.
#[derive(Debug, Default)]
pub(super) struct Space {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Files of which nothing is known yet.
    preparing: usize,
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    /// The place of the file in the batch.
    index: usize,
    folder: PathBuf,
    /// The file system, as its device number.
    device: u64,
    bytes: u64,
    state: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Asked,
    Granted,
    Denied { needed: u64, free: u64 },
}

/// A file of which nothing is known yet; the others wait for it a little.
#[derive(Debug)]
pub(super) struct Preparing(Arc<Space>);

impl Drop for Preparing {
    fn drop(&mut self) {
        self.0.state().preparing -= 1;
        self.0.changed.notify_waiters();
    }
}

/// Space that was promised to a file and that it has not taken yet.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<Space>,
    index: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.state().claims.retain(|claim| claim.index != self.index);
    }
}

impl Space {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a file.
    pub(super) fn prepare(self: &Arc<Self>) -> Preparing {
        self.state().preparing += 1;
        Preparing(self.clone())
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
        self.state().claims.push(Claim {
            index,
            folder,
            device,
            bytes,
            state: Standing::Asked,
        });
        let reservation = Reservation {
            space: self.clone(),
            index,
        };
        drop(preparing);
        // Whoever does not answer in time is asked for alone.
        let _ = tokio::time::timeout(PATIENCE, self.all_known()).await;
        let space = self.clone();
        match blocking(move || space.decide(index)).await {
            Standing::Denied { needed, free } => Err(FetchError::NoSpace {
                file: target.to_owned(),
                needed,
                free,
            }),
            Standing::Asked | Standing::Granted => Ok(reservation),
        }
    }

    async fn all_known(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.state().preparing == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Decides on all demands, in the order of the batch, and tells what came of one. Blocks.
    fn decide(&self, index: usize) -> Standing {
        let mut state = self.state();
        state.claims.sort_by_key(|claim| claim.index);
        for at in 0..state.claims.len() {
            let Claim {
                device,
                bytes,
                state: Standing::Asked,
                ..
            } = state.claims[at]
            else {
                continue;
            };
            let on_device = |standing: &dyn Fn(Standing) -> bool| -> u64 {
                let claims = state
                    .claims
                    .iter()
                    .filter(|claim| claim.device == device && standing(claim.state));
                claims.map(|claim| claim.bytes).sum()
            };
            let granted = on_device(&|standing| standing == Standing::Granted);
            let standing = match free_bytes(&state.claims[at].folder) {
                Some(free) if granted + bytes > free => Standing::Denied {
                    needed: on_device(&|_| true),
                    free,
                },
                _ => Standing::Granted,
            };
            state.claims[at].state = standing;
        }
        let own = state.claims.iter().find(|claim| claim.index == index);
        own.map_or(Standing::Granted, |claim| claim.state)
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
