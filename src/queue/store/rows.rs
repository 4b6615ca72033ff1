//! Jobs as rows. Every change of a state names the states it may come from, as [`JobState::may_become`] has them, so the
//! database refuses what the life of a job does not have.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::bodies::{self, Body, Kind, NewBody};
use super::error::{Fault, StoreError};
use super::keys::{self, Operation};
use super::schema::{duration, duration_micros, id_column, micros, parse, time};
use super::{Store, expiry, outbox, outputs};
use crate::executor::LeftFile;
use crate::job::{ContentHash, JobId, JobState, Policy};

/// A job that was just taken in.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// When it came.
    pub created: SystemTime,
    /// What its request says about its handling.
    pub policy: Policy,
    /// The request, as the caller wrote it.
    pub payload: Bytes,
    /// What it claims with its coming.
    pub claims: Claims,
}

/// What a job claims with its coming.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// The key by which its request is known if it comes again: the mark of its owner, and the key. A job whose key has been
    /// used is not taken in ([`StoreError::KeyUsed`]).
    pub key: Option<(String, String)>,
    /// Contents of assets that it needs, which stay until it has ended.
    pub contents: Vec<ContentHash>,
}

/// A job as the store knows it. Times are exact to the microsecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredJob {
    /// Its id.
    pub id: JobId,
    /// Where it is in its life.
    pub state: JobState,
    /// When it came.
    pub created: SystemTime,
    /// From its coming to the begin of its execution, once it ended.
    pub delay: Option<Duration>,
    /// From the begin of its execution to its end, once it ended.
    pub execution: Option<Duration>,
    /// How often it was begun; a retry that its owner asks for counts from zero.
    pub attempts: u32,
    /// The prompt in ComfyUI that carries it.
    pub prompt_id: Option<String>,
    /// The engine that has that prompt.
    pub engine: Option<String>,
    /// What its request says about its handling.
    pub policy: Policy,
    /// What came of it, as the caller wrote it. Only [`Store::get`](super::Store::get) loads it.
    pub result: Option<Bytes>,
}

/// A job's end.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended: a final state.
    pub state: JobState,
    /// When.
    pub at: SystemTime,
    /// From its coming to the begin of its execution.
    pub delay: Duration,
    /// From the begin of its execution to its end.
    pub execution: Duration,
    /// How often it was begun, as far as the caller knows: that may not have been stored.
    pub attempts: u32,
    /// What came of it, as the caller wrote it.
    pub result: Bytes,
    /// Whether its owner may want it to be run again: its payload stays then, and goes otherwise.
    pub keeps_payload: bool,
    /// The files that it left, removed together with the job.
    pub files: Vec<LeftFile>,
    /// The ids of its outputs, where they have some: they may not have been stored when they came.
    pub outputs: Vec<String>,
    /// Whom to tell.
    pub webhook: Option<outbox::WebhookRow>,
    /// Whether the platform is to be told too. Until [`Store::reported`](super::Store::reported) says that it was, the
    /// job is not removed.
    pub unreported: bool,
}

/// The columns that [`job`] reads, in its order.
pub(super) const COLUMNS: &str = "id, state, created, delay, execution, attempts, prompt_id, policy, engine";

impl Store {
    /// The payload of a job, unless the store does not know the job.
    pub async fn payload(&self, id: &JobId) -> Result<Option<Bytes>, StoreError> {
        let id = id.clone();
        let body = self.read(move |connection| bodies::get(connection, id.as_str(), Kind::Payload));
        self.load(body.await?).await
    }

    /// A job with its result, if the store knows it.
    pub async fn get(&self, id: &JobId) -> Result<Option<StoredJob>, StoreError> {
        let id = id.clone();
        let found = self.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS}, bytes, file FROM jobs LEFT JOIN bodies ON owner = id AND kind = ?2 WHERE id = ?1"
            );
            let found = connection
                .prepare_cached(&sql)?
                .query_row((id.as_str(), Kind::Result.as_str()), |row| {
                    Ok((job(row)?, Body::from_columns(row, 9, 10)?))
                });
            Ok(found.optional()?)
        });
        let Some((mut job, result)) = found.await? else {
            return Ok(None);
        };
        job.result = self.load(result).await?;
        Ok(Some(job))
    }

    /// The platform was told the end of this job, or is given up; it may be removed in its time.
    pub async fn reported(&self, id: &JobId) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(move |connection| {
            let mut statement = connection.prepare_cached("UPDATE jobs SET unreported = 0 WHERE id = ?1")?;
            statement.execute([id.as_str()])?;
            Ok(())
        })
        .await
    }
}

