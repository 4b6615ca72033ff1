//! Which bytes of a file are there, which are on their way, and which nobody fetches yet.
//!
//! Pieces are handed out from the front, so that the hash can follow; they become smaller towards the end, so that the
//! last ones end together. A piece that would hold up the end is cut in two.

use std::time::{Duration, Instant};

use super::ranges::Ranges;

/// Pieces are at most this many times the smallest. Longer ones save no more round trips worth it, and would let the hash
/// fall behind.
const LARGEST: u64 = 4;

/// A piece that would take longer than this to its end is worth a second connection, once there is nothing else to do.
const SLOW: Duration = Duration::from_millis(1500);

/// A piece that would take so many times longer is taken from its connection as a whole.
const HOPELESS: u32 = 10;

/// A part of the file that one connection fetches.
pub(super) type PieceId = u64;

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

/// The bytes of one file.
#[derive(Debug)]
pub(super) struct Plan {
    /// [`None`]: only the end of the answer will tell.
    size: Option<u64>,
    done: Ranges,
    todo: Ranges,
    active: Vec<Piece>,
    next: PieceId,
    smallest: u64,
}

/// What is left of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Rest {
    pub(super) fn is_empty(self) -> bool {
        self.at >= self.end
    }
}

impl Plan {
    /// A plan for a file of `size` bytes of which `done` are there.
    pub(super) fn new(size: Option<u64>, done: Ranges, smallest: u64) -> Self {
        Self {
            size,
            todo: done.missing(size.unwrap_or(u64::MAX)),
            done,
            active: Vec::new(),
            next: 0,
            smallest: smallest.max(1),
        }
    }

