//! Which blocks of a file are there, which are on their way, and which nobody fetches yet.
//!
//! A file is a grid of blocks of one length. A piece is a run of blocks that one connection fetches. Pieces are handed out
//! from the front, so that the hash can follow; they become smaller towards the end, so that the last ones end together. A
//! piece that would hold up the end is cut in two.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Pieces are at most this many times the smallest. Longer ones save no more round trips worth it, and would let the hash
/// fall behind.
const LARGEST: usize = 4;

/// A piece that would take longer than this to its end is worth a second connection, once there is nothing else to do.
const SLOW: Duration = Duration::from_millis(1500);

/// A piece that would take so many times longer is taken from its connection as a whole.
const HOPELESS: u32 = 10;

/// A part of the file that one connection fetches.
pub(super) type PieceId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Nobody fetches it yet.
    Free,
    /// It belongs to a piece.
    Taken,
    /// It is on the disk.
    Done,
}

#[derive(Debug)]
struct Piece {
    id: PieceId,
    began: Instant,
    start: u64,
    at: u64,
    end: u64,
    /// How long it may take to its end before it gets help.
    patience: Duration,
}

/// The blocks of one file.
#[derive(Debug)]
pub(super) struct Grid {
    /// [`None`]: only the end of the answer will tell. Until then the file is one endless block.
    size: Option<u64>,
    /// Of a block, in bytes; the last one may be shorter.
    length: u64,
    blocks: Vec<Block>,
    /// How many blocks from the first on are done without a gap.
    front: usize,
    /// Bytes of the blocks that are done.
    written: u64,
    pieces: Vec<Piece>,
    next: PieceId,
    /// The smallest piece worth a connection, in blocks.
    smallest: usize,
}

