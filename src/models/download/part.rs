//! The file that is being filled, and its journal.
//!
//! Both lie beside the target: `.NAME.KEY.part` and `.NAME.KEY.ranges`. The key stands for the version of the file, so
//! that two versions never mix. The journal says which bytes are in the part.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest as _, Sha256};

use super::error::{FetchError, file};
use super::journal::{self, Journal};
use super::ranges::Ranges;

/// Digits of a key.
const KEY: usize = 16;

/// As many bytes are sent to the disk at once, so that the last ones take no longer than the others.
const FLUSH: u64 = 256 << 20;

/// Parts that no process can take up again are removed when they are older than this.
const FORGOTTEN: Duration = Duration::from_hours(24);

/// The names of a target's files.
#[derive(Debug, Clone)]
pub(super) struct Names {
    folder: PathBuf,
    name: String,
}

impl Names {
    pub(super) fn of(target: &Path) -> Self {
        Self {
            folder: target.parent().unwrap_or(Path::new("")).to_owned(),
            name: target.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.folder.join(format!(".{}.lock", self.name))
    }

    fn part(&self, key: &str) -> PathBuf {
        self.folder.join(format!(".{}.{key}.part", self.name))
    }

    fn journal(&self, key: &str) -> PathBuf {
        self.folder.join(format!(".{}.{key}.ranges", self.name))
    }

    /// The space that an earlier part of this key takes already, in bytes.
    pub(super) fn held(&self, key: &str) -> u64 {
        fs::metadata(self.part(key)).map_or(0, |part| part.blocks().saturating_mul(512))
    }

    /// All parts and journals for this target, each with its key.
    pub(super) fn remnants(&self) -> Vec<(String, PathBuf)> {
        let folder = if self.folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &self.folder
        };
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let key_of = |name: &str| {
            let rest = name.strip_prefix('.')?.strip_prefix(&self.name)?.strip_prefix('.')?;
            let (key, kind) = rest.split_once('.')?;
            let digits = key.get(..KEY)?.bytes().all(|digit| digit.is_ascii_hexdigit());
            let ours = digits && (key.len() == KEY || key.as_bytes()[KEY] == b'-');
            (ours && matches!(kind, "part" | "ranges" | "ranges.new")).then(|| key.to_owned())
        };
        let found = entries.flatten().filter_map(|entry| {
            let key = key_of(entry.file_name().to_str()?)?;
            Some((key, entry.path()))
        });
        found.collect()
    }

    /// Removes what is left of other versions.
    fn clear(&self, key: &str) {
        for (found, path) in self.remnants() {
            let stale = found != key && (!is_own(&found) || is_forgotten(&path));
            if stale && let Err(error) = fs::remove_file(&path) {
                tracing::warn!(
                    "cannot remove {}, which is left of an earlier download: {error}",
                    path.display()
                );
            }
        }
    }
}

fn is_forgotten(path: &Path) -> bool {
    let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| {
        SystemTime::now()
            .duration_since(changed)
            .is_ok_and(|age| age > FORGOTTEN)
    })
}

/// A key for a version that is told by these texts.
pub(super) fn key(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    let mut key = hex(&hash.finalize());
    key.truncate(KEY);
    key
}

/// Bytes in lowercase hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A key that no other process has, for places without locks. What is left of it is not taken up again.
pub(super) fn own_key(key: &str) -> String {
    format!("{key}-{}", uuid::Uuid::new_v4().simple())
}

/// Whether a key is of one process alone.
pub(super) fn is_own(key: &str) -> bool {
    key.len() > KEY
}

/// The file that is being filled.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    /// None where the size, and so the file's version, is not known.
    journal: Option<Journal>,
    journal_path: PathBuf,
    /// Bytes that were written since the last flush.
    unflushed: AtomicU64,
    flushing: AtomicBool,
}

