//! The bytes of one file, from its server to its part: hands pieces to connections until all are there.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};

use super::connection::{Outcome, fetch_piece};
use super::error::{FetchError, Trouble, file};
use super::gate::{Gate, PACE};
use super::hash::Front;
use super::origin::Origins;
use super::part::Part;
use super::plan::{PieceId, Plan, Rest};
use super::wire::Wire;
use super::{Settings, Source, blocking};
use crate::models::answer::Resolved;

/// What all files share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) settings: Settings,
    pub(super) wire: Wire,
    pub(super) origins: Origins,
    pub(super) gate: Gate,
    /// Files that are being filled at once.
    pub(super) files: tokio::sync::Semaphore,
    /// Xet, once a file wants it; [`None`]: it cannot be had.
    #[cfg(feature = "xet")]
    pub(super) xet: std::sync::OnceLock<Option<super::xet::Xet>>,
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

    /// Fetches what is missing. Every connection has ended when this does.
    pub(super) async fn run(self: &Arc<Self>) -> Result<(), Trouble> {
        #[cfg(feature = "xet")]
        super::by_xet::fetch(self).await?;
        let mut connections = JoinSet::new();
        let result = self.drive(&mut connections).await;
        self.end(&mut connections).await;
        result
    }

    /// Ends all connections, and waits for what they are writing.
    async fn end(self: &Arc<Self>, connections: &mut JoinSet<Result<Outcome, Trouble>>) {
        connections.shutdown().await;
        let this = self.clone();
        blocking(move || drop(this.writing.write())).await;
    }

    async fn drive(self: &Arc<Self>, connections: &mut JoinSet<Result<Outcome, Trouble>>) -> Result<(), Trouble> {
        let mut tick = tokio::time::interval(PACE);
        loop {
            let (wanted, complete) = {
                let plan = self.plan();
                (plan.has_unclaimed(), plan.is_complete())
            };
            // A connection may be waiting for bytes that another one has brought meanwhile.
            if complete || (!wanted && connections.is_empty()) {
                return Ok(());
            }
            let more = wanted && connections.len() < self.limit();
            tokio::select! {
                permit = self.engine.gate.enter(), if more => {
                    let piece = self.plan().claim(self.limit());
                    if let Some((id, _)) = piece {
                        self.start(connections, id, permit);
                    }
                }
                Some(ended) = connections.join_next() => match outcome(ended)? {
                    // One more again, after there may have been too many.
                    Outcome::Done => _ = self.limit.fetch_add(1, Ordering::Relaxed),
                    Outcome::GivenBack => {}
                    Outcome::RangesIgnored => self.go_alone(connections).await,
                },
                now = tick.tick() => {
                    self.engine.gate.observe(now.into_std());
                    if !wanted {
                        self.help_the_slow(connections, now.into_std());
                    }
                }
            }
        }
    }

    fn limit(&self) -> usize {
        if self.is_alone() {
            return 1;
        }
        self.limit.load(Ordering::Relaxed).min(self.engine.gate.most())
    }

    fn start(
        self: &Arc<Self>,
        connections: &mut JoinSet<Result<Outcome, Trouble>>,
        id: PieceId,
        permit: OwnedSemaphorePermit,
    ) {
        self.active.fetch_add(1, Ordering::Relaxed);
        connections.spawn(fetch_piece(Active(self.clone()), id, permit));
    }

    /// Nothing is left to begin: whoever would be last gets help.
    fn help_the_slow(self: &Arc<Self>, connections: &mut JoinSet<Result<Outcome, Trouble>>, now: Instant) {
        while connections.len() < self.limit()
            && let Some(permit) = self.engine.gate.try_enter()
        {
            let piece = self.plan().cut_slowest(now);
            let Some((id, _)) = piece else { return };
            self.start(connections, id, permit);
        }
    }

    /// The server gives whole files only: one connection from the first gap to the end.
    async fn go_alone(self: &Arc<Self>, connections: &mut JoinSet<Result<Outcome, Trouble>>) {
        if self.is_alone() {
            return;
        }
        tracing::debug!("{} is not given in ranges", self.label);
        self.end(connections).await;
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

fn outcome(ended: Result<Result<Outcome, Trouble>, JoinError>) -> Result<Outcome, Trouble> {
    match ended {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Trouble::Final(FetchError::CalledOff)),
        },
    }
}
