//! What ComfyUI's own API remembers of its prompts: the jobs that have ended and are shown to those who have the key that they
//! came under. Only what lists choose and sort by is read of them: there may be many.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ToSql, named_params};

use super::Store;
use super::error::{Fault, StoreError};
use super::schema::{count, duration, id_column, time};
use crate::job::{JobId, JobState};

/// Which of the prompts that the history shows are meant. Those that were cancelled before they ran are in none.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The mark of the key that they came under; [`None`]: no key was asked for.
    pub key: Option<String>,
    /// Of this caller alone.
    pub caller: Option<String>,
    /// Of this client alone.
    pub client_id: Option<String>,
    /// Of this workflow of the page alone.
    pub workflow_id: Option<String>,
    /// In these states; [`None`]: all.
    pub states: Option<Vec<JobState>>,
    /// These alone.
    pub ids: Option<Vec<JobId>>,
    /// But these.
    pub without: Vec<JobId>,
}

/// What a list of them is sorted by. Where two are equal their ids decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownBy {
    /// When they ended.
    Ended,
    /// When they came.
    Created,
    /// How long they ran.
    Execution,
}

/// A part of such a list.
#[derive(Debug, Clone, Copy)]
pub struct ShownPart {
    /// What it is sorted by.
    pub by: ShownBy,
    /// The last or the most first.
    pub descending: bool,
    /// How many to pass over.
    pub offset: usize,
    /// How many at most.
    pub limit: usize,
}

/// A prompt that the history shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownJob {
    /// Its id.
    pub id: JobId,
    /// When it came.
    pub created: SystemTime,
    /// How long it ran.
    pub execution: Duration,
}

/// As the index `shown_in_history` has it, word for word: SQLite knows it by that. The rest is looked at row by row.
const WHERE: &str = "dialect = 'comfyui' AND finished IS NOT NULL AND json_extract(policy, '$.prompt.hidden') IS NOT 1 \
     AND (state <> 'cancelled' OR execution > 0) AND coalesce(json_extract(policy, '$.prompt.key'), '') = :key \
     AND (:caller IS NULL OR json_extract(policy, '$.prompt.caller') = :caller) \
     AND (:client IS NULL OR json_extract(policy, '$.prompt.client_id') = :client) \
     AND (:workflow IS NULL OR json_extract(policy, '$.prompt.workflow_id') = :workflow) \
     AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states))) \
     AND (:ids IS NULL OR id IN (SELECT value FROM json_each(:ids))) \
     AND id NOT IN (SELECT value FROM json_each(:without))";

impl Store {
    /// A part of the prompts that the history shows.
    pub async fn shown(&self, which: Shown, part: ShownPart) -> Result<Vec<ShownJob>, StoreError> {
        let sql = part.sql();
        self.read(move |connection| {
            which.asked(connection, &sql, Some(part), |row| {
                Ok(ShownJob {
                    id: id_column(row, 0)?,
                    created: time(row.get(1)?),
                    execution: row.get::<_, Option<i64>>(2)?.map(duration).unwrap_or_default(),
                })
            })
        })
        .await
    }

    /// How many they are.
    pub async fn count_shown(&self, which: Shown) -> Result<usize, StoreError> {
        let sql = format!("SELECT count(*) FROM jobs WHERE {WHERE}");
        let counted = self.read(move |connection| which.asked(connection, &sql, None, |row| row.get(0)));
        let number: Option<i64> = counted.await?.pop();
        Ok(number
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or_default())
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

impl ShownPart {
    /// All of it.
    pub const ALL: Self = Self {
        by: ShownBy::Ended,
        descending: false,
        offset: 0,
        limit: usize::MAX,
    };

    fn sql(self) -> String {
        let by = match self.by {
            ShownBy::Ended => "finished",
            ShownBy::Created => "created",
            ShownBy::Execution => "execution",
        };
        let to = if self.descending { "DESC" } else { "ASC" };
        format!(
            "SELECT id, created, execution FROM jobs WHERE {WHERE} ORDER BY {by} {to}, id {to} LIMIT :limit OFFSET :offset"
        )
    }
}

impl Shown {
    fn asked<T>(
        &self,
        connection: &Connection,
        sql: &str,
        part: Option<ShownPart>,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Fault> {
        let list = |ids: &[JobId]| serde_json::json!(ids).to_string();
        let states = self.states.as_ref().map(|states| {
            let names: Vec<_> = states.iter().map(|state| state.as_str()).collect();
            serde_json::json!(names).to_string()
        });
        let (key, ids, without) = (
            self.key.as_deref().unwrap_or_default(),
            self.ids.as_deref().map(list),
            list(&self.without),
        );
        let mut values: Vec<(&str, &dyn ToSql)> = named_params! {
            ":key": key,
            ":caller": self.caller,
            ":client": self.client_id,
            ":workflow": self.workflow_id,
            ":states": states,
            ":ids": ids,
            ":without": without,
        }
        .to_vec();
        let (limit, offset) = part.map_or((0, 0), |part| (count(part.limit as u64), count(part.offset as u64)));
        if part.is_some() {
            values.extend([(":limit", &limit as &dyn ToSql), (":offset", &offset)]);
        }
        let mut statement = connection.prepare_cached(sql)?;
        Ok(statement
            .query_map(&values[..], read)?
            .collect::<rusqlite::Result<_>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::store::schema;

    #[test]
    fn the_index_answers_what_the_lists_ask() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        let plan = |sql: &str, part| -> String {
            let plan = format!("EXPLAIN QUERY PLAN {sql}");
            let steps = Shown::default().asked(&connection, &plan, part, |row| row.get::<_, String>(3));
            steps.unwrap_or_else(|_| panic!("{sql}")).join("; ")
        };
        for descending in [false, true] {
            let part = ShownPart {
                descending,
                ..ShownPart::ALL
            };
            let plan = plan(&part.sql(), Some(part));
            assert!(plan.contains("INDEX shown_in_history (<expr>=?"), "{plan}");
            assert!(!plan.contains("ORDER BY"), "{plan}");
        }
        let plan = plan(&format!("SELECT count(*) FROM jobs WHERE {WHERE}"), None);
        assert!(plan.contains("INDEX shown_in_history (<expr>=?"), "{plan}");
    }
}