impl Part {
    /// Opens the part of a version, and makes it as long as the file will be. Says which bytes are there. Blocks.
    pub(super) fn open(names: &Names, key: &str, size: Option<u64>) -> Result<(Self, Ranges), FetchError> {
        names.clear(key);
        let (path, journal_path) = (names.part(key), names.journal(key));
        let done = size
            .filter(|size| fs::metadata(&path).is_ok_and(|part| part.len() == *size))
            .and_then(|size| journal::read(&journal_path, size))
            .unwrap_or_default();
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(file("create", &path))?;
        if let Some(size) = size {
            allocate(&opened, size).map_err(file("make room for", &path))?;
        } else {
            opened.set_len(0).map_err(file("empty", &path))?;
        }
        let journal = size.map(|size| Journal::begin(&journal_path, size, &done)).transpose();
        let part = Self {
            file: opened,
            path,
            journal: journal.map_err(file("create", &journal_path))?,
            journal_path,
            unflushed: AtomicU64::new(0),
            flushing: AtomicBool::new(false),
        };
        Ok((part, done))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes bytes from `at` on, and then notes them. Blocks.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        if let Some(journal) = &self.journal {
            journal.add(&(at..at + bytes.len() as u64));
        }
        Ok(())
    }

    /// Whether so much was written that it should be flushed now.
    pub(super) fn is_flush_due(&self, written: u64) -> bool {
        let unflushed = self.unflushed.fetch_add(written, Ordering::Relaxed) + written;
        unflushed >= FLUSH && !self.flushing.swap(true, Ordering::Relaxed)
    }

    /// Sends what was written to the disk. Blocks while that takes; others may go on writing.
    pub(super) fn flush(&self) {
        self.unflushed.store(0, Ordering::Relaxed);
        // The last one, before the file gets its name, tells of failures.
        let _ = self.file.sync_data();
        self.flushing.store(false, Ordering::Relaxed);
    }

    /// Gives the filled file its name. Blocks.
    pub(super) fn publish(&self, target: &Path, size: u64) -> Result<(), FetchError> {
        self.file.sync_data().map_err(file("write to the disk", &self.path))?;
        if let Err(error) = fs::rename(&self.path, target) {
            // Where locks do not reach, another machine may have been at the same file and done.
            let done =
                error.kind() == io::ErrorKind::NotFound && fs::metadata(target).is_ok_and(|done| done.len() == size);
            if !done {
                return Err(file("put a file at", target)(error));
            }
        }
        let _ = fs::remove_file(&self.journal_path);
        Ok(())
    }

    /// Removes the part: what is in it is of no use. Blocks.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.journal_path);
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a file this long, with its space taken if the file system can do that.
fn allocate(opened: &File, size: u64) -> io::Result<()> {
    if opened.metadata()?.len() != size {
        opened.set_len(size)?;
    }
    let length = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    if length == 0 {
        return Ok(());
    }
    match fallocate(opened, FallocateFlags::empty(), 0, length) {
        Err(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => Err(errno.into()),
        // Where it cannot be had, the file grows as it is written.
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_there_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.safetensors");
        let names = Names::of(&target);
        let key = key(&["some version"]);
        let (part, done) = Part::open(&names, &key, Some(100)).unwrap();
        assert!(done.is_empty());
        part.write(b"abcde", 10).unwrap();
        drop(part);
        let (_part, done) = Part::open(&names, &key, Some(100)).unwrap();
        assert_eq!(done, Ranges::of(10..15));
        assert_eq!(&fs::read(names.part(&key)).unwrap()[9..16], b"\0abcde\0");
        // Another size is another file.
        let (_part, done) = Part::open(&names, &key, Some(101)).unwrap();
        assert!(done.is_empty());
    }

    #[test]
    fn other_versions_are_removed_and_other_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::of(&folder.path().join("x.safetensors"));
        let (old, new) = (key(&["old"]), key(&["new"]));
        let (part, _) = Part::open(&names, &old, Some(10)).unwrap();
        part.write(b"a", 0).unwrap();
        let (alone, _) = Part::open(&names, &own_key(&old), Some(10)).unwrap();
        for other in [
            ".y.safetensors.0123456789abcdef.part",
            ".x.safetensors.txt",
            "x.safetensors",
        ] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        Part::open(&names, &new, Some(10)).unwrap();
        assert!(!part.path().exists() && !part.journal_path.exists());
        assert!(alone.path().exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 7);
    }
}
