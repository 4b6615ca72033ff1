//! How many log lines pass. RunPod throttles a worker that writes too much and drops what is over, and publishes no
//! figure (docs.runpod.io, serverless, logs); so we stay far below what a person can read, and say what was left out.

use std::time::Duration;

/// Most lines at once, and time between two lines after that: 200, then 50 a second.
const USUAL: (u32, Duration) = (200, Duration::from_millis(20));
/// The same for lines that are missed least: 100, then 20 a second.
const MINOR: (u32, Duration) = (100, Duration::from_millis(50));
/// The shortest time between two lines that say how many were left out.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// How much a line is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// Warnings and errors: these pass always.
    Always,
    /// What the worker says of its work.
    Usual,
    /// `ComfyUI`'s own lines, and those for debugging: these go first.
    Minor,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// It is written; before it, how many were left out, where that is to be said now.
    Passes { left_out: Option<u64> },
    /// It is left out, and counted.
    LeftOut,
}

/// Decides line by line. Times are since the limit's begin, and never go back.
#[derive(Debug)]
pub(super) struct RateLimit {
    usual: Bucket,
    minor: Bucket,
    left_out: u64,
    note_from: Duration,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            usual: Bucket::new(USUAL),
            minor: Bucket::new(MINOR),
            left_out: 0,
            note_from: Duration::ZERO,
        }
    }
}

impl RateLimit {
    /// What becomes of a line that comes at `now`.
    pub(super) fn line(&mut self, worth: Worth, now: Duration) -> Passage {
        let passes = match worth {
            Worth::Always => {
                self.usual.take(now);
                true
            }
            Worth::Usual => self.usual.take(now),
            Worth::Minor => self.minor.take(now),
        };
        if !passes {
            self.left_out += 1;
            return Passage::LeftOut;
        }
        let mut left_out = None;
        if self.left_out > 0 && now >= self.note_from {
            left_out = Some(std::mem::take(&mut self.left_out));
            self.note_from = now + NOTE_EVERY;
        }
        Passage::Passes { left_out }
    }
}

/// A bucket of tokens, kept as the time at which it will be full again.
#[derive(Debug)]
struct Bucket {
    every: Duration,
    /// How long it takes to fill it.
    depth: Duration,
    full_at: Duration,
}

impl Bucket {
    fn new((burst, every): (u32, Duration)) -> Self {
        Self {
            every,
            depth: every * burst,
            full_at: Duration::ZERO,
        }
    }

    /// Takes a token, if one is there.
    fn take(&mut self, now: Duration) -> bool {
        let full_at = self.full_at.max(now) + self.every;
        let is_there = full_at <= now + self.depth;
        if is_there {
            self.full_at = full_at;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(limit: &mut RateLimit, worth: Worth, lines: u32, now: Duration) -> usize {
        (0..lines)
            .filter(|_| limit.line(worth, now) != Passage::LeftOut)
            .count()
    }

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let mut limit = RateLimit::default();
        let start = Duration::from_secs(1000);
        assert_eq!(passed(&mut limit, Worth::Usual, 1000, start), 200);
        assert_eq!(
            passed(&mut limit, Worth::Usual, 1000, start + Duration::from_secs(1)),
            50
        );
        assert_eq!(
            passed(&mut limit, Worth::Usual, 1000, start + Duration::from_mins(10)),
            200
        );
    }

    #[test]
    fn minor_lines_take_no_room_from_the_others() {
        let mut limit = RateLimit::default();
        assert_eq!(passed(&mut limit, Worth::Minor, 1000, Duration::ZERO), 100);
        assert_eq!(passed(&mut limit, Worth::Minor, 1000, Duration::from_secs(1)), 20);
        assert_eq!(passed(&mut limit, Worth::Usual, 1000, Duration::from_secs(1)), 200);
    }

    #[test]
    fn warnings_pass_always_and_take_room() {
        let mut limit = RateLimit::default();
        assert_eq!(passed(&mut limit, Worth::Always, 1000, Duration::ZERO), 1000);
        assert_eq!(passed(&mut limit, Worth::Usual, 10, Duration::ZERO), 0);
        // A flood of them costs no more than the bucket holds.
        assert_eq!(passed(&mut limit, Worth::Usual, 1000, Duration::from_secs(1)), 50);
    }

    #[test]
    fn what_was_left_out_is_said_now_and_then_and_never_lost() {
        let mut limit = RateLimit::default();
        let mut said = Vec::new();
        let mut left_out = 0;
        // A flood of ten seconds, and one line long after it.
        let times = (0..10_000).map(Duration::from_millis);
        for now in times.chain([Duration::from_mins(1)]) {
            match limit.line(Worth::Usual, now) {
                Passage::LeftOut => left_out += 1,
                Passage::Passes { left_out: Some(lines) } => said.push((now, lines)),
                Passage::Passes { left_out: None } => {}
            }
        }
        assert_eq!(said.iter().map(|(_, lines)| lines).sum::<u64>(), left_out);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said.windows(2).all(|pair| pair[1].0 >= pair[0].0 + NOTE_EVERY),
            "{said:?}"
        );
    }
}
