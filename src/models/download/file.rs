//! One file from wanted to there: lock, facts, room, bytes, hash, name.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::admission::{Preparing, Reservation, Space, acquire, free_bytes};
use super::answer::Resolved;
use super::drive::drive;
use super::error::{Failure, FetchError, file};
use super::part::{Names, Part, is_own, key, own_key};
use super::transfer::{Engine, Transfer};
use super::types::{Fetched, Progress, Wanted, Watcher};
use super::verify::{self, FrontHash};
use crate::config::Origin;
use crate::disk::blocking;

/// How often the watcher hears of a file.
const TELL: Duration = Duration::from_millis(200);

/// A file that changes while it is being fetched is begun again this often.
const RESTARTS: u32 = 3;

/// One wanted file, and what it needs of its batch.
pub(super) struct Job<'a, W: Watcher + ?Sized> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) space: &'a Arc<Space>,
    pub(super) index: usize,
    pub(super) wanted: &'a Wanted,
    pub(super) watcher: &'a W,
    pub(super) stop: &'a CancellationToken,
    /// Bytes that came over the network, those that were of no use included.
    pub(super) received: AtomicU64,
}

/// A version of the file.
struct Version {
    size: Option<u64>,
    sha256: Option<String>,
    /// Its name among the parts.
    key: String,
}

