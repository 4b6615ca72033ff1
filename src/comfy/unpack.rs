//! Unpacks archives that strangers have made: nothing of one leaves the folder that it is unpacked to.
//!
//! Plain files, folders and symbolic links are taken; hard links, devices and pipes are refused, and so is a name that
//! leads out. A link may lead anywhere inside. Links are made when everything else is there, so that no entry can be
//! written through one. Of a file's mode only the executable bit is kept, as git keeps it.

mod links;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

pub(in crate::comfy) use self::links::Links;
use crate::display::Size;

/// More entries than this are refused. ComfyUI has about 1,500 and the largest packs some thousands; a few millions of
/// empty files would use up the inodes of a disk.
const MOST_ENTRIES: usize = 200_000;

/// More bytes than this are refused, in files and in all, whether they are wanted or skipped. ComfyUI has 50 MB; a pack
/// that brings small models has some hundred. Deflated zeros take a thousandth of their size, so that an archive's own
/// size says nothing.
const MOST_BYTES: u64 = 4_000_000_000;

/// A symbolic link's target, which the kernel takes up to this length (`PATH_MAX`).
const LONGEST_TARGET: u64 = 4096;

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// A gzipped tar file.
    TarGz,
    /// A zip file.
    Zip,
}

/// Why an archive was not unpacked. What there is of it at the target is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The archive as a whole is not what it should be.
    #[error("the archive {} cannot be used: {reason}", archive.display())]
    Archive {
        /// The file.
        archive: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry must not be unpacked.
    #[error("the archive {} cannot be used: its entry {entry} {reason}", archive.display())]
    Entry {
        /// The file.
        archive: PathBuf,
        /// The entry's name, quoted.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The operation, as a verb: `create`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Io { action, path, source }
}

/// Unpacks what is under `inside` in the archive (all of it where that is empty) to the new folder `target`. Whoever
/// needs it whole or not at all unpacks beside, and renames. Blocks.
pub fn unpack(archive: &Path, kind: Archive, inside: &Path, target: &Path) -> Result<(), UnpackError> {
    Unpacking {
        archive,
        inside,
        target,
        limits: Limits {
            entries: MOST_ENTRIES,
            bytes: MOST_BYTES,
        },
        entries: 0,
        bytes: 0,
        links: Links::default(),
    }
    .run(kind)
}

/// What is left of what an archive may hold.
struct Limits {
    entries: usize,
    bytes: u64,
}

struct Unpacking<'a> {
    archive: &'a Path,
    inside: &'a Path,
    target: &'a Path,
    limits: Limits,
    /// Entries so far.
    entries: usize,
    /// Bytes so far.
    bytes: u64,
    links: Links,
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File { executable: bool },
    Link,
}

