//! Hands the pieces of a file to connections until all are there.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};

use super::connection::{Outcome, fetch_piece};
use super::error::{FetchError, Trouble};
use super::gate::PACE;
use super::plan::PieceId;
use super::transfer::{Active, Transfer};

impl Transfer {
    /// Fetches what is missing. Every connection has ended when this does.
    pub(super) async fn run(self: &Arc<Self>) -> Result<(), Trouble> {
        let mut connections = JoinSet::new();
        let result = self.drive(&mut connections).await;
        self.end(&mut connections).await;
        result
    }

    /// Ends all connections, and waits for what they are writing.
    async fn end(self: &Arc<Self>, connections: &mut JoinSet<Result<Outcome, Trouble>>) {
        connections.shutdown().await;
        self.written().await;
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
                    Outcome::Done => self.do_with_more(),
                    Outcome::GivenBack => {}
                    Outcome::RangesIgnored => self.whole_file_only(connections).await,
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

    fn start(
        self: &Arc<Self>,
        connections: &mut JoinSet<Result<Outcome, Trouble>>,
        id: PieceId,
        permit: OwnedSemaphorePermit,
    ) {
        connections.spawn(fetch_piece(Active::of(self), id, permit));
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
    async fn whole_file_only(self: &Arc<Self>, connections: &mut JoinSet<Result<Outcome, Trouble>>) {
        if self.is_alone() {
            return;
        }
        tracing::debug!("{} is not given in ranges", self.label);
        self.end(connections).await;
        self.go_alone();
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