impl<W: Watcher + ?Sized> Job<'_, W> {
    /// Sees to it that the file is there.
    pub(super) async fn run(&self, preparing: Preparing) -> Result<Fetched, FetchError> {
        if let Some(fetched) = self.present(self.wanted.size).await {
            return Ok(fetched);
        }
        let names = Names::of(&self.wanted.target);
        let folder = names.folder().to_owned();
        blocking(move || fs::create_dir_all(&folder).map_err(file("create", &folder))).await?;

        let mut preparing = Some(preparing);
        let waiting = || {
            preparing = None;
            self.tell(0, self.wanted.size, true);
        };
        let lock = self.unless_stopped(acquire(names.lock(), waiting)).await??;
        let shared = lock.is_some();

        let mut restarts = 0;
        let mut rehashed = false;
        loop {
            let (resolved, version) = self.unless_stopped(self.ask(&names, shared)).await??;
            if let Some(fetched) = self.present(version.size).await {
                return Ok(Fetched {
                    commit: resolved.commit,
                    ..fetched
                });
            }
            let (needed, _) = self.room(&names, &version).await;
            let target = &self.wanted.target;
            let reserving = self.space.reserve(self.index, target, needed, preparing.take());
            let reservation = self.unless_stopped(reserving).await??;
            match self.fill(&names, resolved, version, reservation, !rehashed).await {
                Ok(Some(fetched)) => return Ok(fetched),
                Ok(None) => rehashed = true,
                Err(Failure::Changed(error)) => {
                    restarts += 1;
                    if restarts > RESTARTS {
                        return Err(error);
                    }
                    tracing::warn!("{error}; model {} is begun again", target.display());
                }
                Err(failure) => return Err(failure.into_error()),
            }
        }
    }

    fn tell(&self, bytes: u64, total: Option<u64>, waiting: bool) {
        self.watcher.progress(Progress {
            index: self.index,
            target: &self.wanted.target,
            bytes,
            total,
            waiting,
        });
    }

    /// The file, if it is at its place with the right size.
    async fn present(&self, size: Option<u64>) -> Option<Fetched> {
        let size = size?;
        let target = self.wanted.target.clone();
        let found = blocking(move || fs::metadata(target)).await.ok()?;
        if !found.is_file() || found.len() != size {
            return None;
        }
        self.tell(size, Some(size), false);
        Some(Fetched {
            size,
            sha256: None,
            verified: false,
            commit: None,
            received: self.received.load(Ordering::Relaxed),
        })
    }

    /// Asks where the file is, and whether it is the one that is wanted.
    async fn ask(&self, names: &Names, shared: bool) -> Result<(Resolved, Version), FetchError> {
        let engine = self.engine;
        let source = &self.wanted.source;
        let resolved = {
            let _permit = engine.limiter.enter().await;
            engine.origins.resolve(source, None).await?
        };
        let url = || engine.origins.label(source);
        match (self.wanted.size, resolved.size) {
            (Some(expected), Some(got)) if expected != got => {
                return Err(FetchError::wrong_size(&url(), expected, got));
            }
            _ => {}
        }
        match (self.wanted.sha256.clone(), resolved.sha256.clone()) {
            (Some(expected), Some(got)) if expected != got => {
                let url = url();
                Err(FetchError::WrongHash { url, expected, got })
            }
            (wanted, told) => {
                let sha256 = wanted.or(told);
                let size = resolved.size.or(self.wanted.size);
                let key = self.key_of(&resolved, size, sha256.as_deref(), names, shared);
                Ok((resolved, Version { size, sha256, key }))
            }
        }
    }

    /// What names this version, and no other, among the parts.
    fn key_of(
        &self,
        resolved: &Resolved,
        size: Option<u64>,
        sha256: Option<&str>,
        names: &Names,
        shared: bool,
    ) -> String {
        let length = size.map(|size| size.to_string()).unwrap_or_default();
        let told = sha256.or(resolved.validator.as_deref()).or(resolved.commit.as_deref());
        let (repo, path) = match &self.wanted.source.origin {
            Origin::Hub { repo, path, .. } => (repo.as_str(), path.as_str()),
            Origin::Url(url) => (url.host_str().unwrap_or_default(), url.path()),
        };
        let key = match sha256 {
            Some(sha256) => key(&[sha256, &length]),
            None => key(&[repo, path, told.unwrap_or_default(), &length]),
        };
        if !shared {
            return own_key(&key);
        }
        if told.is_none() {
            // Nothing tells this version from another one: what is there may be of that.
            for (_, path) in names.remnants() {
                let _ = fs::remove_file(path);
            }
        }
        key
    }

    /// The space that a version still needs, and what there is, where the file system tells.
    async fn room(&self, names: &Names, version: &Version) -> (u64, Option<u64>) {
        let (names, key, size) = (names.clone(), version.key.clone(), version.size.unwrap_or(0));
        blocking(move || (size.saturating_sub(names.held(&key)), free_bytes(names.folder()))).await
    }

    /// Fetches the bytes, checks them, and gives the file its name. [`None`]: the bytes were wrong and are to be fetched
    /// once more, which `again` allows.
    async fn fill(
        &self,
        names: &Names,
        resolved: Resolved,
        version: Version,
        reservation: Reservation,
        again: bool,
    ) -> Result<Option<Fetched>, Failure> {
        // One file at a time, if it was so wanted.
        let _turn = self.unless_stopped(self.engine.files.acquire()).await?;
        let commit = resolved.commit.clone();
        let (of, key, size, block) = (names.clone(), version.key.clone(), version.size, self.engine.block());
        let opened = match blocking(move || Part::open(&of, &key, size, block)).await {
            Ok(opened) => opened,
            Err(error) => return Err(self.explain(error, names, &version).await.into()),
        };
        drop(reservation);

        let part = &opened.0;
        let hash = FrontHash::follow(part.file().clone()).map_err(file("read", part.path()))?;
        let transfer = Arc::new(Transfer::new(
            self.engine.clone(),
            self.wanted.source.clone(),
            resolved,
            size,
            opened,
            hash.front(),
        ));
        let ended = self.watch(&transfer).await;
        self.received.fetch_add(transfer.received(), Ordering::Relaxed);
        if let Err(failure) = ended {
            // Of no use to the next try.
            if matches!(failure, Failure::Changed(_)) || is_own(&version.key) || size.is_none() {
                blocking(move || transfer.part.remove()).await;
            }
            return Err(match failure {
                Failure::Final(error) => self.explain(error, names, &version).await.into(),
                other => other,
            });
        }
        let size = transfer.state().grid.written();
        let hashed = self.unless_stopped(hash.finish(size)).await?;
        let got = hashed.map_err(file("read", transfer.part.path()))?;
        let verified = version.sha256.is_some();
        let wrong = version.sha256.filter(|expected| *expected != got);
        let wrong = wrong.map(|expected| FetchError::WrongHash {
            url: transfer.label.clone(),
            expected,
            got: got.clone(),
        });
        let target = self.wanted.target.clone();
        let published = blocking(move || publish(&transfer, &target, size, wrong)).await;
        match published {
            Ok(()) => {}
            Err(error @ FetchError::WrongHash { .. }) if again => {
                tracing::warn!("{error}; model {} is fetched once more", self.wanted.target.display());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        self.tell(size, Some(size), false);
        Ok(Some(Fetched {
            size,
            sha256: Some(got),
            verified,
            commit,
            received: self.received.load(Ordering::Relaxed),
        }))
    }

    /// Runs a transfer, and tells how far it is.
    async fn watch(&self, transfer: &Arc<Transfer>) -> Result<(), Failure> {
        let mut run = std::pin::pin!(self.unless_stopped(drive(transfer)));
        let mut tick = tokio::time::interval(TELL);
        loop {
            tokio::select! {
                biased;
                ended = &mut run => return ended?,
                _ = tick.tick() => {
                    let (bytes, total) = {
                        let state = transfer.state();
                        (state.grid.written(), state.grid.size())
                    };
                    self.tell(bytes, total, false);
                }
            }
        }
    }

    /// Says how much room there is and how much is needed, where a failure was for want of room.
    async fn explain(&self, error: FetchError, names: &Names, version: &Version) -> FetchError {
        match &error {
            FetchError::File { source, .. }
                if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                let (needed, free) = self.room(names, version).await;
                FetchError::NoSpace {
                    file: self.wanted.target.clone(),
                    needed,
                    free: free.unwrap_or(0),
                }
            }
            _ => error,
        }
    }

    /// Does something that may be cancelled without regret.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, FetchError> {
        self.stop.run_until_cancelled(work).await.ok_or(FetchError::Cancelled)
    }
}

/// Gives a filled part its name, unless it is `wrong`. Blocks.
fn publish(transfer: &Transfer, target: &Path, size: u64, wrong: Option<FetchError>) -> Result<(), FetchError> {
    let checked = match wrong {
        Some(wrong) => Err(wrong),
        None if verify::is_safetensors(target) => verify::check(transfer.part.file(), target),
        None => Ok(()),
    };
    if let Err(error) = checked {
        transfer.part.remove();
        return Err(error);
    }
    transfer.part.publish(target, size)
}
