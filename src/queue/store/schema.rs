//! The tables, how older databases become today's, and how values stand in columns.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::Type;
use rusqlite::{Connection, Row};

use crate::job::JobId;

/// Each entry makes version `n + 1` of version `n`. Entries that were released are never edited: the next one mends.
const MIGRATIONS: &[&str] = &[
    // Times are microseconds since 1970, durations microseconds. Bodies (payloads, results) have a table of their own, so
    // that a walk over the jobs does not step over them. Nobody needs `started` and `last_error` any more.
    "CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        created INTEGER NOT NULL,
        started INTEGER,
        finished INTEGER,
        delay INTEGER,
        execution INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        prompt_id TEXT,
        policy TEXT NOT NULL,
        output_bytes INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX jobs_by_state ON jobs (state, id);
    CREATE INDEX jobs_by_end ON jobs (finished, output_bytes) WHERE finished IS NOT NULL;

    CREATE TABLE bodies (
        owner TEXT NOT NULL,
        kind TEXT NOT NULL,
        bytes BLOB,
        file TEXT,
        PRIMARY KEY (owner, kind)
    ) STRICT;
    CREATE INDEX bodies_in_files ON bodies (file) WHERE file IS NOT NULL;

    CREATE TABLE files (
        job TEXT NOT NULL,
        folder TEXT NOT NULL,
        subfolder TEXT NOT NULL,
        filename TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (job, folder, subfolder, filename)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX files_by_name ON files (filename, subfolder, folder);

    CREATE TABLE webhooks (
        id TEXT PRIMARY KEY,
        job TEXT NOT NULL,
        url TEXT NOT NULL,
        next_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        last_error TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX webhooks_by_time ON webhooks (next_at);
    CREATE INDEX webhooks_by_job ON webhooks (job);",
    // Whether the platform is still to be told the end of a job that it gave.
    "ALTER TABLE jobs ADD COLUMN unreported INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_unreported ON jobs (id) WHERE unreported = 1;",
    // Jobs are listed by the API that they came through. Bodies in files have a size, which counts as what a job takes
    // on the disk; a completed job needs its request no more. Webhooks are chosen by their receivers: `''` is filled in
    // by `outbox::name_hosts`, a size of 0 by `bodies::measure`, since SQL alone cannot.
    "ALTER TABLE jobs ADD COLUMN dialect TEXT NOT NULL DEFAULT 'runpod';
    UPDATE jobs SET dialect = coalesce(CASE WHEN json_valid(policy) THEN json_extract(policy, '$.dialect') END, 'runpod');
    CREATE INDEX jobs_by_dialect ON jobs (dialect, id);
    ALTER TABLE bodies ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
    DELETE FROM bodies WHERE kind = 'payload' AND owner IN (SELECT id FROM jobs WHERE state = 'completed');
    ALTER TABLE webhooks ADD COLUMN host TEXT NOT NULL DEFAULT '';
    DROP INDEX webhooks_by_time;
    CREATE INDEX webhooks_by_host ON webhooks (host, next_at);",
    // Inputs that a graph only named were written down as files of the job, to be removed with it.
    "DELETE FROM files WHERE folder = 'input';",
    // Ids no longer tell the age: clients of ComfyUI's API choose their own.
    "DROP INDEX jobs_by_state;
    DROP INDEX jobs_by_dialect;
    CREATE INDEX jobs_by_age ON jobs (created, id);
    CREATE INDEX jobs_by_state ON jobs (state, created, id);
    CREATE INDEX jobs_by_dialect ON jobs (dialect, created, id);
    CREATE INDEX ended_by_dialect ON jobs (dialect, finished, id) WHERE finished IS NOT NULL;",
    // What the history of ComfyUI's own API shows, by the keys of its owners, as `history.rs` asks for it.
    "DROP INDEX ended_by_dialect;
    CREATE INDEX shown_in_history ON jobs (coalesce(json_extract(policy, '$.prompt.key'), ''), finished, id)
        WHERE dialect = 'comfyui' AND finished IS NOT NULL AND json_extract(policy, '$.prompt.hidden') IS NOT 1
        AND (state <> 'cancelled' OR execution > 0);",
    // Comfy API v2: what was uploaded, the bytes that jobs which have not ended need, what jobs made, and the keys by which a
    // request is known that comes twice. `owner` is the mark of an API key, empty where none is asked for.
    "CREATE TABLE assets (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        hash TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        content_type TEXT NOT NULL,
        file_path TEXT,
        tags TEXT NOT NULL DEFAULT '[]',
        created INTEGER NOT NULL,
        expires INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX assets_by_hash ON assets (hash, owner);
    CREATE INDEX assets_by_expiry ON assets (expires);
    CREATE TABLE asset_uses (
        job TEXT NOT NULL,
        hash TEXT NOT NULL,
        PRIMARY KEY (job, hash)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX asset_uses_by_hash ON asset_uses (hash);
    CREATE TABLE outputs (
        id TEXT PRIMARY KEY,
        job TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX outputs_by_job ON outputs (job);
    CREATE TABLE idempotency_keys (
        owner TEXT NOT NULL,
        operation TEXT NOT NULL,
        key TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (owner, operation, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX idempotency_keys_by_age ON idempotency_keys (at);
    CREATE INDEX assets_by_age ON assets (created, id);
    CREATE INDEX jobs_of_v2 ON jobs (coalesce(json_extract(policy, '$.v2.key'), ''), created, id)
        WHERE dialect = 'comfy_v2';",
    // Which engine has a job's prompt. It is the only one where there is none.
    "ALTER TABLE jobs ADD COLUMN engine TEXT;",
    // By what others tell this store from another one: jobs in the broker of a fleet belong to one.
    "CREATE TABLE store (name TEXT NOT NULL) STRICT;
    INSERT INTO store (name) VALUES (lower(hex(randomblob(16))));",
];

/// The version of a database that went through all of [`MIGRATIONS`].
#[expect(clippy::cast_possible_wrap, reason = "there are a handful")]
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The version of this database; 0 is an empty one.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings the database to [`VERSION`]: each step whole or not at all.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    migrate_to(connection, MIGRATIONS.len())
}

/// Brings the database to a version that may be an older one.
pub(super) fn migrate_to(connection: &Connection, last: usize) -> rusqlite::Result<()> {
    let mut at = version(connection)?;
    let steps = MIGRATIONS.iter().take(last);
    for step in steps.skip(usize::try_from(at).unwrap_or(usize::MAX)) {
        at += 1;
        let transaction = connection.unchecked_transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", at)?;
        transaction.commit()?;
    }
    Ok(())
}

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
