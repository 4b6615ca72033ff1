//! What ComfyUI's own API remembers of its prompts: the ended jobs of an API, without what they made, and those that are not
//! to be shown any more.

use super::Store;
use super::error::StoreError;
use super::rows::{COLUMNS, StoredJob, job};
use super::schema::count;
use crate::job::{Dialect, JobId};

impl Store {
    /// The jobs of an API that have ended, without their results: the one that ended last first, at most `limit`.
    pub async fn ended(&self, dialect: Dialect, limit: usize) -> Result<Vec<StoredJob>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM jobs WHERE dialect = ?1 AND finished IS NOT NULL ORDER BY finished DESC, id DESC LIMIT ?2"
        );
        let values = (dialect.as_str(), count(limit as u64));
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_map(values, job)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Notes that these are not to be shown in the history any more. Those that have not ended are left as they are.
    pub async fn hide(&self, ids: Vec<JobId>) -> Result<(), StoreError> {
        self.write(move |connection| {
            let mut statement = connection.prepare_cached(
                "UPDATE jobs SET policy = json_set(policy, '$.prompt.hidden', json('true')) \
                 WHERE id = ?1 AND finished IS NOT NULL AND json_type(policy, '$.prompt') = 'object'",
            )?;
            for id in &ids {
                statement.execute([id.as_str()])?;
            }
            Ok(())
        })
        .await
    }
}
