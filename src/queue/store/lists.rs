//! Jobs in lists, without their results.

use super::Store;
use super::error::StoreError;
use super::rows::{COLUMNS, StoredJob, job};
use super::schema::count;
use crate::job::{Dialect, JobState};

impl Store {
    /// At most `limit` jobs, the newest first: of one state or of all, of one API or of all.
    pub async fn list(
        &self,
        only: Option<JobState>,
        dialect: Option<Dialect>,
        limit: usize,
    ) -> Result<Vec<StoredJob>, StoreError> {
        let state = if only.is_some() { "state = ?2" } else { "?2 IS NULL" };
        let owner = if dialect.is_some() {
            "dialect = ?3"
        } else {
            "?3 IS NULL"
        };
        // Ids do not tell the age: some clients choose their own.
        let sql =
            format!("SELECT {COLUMNS} FROM jobs WHERE {state} AND {owner} ORDER BY created DESC, id DESC LIMIT ?1");
        let values = (
            count(limit as u64),
            only.map(JobState::as_str),
            dialect.map(Dialect::as_str),
        );
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_map(values, job)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// The ended jobs whose end the platform is still to be told, oldest first.
    pub async fn unreported(&self) -> Result<Vec<StoredJob>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE unreported = 1 ORDER BY id");
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_map((), job)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
