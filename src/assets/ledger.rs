//! What is on the disk, who holds it, and how much room it takes.

use std::collections::HashMap;

use crate::job::ContentHash;

/// What is on the disk, who holds it, and how much room it takes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    files: HashMap<ContentHash, u64>,
    /// The bytes of all files.
    total: u64,
    /// The bytes that are coming.
    coming: u64,
    /// Files that may have lost their last record, each with a number of when that was told.
    loose: HashMap<ContentHash, u64>,
    /// The last such number.
    told: u64,
    /// How many hold a file, or one that is to come.
    pins: HashMap<ContentHash, usize>,
    /// What is being removed.
    going: Option<ContentHash>,
}

impl Ledger {
    /// These files. Whether there are records of them is to be seen.
    pub(super) fn of(files: HashMap<ContentHash, u64>) -> Self {
        Self {
            total: files.values().sum(),
            loose: files.keys().map(|hash| (*hash, 0)).collect(),
            files,
            ..Self::default()
        }
    }

    pub(super) fn has(&self, hash: ContentHash) -> bool {
        self.files.contains_key(&hash)
    }

    /// A file is in its place.
    pub(super) fn add(&mut self, hash: ContentHash, bytes: u64) {
        if self.files.insert(hash, bytes).is_none() {
            self.total += bytes;
        }
    }

    /// Room for so many bytes more, of so many of all; 0: as many as come.
    pub(super) fn take_room(&mut self, bytes: u64, most: u64) -> bool {
        let taken = self.total.saturating_add(self.coming).saturating_add(bytes);
        let fits = most == 0 || taken <= most;
        if fits {
            self.coming += bytes;
        }
        fits
    }

    pub(super) fn give_room_back(&mut self, bytes: u64) {
        self.coming = self.coming.saturating_sub(bytes);
    }

    /// The bytes of all files, and those that are coming.
    #[cfg(test)]
    pub(super) fn room(&self) -> (u64, u64) {
        (self.total, self.coming)
    }

    /// A file may have lost its last record.
    pub(super) fn loose(&mut self, hash: ContentHash) {
        if self.has(hash) {
            self.told += 1;
            self.loose.insert(hash, self.told);
        }
    }

    /// Files that may have lost their last record, and that nobody holds, each with a number for [`Self::fasten`].
    pub(super) fn all_loose(&self) -> Vec<(ContentHash, u64)> {
        let loose = self.loose.iter().filter(|(hash, _)| !self.pins.contains_key(hash));
        loose.map(|(hash, told)| (*hash, *told)).collect()
    }

    /// A file has a record after all, unless it was told of again since.
    pub(super) fn fasten(&mut self, hash: ContentHash, told: u64) {
        if self.loose.get(&hash) == Some(&told) {
            self.loose.remove(&hash);
        }
    }

    /// Holds a file; false: it is being removed.
    pub(super) fn pin(&mut self, hash: ContentHash) -> bool {
        let pins = self.going != Some(hash);
        if pins {
            *self.pins.entry(hash).or_default() += 1;
        }
        pins
    }

    pub(super) fn unpin(&mut self, hash: ContentHash) {
        if let Some(pins) = self.pins.get_mut(&hash) {
            *pins -= 1;
            if *pins == 0 {
                self.pins.remove(&hash);
            }
        }
    }

    /// Begins to remove a file; false: somebody holds it, or it is not there.
    pub(super) fn begin_removal(&mut self, hash: ContentHash) -> bool {
        let may = self.has(hash) && !self.pins.contains_key(&hash);
        if may {
            self.going = Some(hash);
        }
        may
    }

    /// The file is gone, or stays after all.
    pub(super) fn end_removal(&mut self, hash: ContentHash, gone: bool) {
        self.going = None;
        if !gone {
            // It may have lost its records all the same.
            self.loose(hash);
            return;
        }
        self.loose.remove(&hash);
        if let Some(bytes) = self.files.remove(&hash) {
            self.total -= bytes;
        }
    }
}
