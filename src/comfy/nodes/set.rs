//! A set of packs on the disk: how it is named, recognised, kept while somebody uses it, and removed.
//!
//! ```text
//! DIR/                      NodesOptions::dir, CUSTOM_NODES_DIR
//!   sets/KEY.1/             one set: never changed once its stamp is there; a later try at the same wishes is KEY.2
//!     custom_nodes/NAME/    what ComfyUI reads
//!     venv/                 the overlay: what the packs need beyond ComfyUI's own environment
//!     requirements.lock     what it holds, with hashes
//!     in-use                held, shared, by each worker that runs on it
//!     set.json              the stamp, written last
//!   cache/packs/…           fetched packs, untouched, so that a changed list fetches only what is new
//!   in-force                the name of the set that was asked for last
//!   lock                    held by the one who installs
//! ```

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::stamp::{FORMAT, Stamp, left_out};
use crate::comfy::install::Installation;
use crate::config::{NodePack, PackOrigin};
use crate::disk;

/// The packs that ComfyUI is started with.
#[derive(Debug, Clone, Default)]
pub struct NodeSet {
    /// Its `custom_nodes`.
    pub folder: PathBuf,
    /// The interpreter that has ComfyUI's packages and those of the packs.
    pub python: PathBuf,
    /// All that were asked for, in their order, also those that are not installed.
    pub packs: Vec<InstalledPack>,
    /// Python packages that were asked for beside those of the packs.
    pub packages: Vec<String>,
    /// What is to be known of the whole.
    pub notes: Vec<String>,
    /// What keeps it from being all that was asked for, beside what failed of its packs; with the next step.
    pub trouble: Option<String>,
    /// As long as it lives, nobody removes the set.
    _in_use: Option<Arc<File>>,
}

/// A pack of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledPack {
    /// What it is, its version or commit known; as it was asked for where that was not found out.
    pub pack: NodePack,
    /// Where ComfyUI finds it; there is nothing where it is not installed.
    pub folder: PathBuf,
    /// Why it is not installed.
    #[serde(default)]
    pub failure: Option<String>,
    /// What its owner is to know although it is installed.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Whether its `install.py` ran and failed.
    #[serde(default)]
    pub script_failed: bool,
    /// Whether a later try may succeed although nobody changed anything.
    #[serde(default)]
    pub may_pass: bool,
}

impl InstalledPack {
    /// Its version, or its commit, where it has one.
    pub fn version(&self) -> Option<&str> {
        match &self.pack.origin {
            PackOrigin::Registry { version, .. } => version.as_deref(),
            PackOrigin::Git { reference, .. } => reference.as_deref(),
            PackOrigin::Folder(_) => None,
        }
    }
}

impl NodeSet {
    /// ComfyUI's own environment, without any pack.
    pub(super) fn none(base: &Installation) -> Self {
        Self {
            python: base.python.clone(),
            ..Self::default()
        }
    }

    /// How many packs are installed.
    pub fn installed(&self) -> usize {
        self.packs.iter().filter(|pack| pack.failure.is_none()).count()
    }

    /// Those that are not, each with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (&NodePack, &str)> {
        self.packs
            .iter()
            .filter_map(|pack| Some((&pack.pack, pack.failure.as_deref()?)))
    }

    /// All that is to be told, of a pack or of the whole.
    pub fn told(&self) -> impl Iterator<Item = (Option<&NodePack>, String)> {
        let whole = self.notes.iter().map(|note| (None, note.clone()));
        let packs = self.packs.iter().flat_map(|pack| {
            let failure = pack.failure.iter().map(|reason| format!("not installed: {reason}"));
            failure
                .chain(pack.notes.iter().cloned())
                .map(|told| (Some(&pack.pack), told))
        });
        whole.chain(packs)
    }

    /// `3 packs of custom nodes`, and how many failed.
    pub fn summary(&self) -> String {
        let (installed, failed) = (self.installed(), self.failures().count());
        let packs = if installed == 1 { "pack" } else { "packs" };
        let failed = match failed {
            0 => String::new(),
            failed => format!(", {failed} more not installed"),
        };
        format!("{installed} {packs} of custom nodes{failed}")
    }
}

/// Where things are.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    sets: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) work: PathBuf,
    pub(super) tools: PathBuf,
    /// Packs as they were fetched.
    pub(super) packs: PathBuf,
    /// uv's, where its own is of no use.
    pub(super) uv_cache: PathBuf,
    in_force: PathBuf,
}

