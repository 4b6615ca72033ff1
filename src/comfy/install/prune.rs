//! Removes the installations that are not in force.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{InstallError, io};
use super::layout::{self, Layout};
use super::{InstallOptions, release, remove};

/// The end of a folder's name that is being removed.
const LEAVING: &str = ".removed";

/// How often a lock is tried, and the time between two tries.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Held by a process that runs an installation: [`prune()`] leaves it alone.
#[derive(Debug)]
pub struct InUse {
    /// Its lock is what it is for.
    _file: File,
}

impl InUse {
    /// Says that what is installed at `root`, the folder with `main.py`, is being used. [`None`] where that folder is no
    /// installation of ours, or cannot be written beside, so that nobody removes it either. Blocks for a moment.
    pub fn claim(root: &Path) -> Option<Self> {
        let home = root.parent()?;
        let layout = Layout::at(home.parent()?, home.file_name()?.to_str()?.to_owned());
        if !layout.lock.is_file() {
            return None;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&layout.used)
            .ok()?;
        file.try_lock_shared().ok()?;
        Some(Self { _file: file })
    }
}

/// What came of an installation that is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Its folder.
    pub folder: PathBuf,
    /// ComfyUI's version; [`None`] where it was never finished.
    pub version: Option<String>,
    /// Bytes that its removal freed; [`None`] where it was left, as another process uses or installs it.
    pub freed: Option<u64>,
    /// Bytes of its files that lie in uv's cache or another installation as well, and do so still.
    pub cached: u64,
}

/// Removes every installation in the folder of `options` but the one that they name. What was resolved for them stays,
/// so that they can be installed again as they were. Blocks.
pub fn prune(options: &InstallOptions) -> Result<Vec<Pruned>, InstallError> {
    let options = &options.absolute()?;
    let kept = release::known(options).map(|release| Layout::new(options, &release).key);
    let mut all = Vec::new();
    for layout in layout::all(&options.dir) {
        if Some(&layout.key) != kept.as_ref() {
            all.push(remove_one(&layout)?);
        }
    }
    // What a killed one has left.
    for entry in std::fs::read_dir(&options.dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.ends_with(LEAVING)) {
            remove(&entry.path())?;
        }
    }
    Ok(all)
}

fn remove_one(layout: &Layout) -> Result<Pruned, InstallError> {
    let mut pruned = Pruned {
        folder: layout.home.clone(),
        version: layout.stamped().map(|(installation, _)| installation.version),
        freed: None,
        cached: 0,
    };
    let claim = |path: &Path| {
        let file = File::options().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(io("open", path))?;
        // A program that is just being started by whoever had it has it for a moment too, between fork and exec.
        let mut tries = (0..TRIES).inspect(|again| std::thread::sleep(PAUSE * u32::from(*again > 0)));
        let is_free = tries.any(|_| file.try_lock().is_ok());
        Ok::<_, InstallError>(is_free.then_some(file))
    };
    let (Some(_lock), Some(_used)) = (claim(&layout.lock)?, claim(&layout.used)?) else {
        return Ok(pruned);
    };
    // Renamed first: a half of it must never look like the whole.
    let leaving = layout.home.with_file_name(format!("{}{LEAVING}", layout.key));
    remove(&leaving)?;
    std::fs::rename(&layout.home, &leaving).map_err(io("rename", &layout.home))?;
    let (alone, shared) = sizes(&leaving);
    remove(&leaving)?;
    (pruned.freed, pruned.cached) = (Some(alone), shared);
    // The lock's file stays: another process may wait for it.
    let _ = std::fs::remove_file(&layout.used);
    Ok(pruned)
}

/// The bytes of the files under `folder`: of those that are nowhere else, and of those that are links to what lies
/// elsewhere too.
pub(in crate::comfy) fn sizes(folder: &Path) -> (u64, u64) {
    let (mut alone, mut shared) = (0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if metadata.is_dir() {
            let (inner_alone, inner_shared) = sizes(&entry.path());
            alone += inner_alone;
            shared += inner_shared;
        } else if metadata.nlink() > 1 {
            shared += metadata.blocks() * 512;
        } else {
            alone += metadata.blocks() * 512;
        }
    }
    (alone, shared)
}
