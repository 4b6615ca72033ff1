//! Webhooks that are not yet delivered.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _};
use url::Url;

use super::schema::{count, id_column, micros, parse, time};
use super::{Store, StoreError};
use crate::delivery::outbox::{Pending, host};
use crate::job::JobId;

/// A webhook to send. It lives in the store until it is delivered or given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRow {
    /// The id of the message, by which the receiver knows a repetition: of its own for each end of each job.
    pub id: String,
    /// Where to.
    pub url: Url,
}

impl Store {
    /// Webhooks whose time has come, the longest due first: one for each receiver ([`host`]) that is not `busy`, at most
    /// `limit`. So none of them stands in the way of another, however many wait for it.
    pub async fn due_webhooks(
        &self,
        now: SystemTime,
        busy: &[String],
        limit: usize,
    ) -> Result<Vec<Pending>, StoreError> {
        let values = (micros(now), count(limit as u64), list(busy));
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, url, attempts FROM (\
                     SELECT id AS first, min(next_at) AS due FROM webhooks \
                     WHERE next_at <= ?1 AND host NOT IN (SELECT value FROM json_each(?3)) \
                     GROUP BY host ORDER BY due LIMIT ?2) \
                 JOIN webhooks ON id = first ORDER BY due",
            )?;
            let due = statement.query_map((values.0, values.1, &values.2), |row| {
                Ok(Pending {
                    id: row.get(0)?,
                    url: parse(1, &row.get::<_, String>(1)?, |text| Url::parse(text).ok())?,
                    attempts: row.get(2)?,
                })
            })?;
            Ok(due.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// A webhook was tried: it is due again at `next_at`, or never again when it was delivered or given up ([`None`]).
    pub async fn webhook_tried(&self, id: &str, next_at: Option<SystemTime>) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(move |connection| match next_at {
            None => Ok(delete(connection, &id)?),
            Some(next_at) => {
                connection
                    .prepare_cached("UPDATE webhooks SET next_at = ?2, attempts = attempts + 1 WHERE id = ?1")?
                    .execute((&id, micros(next_at)))?;
                Ok(())
            }
        })
        .await
    }

    /// When the next webhook is due of those that are not due at `now` and whose receivers are not `busy`.
    pub async fn next_webhook_after(&self, now: SystemTime, busy: &[String]) -> Result<Option<SystemTime>, StoreError> {
        let busy = list(busy);
        self.read(move |connection| {
            let sql = "SELECT min(next_at) FROM webhooks \
                       WHERE next_at > ?1 AND host NOT IN (SELECT value FROM json_each(?2))";
            let next: Option<i64> = connection
                .prepare_cached(sql)?
                .query_row((micros(now), &busy), |row| row.get(0))?;
            Ok(next.map(time))
        })
        .await
    }

    /// The job whose end a webhook tells, while the webhook waits.
    pub async fn webhook_job(&self, id: &str) -> Result<Option<JobId>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| {
            let job = connection
                .prepare_cached("SELECT job FROM webhooks WHERE id = ?1")?
                .query_row([&id], |row| id_column(row, 0))
                .optional()?;
            Ok(job)
        })
        .await
    }
}

/// Texts as `json_each` reads them.
fn list(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

pub(super) fn insert(connection: &Connection, job: &JobId, new: &WebhookRow, at: SystemTime) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO webhooks (id, job, url, host, next_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((&new.id, job.as_str(), new.url.as_str(), host(&new.url), micros(at)))?;
    // Release 0.1.0, which may come back, gives up a webhook that has no body; it reads nothing in it.
    connection
        .prepare_cached("INSERT INTO bodies (owner, kind, bytes) VALUES (?1, 'webhook', x'')")?
        .execute([&new.id])?;
    Ok(())
}

/// Takes back what is not yet delivered of a job.
pub(super) fn withdraw(connection: &Connection, job: &JobId) -> rusqlite::Result<()> {
    let ids: Vec<String> = connection
        .prepare_cached("SELECT id FROM webhooks WHERE job = ?1")?
        .query_map([job.as_str()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    ids.iter().try_for_each(|id| delete(connection, id))
}

fn delete(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM webhooks WHERE id = ?1",
        "DELETE FROM bodies WHERE owner = ?1 AND kind = 'webhook'",
    ] {
        connection.prepare_cached(sql)?.execute([id])?;
    }
    Ok(())
}

/// Writes down the receivers of webhooks that an older version wrote.
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
