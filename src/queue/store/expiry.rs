//! Jobs that go, and the files that go with them.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _};

use super::bodies::{self, Kind};
use super::error::Fault;
use super::schema::{count, id_column, micros, time};
use super::types::Expired;
use super::{files, outbox};
use crate::executor::LeftFile;
use crate::job::JobId;

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
    let name = |file: &LeftFile| (file.folder.as_str(), file.subfolder.clone(), file.filename.clone());
    // Of those that go together the one that ended last has a file: a later job may have written it again.
    let mut last = HashMap::new();
    let mut expired = Vec::with_capacity(ids.len());
    for id in ids {
        let ended = ended(connection, &id)?;
        let mut files = Vec::new();
        for file in files::of_job(connection, &id)? {
            if files::is_shared(connection, &file, &going)? {
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

/// What came of the removal of jobs.
#[derive(Default)]
pub(super) struct Removed {
    /// The files of bodies that are no longer needed.
    pub(super) freed: Vec<String>,
    /// Jobs that stay, since their files are no longer those that were named.
    pub(super) changed: usize,
}

/// Removes ended jobs, whose files are gone, with all that belongs to them, or the files of those that stay alone. A job is
/// left as it is when it was queued again since it was read, and when its files are others now: some were told meanwhile, or
/// became its own since the other job that had them is gone.
pub(super) fn expire(connection: &Connection, expired: &[Expired]) -> Result<Removed, Fault> {
    let now = with_own_files(connection, expired.iter().map(|job| job.id.clone()).collect())?;
    let mut removed = Removed::default();
    for (job, now) in expired.iter().zip(now) {
        if (job.ended, &job.files) != (now.ended, &now.files) {
            removed.changed += 1;
            continue;
        }
        let sql = if job.stays {
            "UPDATE jobs SET output_bytes = 0 WHERE id = ?1 AND finished IS NOT NULL AND unreported = 0"
        } else {
            "DELETE FROM jobs WHERE id = ?1 AND finished IS NOT NULL AND unreported = 0"
        };
        let (id, freed) = (job.id.as_str(), &mut removed.freed);
        if connection.prepare_cached(sql)?.execute([id])? == 0 {
            continue;
        }
        bodies::delete(connection, id, Kind::Payload, freed)?;
        connection
            .prepare_cached("DELETE FROM files WHERE job = ?1")?
            .execute([id])?;
        if !job.stays {
            bodies::delete(connection, id, Kind::Result, freed)?;
            outbox::withdraw(connection, &job.id)?;
        }
    }
    Ok(removed)
}

/// When the job ended, if it has.
fn ended(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<SystemTime>> {
    let finished: Option<Option<i64>> = connection
        .prepare_cached("SELECT finished FROM jobs WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(finished.flatten().map(time))
}
