//! One file on its way from its server to its part: what its connections share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::answer::Resolved;
use super::error::{FetchError, Trouble, file};
use super::gate::Gate;
use super::hash::Front;
use super::origin::Origins;
use super::part::Part;
use super::plan::{PieceId, Plan, Rest};
use super::types::{Settings, Source};
use super::wire::Wire;
use crate::disk::blocking;

/// What all files share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) settings: Settings,
    pub(super) wire: Wire,
    pub(super) origins: Origins,
    pub(super) gate: Gate,
    /// Files that are being filled at once.
    pub(super) files: tokio::sync::Semaphore,
}

/// One file on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) engine: Arc<Engine>,
    pub(super) source: Source,
    /// The address that errors name.
    pub(super) label: String,
    part: Part,
    plan: Mutex<Plan>,
    front: Option<Front>,
    place: tokio::sync::Mutex<Place>,
    /// The most connections that this file may have now.
    limit: AtomicUsize,
    /// Whether it has one connection for good.
    alone: AtomicBool,
    /// Connections it has.
    active: AtomicUsize,
    received: AtomicU64,
    /// No request before that.
    rest_until: Mutex<Option<Instant>>,
    /// Shared by those who write.
    writing: RwLock<()>,
}

/// Where the bytes are, as of the last answer.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) resolved: Arc<Resolved>,
    /// Counts the answers.
    pub(super) turn: u64,
}

impl Transfer {
    pub(super) fn new(
        engine: Arc<Engine>,
        source: Source,
        resolved: Resolved,
        part: Part,
        plan: Plan,
        front: Option<Front>,
    ) -> Self {
        let limit = engine.gate.most();
        Self {
            // Without a size there is nothing to part.
            alone: AtomicBool::new(plan.size().is_none()),
            label: engine.origins.label(&source),
            engine,
            source,
            part,
            plan: Mutex::new(plan),
            front,
            place: tokio::sync::Mutex::new(Place {
                resolved: Arc::new(resolved),
                turn: 0,
            }),
            limit: AtomicUsize::new(limit),
            active: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            rest_until: Mutex::new(None),
            writing: RwLock::new(()),
        }
    }

    pub(super) fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// Bytes that came over the network.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes that came over the network.
    pub(super) fn count(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.engine.gate.count(bytes);
    }

    /// The most connections that the file may have now.
    pub(super) fn limit(&self) -> usize {
        if self.is_alone() {
            return 1;
        }
        self.limit.load(Ordering::Relaxed).min(self.engine.gate.most())
    }

    /// One connection more may be had, after there may have been too many.
    pub(super) fn do_with_more(&self) {
        self.limit.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on one connection, from the first gap to the end. None may be there.
    pub(super) fn go_alone(&self) {
        self.alone.store(true, Ordering::Relaxed);
        self.plan().keep_front();
    }

    /// Whether the file has only one connection, for good.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// The server has too much to do: one connection fewer, if it is not the last.
    pub(super) fn do_with_fewer(&self) -> bool {
        let active = self.active.load(Ordering::Relaxed);
        if active <= 1 || self.is_alone() {
            return false;
        }
        self.limit.fetch_min(active - 1, Ordering::Relaxed);
        true
    }

    /// No request of this file for a while.
    pub(super) fn rest_for(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut rest = self.rest_until.lock().unwrap_or_else(PoisonError::into_inner);
        *rest = Some(rest.map_or(until, |earlier| earlier.max(until)));
    }

    /// Waits until the server may be asked again.
    pub(super) async fn rested(&self) {
        loop {
            let until = *self.rest_until.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => return,
            }
        }
    }

    /// Where the bytes are.
    pub(super) async fn place(&self) -> Place {
        self.place.lock().await.clone()
    }

    /// Asks anew where the bytes are, since the answer of that turn is no longer good. Once for all connections: those that
    /// come later find the new one.
    pub(super) async fn renew(&self, turn: u64) -> Result<Place, Trouble> {
        let mut place = self.place.lock().await;
        if place.turn == turn {
            let commit = place.resolved.commit.as_deref();
            let resolved = self
                .engine
                .origins
                .resolve(&self.source, commit, &self.engine.settings)
                .await?;
            if !place.resolved.is_same(&resolved) {
                return Err(Trouble::Changed(FetchError::Changing {
                    url: self.label.clone(),
                }));
            }
            *place = Place {
                resolved: Arc::new(resolved),
                turn: turn + 1,
            };
        }
        Ok(place.clone())
    }

    /// Waits for what is being written.
    pub(super) async fn written(self: &Arc<Self>) {
        let this = self.clone();
        blocking(move || drop(this.writing.write())).await;
    }

    /// Writes the next bytes of a piece, and says what is left of it. Gives the buffer back, empty.
    pub(super) async fn write(
        self: &Arc<Self>,
        id: PieceId,
        mut bytes: Vec<u8>,
    ) -> Result<(Rest, Vec<u8>), FetchError> {
        let this = self.clone();
        blocking(move || {
            let writing = this.writing.read();
            // The piece may have become shorter, or be no longer there.
            let rest = this.plan().rest(id);
            bytes.truncate(usize::try_from(rest.end - rest.at).unwrap_or(usize::MAX));
            if bytes.is_empty() {
                return Ok((rest, bytes));
            }
            this.part
                .write(&bytes, rest.at)
                .map_err(file("write to", this.part.path()))?;
            let length = bytes.len() as u64;
            bytes.clear();
            let (rest, front) = {
                let mut plan = this.plan();
                (plan.advance(id, length), plan.done().front())
            };
            if let Some(hash) = &this.front {
                hash.reached(front);
            }
            if this.part.is_flush_due(length) {
                let this = this.clone();
                tokio::task::spawn_blocking(move || this.part.flush());
            }
            drop(writing);
            Ok((rest, bytes))
        })
        .await
    }
}

/// A transfer in the hands of a connection, which is counted.
#[derive(Debug)]
pub(super) struct Active(Arc<Transfer>);

impl Active {
    pub(super) fn of(transfer: &Arc<Transfer>) -> Self {
        transfer.active.fetch_add(1, Ordering::Relaxed);
        Self(transfer.clone())
    }
}

impl std::ops::Deref for Active {
    type Target = Arc<Transfer>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
