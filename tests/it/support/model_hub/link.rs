//! How fast the servers send.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A pause that was too long is made good, if it was not longer than this.
const BURST: Duration = Duration::from_millis(20);
/// The largest piece that is written at once, in bytes.
const LARGEST_PIECE: u64 = 256 * 1024;

/// The network between the servers and their clients.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Link {
    /// Bytes a second on one connection.
    pub(crate) connection: Option<u64>,
    /// Bytes a second on all of them together.
    pub(crate) total: Option<u64>,
    /// Until a new connection is there, and until an answer begins.
    pub(crate) round_trip: Duration,
}

impl Link {
    /// How many bytes are written at once: as many as one connection sends in 10 ms.
    pub(super) fn piece(&self) -> u64 {
        self.connection
            .map_or(LARGEST_PIECE, |rate| (rate / 100).clamp(16 * 1024, LARGEST_PIECE))
    }
}

/// When the next bytes are due at a rate.
#[derive(Debug, Default)]
pub(super) struct Pace {
    due: Option<Instant>,
}

impl Pace {
    fn take(&mut self, bytes: u64, rate: u64) -> Instant {
        let now = Instant::now();
        let begin = self
            .due
            .map_or(now, |due| due.max(now.checked_sub(BURST).unwrap_or(now)));
        let due = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.due = Some(due);
        due
    }
}

/// The pace of one connection beside that of all.
pub(super) struct Paces {
    pub(super) own: Pace,
    pub(super) all: Arc<Mutex<Pace>>,
}

impl Paces {
    /// Waits until these bytes have arrived.
    pub(super) async fn wait(&mut self, link: Link, bytes: u64) {
        let own = link.connection.map(|rate| self.own.take(bytes, rate));
        let all = link
            .total
            .map(|rate| self.all.lock().expect("no panic").take(bytes, rate));
        if let Some(due) = own.max(all) {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}
