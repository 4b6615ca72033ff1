//! What was uploaded: records over files that lie elsewhere, by the hashes of their contents. A record belongs to the mark of
//! an API key, which is empty where none is asked for, and is there for nobody else.

use std::collections::HashMap;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::Store;
use super::error::StoreError;
use super::keys::{self, Operation};
use super::schema::{count, micros, parse, time};
use crate::job::ContentHash;

/// The most records, or contents, that are given at once.
const LIMIT: i64 = 256;

/// The most records that stay: the oldest go. Their files have a limit of their own, and one may have many records.
const MOST_RECORDS: i64 = 100_000;

/// A record. Times are exact to the microsecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// Its id, a UUID.
    pub id: String,
    /// The mark of the API key that it belongs to; empty: none was asked for.
    pub owner: String,
    /// What is in it.
    pub hash: ContentHash,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its media type, as whoever uploaded it said.
    pub content_type: String,
    /// What whoever uploaded it calls it.
    pub file_path: Option<String>,
    /// What else was said of it.
    pub tags: Vec<String>,
    /// When it came.
    pub created: SystemTime,
    /// Until when it is kept.
    pub expires: SystemTime,
}

/// What needs a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A record, whatever else.
    Record,
    /// A job that has not ended.
    Job,
    /// Nothing does.
    Nothing,
}

/// The columns that [`asset`] reads, in its order.
const COLUMNS: &str = "id, owner, hash, bytes, content_type, file_path, tags, created, expires";

