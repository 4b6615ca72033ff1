//! Outputs that have ids of their own, and contents of assets that jobs need which have not ended.

use rusqlite::{Connection, OptionalExtension as _};

use super::Store;
use super::error::{Fault, StoreError};
use super::schema::id_column;
use crate::job::{ContentHash, JobId};

impl Store {
    /// A job has these outputs, by their ids. What it is called back for is found by them.
    pub async fn committed(&self, id: &JobId, outputs: Vec<String>) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(move |connection| insert(connection, &id, &outputs)).await
    }

    /// The job that has this output.
    pub async fn job_of_output(&self, output: &str) -> Result<Option<JobId>, StoreError> {
        let output = output.to_owned();
        self.read(move |connection| {
            let found = connection
                .prepare_cached("SELECT job FROM outputs WHERE id = ?1")?
                .query_row([&output], |row| id_column(row, 0));
            Ok(found.optional()?)
        })
        .await
    }
}

/// A job that is there has these outputs.
pub(super) fn insert(connection: &Connection, job: &JobId, outputs: &[String]) -> Result<(), Fault> {
    let mut statement = connection
        .prepare_cached("INSERT INTO outputs (id, job) SELECT ?1, id FROM jobs WHERE id = ?2 ON CONFLICT DO NOTHING")?;
    for output in outputs {
        statement.execute((output, job.as_str()))?;
    }
    Ok(())
}

/// A job needs these contents.
pub(super) fn need(connection: &Connection, job: &JobId, contents: &[ContentHash]) -> Result<(), Fault> {
    let mut statement =
        connection.prepare_cached("INSERT INTO asset_uses (job, hash) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    for hash in contents {
        statement.execute((job.as_str(), hash.to_string()))?;
    }
    Ok(())
}

/// A job has ended.
pub(super) fn need_no_more(connection: &Connection, job: &JobId) -> Result<(), Fault> {
    connection
        .prepare_cached("DELETE FROM asset_uses WHERE job = ?1")?
        .execute([job.as_str()])?;
    Ok(())
}

/// A job is removed.
pub(super) fn forget(connection: &Connection, job: &JobId) -> Result<(), Fault> {
    connection
        .prepare_cached("DELETE FROM outputs WHERE job = ?1")?
        .execute([job.as_str()])?;
    Ok(())
}
