//! Jobs that go, and the files that go with them.

use std::collections::HashSet;
use std::time::SystemTime;

use rusqlite::Connection;

use super::bodies::{self, Kind};
use super::columns::{id_column, micros, parse};
use super::error::Fault;
use super::types::{Expired, FileRef};
use crate::executor::Claim;
use crate::job::{JobId, OutputFolder};

/// Jobs to remove, oldest first: those that ended before a time, then those whose files are too much.
pub(super) fn expired(
    connection: &Connection,
    ended_before: SystemTime,
    max_total_bytes: u64,
    limit: usize,
) -> Result<Vec<Expired>, Fault> {
    let ended_before = micros(ended_before);
    let max_total_bytes = i64::try_from(max_total_bytes).unwrap_or(i64::MAX);
    let mut total: i64 = connection
        .prepare_cached("SELECT coalesce(sum(output_bytes), 0) FROM jobs WHERE finished IS NOT NULL")?
        .query_row((), |row| row.get(0))?;
    let mut ids = Vec::new();
    {
        let mut statement = connection.prepare_cached(
            "SELECT id, finished, output_bytes FROM jobs WHERE finished IS NOT NULL AND unreported = 0 \
             ORDER BY finished, output_bytes",
        )?;
        let mut rows = statement.query(())?;
        while ids.len() < limit
            && let Some(row) = rows.next()?
        {
            let (finished, bytes): (i64, i64) = (row.get(1)?, row.get(2)?);
            let old = finished < ended_before;
            if !old && total <= max_total_bytes {
                break;
            }
            // A younger job without files would be lost for nothing.
            if old || bytes > 0 {
                ids.push(id_column(row, 0)?);
                total -= bytes;
            }
        }
    }
    with_own_files(connection, ids)
}

/// Each job with the files that no other job has.
pub(super) fn with_own_files(connection: &Connection, ids: Vec<JobId>) -> Result<Vec<Expired>, Fault> {
    let going: HashSet<String> = ids.iter().map(|id: &JobId| id.as_str().to_owned()).collect();
    let mut seen = HashSet::new();
    let mut expired = Vec::with_capacity(ids.len());
    for id in ids {
        let mut files = Vec::new();
        for file in files_of(connection, &id)? {
            let name = (file.folder.as_str(), file.subfolder.clone(), file.filename.clone());
            if seen.insert(name) && !is_shared(connection, &file, &going)? {
                files.push(file);
            }
        }
        expired.push(Expired { id, files });
    }
    Ok(expired)
}

/// Removes jobs that have ended, and gives the files of their bodies. A job that was queued anew meanwhile stays.
pub(super) fn remove(connection: &Connection, ids: &[JobId]) -> Result<Vec<String>, Fault> {
    let mut freed = Vec::new();
    for id in ids {
        let deleted = connection
            .prepare_cached("DELETE FROM jobs WHERE id = ?1 AND finished IS NOT NULL AND unreported = 0")?
            .execute([id.as_str()])?;
        if deleted == 0 {
            continue;
        }
        bodies::delete(connection, id.as_str(), Kind::Payload, &mut freed)?;
        bodies::delete(connection, id.as_str(), Kind::Result, &mut freed)?;
        connection
            .prepare_cached("DELETE FROM files WHERE job = ?1")?
            .execute([id.as_str()])?;
    }
    Ok(freed)
}

fn files_of(connection: &Connection, id: &JobId) -> rusqlite::Result<Vec<FileRef>> {
    connection
        .prepare_cached("SELECT folder, subfolder, filename, bytes FROM files WHERE job = ?1")?
        .query_map([id.as_str()], |row| {
            let folder: String = row.get(0)?;
            Ok(FileRef {
                folder: parse(0, &folder, |text| {
                    FOLDERS.into_iter().find(|folder| folder.as_str() == text)
                })?,
                subfolder: row.get(1)?,
                filename: row.get(2)?,
                bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                claim: Claim::Made,
            })
        })?
        .collect()
}

const FOLDERS: [OutputFolder; 3] = [OutputFolder::Output, OutputFolder::Temp, OutputFolder::Input];

/// Whether a job that stays has this file too.
fn is_shared(connection: &Connection, file: &FileRef, going: &HashSet<String>) -> rusqlite::Result<bool> {
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
