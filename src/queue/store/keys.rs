//! The keys by which a request is known that comes twice (`Idempotency-Key`). Each is used once: a request that comes with it
//! again is refused, whatever it asks for. They belong to the mark of an API key, and to one thing that can be asked for.

use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use super::Store;
use super::error::{Fault, StoreError};
use super::schema::micros;

/// How long a key counts as used.
pub const REMEMBERED: Duration = Duration::from_hours(24);

/// What a key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An upload.
    Asset,
    /// A job.
    Job,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Asset => "asset",
            Self::Job => "job",
        }
    }
}

impl Store {
    /// Whether a key was used within [`REMEMBERED`] before `now`.
    pub async fn key_used(
        &self,
        owner: &str,
        operation: Operation,
        key: &str,
        now: SystemTime,
    ) -> Result<bool, StoreError> {
        let (owner, key) = (owner.to_owned(), key.to_owned());
        self.read(move |connection| Ok(is_key_used(connection, &owner, operation, &key, now)?))
            .await
    }
}

/// Whether a key was used within [`REMEMBERED`] before `now`.
pub(super) fn is_key_used(
    connection: &Connection,
    owner: &str,
    operation: Operation,
    key: &str,
    now: SystemTime,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM idempotency_keys WHERE owner = ?1 AND operation = ?2 AND key = ?3 AND at > ?4)",
        )?
        .query_row((owner, operation.as_str(), key, micros(forgotten(now))), |row| row.get(0))
}

/// Uses a key up, in the transaction of what it is used for; [`StoreError::KeyUsed`], and nothing changed, where it was used.
pub(super) fn claim_key(
    connection: &Connection,
    owner: &str,
    operation: Operation,
    key: &str,
    at: SystemTime,
) -> Result<(), Fault> {
    let claimed = connection
        .prepare_cached(
            "INSERT INTO idempotency_keys (owner, operation, key, at) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT DO UPDATE SET at = excluded.at WHERE at <= ?5",
        )?
        .execute((owner, operation.as_str(), key, micros(at), micros(forgotten(at))))?;
    if claimed == 0 {
        return Err(StoreError::KeyUsed.into());
    }
    Ok(())
}

/// Removes the keys that count no longer.
pub(super) fn forget_keys(connection: &Connection, now: SystemTime) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM idempotency_keys WHERE at <= ?1")?
        .execute([micros(forgotten(now))])
        .map(|_| ())
}

/// Whether there are such keys.
pub(super) fn has_old_keys(connection: &Connection, now: SystemTime) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM idempotency_keys WHERE at <= ?1)")?
        .query_row([micros(forgotten(now))], |row| row.get(0))
}

/// When keys were used that count no longer.
fn forgotten(now: SystemTime) -> SystemTime {
    now.checked_sub(REMEMBERED).unwrap_or(SystemTime::UNIX_EPOCH)
}