impl Store {
    /// Remembers a new record and uses up the key that its request brought; [`StoreError::KeyUsed`], and there is no record,
    /// where that was used before. Says whether it is the owner's first with this content.
    pub async fn insert_asset(&self, asset: Asset, key: Option<String>) -> Result<bool, StoreError> {
        self.write(move |connection| {
            if let Some(key) = &key {
                keys::claim_key(connection, &asset.owner, Operation::Asset, key, asset.created)?;
            }
            let has_another: bool = connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM assets WHERE hash = ?1 AND owner = ?2 AND expires > ?3)")?
                .query_row((asset.hash.to_string(), &asset.owner, micros(asset.created)), |row| {
                    row.get(0)
                })?;
            insert(connection, &asset)?;
            Ok(!has_another)
        })
        .await
    }

    /// A record of this owner's that is there at `now`.
    pub async fn asset(&self, owner: &str, id: &str, now: SystemTime) -> Result<Option<Asset>, StoreError> {
        let found = self.assets(owner, &[id.to_owned()], now).await?;
        Ok(found.into_values().next())
    }

    /// The records of this owner's among these ids that are there at `now`.
    pub async fn assets(
        &self,
        owner: &str,
        ids: &[String],
        now: SystemTime,
    ) -> Result<HashMap<String, Asset>, StoreError> {
        let (owner, ids) = (owner.to_owned(), ids.to_vec());
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM assets WHERE id = ?1 AND owner = ?2 AND expires > ?3");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut found = HashMap::new();
            for id in &ids {
                let row = statement.query_row((id, &owner, micros(now)), asset).optional()?;
                found.extend(row.map(|asset| (id.clone(), asset)));
            }
            Ok(found)
        })
        .await
    }

    /// A record by its id alone, which is there at `now`: for whoever has a link to it.
    pub async fn asset_of_anybody(&self, id: &str, now: SystemTime) -> Result<Option<Asset>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM assets WHERE id = ?1 AND expires > ?2");
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_row((&id, micros(now)), asset).optional()?)
        })
        .await
    }

    /// The newest record of this owner's with this content that is there at `now`.
    pub async fn asset_with(
        &self,
        owner: &str,
        hash: ContentHash,
        now: SystemTime,
    ) -> Result<Option<Asset>, StoreError> {
        let owner = owner.to_owned();
        self.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM assets WHERE hash = ?1 AND owner = ?2 AND expires > ?3 ORDER BY created DESC LIMIT 1"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let values = (hash.to_string(), &owner, micros(now));
            Ok(statement.query_row(values, asset).optional()?)
        })
        .await
    }

    /// Removes a record of this owner's that is there at `now`; false: there is none.
    pub async fn delete_asset(&self, owner: &str, id: &str, now: SystemTime) -> Result<bool, StoreError> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        self.write(move |connection| {
            let mut statement =
                connection.prepare_cached("DELETE FROM assets WHERE id = ?1 AND owner = ?2 AND expires > ?3")?;
            Ok(statement.execute((&id, &owner, micros(now)))? > 0)
        })
        .await
    }

    /// Removes the records whose time is over, and keys of requests that count as used no longer. Gives the contents of those.
    pub async fn expire_assets(&self, now: SystemTime) -> Result<Vec<ContentHash>, StoreError> {
        // Mostly there is nothing, and a write would have the disk work for that.
        let any = self.read(move |connection| {
            let expired: bool = connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM assets WHERE expires <= ?1)")?
                .query_row([micros(now)], |row| row.get(0))?;
            let records: i64 = connection
                .prepare_cached("SELECT count(*) FROM assets")?
                .query_row((), |row| row.get(0))?;
            Ok(expired || records > MOST_RECORDS || keys::has_old_keys(connection, now)?)
        });
        if !any.await? {
            return Ok(Vec::new());
        }
        self.write(move |connection| {
            keys::forget_keys(connection, now)?;
            let mut statement = connection.prepare_cached(
                "DELETE FROM assets WHERE expires <= ?1 OR id IN (SELECT id FROM assets ORDER BY created, id \
                 LIMIT max(0, (SELECT count(*) FROM assets) - ?2)) RETURNING hash",
            )?;
            let rows = statement.query_map([micros(now), MOST_RECORDS], |row| hash_column(row, 0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Contents that no job which has not ended needs, those that nobody asked for anew for longest first. At most 256 at a
    /// time.
    pub async fn oldest_assets(&self) -> Result<Vec<ContentHash>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT hash FROM assets WHERE NOT EXISTS (SELECT 1 FROM asset_uses WHERE asset_uses.hash = assets.hash) \
                 GROUP BY hash ORDER BY max(created), hash LIMIT ?1",
            )?;
            let rows = statement.query_map([LIMIT], |row| hash_column(row, 0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Removes all records of a content, unless a job that has not ended needs it: then there is false, and they stay.
    pub async fn delete_assets_with(&self, hash: ContentHash) -> Result<bool, StoreError> {
        self.write(move |connection| {
            if is_used(connection, hash)? {
                return Ok(false);
            }
            connection
                .prepare_cached("DELETE FROM assets WHERE hash = ?1")?
                .execute([hash.to_string()])?;
            Ok(true)
        })
        .await
    }

    /// What needs each of these contents.
    pub async fn needs(&self, hashes: Vec<ContentHash>) -> Result<Vec<Need>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM assets WHERE hash = ?1)")?;
            let mut needs = Vec::with_capacity(hashes.len());
            for hash in &hashes {
                let has_record: bool = statement.query_row([hash.to_string()], |row| row.get(0))?;
                needs.push(match has_record {
                    true => Need::Record,
                    false if is_used(connection, *hash)? => Need::Job,
                    false => Need::Nothing,
                });
            }
            Ok(needs)
        })
        .await
    }

    /// All contents that records have, each with the length that they say.
    pub async fn contents(&self) -> Result<HashMap<ContentHash, u64>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT DISTINCT hash, bytes FROM assets")?;
            let rows = statement.query_map((), |row| Ok((hash_column(row, 0)?, number(row, 1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Removes the records of contents that are lost, whoever needs them.
    pub async fn lose_contents(&self, hashes: Vec<ContentHash>) -> Result<(), StoreError> {
        self.write(move |connection| {
            let mut statement = connection.prepare_cached("DELETE FROM assets WHERE hash = ?1")?;
            for hash in &hashes {
                statement.execute([hash.to_string()])?;
            }
            Ok(())
        })
        .await
    }
}

fn insert(connection: &Connection, asset: &Asset) -> rusqlite::Result<()> {
    let sql = format!("INSERT INTO assets ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    connection
        .prepare_cached(&sql)?
        .execute((
            &asset.id,
            &asset.owner,
            asset.hash.to_string(),
            count(asset.bytes),
            &asset.content_type,
            &asset.file_path,
            serde_json::json!(asset.tags).to_string(),
            micros(asset.created),
            micros(asset.expires),
        ))
        .map(|_| ())
}

/// Whether a job that has not ended needs this content.
fn is_used(connection: &Connection, hash: ContentHash) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM asset_uses WHERE hash = ?1)")?
        .query_row([hash.to_string()], |row| row.get(0))
}

fn asset(row: &Row<'_>) -> rusqlite::Result<Asset> {
    Ok(Asset {
        id: row.get(0)?,
        owner: row.get(1)?,
        hash: hash_column(row, 2)?,
        bytes: number(row, 3)?,
        content_type: row.get(4)?,
        file_path: row.get(5)?,
        tags: parse(6, &row.get::<_, String>(6)?, |text| serde_json::from_str(text).ok())?,
        created: time(row.get(7)?),
        expires: time(row.get(8)?),
    })
}

fn hash_column(row: &Row<'_>, column: usize) -> rusqlite::Result<ContentHash> {
    parse(column, &row.get::<_, String>(column)?, ContentHash::parse)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}
