//! The files that jobs left, and the jobs that go with their files.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _};

use super::bodies::{self, Kind};
use super::error::{Fault, StoreError};
use super::schema::{count, id_column, micros, parse, time};
use super::{Store, outbox, outputs};
use crate::executor::{Claim, LeftFile};
use crate::job::{JobId, OutputFolder};

/// A job whose time in the store is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Which job.
    pub id: JobId,
    /// Its files, without those that a job that stays has too: ComfyUI gives the same file to jobs that differ in
    /// nothing.
    pub files: Vec<LeftFile>,
    /// When it ended: what was written after that is not its own.
    pub ended: Option<SystemTime>,
    /// Whether the job itself stays: its end is still to be told to its webhook.
    pub stays: bool,
}

/// The most jobs that [`Store::expired`] gives at once.
const LIMIT: usize = 256;

impl Store {
    /// A job left files, whether it has ended or not: they are removed with it. Where there is no such job (any more), gives
    /// those that are to be removed at once: the job made them, and no other has them.
    pub async fn left(&self, id: &JobId, files: Vec<LeftFile>) -> Result<Option<Vec<LeftFile>>, StoreError> {
        let id = id.clone();
        self.write(move |connection| add_files(connection, &id, &files)).await
    }

    /// What is to be removed, oldest first: jobs that ended before `ended_before`, then those that take most room until
    /// all together take at most `max_total_bytes` of the disk. What a job takes is its files, and its payload and result
    /// where they lie in files of their own. A job whose webhook waits stays; when the others do not make enough room, its
    /// files go alone. At most 256 at a time: after [`Store::expire`], ask again until there are none.
    ///
    /// Delete the files first, then call [`Store::expire`]: a kill in between leaves rows that are listed again, and on
    /// a full disk it is the files that make the room which the removal of rows needs.
    pub async fn expired(&self, ended_before: SystemTime, max_total_bytes: u64) -> Result<Vec<Expired>, StoreError> {
        self.read(move |connection| expired(connection, ended_before, max_total_bytes))
            .await
    }

    /// A job that has ended, as [`Store::expire`] takes it: whoever asks has it removed before its time.
    pub async fn expired_now(&self, id: &JobId) -> Result<Option<Expired>, StoreError> {
        let id = id.clone();
        let jobs = self.read(move |connection| with_own_files(connection, vec![id.clone()]));
        Ok(jobs.await?.pop().filter(|job| job.ended.is_some()))
    }

    /// Removes jobs with their payloads, results and undelivered webhooks, once their files are gone, or the files of those
    /// that stay alone. A job that was queued again meanwhile is left as it is. False: one is left whose files are others
    /// now, since some were told meanwhile, or the other job that had them is gone; it is to be asked for again.
    pub async fn expire(&self, expired: Vec<Expired>) -> Result<bool, StoreError> {
        let (freed, all) = self.write(move |connection| expire(connection, &expired)).await?;
        self.remove_files(freed).await;
        Ok(all)
    }
}

fn expired(connection: &Connection, ended_before: SystemTime, max_total_bytes: u64) -> Result<Vec<Expired>, Fault> {
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
        while ids.len() < LIMIT
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

/// Gives the files of bodies that are no longer needed, and whether no job was left for its files.
fn expire(connection: &Connection, expired: &[Expired]) -> Result<(Vec<String>, bool), Fault> {
    let now = with_own_files(connection, expired.iter().map(|job| job.id.clone()).collect())?;
    let (mut freed, mut all) = (Vec::new(), true);
    for (job, now) in expired.iter().zip(now) {
        if (job.ended, &job.files) != (now.ended, &now.files) {
            all = false;
            continue;
        }
        let sql = if job.stays {
            "UPDATE jobs SET output_bytes = 0 WHERE id = ?1 AND finished IS NOT NULL AND unreported = 0"
        } else {
            "DELETE FROM jobs WHERE id = ?1 AND finished IS NOT NULL AND unreported = 0"
        };
        let id = job.id.as_str();
        if connection.prepare_cached(sql)?.execute([id])? == 0 {
            continue;
        }
        bodies::delete(connection, id, Kind::Payload, &mut freed)?;
        connection
            .prepare_cached("DELETE FROM files WHERE job = ?1")?
            .execute([id])?;
        if !job.stays {
            bodies::delete(connection, id, Kind::Result, &mut freed)?;
            outputs::forget(connection, &job.id)?;
            outbox::withdraw(connection, &job.id)?;
        }
    }
    Ok((freed, all))
}

/// When the job ended, if it has.
fn ended(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<SystemTime>> {
    let finished: Option<Option<i64>> = connection
        .prepare_cached("SELECT finished FROM jobs WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(finished.flatten().map(time))
}

fn add_files(connection: &Connection, id: &JobId, files: &[LeftFile]) -> Result<Option<Vec<LeftFile>>, Fault> {
    let known = connection
        .prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?
        .query_row([id.as_str()], |_| Ok(()))
        .optional()?;
    if known.is_some() {
        insert_files(connection, id, files)?;
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
pub(super) fn insert_files(connection: &Connection, id: &JobId, files: &[LeftFile]) -> rusqlite::Result<()> {
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
fn files_of(connection: &Connection, id: &JobId) -> rusqlite::Result<Vec<LeftFile>> {
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
fn is_shared(connection: &Connection, file: &LeftFile, going: &HashSet<String>) -> rusqlite::Result<bool> {
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
