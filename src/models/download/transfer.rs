//! One file on its way from its server to its part: what its connections share.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::answer::Resolved;
use super::error::{Failure, FetchError};
use super::grid::{Grid, PieceId};
use super::origin::Origins;
use super::part::Part;
use super::pool::{Limiter, Pool};
use super::types::{Settings, Source};
use super::verify::Front;
use crate::config::Origin;
use crate::disk::blocking;
use crate::telemetry::metrics::{ModelSource, metrics};

/// The length of a block in bytes, which is written at once; smaller ones cost too many calls.
const BLOCK: u64 = 256 << 10;

/// What all files share.
pub(super) struct Engine {
    pub(super) settings: Settings,
    pub(super) pool: Pool,
    pub(super) origins: Origins,
    pub(super) limiter: Limiter,
    /// Files that are being filled at once.
    pub(super) files: Semaphore,
}

impl Engine {
    /// The length of a block in bytes: small beside the smallest range.
    pub(super) fn block(&self) -> u64 {
        (self.settings.smallest_range / 8).clamp(16 << 10, BLOCK)
    }
}

/// One file on its way.
pub(super) struct Transfer {
    pub(super) engine: Arc<Engine>,
    source: Source,
    /// The address that errors name.
    pub(super) label: String,
    pub(super) part: Part,
    state: Mutex<State>,
    front: Front,
    /// Where the bytes are, as of the last answer.
    location: tokio::sync::Mutex<Arc<Resolved>>,
    received: AtomicU64,
    /// What is being written.
    writes: TaskTracker,
}

/// What changes from one moment to the next.
pub(super) struct State {
    pub(super) grid: Grid,
    /// The most connections that the file may have now.
    pub(super) limit: usize,
    /// Whether it has one connection for good, from the first gap to the end.
    pub(super) alone: bool,
    /// No request before that.
    rest_until: Option<Instant>,
}

impl Transfer {
    /// A transfer into `part`, of which `done` says for each block whether it is there.
    pub(super) fn new(
        engine: Arc<Engine>,
        source: Source,
        resolved: Resolved,
        size: Option<u64>,
        (part, done): (Part, Vec<bool>),
        front: Front,
    ) -> Self {
        let grid = Grid::new(size, engine.block(), &done, engine.settings.smallest_range);
        front.reached(grid.front());
        Self {
            label: engine.origins.label(&source),
            source,
            part,
            state: Mutex::new(State {
                grid,
                limit: if size.is_some() { engine.limiter.most() } else { 1 },
                // Without a size there is nothing to part.
                alone: size.is_none(),
                rest_until: None,
            }),
            engine,
            front,
            location: tokio::sync::Mutex::new(Arc::new(resolved)),
            received: AtomicU64::new(0),
            writes: TaskTracker::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What is left of a piece.
    pub(super) fn rest(&self, id: PieceId) -> Range<u64> {
        self.state().grid.rest(id)
    }

    /// Bytes that came over the network.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes that came over the network.
    pub(super) fn count(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.engine.limiter.count(bytes);
        let source = match self.source.origin {
            Origin::Hub { .. } => ModelSource::Hub,
            Origin::Url(_) => ModelSource::Url,
        };
        metrics().model_came(source, bytes);
    }

    /// One connection more may be had, after there may have been too many.
    pub(super) fn do_with_more(&self) {
        let mut state = self.state();
        if !state.alone {
            state.limit = (state.limit + 1).min(self.engine.limiter.most());
        }
    }

    /// The server has too much to do: one connection fewer, if it is not the last, and no request for a while.
    pub(super) fn do_with_fewer(&self, rest: Duration) -> bool {
        let mut state = self.state();
        let active = state.grid.pieces();
        if active <= 1 || state.alone {
            return false;
        }
        state.limit = state.limit.min(active - 1);
        drop(state);
        self.rest_for(rest);
        true
    }

    /// From now on one connection, from the first gap to the end. None may be there.
    pub(super) fn go_alone(&self) {
        let mut state = self.state();
        state.alone = true;
        state.limit = 1;
        state.grid.keep_front();
    }

    /// No request of this file for a while.
    pub(super) fn rest_for(&self, time: Duration) {
        let until = Some(Instant::now() + time);
        let mut state = self.state();
        state.rest_until = state.rest_until.max(until);
    }

    /// Waits until the server may be asked again.
    pub(super) async fn rested(&self) {
        loop {
            let until = self.state().rest_until;
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }

    /// Where the bytes are.
    pub(super) async fn location(&self) -> Arc<Resolved> {
        self.location.lock().await.clone()
    }

    /// Asks again where the bytes are, since this answer is no longer good. Once for all connections: those that come later
    /// find the new one.
    pub(super) async fn renew(&self, old: &Arc<Resolved>) -> Result<(), Failure> {
        let mut location = self.location.lock().await;
        if Arc::ptr_eq(&location, old) {
            let resolved = self.engine.origins.resolve(&self.source, old.commit.as_deref()).await?;
            if !old.is_same(&resolved) {
                return Err(self.changed());
            }
            *location = Arc::new(resolved);
        }
        Ok(())
    }

    /// There is another version of the file than before.
    pub(super) fn changed(&self) -> Failure {
        let message = format!("{} changes while it is being fetched", self.label);
        Failure::Changed(FetchError::told(message, None))
    }

    /// Waits for what is being written.
    pub(super) async fn written(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Writes the next bytes of a piece, and says what is left of it. Gives the buffer back, empty.
    pub(super) async fn write(
        self: &Arc<Self>,
        id: PieceId,
        mut bytes: Vec<u8>,
    ) -> Result<(Range<u64>, Vec<u8>), FetchError> {
        let (this, writing) = (self.clone(), self.writes.token());
        blocking(move || {
            let _writing = writing;
            // The piece may have become shorter, or be no longer there.
            let rest = this.rest(id);
            bytes.truncate(usize::try_from(rest.end.saturating_sub(rest.start)).unwrap_or(usize::MAX));
            this.part.write(&bytes, rest.start)?;
            let mut state = this.state();
            let before = state.grid.front();
            let whole = state.grid.advance(id, bytes.len() as u64);
            let (front, rest) = (state.grid.front(), state.grid.rest(id));
            drop(state);
            this.part.note(whole);
            if front > before {
                this.front.reached(front);
            }
            bytes.clear();
            Ok((rest, bytes))
        })
        .await
    }
}