    pub(super) fn done(&self) -> &Ranges {
        &self.done
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether all bytes are there.
    pub(super) fn is_complete(&self) -> bool {
        self.size == Some(self.done.len())
    }

    /// Whether there are bytes that nobody fetches yet.
    pub(super) fn has_unclaimed(&self) -> bool {
        !self.todo.is_empty()
    }

    /// The next piece for one of `connections` connections. With one connection it is all up to the next gap.
    pub(super) fn claim(&mut self, connections: usize) -> Option<(PieceId, Rest)> {
        let length = match connections {
            0 | 1 => u64::MAX,
            several => {
                let share = self.todo.len() / (2 * several as u64);
                share.clamp(self.smallest, self.smallest.saturating_mul(LARGEST))
            }
        };
        let mut range = self.todo.take_first(length)?;
        // A remnant is not worth a request of its own.
        if length < u64::MAX && range.end - range.start == length {
            let next = self.todo.iter().next().cloned();
            if let Some(next) = next.filter(|next| next.start == range.end && next.end - next.start < self.smallest / 2)
            {
                range.end = next.end;
                self.todo.take_first(u64::MAX);
            }
        }
        Some(self.start(range.start, range.end, SLOW))
    }

    /// Makes a new piece of what the slowest connection has still before it: of the second half, or of all of it where
    /// nothing is to be hoped for any more.
    pub(super) fn cut_slowest(&mut self, now: Instant) -> Option<(PieceId, Rest)> {
        let unfinished = self
            .active
            .iter_mut()
            .filter(|piece| piece.at < piece.end && piece.end < u64::MAX);
        let slowest = unfinished.max_by_key(|piece| piece.left(now))?;
        let left = slowest.left(now);
        if left < slowest.patience {
            return None;
        }
        let hopeless = left >= slowest.patience * HOPELESS || slowest.end - slowest.at < self.smallest / 8;
        let from = if hopeless {
            slowest.at
        } else {
            slowest.at + (slowest.end - slowest.at) / 2
        };
        let end = std::mem::replace(&mut slowest.end, from);
        // A server that is slow to answer must not be asked over and over without ever being heard.
        let patience = slowest.patience * 2;
        Some(self.start(from, end, patience))
    }

    fn start(&mut self, at: u64, end: u64, patience: Duration) -> (PieceId, Rest) {
        let id = self.next;
        self.next += 1;
        self.active.push(Piece {
            id,
            began: Instant::now(),
            start: at,
            at,
            end,
            patience,
        });
        (id, Rest { at, end })
    }

    /// What is left of a piece, the end of which may have been moved.
    pub(super) fn rest(&self, id: PieceId) -> Rest {
        let piece = self.active.iter().find(|piece| piece.id == id);
        piece.map_or(Rest { at: 0, end: 0 }, |piece| Rest {
            at: piece.at,
            end: piece.end,
        })
    }

    /// Notes that the next `count` bytes of a piece are on the disk, and says what is left of it.
    pub(super) fn advance(&mut self, id: PieceId, count: u64) -> Rest {
        let Some(piece) = self.active.iter_mut().find(|piece| piece.id == id) else {
            return Rest { at: 0, end: 0 };
        };
        let from = piece.at;
        piece.at = from.saturating_add(count).min(piece.end);
        let rest = Rest {
            at: piece.at,
            end: piece.end,
        };
        self.done.add(from..rest.at);
        rest
    }

    /// Ends a piece. What is left of it is for somebody else.
    pub(super) fn release(&mut self, id: PieceId) {
        if let Some(index) = self.active.iter().position(|piece| piece.id == id) {
            let piece = self.active.swap_remove(index);
            self.todo.add(piece.at..piece.end);
        }
    }

    /// Forgets all bytes after the first gap, and all pieces: they will come in one go.
    pub(super) fn keep_front(&mut self) {
        self.done = Ranges::of(0..self.done.front());
        self.todo = self.done.missing(self.size.unwrap_or(u64::MAX));
        self.active.clear();
    }

    /// The end came, and with it the size.
    pub(super) fn end_at(&mut self, size: u64) {
        self.size = Some(size);
        self.active.clear();
        self.todo = self.done.missing(size);
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
mod tests {
    use super::*;

    #[test]
    fn pieces_come_from_the_front_and_get_smaller() {
        let mut plan = Plan::new(Some(1000), Ranges::of(0..100), 10);
        let mut lengths = Vec::new();
        let mut at = 100;
        while let Some((id, rest)) = plan.claim(4) {
            assert_eq!(rest.at, at);
            at = rest.end;
            lengths.push(rest.end - rest.at);
            assert!(plan.advance(id, rest.end - rest.at).is_empty());
            plan.release(id);
        }
        assert_eq!(lengths[..3], [40, 40, 40]);
        assert!(lengths.is_sorted_by(|a, b| a >= b) || lengths.last().is_some_and(|last| *last < 15));
        assert!(plan.is_complete());
        assert_eq!(plan.done().front(), 1000);
    }

    #[test]
    fn what_is_given_back_is_handed_out_again() {
        let mut plan = Plan::new(Some(100), Ranges::default(), 50);
        let (first, rest) = plan.claim(2).unwrap();
        assert_eq!(rest, Rest { at: 0, end: 50 });
        assert_eq!(plan.advance(first, 20), Rest { at: 20, end: 50 });
        plan.release(first);
        let (_, rest) = plan.claim(1).unwrap();
        assert_eq!(rest, Rest { at: 20, end: 100 });
        assert!(!plan.has_unclaimed());
    }

    #[test]
    fn a_slow_piece_is_cut_in_two() {
        let mut plan = Plan::new(Some(1000), Ranges::default(), 100);
        let (slow, _) = plan.claim(1).unwrap();
        plan.advance(slow, 200);
        assert_eq!(plan.cut_slowest(Instant::now()), None);
        let later = Instant::now() + Duration::from_secs(3);
        let (second, rest) = plan.cut_slowest(later).unwrap();
        assert_eq!(rest, Rest { at: 600, end: 1000 });
        assert_eq!(plan.rest(slow), Rest { at: 200, end: 600 });
        // The first goes no further than its new end.
        assert!(plan.advance(slow, 500).is_empty());
        assert!(plan.advance(second, 400).is_empty());
        assert!(plan.is_complete());
    }

    #[test]
    fn a_hopeless_piece_is_taken_away() {
        let mut plan = Plan::new(Some(1000), Ranges::default(), 100);
        let (slow, _) = plan.claim(1).unwrap();
        plan.advance(slow, 10);
        let later = Instant::now() + Duration::from_secs(3);
        let (second, rest) = plan.cut_slowest(later).unwrap();
        assert_eq!(rest, Rest { at: 10, end: 1000 });
        assert!(plan.rest(slow).is_empty());
        // The second has twice the time for its first byte.
        assert_eq!(plan.cut_slowest(Instant::now() + SLOW), None);
        assert!(plan.cut_slowest(Instant::now() + SLOW * 2).is_some());
        assert!(plan.rest(second).is_empty());
    }

    #[test]
    fn a_size_that_only_the_end_tells() {
        let mut plan = Plan::new(None, Ranges::default(), 100);
        let (id, _) = plan.claim(1).unwrap();
        plan.advance(id, 70);
        assert!(!plan.is_complete());
        plan.end_at(70);
        assert!(plan.is_complete());
    }
}
