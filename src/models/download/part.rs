//! The file that is being filled, and its journal.
//!
//! Both lie beside the target: `.NAME.KEY.part` and `.NAME.KEY.ranges`. The key stands for the version of the file, so
//! that two versions never mix.
//!
//! The journal says which blocks are in the part: a first line, and a byte for each block, which is set after the block was
//! written. A process can be killed at any moment: what a byte says is true. What the system itself loses with its power is
//! for the hash to find. The journals of earlier releases, which named ranges, begin with another line: their files are
//! begun again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest as _, Sha256};

use super::error::{FetchError, file};
use super::grid::blocks_of;

/// How a journal begins, before the length of a block and the size of the file.
const FORMAT: &str = "qwen-image-worker blocks 1";

/// What a journal has for a block that is there.
const THERE: u8 = b'1';

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
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        Self {
            folder: folder.unwrap_or(Path::new(".")).to_owned(),
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
        let key_of = |name: &str| {
            let rest = name.strip_prefix('.')?.strip_prefix(&self.name)?.strip_prefix('.')?;
            let (key, kind) = rest.split_once('.')?;
            let digits = key.get(..KEY)?.bytes().all(|digit| digit.is_ascii_hexdigit());
            let ours = digits && (key.len() == KEY || key.as_bytes()[KEY] == b'-');
            (ours && matches!(kind, "part" | "ranges" | "ranges.new")).then(|| key.to_owned())
        };
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((key_of(entry.file_name().to_str()?)?, entry.path())))
            .collect()
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
    let age = changed.ok().and_then(|changed| changed.elapsed().ok());
    age.is_some_and(|age| age > FORGOTTEN)
}

/// A key for a version that is told by these texts.
pub(super) fn key(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    let mut key = hex::encode(hash.finalize());
    key.truncate(KEY);
    key
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
    file: Arc<File>,
    path: PathBuf,
    /// Open, with the length of its first line. [`None`] where the size, and so the file's version, is not known.
    journal: Option<(File, u64)>,
    journal_path: PathBuf,
    /// Bytes that were written since the last flush.
    unflushed: AtomicU64,
}