impl Layout {
    pub(super) fn new(dir: &Path) -> Self {
        // Programs run in other folders than ours.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self {
            sets: dir.join("sets"),
            lock: dir.join("lock"),
            work: dir.join("work"),
            tools: dir.join("cache/tools"),
            packs: dir.join("cache/packs"),
            uv_cache: dir.join("cache/uv"),
            in_force: dir.join("in-force"),
            dir,
        }
    }

    /// The finished set of these wishes, the newest try at them; with what its stamp says.
    pub(super) fn find(&self, key: &str) -> Option<(NodeSet, Stamp)> {
        let mut tries: Vec<u32> = self.names().filter_map(|name| number(&name, key)).collect();
        tries.sort_unstable();
        tries
            .iter()
            .rev()
            .find_map(|number| self.open(&format!("{key}.{number}")))
    }

    /// The set in force, whatever is wished for now.
    pub(super) fn in_force(&self) -> Option<(NodeSet, Stamp)> {
        self.open(fs::read_to_string(&self.in_force).ok()?.trim())
    }

    /// A finished set, which is not removed as long as it is held.
    fn open(&self, name: &str) -> Option<(NodeSet, Stamp)> {
        let home = self.home(name);
        let in_use = File::open(home.join("in-use")).ok()?;
        in_use.try_lock_shared().ok()?;
        let stamp: Stamp = serde_json::from_slice(&fs::read(home.join("set.json")).ok()?).ok()?;
        let set = NodeSet {
            folder: home.join("custom_nodes"),
            python: home.join("venv/bin/python"),
            packs: stamp.packs.clone(),
            packages: stamp.packages.clone(),
            notes: stamp.notes.clone(),
            trouble: stamp.packages_failure.as_ref().map(left_out),
            _in_use: Some(Arc::new(in_use)),
        };
        // `python` is a link to the interpreter below, which an upgrade of the system may have taken away.
        let complete = stamp.format == FORMAT && set.folder.is_dir() && set.python.is_file();
        complete.then_some((set, stamp))
    }

    pub(super) fn home(&self, name: &str) -> PathBuf {
        self.sets.join(name)
    }

    /// The name of a new try at these wishes.
    pub(super) fn next(&self, key: &str) -> String {
        let last = self.names().filter_map(|name| number(&name, key)).max();
        format!("{key}.{}", last.unwrap_or_default() + 1)
    }

    /// How many sets there are.
    pub(super) fn count(&self) -> usize {
        self.names().count()
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(&self.sets).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }

    /// Says that the set is whole. From now on it is found.
    pub(super) fn stamp(&self, name: &str, stamp: &Stamp) -> io::Result<()> {
        let home = self.home(name);
        File::create(home.join("in-use"))?;
        write(
            &home.join("set.json"),
            &serde_json::to_vec_pretty(&stamp.without_passwords())?,
        )
    }

    /// Says which set is in force, unless it is known.
    pub(super) fn put_in_force(&self, set: &NodeSet) -> io::Result<()> {
        let Some(name) = set
            .folder
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
        else {
            return Ok(());
        };
        if fs::read_to_string(&self.in_force).is_ok_and(|known| known == name) {
            return Ok(());
        }
        write(&self.in_force, name.as_bytes())
    }

    /// Removes what a killed installation left. Only for who holds the lock.
    pub(super) fn sweep(&self) -> io::Result<()> {
        for name in self.names() {
            if !self.home(&name).join("set.json").is_file() {
                disk::remove(&self.home(&name))?;
            }
        }
        disk::remove(&self.work)
    }

    /// Removes the sets that nobody uses, all but those in `kept`, and the packs in the cache that no set is made of any more.
    /// Only for who holds the lock. Gives the names of those removed.
    pub(super) fn remove_unused(&self, kept: &[String]) -> io::Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in self.names().filter(|name| !kept.contains(name)).collect::<Vec<_>>() {
            let in_use = File::open(self.home(&name).join("in-use"));
            // Whoever opens it now waits, and then finds no stamp.
            if in_use.as_ref().is_ok_and(|file| file.try_lock().is_err()) {
                continue;
            }
            // The stamp first: what is there by half is no set.
            let _ = fs::remove_file(self.home(&name).join("set.json"));
            disk::remove(&self.home(&name))?;
            removed.push(name);
        }
        let stamps = self.names().filter_map(|name| self.open(&name));
        let cached: Vec<String> = stamps.flat_map(|(_, stamp)| stamp.cached).collect();
        for entry in fs::read_dir(&self.packs).into_iter().flatten().flatten() {
            if !cached.iter().any(|name| entry.file_name() == name.as_str()) {
                disk::remove(&entry.path())?;
            }
        }
        Ok(removed)
    }

    /// The name of the set in force.
    pub(super) fn name_in_force(&self) -> Option<String> {
        let name = fs::read_to_string(&self.in_force).ok()?.trim().to_owned();
        self.home(&name).is_dir().then_some(name)
    }

    /// Removes all that can be fetched again. Only for who holds the lock.
    pub(super) fn remove_cache(&self) -> io::Result<()> {
        disk::remove(&self.dir.join("cache"))
    }
}

/// Writes a file that everybody may read: who installs, as an image's build does, need not be who starts.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    disk::write_atomically(path, |file| {
        file.set_permissions(Permissions::from_mode(0o644))?;
        io::Write::write_all(file, content)
    })
}

/// Which try at `key` the set of this name is.
fn number(name: &str, key: &str) -> Option<u32> {
    name.strip_prefix(key)?.strip_prefix('.')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_by_all() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("in-force");
        write(&path, b"x").unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
