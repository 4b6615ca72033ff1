//! Makes copies on the local disk of the models that jobs use.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use tokio_util::sync::CancellationToken;

use super::{LocalCopies, NotCopied, Origin, PART, marker, touch};
use crate::disk;
use crate::models::locate::Places;

/// How much is copied at a time.
const PIECE: usize = 8 << 20;
/// After how much the disk is waited for, and the kernel told to forget it: what gathers in memory delays the writes of others,
/// and cannot be stopped.
const SETTLED_EVERY: usize = 32 * PIECE;
/// How much lower than others the thread that copies is.
const NICE: i32 = 10;
/// How long a name is not looked at again: its copy counts as used for as long, and what cannot be copied is left alone.
const LOOKED_AT_EVERY: Duration = Duration::from_mins(30);

/// Makes the copies of a worker.
#[derive(Debug)]
pub(in crate::models) struct Keeper {
    copies: LocalCopies,
    places: Arc<Places>,
    /// When names were looked at.
    looked_at: HashMap<String, Instant>,
}

impl Keeper {
    pub(in crate::models) fn new(copies: LocalCopies, places: Arc<Places>) -> Self {
        Self {
            copies,
            places,
            looked_at: HashMap::new(),
        }
    }

    /// Copies the models with these names that lie on volumes; those that are there already are noted as used. Tells of each.
    /// Blocking, on a thread of its own.
    pub(in crate::models) fn keep(&mut self, names: Vec<String>, stop: &CancellationToken) {
        let _ = rustix::process::nice(NICE);
        self.looked_at.retain(|_, at| at.elapsed() < LOOKED_AT_EVERY);
        let mut missing = Vec::new();
        // All first, so that none makes room for another.
        for name in names {
            if self.looked_at.contains_key(&name) {
                continue;
            }
            for (kind, original) in self.places.originals(&name) {
                let target = self.copies.folder.join(kind).join(&name);
                if target.is_file() {
                    touch(&target);
                } else if self.places.is_shared(&original) {
                    missing.push((format!("{kind}/{name}"), original, target));
                }
            }
            self.looked_at.insert(name, Instant::now());
        }
        if missing.is_empty() {
            return;
        }
        let _lock = match self.copies.lock() {
            Ok(lock) => lock,
            Err(error) => {
                tracing::warn!("no models are copied to the local disk: {error}");
                return;
            }
        };
        for (name, original, target) in missing {
            let begun = Instant::now();
            match self.copies.copy(&original, &target, stop) {
                Ok(bytes) => tracing::info!(
                    "model {name}: {} copied from {} to the local disk in {:.1} s (MODEL_LOCAL_CACHE_GB)",
                    crate::telemetry::report::bytes(bytes),
                    original.display(),
                    begun.elapsed().as_secs_f64()
                ),
                Err(NotCopied::Stopped) => return,
                Err(error) => tracing::warn!("model {name} is not copied to the local disk: {error}"),
            }
        }
    }
}

impl LocalCopies {
    /// Makes a copy. Whoever does that has the lock.
    pub(super) fn copy(&self, original: &Path, target: &Path, stop: &CancellationToken) -> Result<u64, NotCopied> {
        let origin = Origin::of(original)?;
        if origin.bytes > self.limit {
            return Err(NotCopied::TooLarge);
        }
        self.make_room(origin.bytes)?;
        let folder = target
            .parent()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        fs::create_dir_all(folder)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let part = folder.join(format!(".{name}.{}{PART}", uuid::Uuid::new_v4().simple()));
        let copied = write(original, &part, stop).and_then(|()| {
            // It may have been replaced meanwhile.
            if Origin::of(original)? != origin {
                return Err(NotCopied::Differs);
            }
            // The marker first: a copy without one would stay for ever.
            let marker = marker(target).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            let text = serde_json::to_vec(&origin).map_err(io::Error::from)?;
            disk::write_atomically(&marker, |file| {
                file.write_all(&text)?;
                file.sync_all()
            })?;
            Ok(fs::rename(&part, target)?)
        });
        if copied.is_err() {
            let _ = fs::remove_file(&part);
        }
        copied.map(|()| origin.bytes)
    }
}

/// Writes a copy, and compares what has come to the disk with what was read.
fn write(original: &Path, part: &Path, stop: &CancellationToken) -> Result<(), NotCopied> {
    let mut file = File::create_new(part)?;
    let mut unsettled = 0;
    let read = pass(&mut File::open(original)?, stop, |piece| {
        file.write_all(piece)?;
        unsettled += piece.len();
        if unsettled >= SETTLED_EVERY {
            unsettled = 0;
            file.sync_data()?;
            forget(&file);
        }
        Ok(())
    })?;
    file.sync_all()?;
    compare(part, read, stop)
}

/// Reads a copy from the disk. What is still in memory would only be compared with itself, and what was read is of no use there.
fn compare(part: &Path, expected: blake3::Hash, stop: &CancellationToken) -> Result<(), NotCopied> {
    let file = File::open(part)?;
    forget(&file);
    let mut unsettled = 0;
    let written = pass(&mut &file, stop, |piece| {
        unsettled += piece.len();
        if unsettled >= SETTLED_EVERY {
            unsettled = 0;
            forget(&file);
        }
        Ok(())
    })?;
    forget(&file);
    if written == expected {
        Ok(())
    } else {
        Err(NotCopied::Differs)
    }
}

/// Has the kernel forget what it has of a file.
fn forget(file: &File) {
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Reads a file to its end; gives the hash of its content.
fn pass(
    file: &mut impl Read,
    stop: &CancellationToken,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<blake3::Hash, NotCopied> {
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; PIECE]);
    loop {
        if stop.is_cancelled() {
            return Err(NotCopied::Stopped);
        }
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        hasher.update(&buffer[..count]);
        each(&buffer[..count])?;
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
