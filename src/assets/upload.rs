//! An upload that comes, and the room that it takes.

use std::collections::VecDeque;

use super::{AssetError, Assets};
use crate::blobs::{Incoming, Received};
use crate::job::ContentHash;

/// How much of a request may be beside its file, in bytes: an upload of exactly the limit announces more.
pub(super) const BESIDE_FILE: u64 = 1024 * 1024;
/// Room is taken in steps of so many bytes, where there is so much.
const STEP: u64 = 1024 * 1024;

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
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), AssetError> {
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
    /// What goes next where there is no room: looked up once for many pieces, since that is a look through all records.
    oldest: VecDeque<ContentHash>,
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
            self.assets.make_room(needed, &mut self.oldest).await?;
            self.bytes += needed;
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
            oldest: VecDeque::new(),
        }
    }
}
