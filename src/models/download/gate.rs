//! How many connections are open at once, over all files.
//!
//! It begins with a few and doubles as long as that brings more bytes a second, up to what the settings allow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at the start. A CDN gives 20 to 80 MB/s on each.
const FIRST: usize = 16;

/// How often the pace is looked at.
pub(super) const PACE: Duration = Duration::from_millis(250);

/// Doubling the connections is worth it while the pace grows by this factor.
const GAIN: f64 = 1.15;

/// Hands out connections.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Arc<Semaphore>,
    received: AtomicU64,
    pace: Mutex<Pace>,
    most: usize,
}

#[derive(Debug)]
struct Pace {
    open: usize,
    since: Instant,
    received: u64,
    /// The best pace so far, in bytes a second.
    best: f64,
}

impl Gate {
    /// A gate for at most `most` connections.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        let open = FIRST.min(most);
        Self {
            permits: Arc::new(Semaphore::new(open)),
            received: AtomicU64::new(0),
            pace: Mutex::new(Pace {
                open,
                since: Instant::now(),
                received: 0,
                best: 0.0,
            }),
            most,
        }
    }

    /// The most connections there may ever be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Waits for a connection. In the order of asking, so that all files get their share.
    pub(super) async fn enter(&self) -> OwnedSemaphorePermit {
        match self.permits.clone().acquire_owned().await {
            Ok(permit) => permit,
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// A connection, if one is free.
    pub(super) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Counts bytes that came.
    pub(super) fn count(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Opens more connections if that has helped so far. To be called now and then.
    pub(super) fn observe(&self, now: Instant) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(pace.since);
        if passed < PACE {
            return;
        }
        let received = self.received.load(Ordering::Relaxed);
        let rate = (received - pace.received) as f64 / passed.as_secs_f64();
        pace.since = now;
        pace.received = received;
        let all_in_use = self.permits.available_permits() == 0;
        if !all_in_use || rate <= pace.best * GAIN {
            return;
        }
        pace.best = rate;
        let more = pace.open.min(self.most - pace.open);
        pace.open += more;
        self.permits.add_permits(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_as_long_as_it_helps() {
        let gate = Gate::new(64);
        let mut held = Vec::new();
        let start = Instant::now();
        let mut steps = Vec::new();
        for (tick, bytes) in (1..).zip([100_u64, 200, 400, 400]) {
            while let Some(permit) = gate.try_enter() {
                held.push(permit);
            }
            steps.push(held.len());
            gate.count(bytes);
            gate.observe(start + tick * 2 * PACE);
        }
        assert_eq!(steps, [16, 32, 64, 64]);
    }

    #[tokio::test]
    async fn stays_where_more_do_not_help() {
        let gate = Gate::new(64);
        let mut held = Vec::new();
        let start = Instant::now();
        for tick in 1..6 {
            while let Some(permit) = gate.try_enter() {
                held.push(permit);
            }
            gate.count(100);
            gate.observe(start + tick * 2 * PACE);
        }
        assert_eq!(held.len(), 32);
    }
}