impl Unpacking<'_> {
    fn run(mut self, kind: Archive) -> Result<(), UnpackError> {
        let file = File::open(self.archive).map_err(failed("open", self.archive))?;
        match kind {
            Archive::TarGz => self.tar(file)?,
            Archive::Zip => self.zip(file)?,
        }
        if !self.target.is_dir() {
            return Err(self.unusable(format!("it holds nothing under {}", quoted(self.inside))));
        }
        for (path, to) in &self.links.0 {
            if let Err(reason) = self.links.check(path) {
                return Err(self.refused(path, reason));
            }
            let link = self.target.join(path);
            self.make_parent(&link)?;
            std::os::unix::fs::symlink(to, &link).map_err(|error| self.not_made(path, &link, error))?;
        }
        Ok(())
    }

    fn tar(&mut self, file: File) -> Result<(), UnpackError> {
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(io::BufReader::new(file)));
        for entry in tar.entries().map_err(|error| self.unreadable(&error))? {
            let mut entry = entry.map_err(|error| self.unreadable(&error))?;
            let form = entry.header().entry_type();
            if form.is_pax_global_extensions() {
                // git writes the commit there.
                continue;
            }
            let name = entry.path_bytes().into_owned();
            let path = PathBuf::from(std::ffi::OsString::from_vec(name));
            self.count(&path, entry.size())?;
            let Some(path) = self.wanted(&path)? else { continue };
            let mode = entry.header().mode().map_err(|error| self.unreadable(&error))?;
            let kind = match form {
                tar::EntryType::Directory => Kind::Folder,
                tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File {
                    executable: mode & 0o100 != 0,
                },
                tar::EntryType::Symlink => Kind::Link,
                tar::EntryType::Link => return Err(self.refused(&path, "is a hard link")),
                _ => return Err(self.refused(&path, "is neither file nor folder nor link")),
            };
            if kind == Kind::Link {
                let to = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.link(path, &to)?;
            } else {
                // Its size is counted already.
                self.make(&path, kind, &mut entry, u64::MAX)?;
            }
        }
        Ok(())
    }

    fn zip(&mut self, file: File) -> Result<(), UnpackError> {
        let unreadable = |this: &Self, error: zip::result::ZipError| match error {
            zip::result::ZipError::Io(error) => this.unreadable(&error),
            other => this.unusable(other.to_string()),
        };
        let mut zip = zip::ZipArchive::new(io::BufReader::new(file)).map_err(|error| unreadable(self, error))?;
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(|error| unreadable(self, error))?;
            let name = entry.name().map_err(|error| unreadable(self, error))?;
            // Some programs of Windows write their own separator, against the format's rule.
            let path = PathBuf::from(name.replace('\\', "/"));
            let is_folder = entry.is_dir() || name.ends_with('\\');
            // The size that is declared is no promise: bytes are counted as they come.
            self.count(&path, 0)?;
            let Some(path) = self.wanted(&path)? else { continue };
            // The upper bits say what it is; a program that writes no such mode has files and folders alone.
            let mode = entry.unix_mode().unwrap_or(0o644);
            let kind = match mode & 0o170_000 {
                _ if is_folder => Kind::Folder,
                0 | 0o100_000 => Kind::File {
                    executable: mode & 0o100 != 0,
                },
                0o120_000 => Kind::Link,
                _ => return Err(self.refused(&path, "is neither file nor folder nor link")),
            };
            if kind == Kind::Link {
                let mut to = Vec::new();
                let read = (&mut entry).take(LONGEST_TARGET + 1).read_to_end(&mut to);
                read.map_err(|error| self.unreadable(&error))?;
                self.link(path, &to)?;
            } else {
                let left = self.limits.bytes - self.bytes;
                self.bytes += self.make(&path, kind, &mut entry, left)?;
            }
        }
        Ok(())
    }

    /// Counts an entry of `size` bytes.
    fn count(&mut self, path: &Path, size: u64) -> Result<(), UnpackError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.entries > self.limits.entries {
            return Err(self.unusable(format!("it has more than {} entries", self.limits.entries)));
        }
        if self.bytes > self.limits.bytes {
            return Err(self.too_large(path));
        }
        Ok(())
    }

    /// The path of an entry below the target; [`None`] where it is not wanted.
    fn wanted(&self, path: &Path) -> Result<Option<PathBuf>, UnpackError> {
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(self.refused(path, "has a zero byte in its name"));
        }
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !path.components().all(is_plain) {
            return Err(self.refused(path, "leads out of it"));
        }
        Ok(path.strip_prefix(self.inside).ok().map(clean))
    }

    /// Makes a file or folder, of at most `left` bytes; answers its size.
    fn make(&self, path: &Path, kind: Kind, content: &mut impl Read, left: u64) -> Result<u64, UnpackError> {
        let place = self.target.join(path);
        let Kind::File { executable } = kind else {
            std::fs::create_dir_all(&place).map_err(|error| self.not_made(path, &place, error))?;
            return Ok(0);
        };
        self.make_parent(&place)?;
        let mut file = File::options()
            .write(true)
            // What is there already, a link above all, must not be written through.
            .create_new(true)
            .mode(if executable { 0o777 } else { 0o666 })
            .open(&place)
            .map_err(|error| self.not_made(path, &place, error))?;
        let mut buffer = vec![0; 64 * 1024];
        let mut size = 0;
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => return Ok(size),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.refused(path, &format!("cannot be read: {error}"))),
            };
            size += count as u64;
            if size > left {
                return Err(self.too_large(path));
            }
            io::Write::write_all(&mut file, &buffer[..count]).map_err(failed("write", &place))?;
        }
    }

    fn make_parent(&self, place: &Path) -> Result<(), UnpackError> {
        let parent = place.parent().unwrap_or(self.target);
        std::fs::create_dir_all(parent).map_err(failed("create", parent))
    }

    /// Keeps a link, to be made at the end.
    fn link(&mut self, path: PathBuf, to: &[u8]) -> Result<(), UnpackError> {
        if to.is_empty() || to.len() as u64 > LONGEST_TARGET || to.contains(&0) {
            return Err(self.refused(&path, "is a link that leads nowhere"));
        }
        if self.links.0.contains_key(&path) {
            return Err(self.refused(&path, TWICE));
        }
        self.links.0.insert(path, PathBuf::from(OsStr::from_bytes(to)));
        Ok(())
    }

    fn not_made(&self, path: &Path, place: &Path, error: io::Error) -> UnpackError {
        match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => self.refused(path, TWICE),
            _ => failed("create", place)(error),
        }
    }

    fn unreadable(&self, error: &io::Error) -> UnpackError {
        self.unusable(format!("it cannot be read: {error}"))
    }

    fn unusable(&self, reason: String) -> UnpackError {
        UnpackError::Archive {
            archive: self.archive.to_owned(),
            reason,
        }
    }

    fn too_large(&self, path: &Path) -> UnpackError {
        let most = Size(self.limits.bytes);
        self.refused(
            path,
            &format!("is where it grows beyond {most}, which no such archive has"),
        )
    }

    fn refused(&self, path: &Path, reason: &str) -> UnpackError {
        UnpackError::Entry {
            archive: self.archive.to_owned(),
            entry: crate::echo::at_most(quoted(path), crate::echo::LONGEST),
            reason: reason.to_owned(),
        }
    }
}

const TWICE: &str = "is there twice, or once as a file and once as a folder or link";

/// The path in quotes, with nothing in it that a terminal would obey.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

/// The path without `.` in it.
fn clean(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
