//! Jobs in lists, without their results.

use std::collections::BTreeMap;

use super::Store;
use super::error::StoreError;
use super::rows::{COLUMNS, StoredJob, job};
use super::schema::count;
use crate::job::{Dialect, JobState, Place};

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

/// Which jobs of Comfy API v2 a list is to have, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobsOfV2 {
    /// The mark of their owner's key.
    pub key: Option<String>,
    /// Labels that they all have.
    pub metadata: BTreeMap<String, String>,
    /// Their states; [`None`]: any.
    pub states: Option<Vec<JobState>>,
    /// What they come after.
    pub after: Option<Place>,
    /// The most of them.
    pub limit: usize,
}

impl Store {
    /// Jobs of Comfy API v2, without their results.
    pub async fn jobs_of_v2(&self, wanted: JobsOfV2) -> Result<Vec<StoredJob>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM jobs WHERE dialect = ?1 AND coalesce(json_extract(policy, '$.v2.key'), '') = ?2 \
             AND (?3 IS NULL OR (created, id) < (?3, ?4)) \
             AND (?5 IS NULL OR state IN (SELECT value FROM json_each(?5))) \
             AND NOT EXISTS (SELECT 1 FROM json_each(?6) AS wanted WHERE NOT EXISTS \
                (SELECT 1 FROM json_each(jobs.policy, '$.v2.metadata') AS had \
                 WHERE had.key = wanted.key AND had.value = wanted.value)) \
             ORDER BY created DESC, id DESC LIMIT ?7"
        );
        let states = wanted.states.map(|states| {
            let names: Vec<_> = states.iter().map(|state| state.as_str()).collect();
            serde_json::json!(names).to_string()
        });
        let metadata = serde_json::json!(wanted.metadata).to_string();
        let (created, id) = wanted.after.map(|place| (place.created, place.id)).unzip();
        let values = (
            Dialect::ComfyV2.as_str(),
            wanted.key.unwrap_or_default(),
            created,
            id.unwrap_or_default(),
            states,
            metadata,
            count(wanted.limit as u64),
        );
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement
                .query_map(values.clone(), job)?
                .collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
