//! Which bytes of a part are there, for the next process.
//!
//! The file has two slots that are written in turn, each with a counter and a hash: a process that is killed while it
//! writes one leaves the other. Written in place, since a rename each time costs more than what is written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::ranges::Ranges;

/// Bytes of a slot.
const SLOT: usize = 32 << 10;

/// What a slot begins with: the format, the counter, the size of the whole file, and how many ranges follow.
const HEAD: usize = 4 * 8;

/// The name of the format, as a number.
const FORMAT: u64 = u64::from_le_bytes(*b"ranges 1");

/// A hash at the end of a slot.
const HASH: usize = 32;

/// The most ranges in a slot. Of more, the first ones are noted: it never promises what is not there.
const MOST: usize = (SLOT - HEAD - HASH) / 16;

/// The journal of a part.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    counter: u64,
    size: u64,
}

impl Journal {
    /// Opens the journal of a part for a file of `size` bytes, and reads which are there.
    pub(super) fn open(path: &Path, size: u64) -> io::Result<(Self, Ranges)> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        let slots = [read(&file, 0, size), read(&file, 1, size)];
        let newest = slots.into_iter().flatten().max_by_key(|(counter, _)| *counter);
        let (counter, done) = newest.unwrap_or_default();
        Ok((Self { file, counter, size }, done))
    }

    /// Notes which bytes are there. They must be, before this is called.
    pub(super) fn note(&mut self, done: &Ranges) -> io::Result<()> {
        let count = done.iter().count().min(MOST);
        let mut slot = Vec::with_capacity(HEAD + 16 * count + HASH);
        for number in [FORMAT, self.counter + 1, self.size, count as u64] {
            slot.extend(number.to_le_bytes());
        }
        for range in done.iter().take(count) {
            slot.extend(range.start.to_le_bytes());
            slot.extend(range.end.to_le_bytes());
        }
        slot.extend(Sha256::digest(&slot));
        self.counter += 1;
        self.file.write_all_at(&slot, self.counter % 2 * SLOT as u64)
    }
}

/// Reads a slot; [`None`] if it is not whole, or for another size.
fn read(file: &File, slot: u64, size: u64) -> Option<(u64, Ranges)> {
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, slot * SLOT as u64).ok()?;
    let mut numbers = head.chunks_exact(8).map(number);
    let mut next = || numbers.next().flatten();
    if next()? != FORMAT {
        return None;
    }
    let (counter, of, count) = (next()?, next()?, next()?);
    let count = usize::try_from(count).ok().filter(|count| *count <= MOST)?;
    if of != size {
        return None;
    }
    let mut whole = vec![0; HEAD + 16 * count + HASH];
    file.read_exact_at(&mut whole, slot * SLOT as u64).ok()?;
    let (said, hash) = whole.split_at(HEAD + 16 * count);
    if Sha256::digest(said).as_slice() != hash {
        return None;
    }
    let mut done = Ranges::default();
    for range in said[HEAD..].chunks_exact(16) {
        done.add(number(&range[..8])?..number(&range[8..])?);
    }
    (done.end() <= size).then_some((counter, done))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, done) = Journal::open(&path, 1000).unwrap();
        assert!(done.is_empty());
        let mut done = Ranges::default();
        for at in [0, 100, 20, 500] {
            done.add(at..at + 10);
            journal.note(&done).unwrap();
            assert_eq!(Journal::open(&path, 1000).unwrap().1, done);
        }
        assert!(Journal::open(&path, 1001).unwrap().1.is_empty());
        // The last one was cut off in the midst of it.
        let mut bytes = fs::read(&path).unwrap();
        let last = usize::try_from(journal.counter % 2).unwrap() * SLOT;
        bytes[last + HEAD + 3] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (mut journal, before) = Journal::open(&path, 1000).unwrap();
        assert_eq!(before.len(), 30);
        // The next one goes over it.
        journal.note(&done).unwrap();
        assert_eq!(Journal::open(&path, 1000).unwrap().1, done);
        for garbage in [&b""[..], b"garbage", &[0; 100_000], &[255; 100_000], &bytes[..40]] {
            fs::write(&path, garbage).unwrap();
            assert!(Journal::open(&path, 1000).unwrap().1.is_empty());
        }
    }

    #[test]
    fn more_ranges_than_there_is_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path, 100_000).unwrap();
        let mut done = Ranges::default();
        for at in 0..10_000 {
            done.add(at * 10..at * 10 + 1);
        }
        journal.note(&done).unwrap();
        assert_eq!(Journal::open(&path, 100_000).unwrap().1.len(), MOST as u64);
    }
}
