//! Webhooks that are not yet delivered.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _};
use url::Url;

use super::bodies::{self, Body, Kind, NewBody};
use super::columns::{count, id_column, micros, parse, time};
use super::error::Fault;
use crate::delivery::outbox::host;
use crate::job::JobId;

/// A webhook, ready to be written.
pub(super) struct NewRow {
    pub(super) id: String,
    pub(super) url: Url,
    pub(super) body: NewBody,
}

/// A webhook as it was read.
pub(super) struct DueRow {
    pub(super) id: String,
    pub(super) job: JobId,
    pub(super) url: Url,
    pub(super) attempts: u32,
    pub(super) last_error: Option<String>,
    /// [`None`] when somebody has taken it out of the database.
    pub(super) body: Option<Body>,
}

pub(super) fn insert(connection: &Connection, job: &JobId, new: &NewRow, at: SystemTime) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO webhooks (id, job, url, host, next_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((&new.id, job.as_str(), new.url.as_str(), host(&new.url), micros(at)))?;
    bodies::insert(connection, &new.id, Kind::Webhook, &new.body)
}

/// Takes down the receivers of webhooks that an older version wrote.
pub(super) fn name_hosts(connection: &Connection) -> rusqlite::Result<()> {
    let nameless: Vec<(String, String)> = connection
        .prepare("SELECT id, url FROM webhooks WHERE host = ''")?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (id, url) in nameless {
        // What is no URL any more shall not stand in the way of those that are.
        let host = Url::parse(&url).map_or_else(|_| "?".to_owned(), |url| host(&url));
        connection.execute("UPDATE webhooks SET host = ?2 WHERE id = ?1", (id, host))?;
    }
    Ok(())
}

/// The longest due of each receiver that is not busy: so none of them stands in the way of another, however many wait
/// for it.
pub(super) fn due(
    connection: &Connection,
    now: SystemTime,
    busy: &[String],
    limit: usize,
) -> Result<Vec<DueRow>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT id, job, url, attempts, last_error, bytes, file FROM (\
             SELECT id AS first, min(next_at) AS due FROM webhooks \
             WHERE next_at <= ?1 AND host NOT IN (SELECT value FROM json_each(?4)) GROUP BY host ORDER BY due LIMIT ?2) \
         JOIN webhooks ON id = first LEFT JOIN bodies ON owner = id AND kind = ?3 ORDER BY due",
    )?;
    let values = (micros(now), count(limit as u64), Kind::Webhook.as_str(), list(busy));
    let rows = statement.query_map(values, |row| {
        Ok(DueRow {
            id: row.get(0)?,
            job: id_column(row, 1)?,
            url: parse(2, &row.get::<_, String>(2)?, |text| Url::parse(text).ok())?,
            attempts: row.get(3)?,
            last_error: row.get(4)?,
            body: Body::from_columns(row, 5, 6)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Gives the files of bodies that are no longer needed.
pub(super) fn tried(
    connection: &Connection,
    id: &str,
    next_at: Option<SystemTime>,
    last_error: Option<&str>,
) -> Result<Vec<String>, Fault> {
    let mut freed = Vec::new();
    if let Some(next_at) = next_at {
        connection
            .prepare_cached("UPDATE webhooks SET next_at = ?2, attempts = attempts + 1, last_error = ?3 WHERE id = ?1")?
            .execute((id, micros(next_at), last_error))?;
    } else {
        delete(connection, id, &mut freed)?;
    }
    Ok(freed)
}

/// Takes back what is not yet delivered of a job.
pub(super) fn withdraw(connection: &Connection, job: &JobId, freed: &mut Vec<String>) -> rusqlite::Result<()> {
    let ids: Vec<String> = connection
        .prepare_cached("SELECT id FROM webhooks WHERE job = ?1")?
        .query_map([job.as_str()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in ids {
        delete(connection, &id, freed)?;
    }
    Ok(())
}

/// When the next one is due after `now` whose receiver is not busy.
pub(super) fn next_after(
    connection: &Connection,
    now: SystemTime,
    busy: &[String],
) -> Result<Option<SystemTime>, Fault> {
    let next: Option<i64> = connection
        .prepare_cached(
            "SELECT min(next_at) FROM webhooks WHERE next_at > ?1 AND host NOT IN (SELECT value FROM json_each(?2))",
        )?
        .query_row((micros(now), list(busy)), |row| row.get(0))?;
    Ok(next.map(time))
}

/// Texts as `json_each` reads them.
fn list(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

pub(super) fn job(connection: &Connection, id: &str) -> Result<Option<JobId>, Fault> {
    let job = connection
        .prepare_cached("SELECT job FROM webhooks WHERE id = ?1")?
        .query_row([id], |row| id_column(row, 0))
        .optional()?;
    Ok(job)
}

fn delete(connection: &Connection, id: &str, freed: &mut Vec<String>) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM webhooks WHERE id = ?1")?
        .execute([id])?;
    bodies::delete(connection, id, Kind::Webhook, freed)
}
