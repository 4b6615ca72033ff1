//! Bodies: payloads and results. Small ones lie in their row, large ones in a file each.
//!
//! A file is complete before the row that names it is committed, and goes after the row has gone. So a row never names
//! half a file, and what a kill leaves over are files that no row names: [`BodyFiles::sweep`] removes them.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::errno::Errno;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::error::{Fault, StoreError, io as file_error};
use super::schema::count;
use crate::disk;

/// What a body is to its owner.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// The request of the job that owns it.
    Payload,
    /// What came of the job that owns it.
    Result,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Result => "result",
        }
    }
}

/// A body that is about to get its row.
#[derive(Debug)]
pub(super) struct NewBody {
    /// Where it is.
    pub(super) place: Body,
    /// How many bytes it has.
    pub(super) size: usize,
}

impl NewBody {
    /// The name of its file, if it has one.
    pub(super) fn file(&self) -> Option<String> {
        match &self.place {
            Body::Row(_) => None,
            Body::File(name) => Some(name.clone()),
        }
    }
}

/// Where a body is.
#[derive(Debug)]
pub(super) enum Body {
    /// In the row.
    Row(Bytes),
    /// In this file of the folder.
    File(String),
}

impl Body {
    /// Reads the columns `bytes` and `file`, which are both null when there is no body.
    pub(super) fn from_columns(row: &Row<'_>, bytes: usize, file: usize) -> rusqlite::Result<Option<Self>> {
        if let Some(name) = row.get(file)? {
            return Ok(Some(Self::File(name)));
        }
        Ok(row
            .get::<_, Option<Vec<u8>>>(bytes)?
            .map(|bytes| Self::Row(bytes.into())))
    }
}

/// Writes the row of a body.
pub(super) fn insert(connection: &Connection, owner: &str, kind: Kind, body: &NewBody) -> rusqlite::Result<()> {
    let (bytes, file) = match &body.place {
        Body::Row(bytes) => (Some(&bytes[..]), None),
        Body::File(name) => (None, Some(name.as_str())),
    };
    connection
        .prepare_cached("INSERT INTO bodies (owner, kind, bytes, file, size) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((owner, kind.as_str(), bytes, file, count(body.size as u64)))?;
    Ok(())
}

/// Finds a body.
pub(super) fn get(connection: &Connection, owner: &str, kind: Kind) -> Result<Option<Body>, Fault> {
    let body = connection
        .prepare_cached("SELECT bytes, file FROM bodies WHERE owner = ?1 AND kind = ?2")?
        .query_row((owner, kind.as_str()), |row| Body::from_columns(row, 0, 1))
        .optional()?;
    Ok(body.flatten())
}

/// Removes the row of a body and adds its file, if it has one, to `files`: the caller removes those after the commit.
pub(super) fn delete(
    connection: &Connection,
    owner: &str,
    kind: Kind,
    files: &mut Vec<String>,
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("DELETE FROM bodies WHERE owner = ?1 AND kind = ?2 RETURNING file")?;
    let names = statement.query_map((owner, kind.as_str()), |row| row.get::<_, Option<String>>(0))?;
    for name in names {
        files.extend(name?);
    }
    Ok(())
}

/// Every file that a row names.
pub(super) fn named_files(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    connection
        .prepare("SELECT file FROM bodies WHERE file IS NOT NULL")?
        .query_map((), |row| row.get(0))?
        .collect()
}

/// Writes down the sizes of files that an older version wrote, which it did not know.
pub(super) fn measure(connection: &Connection, files: &BodyFiles) -> rusqlite::Result<()> {
    let unknown: Vec<String> = connection
        .prepare("SELECT file FROM bodies WHERE file IS NOT NULL AND size = 0")?
        .query_map((), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if unknown.is_empty() {
        return Ok(());
    }
    let transaction = connection.unchecked_transaction()?;
    for name in unknown {
        let size = fs::metadata(files.folder().join(&name)).map_or(0, |facts| facts.len());
        transaction.execute("UPDATE bodies SET size = ?2 WHERE file = ?1", (name, count(size)))?;
    }
    transaction.execute(
        "UPDATE jobs SET output_bytes = (SELECT coalesce(sum(bytes), 0) FROM files WHERE job = id) \
         + (SELECT coalesce(sum(size), 0) FROM bodies WHERE owner = id AND file IS NOT NULL) WHERE finished IS NOT NULL",
        (),
    )?;
    transaction.commit()
}

/// The folder of the bodies that lie in files.
#[derive(Debug, Clone)]
pub(super) struct BodyFiles {
    data_dir: PathBuf,
    folder: PathBuf,
}

impl BodyFiles {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            folder: data_dir.join("jobs"),
        }
    }

    /// `DATA_DIR`.
    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The folder itself.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder, for our user alone: requests may hold keys.
    pub(super) fn create(&self) -> Result<(), StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(file_error("make the folder", &self.folder, &self.data_dir))
    }

    /// Writes a file: afterwards it is there and whole, even after a power cut, or not there at all.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.folder.join(name);
        let write = |file: &mut File| {
            file.write_all(bytes)?;
            // Some file systems tell only now that they are full.
            file.sync_all()
        };
        disk::write_atomically(&path, write)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(file_error("write", &path, &self.data_dir))
    }

    /// Whether so many bytes more find room on the disk.
    pub(super) fn has_room(&self, bytes: i64) -> bool {
        let path = self.folder.join("room.part");
        let reserved = File::create(&path).map(|file| nix::fcntl::posix_fallocate(file, 0, bytes));
        let _ = fs::remove_file(&path);
        match reserved {
            // A file system that reserves nothing is asked by writing alone.
            Ok(reserved) => !matches!(reserved, Err(Errno::ENOSPC | Errno::EDQUOT)),
            Err(error) => !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
        }
    }

    /// Reads a file; [`None`] when it is gone.
    pub(super) fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(file.path = %path.display(), "a file of the job store is gone");
                Ok(None)
            }
            Err(error) => Err(file_error("read", &path, &self.data_dir)(error)),
        }
    }

    /// Removes files. One that stays is removed by [`BodyFiles::sweep`] after the next start.
    pub(super) fn remove(&self, names: &[String]) {
        for name in names {
            let path = self.folder.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(file.path = %path.display(), error = %error, "cannot remove a file of the job store");
                }
                _ => {}
            }
        }
    }

    /// Removes what no row names.
    pub(super) fn sweep(&self, named: &HashSet<String>) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let orphans: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !named.contains(name))
            .collect();
        if !orphans.is_empty() {
            tracing::info!(
                files = orphans.len(),
                "removing files of the job store that belong to no job"
            );
            self.remove(&orphans);
        }
    }
}
