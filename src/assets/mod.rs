//! What clients upload before a job names it: records in the store, over files that lie once for each content.
//!
//! A record is not its bytes. The same bytes under another name are another record; a file goes when no record has it and no
//! job that has not ended needs it. All files together have a limit: a new one makes those go that nobody asked for anew for
//! longest. Whoever is about to use a file has a [`Hold`] on it, and nothing removes it meanwhile.

mod error;
mod hold;
mod ledger;
#[cfg(test)]
mod tests;
mod tidy;
mod upload;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::blobs::{Blobs, Received};
use crate::disk::blocking;
use crate::job::ContentHash;
use crate::queue::store::{Operation, Store};
use ledger::Ledger;

pub use crate::queue::store::Asset;
pub use error::AssetError;
pub use hold::Hold;
pub use upload::{Upload, Uploaded};

/// What is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssetLimits {
    /// The most bytes of all files together; 0: no limit.
    pub max_bytes: u64,
    /// How long a record is kept whose request does not say.
    pub ttl: Duration,
    /// Whether files of models are taken.
    pub models: bool,
}

/// What was uploaded. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Assets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    blobs: Blobs,
    store: Store,
    limits: AssetLimits,
    ledger: Mutex<Ledger>,
    /// Held while a file is removed, so that whoever wants it can wait for the end of that.
    removing: tokio::sync::Mutex<()>,
}

/// What a new record says, beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewAsset {
    /// The mark of the API key that it belongs to; empty: none was asked for.
    pub owner: String,
    /// Its media type.
    pub content_type: String,
    /// What its owner calls it.
    pub file_path: Option<String>,
    /// What else is said of it.
    pub tags: Vec<String>,
    /// How long it is kept, where its request says so.
    pub lifetime: Option<Duration>,
}

impl NewAsset {
    fn record(self, hash: ContentHash, bytes: u64, ttl: Duration) -> Asset {
        // To the microsecond, as the store has it.
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let created = UNIX_EPOCH + Duration::from_micros(u64::try_from(created.as_micros()).unwrap_or(u64::MAX));
        Asset {
            // Whoever guesses one must not come closer to another.
            id: Uuid::new_v4().to_string(),
            owner: self.owner,
            hash,
            bytes,
            content_type: self.content_type,
            file_path: self.file_path,
            tags: self.tags,
            created,
            expires: created + self.lifetime.unwrap_or(ttl),
        }
    }
}

impl Assets {
    /// Those under `folder`, whose records `store` has. What a worker left there that was killed is removed, and so are
    /// records whose files are not whole, as after a power cut.
    pub async fn open(folder: &Path, store: Store, limits: AssetLimits) -> Result<Self, AssetError> {
        let blobs = Blobs::new(folder);
        let opening = blobs.clone();
        let found: HashMap<_, _> = blocking(move || opening.open()).await?.into_iter().collect();
        let known = store.contents().await?;
        let lost = known.iter().filter(|(hash, bytes)| found.get(hash) != Some(bytes));
        let lost: Vec<ContentHash> = lost.map(|(hash, _)| *hash).collect();
        if !lost.is_empty() {
            tracing::warn!(
                files = lost.len(),
                "uploaded files are not whole any more; their records are removed"
            );
            store.lose_contents(lost).await?;
        }
        let assets = Self(Arc::new(Shared {
            blobs,
            store,
            limits,
            ledger: Mutex::new(Ledger::of(found)),
            removing: tokio::sync::Mutex::default(),
        }));
        assets.tidy().await;
        Ok(assets)
    }

    /// Where the file of a content lies.
    pub fn path(&self, hash: ContentHash) -> PathBuf {
        self.0.blobs.path(hash)
    }

    /// The files themselves.
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// Whether files of models are taken.
    pub fn takes_models(&self) -> bool {
        self.0.limits.models
    }

    /// Whether the key of an upload has been used.
    pub async fn key_used(&self, owner: &str, key: &str) -> Result<bool, AssetError> {
        let store = &self.0.store;
        Ok(store.key_used(owner, Operation::Asset, key, SystemTime::now()).await?)
    }

    /// Begins an upload whose request announces this length, of the file and what comes with it; fails at once where that can
    /// never find room.
    pub async fn begin(&self, announced: Option<u64>) -> Result<Upload, AssetError> {
        let most = self.0.limits.max_bytes;
        if most > 0 && announced.is_some_and(|length| length > most.saturating_add(upload::BESIDE_FILE)) {
            return Err(AssetError::TooLarge { most });
        }
        Upload::begin(self.clone()).await
    }

    /// Makes a record over what was uploaded, and says whether its owner had nothing of this content before. The key, if the
    /// request had one, is used up by success alone.
    pub async fn mint(
        &self,
        new: NewAsset,
        uploaded: Uploaded,
        key: Option<String>,
    ) -> Result<(Asset, bool), AssetError> {
        let (received, room) = uploaded.into_parts();
        let (hash, bytes) = (received.hash, received.bytes);
        let hold = self.hold();
        hold.pin(hash).await;
        self.place(received).await?;
        // What it takes is counted with the others from here on.
        drop(room);
        let asset = new.record(hash, bytes, self.0.limits.ttl);
        let inserted = self.0.store.insert_asset(asset.clone(), key).await;
        drop(hold);
        match inserted {
            Ok(is_new) => Ok((asset, is_new)),
            Err(error) => {
                // Where there was no answer there may be a record: that is looked at before anything is removed.
                self.clean(&[hash]).await;
                Err(error.into())
            }
        }
    }

