//! How long an engine was at work, up to now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Adds up the time in which at least one graph runs.
#[derive(Debug, Default)]
pub struct Busy(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The time until `since`.
    total: Duration,
    /// Graphs that run.
    running: u32,
    /// When the first of them began.
    since: Option<Instant>,
}

impl Busy {
    /// A graph runs until the guard is dropped.
    pub fn begin(busy: &Arc<Self>) -> BusyGuard {
        let mut inner = busy.0.lock();
        inner.running += 1;
        inner.since.get_or_insert_with(Instant::now);
        BusyGuard(Arc::clone(busy))
    }

    /// All of it until `now`.
    pub fn total(&self, now: Instant) -> Duration {
        let inner = self.0.lock();
        let running = inner.since.map(|since| now.saturating_duration_since(since));
        inner.total + running.unwrap_or_default()
    }

    fn end(&self) {
        let mut inner = self.0.lock();
        inner.running = inner.running.saturating_sub(1);
        if inner.running == 0
            && let Some(since) = inner.since.take()
        {
            inner.total += since.elapsed();
        }
    }
}

/// A graph that runs.
#[derive(Debug)]
pub struct BusyGuard(Arc<Busy>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_graphs_at_once_take_the_time_of_one() {
        let busy = Arc::new(Busy::default());
        let begun = Instant::now();
        let (first, second) = (Busy::begin(&busy), Busy::begin(&busy));
        std::thread::sleep(Duration::from_millis(10));
        drop(first);
        std::thread::sleep(Duration::from_millis(10));
        drop(second);
        let total = busy.total(Instant::now());
        assert!(
            total >= Duration::from_millis(20) && total <= begun.elapsed(),
            "{total:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(busy.total(Instant::now()), total);
    }
}
