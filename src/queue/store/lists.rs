//! Jobs in lists, without their results.

use std::collections::BTreeMap;

use rusqlite::named_params;

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

/// The most jobs that are looked at for one list: its labels and states are in no index, and others wait for the store.
const LOOKED_AT: usize = 2_000;

/// Jobs of an owner, from the newest on.
const OF_OWNER: &str = "FROM jobs WHERE dialect = 'comfy_v2' AND coalesce(json_extract(policy, '$.v2.key'), '') = :key \
    AND (created, id) < (:created, :id) ORDER BY created DESC, id DESC";

/// Whether one is of the states and has the labels that are asked for.
const FITS: &str = "(:states IS NULL OR state IN (SELECT value FROM json_each(:states))) \
    AND NOT EXISTS (SELECT 1 FROM json_each(:metadata) AS wanted WHERE NOT EXISTS \
        (SELECT 1 FROM json_each(jobs.policy, '$.v2.metadata') AS had \
         WHERE had.key = wanted.key AND had.value = wanted.value))";

impl Store {
    /// Jobs of Comfy API v2, without their results; and the place after which others follow, if there may be some. Of a list
    /// with labels or states a part may be given that is shorter than its limit.
    pub async fn jobs_of_v2(&self, wanted: JobsOfV2) -> Result<(Vec<StoredJob>, Option<Place>), StoreError> {
        let sql = format!("SELECT {COLUMNS}, {FITS} {OF_OWNER}");
        let states = wanted.states.map(|states| {
            let names: Vec<_> = states.iter().map(|state| state.as_str()).collect();
            serde_json::json!(names).to_string()
        });
        let metadata = serde_json::json!(wanted.metadata).to_string();
        let after = wanted.after.unwrap_or_else(Place::before_all);
        let (key, limit) = (wanted.key.unwrap_or_default(), wanted.limit);
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(named_params! {
                ":key": key,
                ":created": after.created,
                ":id": after.id,
                ":states": states,
                ":metadata": metadata,
            })?;
            let (mut jobs, mut looked_at, mut last) = (Vec::new(), 0, None);
            while let Some(row) = rows.next()? {
                if jobs.len() == limit || looked_at == LOOKED_AT {
                    return Ok((jobs, last));
                }
                looked_at += 1;
                last = Some(Place {
                    created: row.get("created")?,
                    id: row.get("id")?,
                });
                if row.get(FITS_COLUMN)? {
                    jobs.push(job(row)?);
                }
            }
            Ok((jobs, None))
        })
        .await
    }
}

/// The column behind [`COLUMNS`].
const FITS_COLUMN: usize = 9;

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::queue::store::schema;

    #[test]
    fn the_index_leads_to_the_jobs_of_an_owner_from_a_place_on() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN SELECT id {OF_OWNER}"))
            .unwrap();
        let values = named_params! { ":key": "a", ":created": 1, ":id": "x" };
        let steps = statement.query_map(values, |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<String> = steps.collect::<Result<_, _>>().unwrap();
        let plan = plan.join("; ");
        assert!(
            plan.contains("INDEX jobs_of_v2 (<expr>=? AND (created,id)<(?,?))"),
            "{plan}"
        );
        assert!(!plan.contains("ORDER BY"), "{plan}");
    }
}