impl Part {
    /// Opens the part of a version, and makes it as long as the file will be. Says for each block of this `length` whether
    /// it is there. Blocks.
    pub(super) fn open(
        names: &Names,
        key: &str,
        size: Option<u64>,
        length: u64,
    ) -> Result<(Self, Vec<bool>), FetchError> {
        names.clear(key);
        let (path, journal_path) = (names.part(key), names.journal(key));
        let is_whole = fs::metadata(&path).is_ok_and(|part| Some(part.len()) == size);
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(file("create", &path))?;
        let mut done = vec![false; blocks_of(size, length)];
        let mut journal = None;
        if let Some(size) = size {
            allocate(&opened, size).map_err(file("make room for", &path))?;
            let first_line = format!("{FORMAT} {length} {size}\n");
            let begun = open_journal(&journal_path, first_line.as_bytes(), &mut done, is_whole);
            journal = Some((begun.map_err(file("create", &journal_path))?, first_line.len() as u64));
        } else {
            opened.set_len(0).map_err(file("empty", &path))?;
        }
        let part = Self {
            file: Arc::new(opened),
            path,
            journal,
            journal_path,
            unflushed: AtomicU64::new(0),
        };
        Ok((part, done))
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes bytes from `at` on. Blocks.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<(), FetchError> {
        self.file
            .write_all_at(bytes, at)
            .map_err(file("write to", &self.path))?;
        let written = bytes.len() as u64;
        if self.unflushed.fetch_add(written, Ordering::Relaxed) + written >= FLUSH {
            self.unflushed.store(0, Ordering::Relaxed);
            let file = self.file.clone();
            // The others go on writing. The last flush, before the file gets its name, tells of failures.
            tokio::task::spawn_blocking(move || file.sync_data());
        }
        Ok(())
    }

    /// Notes that these blocks were written. Blocks.
    pub(super) fn note(&self, blocks: Range<usize>) {
        let Some((journal, first_line)) = self.journal.as_ref().filter(|_| !blocks.is_empty()) else {
            return;
        };
        let noted = vec![THERE; blocks.len()];
        if let Err(error) = journal.write_all_at(&noted, first_line + blocks.start as u64) {
            tracing::debug!("cannot write {}: {error}", self.journal_path.display());
        }
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

/// Opens a journal with this first line, and reads into `done` which blocks it speaks of. It is begun again where it is
/// another one, or not whole, or where there is nothing to `go_on` with.
fn open_journal(path: &Path, first_line: &[u8], done: &mut [bool], go_on: bool) -> io::Result<File> {
    let there = fs::read(path).unwrap_or_default();
    let noted = there.strip_prefix(first_line);
    let noted = noted.filter(|noted| go_on && noted.len() == done.len());
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(noted.is_none()).write(true).open(path)?;
    if let Some(noted) = noted {
        for (done, byte) in done.iter_mut().zip(noted) {
            *done = *byte == THERE;
        }
    } else {
        file.write_all_at(first_line, 0)?;
        // Only when it is this long it counts as whole.
        file.set_len((first_line.len() + done.len()) as u64)?;
    }
    Ok(file)
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

    const SIZE: Option<u64> = Some(95);

    #[tokio::test]
    async fn what_was_noted_is_there_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.safetensors");
        let names = Names::of(&target);
        let key = key(&["some version"]);
        let open = |size, length| Part::open(&names, &key, size, length).unwrap();
        let (part, done) = open(SIZE, 10);
        assert_eq!(done, [false; 10]);
        part.write(b"abcde", 90).unwrap();
        part.note(9..10);
        part.write(b"abcde", 20).unwrap();
        drop(part);
        let mut expected = [false; 10];
        expected[9] = true;
        assert_eq!(open(SIZE, 10).1, expected);
        assert_eq!(&fs::read(names.part(&key)).unwrap()[89..], b"\0abcde");
        // Cut at any byte, and as a run before this one left it, or an earlier release.
        let whole = fs::read(names.journal(&key)).unwrap();
        for length in 0..whole.len() {
            fs::write(names.journal(&key), &whole[..length]).unwrap();
            assert_eq!(open(SIZE, 10).1, [false; 10], "{length}");
        }
        for other in [
            &b"qwen-image-worker ranges 2 95\n+0-95\n"[..],
            b"qwen-image-worker ranges 2 95\n",
        ] {
            fs::write(names.journal(&key), other).unwrap();
            assert_eq!(open(SIZE, 10).1, [false; 10]);
        }
        fs::write(names.journal(&key), &whole).unwrap();
        assert_eq!(open(SIZE, 10).1, expected);
        // Another grid, another size, and a part that is not the one of the journal.
        assert_eq!(open(SIZE, 5).1, [false; 19]);
        fs::write(names.journal(&key), &whole).unwrap();
        assert_eq!(open(Some(96), 10).1, [false; 10]);
        fs::write(names.journal(&key), &whole).unwrap();
        assert_eq!(open(SIZE, 10).1, [false; 10]);
    }

    #[test]
    fn other_versions_are_removed_and_other_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::of(&folder.path().join("x.safetensors"));
        let (old, new) = (key(&["old"]), key(&["new"]));
        let (part, _) = Part::open(&names, &old, Some(10), 10).unwrap();
        part.write(b"a", 0).unwrap();
        let (alone, _) = Part::open(&names, &own_key(&old), Some(10), 10).unwrap();
        for other in [
            ".y.safetensors.0123456789abcdef.part",
            ".x.safetensors.txt",
            "x.safetensors",
        ] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        Part::open(&names, &new, Some(10), 10).unwrap();
        assert!(!part.path().exists() && !part.journal_path.exists());
        assert!(alone.path().exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 7);
    }
}
