//! An upload that comes, and the room that it takes.

use bytes::Bytes;

use super::{AssetError, Assets};
use crate::blobs::{Incoming, Received};

/// How much of a request may be beside its file, in bytes: an upload of exactly the limit announces more.
pub(super) const BESIDE_FILE: u64 = 1024 * 1024;
/// Room is taken in steps of so many bytes, where there is so much.
const STEP: u64 = 1024 * 1024;

/// Where something must go for it, so much goes at once: this part of all room, and so many bytes at most.
const PART_AT_ONCE: u64 = 64;
const MOST_AT_ONCE: u64 = 64 * STEP;

/// An upload that comes. Dropped before its end it leaves nothing, and gives its room back.
#[derive(Debug)]
pub struct Upload {
    incoming: Incoming,
    room: Room,
}

impl Upload {
    pub(super) async fn begin(assets: Assets) -> Result<Self, AssetError> {
        let incoming = assets.0.blobs.incoming_file().await?;
        Ok(Self {
            incoming,
            room: assets.room(),
        })
    }

    /// Takes the next piece, and makes room for it where that is needed.
    pub async fn push(&mut self, piece: Bytes) -> Result<(), AssetError> {
        self.room.grow_to(self.incoming.bytes() + piece.len() as u64).await?;
        Ok(self.incoming.push(piece).await?)
    }

    /// Writes the rest.
    pub async fn finish(self) -> Result<Uploaded, AssetError> {
        Ok(Uploaded {
            received: self.incoming.finish().await?,
            room: self.room,
        })
    }
}

/// A whole upload that has no record yet. Dropped it leaves nothing.
#[derive(Debug)]
pub struct Uploaded {
    received: Received,
    room: Room,
}

impl Uploaded {
    /// What came.
    pub fn received(&self) -> &Received {
        &self.received
    }

    pub(super) fn into_parts(self) -> (Received, Room) {
        (self.received, self.room)
    }
}

/// Room for a file that comes, given back in the end: the file counts itself then, or is gone.
#[derive(Debug)]
pub(super) struct Room {
    assets: Assets,
    bytes: u64,
}

impl Room {
    /// Makes it large enough for so many bytes.
    pub(super) async fn grow_to(&mut self, bytes: u64) -> Result<(), AssetError> {
        let most = self.assets.0.limits.max_bytes;
        if most == 0 || bytes <= self.bytes {
            return Ok(());
        }
        if bytes > most {
            return Err(AssetError::TooLarge { most });
        }
        let needed = bytes - self.bytes;
        let step = needed.max(STEP).min(most - self.bytes);
        // What was kept goes for no more than what is here.
        if self.assets.0.ledger.lock().take_room(step, most) {
            self.bytes += step;
        } else {
            // Room for more pieces at once: each look for what is oldest is one through all records.
            let step = needed
                .max((most / PART_AT_ONCE).min(MOST_AT_ONCE))
                .min(most - self.bytes);
            self.assets.make_room(step).await?;
            self.bytes += step;
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.assets.0.ledger.lock().give_room_back(self.bytes);
    }
}

impl Assets {
    pub(super) fn room(&self) -> Room {
        Room {
            assets: self.clone(),
            bytes: 0,
        }
    }
}
