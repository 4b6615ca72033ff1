//! The files that jobs left, so that they go with them.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _};

use super::error::Fault;
use super::expiry::is_shared;
use super::types::FileRef;
use crate::executor::Claim;
use crate::job::JobId;

/// Adds files to those of a job, whether it has ended or not. Where there is no such job, gives those that it made, as far as
/// no other job has them.
pub(super) fn add(connection: &Connection, id: &JobId, files: &[FileRef]) -> Result<Option<Vec<FileRef>>, Fault> {
    let known = connection
        .prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?
        .query_row([id.as_str()], |_| Ok(()))
        .optional()?;
    if known.is_some() {
        insert(connection, id, files)?;
        count(connection, id)?;
        return Ok(None);
    }
    let mut own = Vec::new();
    for file in files {
        // What the job only names was there before it.
        if file.claim != Claim::Named && !is_shared(connection, file, &HashSet::new())? {
            own.push(file.clone());
        }
    }
    Ok(Some(own))
}

/// Writes down the files of a job that is there, as far as its claim holds: what lay there before is somebody else's unless a
/// job of ours has it.
pub(super) fn insert(connection: &Connection, id: &JobId, files: &[FileRef]) -> rusqlite::Result<()> {
    for file in files {
        connection
            .prepare_cached(
                "INSERT INTO files (job, folder, subfolder, filename, bytes) SELECT ?1, ?2, ?3, ?4, ?5 \
                 WHERE ?6 IS NULL OR ?6 = EXISTS (SELECT 1 FROM files WHERE filename = ?4 AND subfolder = ?3 AND folder = ?2) \
                 ON CONFLICT DO UPDATE SET bytes = excluded.bytes",
            )?
            .execute((
                id.as_str(),
                file.folder.as_str(),
                &file.subfolder,
                &file.filename,
                i64::try_from(file.bytes).unwrap_or(i64::MAX),
                wants_other(file.claim),
            ))?;
    }
    Ok(())
}

/// Counts what a job takes on the disk. Small bodies are not counted: the removal of their jobs would make no room.
pub(super) fn count(connection: &Connection, id: &JobId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE jobs SET output_bytes = (SELECT coalesce(sum(bytes), 0) FROM files WHERE job = ?1) \
             + (SELECT coalesce(sum(size), 0) FROM bodies WHERE owner = ?1 AND file IS NOT NULL) WHERE id = ?1",
        )?
        .execute([id.as_str()])
        .map(|_| ())
}

/// Whether another job must, or must not, have a file for the claim to hold.
fn wants_other(claim: Claim) -> Option<bool> {
    match claim {
        Claim::Made => None,
        Claim::Named => Some(true),
        Claim::Found => Some(false),
    }
}
