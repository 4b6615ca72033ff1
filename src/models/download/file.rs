//! One file from wanted to there: lock, facts, room, bytes, hash, name.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::answer::Resolved;
use super::error::{FetchError, Trouble, file};
use super::hash::FrontHash;
use super::lock;
use super::part::{Names, Part, is_own, key, own_key};
use super::plan::Plan;
use super::safetensors;
use super::space::{Preparing, Reservation, Space, free_bytes};
use super::transfer::{Engine, Transfer};
use super::types::{Fetched, Progress, Source, Wanted, Watcher};
use crate::disk::blocking;

/// How often the watcher hears of a file.
const TELL: Duration = Duration::from_millis(200);

/// A file that changes while it is being fetched is begun anew this often.
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
struct Facts {
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
        let lock = self.unless_stopped(lock::acquire(names.lock(), waiting)).await??;
        let shared = lock.is_some();

        let mut restarts = 0;
        let mut rehashed = false;
        loop {
            let (resolved, facts) = self.unless_stopped(self.ask(&names, shared)).await??;
            if let Some(fetched) = self.present(facts.size).await {
                return Ok(Fetched {
                    commit: resolved.commit,
                    ..fetched
                });
            }
            let room = self.reserve(&names, &facts, preparing.take());
            let reservation = self.unless_stopped(room).await??;
            match self.fill(&names, resolved, facts, reservation, !rehashed).await {
                Ok(Some(fetched)) => return Ok(fetched),
                Ok(None) => rehashed = true,
                Err(Trouble::Changed(error)) => {
                    restarts += 1;
                    if restarts > RESTARTS {
                        return Err(error);
                    }
                    tracing::warn!("{error}; model {} is begun anew", self.wanted.target.display());
                }
                Err(trouble) => return Err(trouble.into_error()),
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
    async fn ask(&self, names: &Names, shared: bool) -> Result<(Resolved, Facts), FetchError> {
        let engine = self.engine;
        let source = &self.wanted.source;
        let resolved = {
            let _permit = engine.gate.enter().await;
            engine.origins.resolve(source, None, &engine.settings).await?
        };
        let url = || engine.origins.label(source);
        if let (Some(expected), Some(got)) = (self.wanted.size, resolved.size)
            && expected != got
        {
            return Err(FetchError::WrongSize {
                url: url(),
                expected,
                got,
            });
        }
        if let (Some(expected), Some(got)) = (&self.wanted.sha256, &resolved.sha256)
            && expected != got
        {
            return Err(FetchError::WrongHash {
                url: url(),
                expected: expected.clone(),
                got: got.clone(),
            });
        }
        let size = resolved.size.or(self.wanted.size);
        let sha256 = self.wanted.sha256.clone().or_else(|| resolved.sha256.clone());
        let key = self.version_key(&resolved, size, sha256.as_deref(), names, shared);
        Ok((resolved, Facts { size, sha256, key }))
    }

    /// What names this version, and no other, among the parts.
    fn version_key(
        &self,
        resolved: &Resolved,
        size: Option<u64>,
        sha256: Option<&str>,
        names: &Names,
        shared: bool,
    ) -> String {
        let length = size.map(|size| size.to_string()).unwrap_or_default();
        let told = sha256.or(resolved.validator.as_deref()).or(resolved.commit.as_deref());
        let (repo, path) = match &self.wanted.source {
            Source::Hub(file) => (file.repo.as_str(), file.path.as_str()),
            Source::Url { url, .. } => (url.host_str().unwrap_or_default(), url.path()),
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

    /// Asks for the space that the file still needs.
    async fn reserve(
        &self,
        names: &Names,
        facts: &Facts,
        preparing: Option<Preparing>,
    ) -> Result<Reservation, FetchError> {
        let (of, key) = (names.clone(), facts.key.clone());
        let held = blocking(move || of.held(&key)).await;
        let needed = facts.size.unwrap_or(0).saturating_sub(held);
        self.space
            .reserve(self.index, &self.wanted.target, needed, preparing)
            .await
    }

    /// Fetches the bytes, checks them, and gives the file its name. [`None`]: the bytes were wrong and are to be fetched
    /// once more, which `again` allows.
    async fn fill(
        &self,
        names: &Names,
        resolved: Resolved,
        facts: Facts,
        reservation: Reservation,
        again: bool,
    ) -> Result<Option<Fetched>, Trouble> {
        // One file at a time, if it was so wanted.
        let _turn = self.unless_stopped(self.engine.files.acquire()).await?;
        let commit = resolved.commit.clone();
        let (of, key, size) = (names.clone(), facts.key.clone(), facts.size);
        let (part, done) = match blocking(move || Part::open(&of, &key, size)).await {
            Ok(opened) => opened,
            Err(error) => return Err(self.explain(error, names, &facts).await.into()),
        };
        drop(reservation);

        let followed = part.file().try_clone().and_then(FrontHash::follow);
        let hash = followed.map_err(file("read", part.path()))?;
        hash.front().reached(done.front());
        let plan = Plan::new(size, done, self.engine.settings.smallest_range);
        let transfer = Arc::new(Transfer::new(
            self.engine.clone(),
            self.wanted.source.clone(),
            resolved,
            part,
            plan,
            Some(hash.front()),
        ));
        let ended = self.watch(&transfer).await;
        self.received.fetch_add(transfer.received(), Ordering::Relaxed);
        if let Err(trouble) = ended {
            let useless = matches!(trouble, Trouble::Changed(_)) || is_own(&facts.key) || size.is_none();
            if useless {
                blocking(move || transfer.part().remove()).await;
            }
            return Err(match trouble {
                Trouble::Final(error) => Trouble::Final(self.explain(error, names, &facts).await),
                other => other,
            });
        }
        let size = transfer.plan().done().len();
        let got = self
            .unless_stopped(hash.finish(size))
            .await?
            .map_err(file("read", transfer.part().path()))?;
        let url = transfer.label.clone();
        let verified = facts.sha256.is_some();
        let wrong = facts
            .sha256
            .filter(|expected| *expected != got)
            .map(|expected| FetchError::WrongHash {
                url,
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
            Err(error) => return Err(Trouble::Final(error)),
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
    async fn watch(&self, transfer: &Arc<Transfer>) -> Result<(), Trouble> {
        let tell = || {
            let (bytes, total) = {
                let plan = transfer.plan();
                (plan.done().len(), plan.size())
            };
            self.tell(bytes, total, false);
        };
        let mut run = std::pin::pin!(transfer.run());
        let mut tick = tokio::time::interval(TELL);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Trouble::Final(FetchError::CalledOff)),
                ended = &mut run => return ended,
                _ = tick.tick() => tell(),
            }
        }
    }

    /// Says how much room there is and how much is needed, where a failure was for want of room.
    async fn explain(&self, error: FetchError, names: &Names, version: &Facts) -> FetchError {
        let full = matches!(
            &error,
            FetchError::File { source, .. } if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        );
        if !full {
            return error;
        }
        let (names, key, size) = (names.clone(), version.key.clone(), version.size.unwrap_or(0));
        let file = self.wanted.target.clone();
        blocking(move || FetchError::NoSpace {
            needed: size.saturating_sub(names.held(&key)),
            free: free_bytes(names.folder()).unwrap_or(0),
            file,
        })
        .await
    }

    /// Does something that may be called off without regret.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, FetchError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(FetchError::CalledOff),
            done = work => Ok(done),
        }
    }
}

/// Gives a filled part its name, unless it is `wrong`. Blocks.
fn publish(transfer: &Transfer, target: &Path, size: u64, wrong: Option<FetchError>) -> Result<(), FetchError> {
    let checked = match wrong {
        Some(wrong) => Err(wrong),
        None if safetensors::is_safetensors(target) => safetensors::check(transfer.part().file(), target),
        None => Ok(()),
    };
    if let Err(error) = checked {
        transfer.part().remove();
        return Err(error);
    }
    transfer.part().publish(target, size)
}