/// `policy` is the job's policy as JSON.
pub(super) fn insert(connection: &Connection, new: &NewJob, policy: &str, payload: &NewBody) -> Result<(), Fault> {
    let id = new.id.as_str();
    if let Some((owner, key)) = &new.claims.key {
        // What is refused must have changed nothing: others are in the same transaction.
        if state(connection, &new.id)?.is_some() {
            return Err(StoreError::Duplicate(new.id.clone()).into());
        }
        keys::claim_key(connection, owner, Operation::Job, key, new.created)?;
    }
    let inserted = connection
        .prepare_cached(
            "INSERT INTO jobs (id, state, created, policy, dialect) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        )?
        .execute((
            id,
            JobState::Queued.as_str(),
            micros(new.created),
            policy,
            new.policy.dialect.as_str(),
        ))?;
    if inserted == 0 {
        return Err(StoreError::Duplicate(new.id.clone()).into());
    }
    outputs::need(connection, &new.id, &new.claims.contents)?;
    bodies::insert(connection, id, Kind::Payload, payload)?;
    Ok(())
}

pub(super) fn started(connection: &Connection, id: &JobId, attempt: u32) -> Result<(), Fault> {
    let to = JobState::Running;
    let sql = format!(
        "UPDATE jobs SET state = ?2, attempts = ?3 WHERE id = ?1 AND state IN ({})",
        before(to)
    );
    let changed = connection
        .prepare_cached(&sql)?
        .execute((id.as_str(), to.as_str(), attempt))?;
    allowed(connection, changed, id, to)
}

pub(super) fn submitted(connection: &Connection, id: &JobId, prompt_id: &str, engine: &str) -> Result<(), Fault> {
    // A prompt waits in ComfyUI before ComfyUI begins with it.
    let (queued, running) = (JobState::Queued, JobState::Running);
    let changed = connection
        .prepare_cached("UPDATE jobs SET prompt_id = ?2, engine = ?5 WHERE id = ?1 AND state IN (?3, ?4)")?
        .execute((id.as_str(), prompt_id, queued.as_str(), running.as_str(), engine))?;
    allowed(connection, changed, id, running)
}

/// What is put down of jobs at engines elsewhere, which begins so ([`crate::engine::remote::is_ticket`]): of those that were
/// cancelled, or took too long, since then.
pub(super) fn left_elsewhere(
    connection: &Connection,
    since: SystemTime,
) -> Result<Vec<(Option<String>, String)>, Fault> {
    let [cancelled, late] = [JobState::Cancelled, JobState::TimedOut].map(JobState::as_str);
    let mut statement = connection.prepare_cached(
        "SELECT engine, prompt_id FROM jobs WHERE state IN (?1, ?2) AND finished > ?3 AND prompt_id LIKE 'elsewhere %' LIMIT 1000",
    )?;
    let left = statement.query_map((cancelled, late, micros(since)), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(left.collect::<Result<_, _>>()?)
}

/// An engine elsewhere took a job that had been cancelled meanwhile.
pub(super) fn taken_late(connection: &Connection, id: &JobId, ticket: &str) -> Result<(), Fault> {
    let ended = [JobState::Cancelled, JobState::TimedOut, JobState::Failed].map(JobState::as_str);
    connection
        .prepare_cached(
            "UPDATE jobs SET prompt_id = ?2 WHERE id = ?1 AND state IN (?3, ?4, ?5) AND prompt_id LIKE 'elsewhere %'",
        )?
        .execute((id.as_str(), ticket, ended[0], ended[1], ended[2]))?;
    Ok(())
}

pub(super) fn given_back(connection: &Connection, id: &JobId) -> Result<(), Fault> {
    let (queued, running) = (JobState::Queued, JobState::Running);
    let changed = connection
        .prepare_cached(
            "UPDATE jobs SET state = ?2, prompt_id = NULL, engine = NULL WHERE id = ?1 AND state IN (?2, ?3)",
        )?
        .execute((id.as_str(), queued.as_str(), running.as_str()))?;
    allowed(connection, changed, id, queued)
}

/// Queues a job again that had ended: for its owner it comes now. `policy` is its policy as JSON. Gives the files of bodies
/// that are no longer needed.
pub(super) fn retried(connection: &Connection, id: &JobId, at: SystemTime, policy: &str) -> Result<Vec<String>, Fault> {
    match state(connection, id)? {
        Some(from) if from.is_final() && from.may_become(JobState::Queued) => {}
        from => return Err(refusal(id, from, JobState::Queued).into()),
    }
    if bodies::get(connection, id.as_str(), Kind::Payload)?.is_none() {
        return Err(StoreError::NoRequest(id.clone()).into());
    }
    let freed = requeued(connection, id)?;
    connection
        .prepare_cached("UPDATE jobs SET created = ?2, policy = ?3 WHERE id = ?1")?
        .execute((id.as_str(), micros(at), policy))?;
    Ok(freed)
}

/// Gives the files of bodies that are no longer needed.
pub(super) fn requeued(connection: &Connection, id: &JobId) -> Result<Vec<String>, Fault> {
    let to = JobState::Queued;
    // A job that had ended is its owner's retry, and begins again. Another one may still be in ComfyUI.
    let sql = format!(
        "UPDATE jobs SET state = ?2, attempts = iif(finished IS NULL, attempts, 0), finished = NULL, \
         delay = NULL, execution = NULL, prompt_id = iif(finished IS NULL, prompt_id, NULL), \
         engine = iif(finished IS NULL, engine, NULL), unreported = 0 WHERE id = ?1 AND state IN ({})",
        before(to)
    );
    let changed = connection.prepare_cached(&sql)?.execute((id.as_str(), to.as_str()))?;
    allowed(connection, changed, id, to)?;
    let mut freed = Vec::new();
    bodies::delete(connection, id.as_str(), Kind::Result, &mut freed)?;
    outbox::withdraw(connection, id)?;
    Ok(freed)
}

/// Gives the files of bodies that are no longer needed; [`None`], and nothing has changed, when the job had ended already.
pub(super) fn finish(
    connection: &Connection,
    id: &JobId,
    end: &Finished,
    result: &NewBody,
) -> Result<Option<Vec<String>>, Fault> {
    let to = end.state;
    if !to.is_final() || set_end(connection, id, end)? == 0 {
        return match state(connection, id)? {
            Some(from) if from.is_final() && to.is_final() => Ok(None),
            from => Err(refusal(id, from, to).into()),
        };
    }
    bodies::insert(connection, id.as_str(), Kind::Result, result)?;
    let mut freed = Vec::new();
    if !end.keeps_payload {
        bodies::delete(connection, id.as_str(), Kind::Payload, &mut freed)?;
    }
    expiry::insert_files(connection, id, &end.files)?;
    expiry::measure(connection, id)?;
    outputs::insert(connection, id, &end.outputs)?;
    outputs::need_no_more(connection, id)?;
    if let Some(webhook) = &end.webhook {
        outbox::insert(connection, id, webhook, end.at)?;
    }
    Ok(Some(freed))
}

/// Gives the number of rows that were changed. That the job began may not have been stored.
fn set_end(connection: &Connection, id: &JobId, end: &Finished) -> rusqlite::Result<usize> {
    let sql = format!(
        "UPDATE jobs SET state = ?2, finished = ?3, delay = ?4, execution = ?5, unreported = ?6, \
         attempts = max(attempts, ?7) WHERE id = ?1 AND state IN ({})",
        before(end.state)
    );
    connection.prepare_cached(&sql)?.execute((
        id.as_str(),
        end.state.as_str(),
        micros(end.at),
        duration_micros(end.delay),
        duration_micros(end.execution),
        end.unreported,
        end.attempts,
    ))
}

/// The jobs that have not ended: those that were running first, then by priority, then by age.
pub(super) fn unfinished(connection: &Connection) -> rusqlite::Result<Vec<StoredJob>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE state IN ({})",
        names(|state| !state.is_final())
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(())?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        match job(row) {
            Ok(job) => jobs.push(job),
            // One row that somebody has edited must not keep the worker from its other jobs.
            Err(error) => tracing::error!(error = %error, "a job in the store cannot be read and is left out"),
        }
    }
    jobs.sort_by(|a, b| {
        let rank = |job: &StoredJob| (job.state == JobState::Queued, -i64::from(job.policy.priority));
        let age = |job: &StoredJob| (job.created, job.id.clone());
        rank(a).cmp(&rank(b)).then_with(|| age(a).cmp(&age(b)))
    });
    Ok(jobs)
}

