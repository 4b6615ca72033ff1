//! The files that jobs left, so that they go with them.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _};

use super::error::Fault;
use super::schema::{count, parse};
use crate::executor::{Claim, LeftFile};
use crate::job::{JobId, OutputFolder};

/// Adds files to those of a job, whether it has ended or not. Where there is no such job, gives those that it made, as far as
/// no other job has them.
pub(super) fn add(connection: &Connection, id: &JobId, files: &[LeftFile]) -> Result<Option<Vec<LeftFile>>, Fault> {
    let known = connection
        .prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?
        .query_row([id.as_str()], |_| Ok(()))
        .optional()?;
    if known.is_some() {
        insert(connection, id, files)?;
        measure(connection, id)?;
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

/// Writes down the files of a job that is there, as far as its claim holds: what lay there before is not ours unless a job
/// of ours has it.
pub(super) fn insert(connection: &Connection, id: &JobId, files: &[LeftFile]) -> rusqlite::Result<()> {
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
                count(file.bytes),
                wants_other(file.claim),
            ))?;
    }
    Ok(())
}

/// Counts what a job takes on the disk. Small bodies are not counted: the removal of their jobs would make no room.
pub(super) fn measure(connection: &Connection, id: &JobId) -> rusqlite::Result<()> {
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

/// The files of a job.
pub(super) fn of_job(connection: &Connection, id: &JobId) -> rusqlite::Result<Vec<LeftFile>> {
    connection
        .prepare_cached("SELECT folder, subfolder, filename, bytes FROM files WHERE job = ?1")?
        .query_map([id.as_str()], |row| {
            let folder: String = row.get(0)?;
            let named = |text: &str| FOLDERS.into_iter().find(|folder| folder.as_str() == text);
            Ok(LeftFile {
                folder: parse(0, &folder, named)?,
                subfolder: row.get(1)?,
                filename: row.get(2)?,
                bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                claim: Claim::Made,
            })
        })?
        .collect()
}

const FOLDERS: [OutputFolder; 3] = [OutputFolder::Output, OutputFolder::Temp, OutputFolder::Input];

/// Whether a job has this file that is not one of those that go.
pub(super) fn is_shared(connection: &Connection, file: &LeftFile, going: &HashSet<String>) -> rusqlite::Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT job FROM files WHERE filename = ?1 AND subfolder = ?2 AND folder = ?3")?;
    let mut rows = statement.query((&file.filename, &file.subfolder, file.folder.as_str()))?;
    while let Some(row) = rows.next()? {
        if !going.contains(&row.get::<_, String>(0)?) {
            return Ok(true);
        }
    }
    Ok(false)
}
