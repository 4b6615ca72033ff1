//! Copies of models from slow volumes on the local disk (`MODEL_LOCAL_CACHE_GB`).
//!
//! ```text
//! DATA_DIR/local-models/loras/style.safetensors            the copy: ComfyUI looks here first, under the same name
//! DATA_DIR/local-models/loras/.style.safetensors.copy      where it is from; its time of change is when it was used last
//! DATA_DIR/local-models/loras/.style.safetensors.….part    one that is being made
//! ```
//!
//! A copy gets its name once its content has been read back and is that of the original, so a worker that is killed leaves none
//! that is wrong. One whose original has changed or gone is removed before ComfyUI starts. One worker at a time copies
//! (`.lock`), so that the limit holds for all that share the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::locate::Places;
use super::volumes::Volume;
use crate::disk;

/// The folder of copies, under `DATA_DIR`.
pub const FOLDER: &str = "local-models";
/// The ending of what says where a copy is from.
const MARKER: &str = ".copy";
/// The ending of a copy that is being made.
const PART: &str = ".part";
/// How deep below the folder of copies they are looked for: the kind's folder, and folders in it.
const DEPTH: u32 = 4;
/// How much is copied at a time.
const PIECE: usize = 8 << 20;
/// The share of the disk that stays free, and the least.
const FREE_SHARE: u64 = 20;
const LEAST_FREE: u64 = 2_000_000_000;
/// How much lower than others the thread that copies is.
const NICE: i32 = 10;

/// Where copies of a worker go, and how much they may take together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCopies {
    folder: PathBuf,
    limit: u64,
}

/// What is written down of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

impl Origin {
    fn of(path: &Path) -> io::Result<Self> {
        let facts = fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: facts.len(),
            modified: facts.modified()?,
        })
    }

    /// Whether the original is still the one that was copied.
    fn holds(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }
}

