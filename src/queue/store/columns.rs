//! How values stand in columns.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Row;
use rusqlite::types::Type;

use crate::job::JobId;

/// Reads the id of a job.
pub(super) fn id_column(row: &Row<'_>, column: usize) -> rusqlite::Result<JobId> {
    parse(column, &row.get::<_, String>(column)?, JobId::parse)
}

/// Reads a text that only we write.
pub(super) fn parse<T>(column: usize, text: &str, read: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    read(text).ok_or_else(|| {
        let error = format!("{text:?} is not what belongs there");
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

/// A time as the database has it: microseconds since 1970.
pub(super) fn micros(time: SystemTime) -> i64 {
    duration_micros(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// How long, as the database has it: microseconds.
pub(super) fn duration_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A number as the database has it.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads a time.
pub(super) fn time(micros: i64) -> SystemTime {
    UNIX_EPOCH + duration(micros)
}

/// Reads how long.
pub(super) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