/// Of how many blocks a file consists.
pub(super) fn blocks_of(size: Option<u64>, length: u64) -> usize {
    size.map_or(1, |size| index(size.div_ceil(length)))
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Grid {
    /// A grid for a file of `size` bytes, for each block of which `done` says whether it is there.
    pub(super) fn new(size: Option<u64>, length: u64, done: &[bool], smallest: u64) -> Self {
        let state = |done: &bool| if *done { Block::Done } else { Block::Free };
        let mut grid = Self {
            size,
            length: if size.is_some() { length } else { u64::MAX },
            blocks: done.iter().map(state).collect(),
            front: 0,
            written: 0,
            pieces: Vec::new(),
            next: 0,
            smallest: index(smallest.div_ceil(length)).max(1),
        };
        let whole = (0..done.len()).filter(|block| done[*block]);
        grid.written = whole.map(|block| grid.end_of(block) - grid.start_of(block)).sum();
        grid.move_front();
        grid
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Bytes that are on the disk for good.
    pub(super) fn written(&self) -> u64 {
        self.size.map_or_else(|| self.front(), |_| self.written)
    }

    /// How many bytes from the first one on are there without a gap.
    pub(super) fn front(&self) -> u64 {
        match self.size {
            Some(_) => self.start_of(self.front),
            None => self.pieces.first().map_or(0, |piece| piece.at),
        }
    }

    /// Whether all bytes are there.
    pub(super) fn is_complete(&self) -> bool {
        self.size == Some(self.written)
    }

    /// Whether there are blocks that nobody fetches yet.
    pub(super) fn has_free(&self) -> bool {
        self.blocks.contains(&Block::Free)
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The next piece for one of `connections` connections. With one connection it is all up to the next gap.
    pub(super) fn claim(&mut self, connections: usize) -> Option<PieceId> {
        let is_free = |block: &&Block| **block == Block::Free;
        let first = self.blocks.iter().position(|block| *block == Block::Free)?;
        let most = match connections {
            0 | 1 => usize::MAX,
            several => {
                let share = self.blocks[first..].iter().filter(is_free).count() / (2 * several);
                share.clamp(self.smallest, self.smallest.saturating_mul(LARGEST))
            }
        };
        let after = first + self.blocks[first..].iter().take(most).take_while(is_free).count();
        self.blocks[first..after].fill(Block::Taken);
        Some(self.start(self.start_of(first)..self.end_of(after - 1), SLOW))
    }

    /// Makes a new piece of what the slowest connection has still before it: of the second half, or of all of it where
    /// nothing is to be hoped for any more.
    pub(super) fn cut_slowest(&mut self, now: Instant) -> Option<PieceId> {
        // Without a size there is nothing to cut.
        self.size?;
        let unfinished = self.pieces.iter_mut().filter(|piece| piece.at < piece.end);
        let slowest = unfinished.max_by_key(|piece| piece.left(now))?;
        let left = slowest.left(now);
        if left < slowest.patience {
            return None;
        }
        let middle = (slowest.at + (slowest.end - slowest.at) / 2).div_ceil(self.length) * self.length;
        let from = if left >= slowest.patience * HOPELESS || middle >= slowest.end {
            slowest.at / self.length * self.length
        } else {
            middle
        };
        let end = std::mem::replace(&mut slowest.end, from);
        // A server that is slow to answer must not be asked over and over without ever being heard.
        let patience = slowest.patience * 2;
        Some(self.start(from..end, patience))
    }

    fn start(&mut self, bytes: Range<u64>, patience: Duration) -> PieceId {
        let id = self.next;
        self.next += 1;
        self.pieces.push(Piece {
            id,
            began: Instant::now(),
            start: bytes.start,
            at: bytes.start,
            end: bytes.end,
            patience,
        });
        id
    }

    /// What is left of a piece, the end of which may have been moved; nothing of one that is no longer there.
    pub(super) fn rest(&self, id: PieceId) -> Range<u64> {
        let piece = self.pieces.iter().find(|piece| piece.id == id);
        piece.map_or(0..0, |piece| piece.at..piece.end)
    }

    /// Notes that the next `count` bytes of a piece are on the disk, and says which blocks are whole with them.
    pub(super) fn advance(&mut self, id: PieceId, count: u64) -> Range<usize> {
        let Some(piece) = self.pieces.iter_mut().find(|piece| piece.id == id) else {
            return 0..0;
        };
        let before = piece.at;
        piece.at += count;
        // Its end may have been moved to before what was being written.
        let at = piece.at.min(piece.end);
        let first = self.whole_before(before);
        let whole = first..self.whole_before(at).max(first);
        for block in whole.clone() {
            self.blocks[block] = Block::Done;
            self.written += self.end_of(block) - self.start_of(block);
        }
        self.move_front();
        whole
    }

    /// Ends a piece. Blocks that it has not filled are for somebody else.
    pub(super) fn release(&mut self, id: PieceId) {
        if let Some(place) = self.pieces.iter().position(|piece| piece.id == id) {
            let piece = self.pieces.swap_remove(place);
            for block in self.whole_before(piece.at)..self.whole_before(piece.end) {
                if self.blocks[block] == Block::Taken {
                    self.blocks[block] = Block::Free;
                }
            }
        }
    }

    /// Forgets all blocks after the first gap, and all pieces: they will come in one go.
    pub(super) fn keep_front(&mut self) {
        self.pieces.clear();
        self.blocks[self.front..].fill(Block::Free);
        self.written = self.front();
    }

    /// The end came, and with it the size.
    pub(super) fn end_at(&mut self, size: u64) {
        self.pieces.clear();
        self.blocks.fill(Block::Done);
        self.size = Some(size);
        self.written = size;
        self.move_front();
    }

    fn move_front(&mut self) {
        while self.blocks.get(self.front) == Some(&Block::Done) {
            self.front += 1;
        }
    }

    fn start_of(&self, block: usize) -> u64 {
        (block as u64)
            .saturating_mul(self.length)
            .min(self.size.unwrap_or(u64::MAX))
    }

    fn end_of(&self, block: usize) -> u64 {
        self.start_of(block + 1)
    }

    /// How many blocks end at this byte or before it.
    fn whole_before(&self, at: u64) -> usize {
        if self.size == Some(at) {
            return self.blocks.len();
        }
        index(at / self.length)
    }
}

impl Piece {
    /// The time to its end at the pace it has had.
    fn left(&self, now: Instant) -> Duration {
        let taken = now.saturating_duration_since(self.began);
        let came = self.at - self.start;
        if came == 0 {
            // Most likely still being connected; not slow until it has had its time.
            return if taken < self.patience {
                Duration::ZERO
            } else {
                Duration::MAX
            };
        }
        let seconds = taken.as_secs_f64() * (self.end - self.at) as f64 / came as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
#[path = "grid_tests.rs"]
mod tests;