/// A copy on the disk.
struct Copy {
    path: PathBuf,
    marker: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Why a model was not copied.
#[derive(Debug, thiserror::Error)]
enum NotCopied {
    #[error("it is larger than MODEL_LOCAL_CACHE_GB allows")]
    TooLarge,
    #[error("the disk would have too little room left")]
    DiskFull,
    #[error("the copy differs from the original")]
    Differs,
    #[error("the worker stops")]
    Stopped,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl LocalCopies {
    /// The copies under this data folder; [`None`] where none are wanted, or the folder lies on a volume itself.
    pub fn configured(data_dir: &Path, limit: u64, volumes: &[Volume]) -> Option<Self> {
        let folder = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let is_slow = volumes
            .iter()
            .filter_map(|volume| volume.root().canonicalize().ok())
            .any(|root| real.starts_with(root));
        if limit > 0 && is_slow {
            tracing::warn!("MODEL_LOCAL_CACHE_GB has no effect: DATA_DIR lies on a network volume itself");
        }
        (limit > 0 && !is_slow).then(|| Self {
            folder: folder.join(FOLDER),
            limit,
        })
    }

    /// The folder of copies, in folders by kind.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes copies whose originals have changed or gone, and what a killed worker left. Called before ComfyUI starts.
    /// Blocking.
    pub fn tidy(&self) {
        for copy in self.copies() {
            let origin = fs::read(&copy.marker).ok();
            let origin: Option<Origin> = origin.and_then(|text| serde_json::from_slice(&text).ok());
            let size = fs::metadata(&copy.path).map_or(0, |facts| facts.len());
            if !origin.is_some_and(|origin| origin.bytes == size && origin.holds()) {
                tracing::info!(
                    "the local copy {} is removed: its original is another one",
                    copy.path.display()
                );
                remove(&copy);
            }
        }
        if let Ok(_lock) = self.lock(|file| file.try_lock().map_err(io::Error::from)) {
            let mut parts = Vec::new();
            walk(&self.folder, DEPTH, &mut |path, name| {
                if name.starts_with('.') && name.ends_with(PART) {
                    parts.push(path.to_owned());
                }
            });
            for part in parts {
                let _ = fs::remove_file(part);
            }
        }
    }

    /// Copies the models with these names that lie on volumes; those that are there already are noted as used. Tells of each.
    /// Blocking, on a thread of its own.
    pub(super) fn keep(&self, places: &Places, names: &[String], stop: &CancellationToken) {
        let _ = rustix::process::nice(NICE);
        for name in names {
            for (kind, original) in places.on_volumes(name) {
                let target = self.folder.join(&kind).join(name);
                if target.is_file() {
                    touch(&target);
                    continue;
                }
                let begun = std::time::Instant::now();
                match self.copy(&original, &target, stop) {
                    Ok(bytes) => tracing::info!(
                        "model {kind}/{name}: {} copied from {} to the local disk in {:.1} s (MODEL_LOCAL_CACHE_GB)",
                        crate::telemetry::report::bytes(bytes),
                        original.display(),
                        begun.elapsed().as_secs_f64()
                    ),
                    Err(NotCopied::Stopped) => return,
                    Err(error) => tracing::warn!("model {kind}/{name} is not copied to the local disk: {error}"),
                }
            }
        }
    }

    fn copy(&self, original: &Path, target: &Path, stop: &CancellationToken) -> Result<u64, NotCopied> {
        let origin = Origin::of(original)?;
        if origin.bytes > self.limit {
            return Err(NotCopied::TooLarge);
        }
        let folder = target
            .parent()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        fs::create_dir_all(folder)?;
        let _lock = self.lock(File::lock)?;
        // Whoever held the lock may have made it.
        if target.is_file() {
            return Ok(origin.bytes);
        }
        self.make_room(origin.bytes);
        let space = disk::space(&self.folder)?;
        let kept = LEAST_FREE.max(space.total / FREE_SHARE);
        if space.free < origin.bytes.saturating_add(kept) {
            return Err(NotCopied::DiskFull);
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let part = folder.join(format!(".{name}.{}{PART}", uuid::Uuid::new_v4().simple()));
        let copied = write(original, &part, stop).and_then(|()| {
            // It may have been replaced meanwhile.
            if !origin.holds() {
                return Err(NotCopied::Differs);
            }
            // The marker first: a copy without one would stay for ever.
            let marker = marker(target).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            let text = serde_json::to_vec(&origin).map_err(io::Error::from)?;
            disk::write_atomically(&marker, |file| file.write_all(&text))?;
            Ok(fs::rename(&part, target)?)
        });
        if copied.is_err() {
            let _ = fs::remove_file(&part);
        }
        copied.map(|()| origin.bytes)
    }

    /// Removes the copies that were not used for longest, until so many bytes more fit under the limit. A file that ComfyUI
    /// has open stays readable for it.
    fn make_room(&self, more: u64) {
        let mut copies = self.copies();
        copies.sort_by_key(|copy| copy.used);
        let mut sum: u64 = copies.iter().map(|copy| copy.bytes).sum();
        for copy in copies {
            if sum.saturating_add(more) <= self.limit {
                return;
            }
            tracing::info!("the local copy {} is removed to make room", copy.path.display());
            remove(&copy);
            sum = sum.saturating_sub(copy.bytes);
        }
    }

    fn copies(&self) -> Vec<Copy> {
        let mut copies = Vec::new();
        walk(&self.folder, DEPTH, &mut |path, name| {
            let model = name.strip_prefix('.').and_then(|name| name.strip_suffix(MARKER));
            let Some(model) = model.map(|model| path.with_file_name(model)) else {
                return;
            };
            let used = fs::metadata(path).and_then(|facts| facts.modified());
            copies.push(Copy {
                bytes: fs::metadata(&model).map_or(0, |facts| facts.len()),
                path: model,
                marker: path.to_owned(),
                used: used.unwrap_or(SystemTime::UNIX_EPOCH),
            });
        });
        copies
    }

    fn lock(&self, lock: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let file = File::create(self.folder.join(".lock"))?;
        lock(&file)?;
        Ok(file)
    }
}

/// Writes a copy, and compares what has come to the disk with what was read.
fn write(original: &Path, part: &Path, stop: &CancellationToken) -> Result<(), NotCopied> {
    let mut file = File::create_new(part)?;
    let read = pass(&mut File::open(original)?, stop, |piece| file.write_all(piece))?;
    file.sync_all()?;
    // What is still in memory would only be compared with itself.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let written = pass(&mut File::open(part)?, stop, |_| Ok(()))?;
    if read == written {
        Ok(())
    } else {
        Err(NotCopied::Differs)
    }
}

/// Reads a file to its end; gives the hash of its content.
fn pass(
    file: &mut File,
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

fn marker(copy: &Path) -> Option<PathBuf> {
    let name = copy.file_name()?.to_str()?;
    Some(copy.with_file_name(format!(".{name}{MARKER}")))
}

/// Says that a copy is used now.
fn touch(copy: &Path) {
    let marker = marker(copy).and_then(|marker| File::options().append(true).open(marker).ok());
    if let Some(marker) = marker {
        let _ = marker.set_modified(SystemTime::now());
    }
}

/// The copy first: a marker alone does no harm.
fn remove(copy: &Copy) {
    for path in [&copy.path, &copy.marker] {
        if let Err(error) = disk::remove(path) {
            tracing::warn!(%error, "the local copy {} cannot be removed", path.display());
        }
    }
}

fn walk(folder: &Path, depth: u32, see: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && depth > 0 {
            walk(&path, depth - 1, see);
        } else if let (false, Some(name)) = (is_folder, path.file_name().and_then(|name| name.to_str())) {
            see(&path, name);
        }
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
