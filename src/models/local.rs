//! Copies of models from slow volumes on the local disk (`MODEL_LOCAL_CACHE_GB`).
//!
//! ```text
//! DATA_DIR/local-models/loras/style.safetensors            the copy: ComfyUI looks here first, under the same name
//! DATA_DIR/local-models/loras/.style.safetensors.copy      where it is from; its time of change is when it was used last
//! DATA_DIR/local-models/loras/.style.safetensors.….part    one that is being made
//! ```
//!
//! A copy gets its name once its content has been read back and is that of the original, so a worker that is killed leaves none
//! that is wrong. One whose original has changed or gone, or is not the file any more that ComfyUI would take, is removed before
//! anything is looked for. What tidies and what copies hold `.lock`: a `run` may start beside the worker of the data folder.

mod keeper;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub(super) use keeper::Keeper;

use super::locate::Places;
use super::volumes::Volume;
use crate::disk;

/// The folder of copies, under `DATA_DIR`.
pub const FOLDER: &str = "local-models";
/// What is held while copies are made or tidied.
const LOCK: &str = ".lock";
/// The ending of what says where a copy is from.
const MARKER: &str = ".copy";
/// The ending of a copy that is being made.
const PART: &str = ".part";
/// The share of the disk that stays free, and the least.
const FREE_SHARE: u64 = 20;
const LEAST_FREE: u64 = 2_000_000_000;
/// How long a copy stays after its last use, whatever wants its room. Models that together exceed the limit would
/// otherwise be copied for ever, each in another's place.
const STAYS: Duration = Duration::from_hours(1);

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

    /// Whether this is the file that was copied, or cannot be looked at: a volume may be late, or out of order for a while.
    fn may_be(&self, path: &Path) -> bool {
        Self::of(path).map_or(true, |now| (now.bytes, now.modified) == (self.bytes, self.modified))
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
    #[error("others that were used lately leave it no room under MODEL_LOCAL_CACHE_GB")]
    NoRoom,
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

    /// Removes copies that ComfyUI is not to take any longer, and what a killed worker left. Called before anything is looked for.
    /// Blocking.
    pub fn tidy(&self, places: &Places) {
        if !self.folder.is_dir() {
            return;
        }
        let Ok(_lock) = self.lock() else { return };
        let copies = self.copies();
        let (stand, fallen): (Vec<_>, Vec<_>) = copies.into_iter().partition(|copy| self.stands(copy, places));
        for copy in fallen {
            tracing::info!(
                "the local copy {} is removed: its original is another one",
                copy.path.display()
            );
            remove(&copy);
        }
        let mut others = Vec::new();
        walk(&self.folder, &mut |path, name| {
            let is_ours = name == LOCK || stand.iter().any(|copy| copy.path == path || copy.marker == path);
            others.extend((!is_ours).then(|| path.to_owned()));
        });
        for other in others {
            let _ = fs::remove_file(other);
        }
    }

    /// Whether a copy is whole, and of the file that ComfyUI would take without it.
    fn stands(&self, copy: &Copy, places: &Places) -> bool {
        let origin = fs::read(&copy.marker).ok();
        let origin: Option<Origin> = origin.and_then(|text| serde_json::from_slice(&text).ok());
        let (Some(origin), Some((kind, name))) = (origin, self.names(copy)) else {
            return false;
        };
        if copy.bytes != origin.bytes {
            return false;
        }
        let is_gone = || {
            let facts = fs::metadata(&origin.path);
            facts.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        match places.original(&kind, &name) {
            Some(original) => origin.may_be(&original),
            // Of a volume that is not there nothing is known.
            None => !(places.is_shared(&origin.path) && is_gone()),
        }
    }

    /// The kind of a copy, and its name as ComfyUI lists it.
    fn names(&self, copy: &Copy) -> Option<(String, String)> {
        let inner = copy.path.strip_prefix(&self.folder).ok()?.to_str()?;
        let (kind, name) = inner.split_once('/')?;
        Some((kind.to_owned(), name.to_owned()))
    }

    /// Removes the copies that were not used for longest, until so many bytes more fit under the limit and on the disk; none
    /// where that would not do. A file that ComfyUI has open stays readable for it, and takes its room until then.
    fn make_room(&self, more: u64) -> Result<(), NotCopied> {
        let mut copies = self.copies();
        copies.sort_by_key(|copy| copy.used);
        let sum: u64 = copies.iter().map(|copy| copy.bytes).sum();
        let (limit, space) = (self.limit.saturating_sub(more), disk::space(&self.folder)?);
        let least = LEAST_FREE.max(space.total / FREE_SHARE).saturating_add(more);
        let (now, mut freed, mut leaving) = (SystemTime::now(), 0, Vec::new());
        for copy in copies {
            let does = sum - freed <= limit && space.free.saturating_add(freed) >= least;
            let is_settled = now.duration_since(copy.used).is_ok_and(|unused| unused >= STAYS);
            if does || !is_settled {
                break;
            }
            freed += copy.bytes;
            leaving.push(copy);
        }
        if sum - freed > limit {
            return Err(NotCopied::NoRoom);
        }
        if space.free.saturating_add(freed) < least {
            return Err(NotCopied::DiskFull);
        }
        for copy in leaving {
            tracing::info!("the local copy {} is removed to make room", copy.path.display());
            remove(&copy);
        }
        if freed > 0 && disk::space(&self.folder)?.free < least {
            return Err(NotCopied::DiskFull);
        }
        Ok(())
    }

    fn copies(&self) -> Vec<Copy> {
        let mut copies = Vec::new();
        walk(&self.folder, &mut |path, name| {
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

    /// Fails where another process has it, for as long as that copies or tidies.
    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let file = File::create(self.folder.join(LOCK))?;
        file.try_lock()?;
        Ok(file)
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

fn walk(folder: &Path, see: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, see);
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            see(&path, name);
        }
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
