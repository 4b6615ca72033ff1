//! Jobs that go, and the files that go with them.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _};

use super::bodies::{self, Kind};
use super::columns::{count, id_column, micros, parse, time};
use super::error::Fault;
use super::outbox;
use super::types::{Expired, FileRef};
use crate::executor::Claim;
use crate::job::{JobId, OutputFolder};

/// Jobs to remove, oldest first: those that ended before a time, then those that take too much of the disk. One whose
/// webhook waits stays to be told; where nothing else makes the room that is needed, its files go without it.
pub(super) fn expired(
    connection: &Connection,
    ended_before: SystemTime,
    max_total_bytes: u64,
    limit: usize,
) -> Result<Vec<Expired>, Fault> {
    let ended_before = micros(ended_before);
    let max_total_bytes = count(max_total_bytes);
    let mut total: i64 = connection
        .prepare_cached("SELECT coalesce(sum(output_bytes), 0) FROM jobs WHERE finished IS NOT NULL")?
        .query_row((), |row| row.get(0))?;
    let (mut ids, mut stay) = (Vec::new(), HashSet::new());
    for waits in [false, true] {
        let mut statement = connection.prepare_cached(
            "SELECT id, finished, output_bytes FROM jobs WHERE finished IS NOT NULL AND unreported = 0 \
             AND EXISTS (SELECT 1 FROM webhooks WHERE job = jobs.id) = ?1 ORDER BY finished, output_bytes",
        )?;
        let mut rows = statement.query([waits])?;
        while ids.len() < limit
            && let Some(row) = rows.next()?
        {
            let (finished, bytes): (i64, i64) = (row.get(1)?, row.get(2)?);
            let old = !waits && finished < ended_before;
            if !old && total <= max_total_bytes {
                break;
            }
            // A younger job that takes nothing would be lost for nothing.
            if old || bytes > 0 {
                let id = id_column(row, 0)?;
                if waits {
                    stay.insert(id.clone());
                }
                ids.push(id);
                total -= bytes;
            }
        }
    }
    let mut expired = with_own_files(connection, ids)?;
    for job in &mut expired {
        job.stays = stay.contains(&job.id);
    }
    Ok(expired)
}

/// Each job with the files that no other job has.
pub(super) fn with_own_files(connection: &Connection, ids: Vec<JobId>) -> Result<Vec<Expired>, Fault> {
    let going: HashSet<String> = ids.iter().map(|id: &JobId| id.as_str().to_owned()).collect();
    let name = |file: &FileRef| (file.folder.as_str(), file.subfolder.clone(), file.filename.clone());
    // Of those that go together the one that ended last has a file: a later job may have written it again.
    let mut last = HashMap::new();
    let mut expired = Vec::with_capacity(ids.len());
    for id in ids {
        let ended = ended(connection, &id)?;
        let mut files = Vec::new();
        for file in files_of(connection, &id)? {
            if is_shared(connection, &file, &going)? {
                continue;
            }
            let known = last.entry(name(&file)).or_insert((ended, id.clone()));
            if ended > known.0 {
                *known = (ended, id.clone());
            }
            files.push(file);
        }
        expired.push(Expired {
            id,
            files,
            ended,
            stays: false,
        });
    }
    for job in &mut expired {
        let id = &job.id;
        job.files
            .retain(|file| last.get(&name(file)).is_some_and(|(_, owner)| owner == id));
    }
    Ok(expired)
}

/// Removes what [`expired`] named, and gives the files of its bodies. A job that was queued anew meanwhile stays.
pub(super) fn expire(connection: &Connection, expired: &[Expired]) -> Result<Vec<String>, Fault> {
    let mut freed = Vec::new();
    for job in expired {
        let id = job.id.as_str();
        if !job.stays {
            delete(
                connection,
                id,
                "NOT EXISTS (SELECT 1 FROM webhooks WHERE job = ?1)",
                &mut freed,
            )?;
            continue;
        }
        let emptied = connection
            .prepare_cached(
                "UPDATE jobs SET output_bytes = 0 WHERE id = ?1 AND finished IS NOT NULL AND unreported = 0",
            )?
            .execute([id])?;
        if emptied > 0 {
            bodies::delete(connection, id, Kind::Payload, &mut freed)?;
            connection
                .prepare_cached("DELETE FROM files WHERE job = ?1")?
                .execute([id])?;
        }
    }
    Ok(freed)
}

/// Removes jobs that have ended with all that belongs to them, and gives the files of their bodies. A job that was
/// queued anew meanwhile stays.
pub(super) fn remove(connection: &Connection, ids: &[JobId]) -> Result<Vec<String>, Fault> {
    let mut freed = Vec::new();
    for id in ids {
        if delete(connection, id.as_str(), "TRUE", &mut freed)? {
            outbox::withdraw(connection, id, &mut freed)?;
        }
    }
    Ok(freed)
}

/// Says whether the job was there, had ended, and fulfilled the condition.
fn delete(connection: &Connection, id: &str, condition: &str, freed: &mut Vec<String>) -> rusqlite::Result<bool> {
    let sql = format!("DELETE FROM jobs WHERE id = ?1 AND finished IS NOT NULL AND unreported = 0 AND {condition}");
    if connection.prepare_cached(&sql)?.execute([id])? == 0 {
        return Ok(false);
    }
    bodies::delete(connection, id, Kind::Payload, freed)?;
    bodies::delete(connection, id, Kind::Result, freed)?;
    connection
        .prepare_cached("DELETE FROM files WHERE job = ?1")?
        .execute([id])?;
    Ok(true)
}

/// When the job ended, if it has.
fn ended(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<SystemTime>> {
    let finished: Option<Option<i64>> = connection
        .prepare_cached("SELECT finished FROM jobs WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(finished.flatten().map(time))
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
