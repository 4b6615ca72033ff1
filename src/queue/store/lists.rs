//! Jobs in lists: by their age, by their ends.

use rusqlite::Params;

use super::Store;
use super::bodies::Body;
use super::error::StoreError;
use super::rows::{COLUMNS, StoredJob, job};
use super::schema::count;
use crate::job::{Dialect, JobState};

impl Store {
    /// At most `limit` jobs, the newest first: of one state or of all, of one API or of all. Results are loaded where the jobs of
    /// ComfyUI's own API are asked for, whose entries stand in them.
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
        let which = format!("{state} AND {owner}");
        let order = "created DESC, id DESC";
        let values = (
            count(limit as u64),
            only.map(JobState::as_str),
            dialect.map(Dialect::as_str),
        );
        if dialect == Some(Dialect::Comfyui) {
            return self.with_results(&which, order, "LIMIT ?1", values).await;
        }
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE {which} ORDER BY {order} LIMIT ?1");
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_map(values, job)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// The jobs of one API that have ended, with their results: the one that ended last first, at most `limit` of them after
    /// the first `offset`.
    pub async fn finished(&self, dialect: Dialect, offset: usize, limit: usize) -> Result<Vec<StoredJob>, StoreError> {
        let which = "dialect = ?3 AND finished IS NOT NULL";
        let values = (count(limit as u64), count(offset as u64), dialect.as_str());
        self.with_results(which, "finished DESC, id DESC", "LIMIT ?1 OFFSET ?2", values)
            .await
    }

    /// Jobs with their results.
    async fn with_results(
        &self,
        which: &str,
        order: &str,
        limit: &str,
        values: impl Params + Clone + Send + 'static,
    ) -> Result<Vec<StoredJob>, StoreError> {
        // They are chosen first: a body is read only for one that was.
        let sql = format!(
            "WITH chosen AS MATERIALIZED (SELECT id AS wanted FROM jobs WHERE {which} ORDER BY {order} {limit}) \
             SELECT {COLUMNS}, bytes, file FROM chosen JOIN jobs ON id = wanted \
             LEFT JOIN bodies ON owner = id AND kind = 'result' ORDER BY {order}"
        );
        let found = self.read(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let found = statement.query_map(values.clone(), |row| Ok((job(row)?, Body::from_columns(row, 8, 9)?)))?;
            Ok(found.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        let mut jobs = Vec::new();
        for (mut job, result) in found.await? {
            job.result = self.load(result).await?;
            jobs.push(job);
        }
        Ok(jobs)
    }

    /// The ended jobs whose end the platform is still to be told, oldest first, without their results.
    pub async fn unreported(&self) -> Result<Vec<StoredJob>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE unreported = 1 ORDER BY id");
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_map((), job)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