/// Reads [`COLUMNS`].
pub(super) fn job(row: &Row<'_>) -> rusqlite::Result<StoredJob> {
    let state: String = row.get(1)?;
    let policy: String = row.get(7)?;
    Ok(StoredJob {
        id: id_column(row, 0)?,
        state: parse(1, &state, JobState::parse)?,
        created: time(row.get(2)?),
        delay: row.get::<_, Option<i64>>(3)?.map(duration),
        execution: row.get::<_, Option<i64>>(4)?.map(duration),
        attempts: row.get(5)?,
        prompt_id: row.get(6)?,
        engine: row.get(8)?,
        policy: serde_json::from_str(&policy)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(7, Type::Text, Box::new(error)))?,
        result: None,
    })
}

/// Refuses where an update found no row in a state from which it may go to `to`.
fn allowed(connection: &Connection, changed: usize, id: &JobId, to: JobState) -> Result<(), Fault> {
    if changed > 0 {
        return Ok(());
    }
    Err(refusal(id, state(connection, id)?, to).into())
}

fn refusal(id: &JobId, from: Option<JobState>, to: JobState) -> StoreError {
    let id = id.clone();
    match from {
        Some(from) => StoreError::IllegalStep { id, from, to },
        None => StoreError::Unknown(id),
    }
}

fn state(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<JobState>> {
    connection
        .prepare_cached("SELECT state FROM jobs WHERE id = ?1")?
        .query_row([id.as_str()], |row| {
            parse(0, &row.get::<_, String>(0)?, JobState::parse)
        })
        .optional()
}

/// The states from which a job may become `next`, as SQL.
fn before(next: JobState) -> String {
    names(|state| state.may_become(next))
}

fn names(which: impl Fn(JobState) -> bool) -> String {
    let names: Vec<String> = JobState::ALL
        .into_iter()
        .filter(|&state| which(state))
        .map(|state| format!("'{state}'"))
        .collect();
    names.join(", ")
}
