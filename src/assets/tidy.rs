//! What is removed: records whose time is over, files that nothing needs any more, and the oldest of both where there is no
//! room for what comes.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::{AssetError, Assets, to_its_end};
use crate::disk::blocking;
use crate::display::error_chain;
use crate::job::ContentHash;
use crate::queue::store::Need;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(10);

impl Assets {
    /// Removes what is over, again and again, until it is told to end.
    pub async fn keep_tidy(self, ending: CancellationToken) {
        while ending.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            self.tidy().await;
        }
    }

    /// Removes what is over.
    pub async fn tidy(&self) {
        match self.0.store.expire_assets(SystemTime::now()).await {
            Ok(hashes) => {
                let mut ledger = self.0.ledger.lock();
                for hash in hashes {
                    ledger.loose(hash);
                }
            }
            Err(error) => tracing::warn!("old uploads cannot be removed: {}", error.full_text()),
        }
        self.clean(&[]).await;
    }

    /// Removes the files among these, and among those that lost their records before, that nothing needs.
    pub(super) async fn clean(&self, hashes: &[ContentHash]) {
        let loose = {
            let mut ledger = self.0.ledger.lock();
            for hash in hashes {
                ledger.loose(*hash);
            }
            ledger.all_loose()
        };
        if loose.is_empty() {
            return;
        }
        let cleaned = async {
            let needs = self
                .0
                .store
                .needs(loose.iter().map(|(hash, _)| *hash).collect())
                .await?;
            for ((hash, told), need) in loose.into_iter().zip(needs) {
                match need {
                    Need::Nothing => drop(self.remove(hash, Reason::NeededByNothing).await?),
                    // The next look is for it.
                    Need::Job => {}
                    Need::Record => self.0.ledger.lock().fasten(hash, told),
                }
            }
            Ok::<_, AssetError>(())
        };
        if let Err(error) = cleaned.await {
            tracing::warn!(error = %error_chain(&error), "files of uploads cannot be removed; it is tried again");
        }
    }

    /// Takes room for so many bytes. What nobody asked for anew for longest goes for it, as far as no job that has not ended
    /// needs it. `oldest` is what goes next, as far as that was looked up before.
    pub(super) async fn make_room(&self, bytes: u64, oldest: &mut VecDeque<ContentHash>) -> Result<(), AssetError> {
        let most = self.0.limits.max_bytes;
        let fits = || self.0.ledger.lock().take_room(bytes, most);
        if fits() {
            return Ok(());
        }
        self.clean(&[]).await;
        let (mut removed, mut looked_up) = (0, false);
        loop {
            if fits() {
                if removed > 0 {
                    tracing::info!(files = removed, "the oldest uploads are removed (ASSETS_MAX_BYTES)");
                }
                return Ok(());
            }
            match oldest.pop_front() {
                Some(hash) => removed += u64::from(self.remove(hash, Reason::Room).await?),
                // Nothing of a whole list could go.
                None if looked_up && removed == 0 => return Err(AssetError::NoRoom { most }),
                None => {
                    oldest.extend(self.0.store.oldest_assets().await?);
                    if oldest.is_empty() {
                        return Err(AssetError::NoRoom { most });
                    }
                    (looked_up, removed) = (true, 0);
                }
            }
        }
    }

    /// Removes a file that nobody holds and no job needs which has not ended; false: it stays. Goes on to its end, whoever
    /// asks for it is gone meanwhile.
    async fn remove(&self, hash: ContentHash, reason: Reason) -> Result<bool, AssetError> {
        let assets = self.clone();
        to_its_end(async move { assets.remove_now(hash, reason).await }).await
    }

    async fn remove_now(&self, hash: ContentHash, reason: Reason) -> Result<bool, AssetError> {
        let store = &self.0.store;
        let _removing = self.0.removing.lock().await;
        if !self.0.ledger.lock().begin_removal(hash) {
            return Ok(false);
        }
        let mut removal = Removal {
            assets: self,
            hash,
            gone: false,
        };
        // From here on nobody gets a hold on it.
        let may = match reason {
            Reason::NeededByNothing => store.needs(vec![hash]).await? == [Need::Nothing],
            Reason::Room => store.delete_assets_with(hash).await?,
        };
        if may {
            let blobs = self.0.blobs.clone();
            blocking(move || blobs.remove(hash)).await?;
            removal.gone = true;
        }
        Ok(removal.gone)
    }
}

/// Why a file is removed.
#[derive(Debug, Clone, Copy)]
enum Reason {
    /// It has no record any more.
    NeededByNothing,
    /// Something else needs its room: its records go with it.
    Room,
}

/// A file that is being removed, until it is or is found to stay.
struct Removal<'a> {
    assets: &'a Assets,
    hash: ContentHash,
    gone: bool,
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.assets.0.ledger.lock().end_removal(self.hash, self.gone);
    }
}