    /// Makes a record over a content that its owner has already; [`None`]: there is no such.
    pub async fn from_hash(&self, mut new: NewAsset, hash: ContentHash) -> Result<Option<Asset>, AssetError> {
        let hold = self.hold();
        hold.pin(hash).await;
        let store = &self.0.store;
        let known = store.asset_with(&new.owner, hash, SystemTime::now()).await?;
        let Some(known) = known.filter(|_| self.0.ledger.lock().has(hash)) else {
            return Ok(None);
        };
        if new.content_type.is_empty() {
            new.content_type = known.content_type;
        }
        let asset = new.record(hash, known.bytes, self.0.limits.ttl);
        store.insert_asset(asset.clone(), None).await?;
        Ok(Some(asset))
    }

    /// A record of this owner's.
    pub async fn get(&self, owner: &str, id: &str) -> Result<Option<Asset>, AssetError> {
        Ok(self.0.store.asset(owner, id, SystemTime::now()).await?)
    }

    /// A record, whoever has it: for a request with a link to it.
    pub async fn get_by_link(&self, id: &str) -> Result<Option<Asset>, AssetError> {
        Ok(self.0.store.asset_of_anybody(id, SystemTime::now()).await?)
    }

    /// Whether this owner can make a record over a content.
    pub async fn has_hash(&self, owner: &str, hash: ContentHash) -> Result<bool, AssetError> {
        if !self.0.ledger.lock().has(hash) {
            return Ok(false);
        }
        let found = self.0.store.asset_with(owner, hash, SystemTime::now()).await?;
        Ok(found.is_some())
    }

    /// Removes a record of this owner's, and its file where nothing needs that; false: there is no such record.
    pub async fn delete(&self, owner: &str, id: &str) -> Result<bool, AssetError> {
        let Some(asset) = self.get(owner, id).await? else {
            return Ok(false);
        };
        let (assets, owner, id) = (self.clone(), owner.to_owned(), id.to_owned());
        // Whoever asks may be gone before its file is looked at.
        to_its_end(async move {
            let is_deleted = assets.0.store.delete_asset(&owner, &id, SystemTime::now()).await?;
            assets.clean(&[asset.hash]).await;
            Ok(is_deleted)
        })
        .await
    }

    /// The records of this owner's among these ids. Their files stay as long as `hold` is there.
    pub async fn referenced(
        &self,
        hold: &Hold,
        owner: &str,
        ids: &[String],
    ) -> Result<HashMap<String, Asset>, AssetError> {
        let found = self.0.store.assets(owner, ids, SystemTime::now()).await?;
        for asset in found.values() {
            hold.pin(asset.hash).await;
        }
        // Those whose time was over before they were held are gone now.
        let found: Vec<String> = found.into_keys().collect();
        let still = self.0.store.assets(owner, &found, SystemTime::now()).await?;
        let ledger = self.0.ledger.lock();
        Ok(still.into_iter().filter(|(_, asset)| ledger.has(asset.hash)).collect())
    }

    /// Begins to hold files, none yet.
    pub fn hold(&self) -> Hold {
        Hold::new(self.clone())
    }

    /// Whether a content is here, whoever has it; it stays as long as `hold` is there then.
    pub async fn is_here(&self, hold: &Hold, hash: ContentHash) -> bool {
        hold.pin(hash).await;
        self.0.ledger.lock().has(hash)
    }

    /// Copies a file in that no record has, such as what a job made and another is to use; gives its content and length. It
    /// stays as long as `hold` is there, or a job that has not ended needs it.
    pub async fn keep_file(&self, hold: &Hold, path: &Path) -> Result<(ContentHash, u64), AssetError> {
        let source = path.to_owned();
        let bytes = blocking(move || std::fs::metadata(&source)).await?.len();
        let (blobs, path) = (self.0.blobs.clone(), path.to_owned());
        self.keep(hold, bytes, move || blobs.copy_in(&path)).await
    }

    /// The same for bytes that are here.
    pub async fn keep_bytes(&self, hold: &Hold, bytes: Bytes) -> Result<(ContentHash, u64), AssetError> {
        let blobs = self.0.blobs.clone();
        self.keep(hold, bytes.len() as u64, move || blobs.write_in(&bytes))
            .await
    }

    async fn keep(
        &self,
        hold: &Hold,
        bytes: u64,
        write: impl FnOnce() -> std::io::Result<Received> + Send + 'static,
    ) -> Result<(ContentHash, u64), AssetError> {
        let mut room = self.room();
        room.grow_to(bytes).await?;
        let received = blocking(write).await?;
        let (hash, bytes) = (received.hash, received.bytes);
        hold.pin(hash).await;
        self.place(received).await?;
        Ok((hash, bytes))
    }

    /// Puts a file into its place, which somebody holds. It counts as without a record until one is found.
    async fn place(&self, received: Received) -> Result<(), AssetError> {
        let (hash, bytes) = (received.hash, received.bytes);
        // Whoever asks may be gone before it is done.
        let own = self.hold();
        own.pin(hash).await;
        let assets = self.clone();
        let placed = blocking(move || {
            assets.0.blobs.keep(received)?;
            let mut ledger = assets.0.ledger.lock();
            ledger.add(hash, bytes);
            ledger.loose(hash);
            drop((ledger, own));
            Ok(())
        });
        placed.await
    }
}

/// Does something that is not to be left half done, whoever waits for it.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, AssetError>> + Send + 'static,
) -> Result<T, AssetError> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| AssetError::File(std::io::Error::other(error)))?
}
