//! Hands the pieces of a file to connections until all are there.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use super::error::{Failure, FetchError};
use super::grid::PieceId;
use super::origin::rest as rest_time;
use super::pool::PACE;
use super::request::request;
use super::transfer::Transfer;

/// Progress that makes up for a failure, in bytes.
const PROGRESS: u64 = 64 << 10;

/// How a connection ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The piece is there.
    Done,
    /// What is left of the piece is for others: the server wants fewer connections.
    GivenBack,
    /// The server gives whole files only.
    RangesIgnored,
}

type Connections = JoinSet<Result<Outcome, Failure>>;

/// Fetches what is missing of a file. Every connection has ended when this does.
pub(super) async fn drive(transfer: &Arc<Transfer>) -> Result<(), Failure> {
    let mut connections = JoinSet::new();
    let result = hand_out(transfer, &mut connections).await;
    end(transfer, &mut connections).await;
    result
}

/// Ends all connections, and waits for what they are writing.
async fn end(transfer: &Transfer, connections: &mut Connections) {
    connections.shutdown().await;
    transfer.written().await;
}

async fn hand_out(transfer: &Arc<Transfer>, connections: &mut Connections) -> Result<(), Failure> {
    let limiter = &transfer.engine.limiter;
    let mut tick = tokio::time::interval(PACE);
    loop {
        let (wanted, complete, limit) = {
            let state = transfer.state();
            (state.grid.has_free(), state.grid.is_complete(), state.limit)
        };
        // A connection may be waiting for bytes that another one has brought meanwhile.
        if complete || (!wanted && connections.is_empty()) {
            return Ok(());
        }
        tokio::select! {
            permit = limiter.enter(), if wanted && connections.len() < limit => {
                let claimed = transfer.state().grid.claim(limit);
                if let Some(id) = claimed {
                    connections.spawn(fetch_piece(transfer.clone(), permit, id));
                }
            }
            Some(ended) = connections.join_next() => match outcome(ended)? {
                Outcome::Done => transfer.do_with_more(),
                Outcome::GivenBack => {}
                Outcome::RangesIgnored => if !transfer.state().alone {
                    tracing::debug!("{} is not given in ranges", transfer.label);
                    end(transfer, connections).await;
                    transfer.go_alone();
                }
            },
            now = tick.tick() => {
                limiter.observe(now.into_std());
                if !wanted {
                    help_the_slow(transfer, connections, now.into_std());
                }
            }
        }
    }
}

/// Nothing is left to begin: whoever would be last gets help.
fn help_the_slow(transfer: &Arc<Transfer>, connections: &mut Connections, now: Instant) {
    let limit = transfer.state().limit;
    while connections.len() < limit
        && let Some(permit) = transfer.engine.limiter.try_enter()
    {
        let piece = transfer.state().grid.cut_slowest(now);
        let Some(id) = piece else { return };
        connections.spawn(fetch_piece(transfer.clone(), permit, id));
    }
}

fn outcome(ended: Result<Result<Outcome, Failure>, JoinError>) -> Result<Outcome, Failure> {
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(FetchError::Cancelled.into()),
    })
}

/// A piece in work, given back to the grid whatever happens.
struct Held<'a> {
    transfer: &'a Transfer,
    id: PieceId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.transfer.state().grid.release(self.id);
    }
}

/// Fetches a piece: requests it, and requests the rest of it again when the answer breaks off. Ends early when the file has
/// to be begun again, or cannot be had.
async fn fetch_piece(transfer: Arc<Transfer>, permit: OwnedSemaphorePermit, id: PieceId) -> Result<Outcome, Failure> {
    // Given up after the piece: who has it next finds what was given back.
    let _permit = permit;
    let _held = Held {
        transfer: &transfer,
        id,
    };
    let retry = &transfer.engine.settings.retry;
    let mut delays = retry.delays();
    let mut came_to_all = transfer.received();
    loop {
        let before = transfer.rest(id);
        if before.is_empty() {
            return Ok(Outcome::Done);
        }
        transfer.rested().await;
        let location = transfer.location().await;
        let failure = match request(&transfer, id, &before, &location.resolved).await {
            Ok(true) => {
                delays.reset();
                continue;
            }
            Ok(false) => return Ok(Outcome::RangesIgnored),
            Err(failure) => failure,
        };
        let came = transfer.rest(id).start.saturating_sub(before.start);
        let progress = came >= PROGRESS.min((before.end - before.start) / 8).max(1);
        if progress {
            delays.reset();
        }
        let error = match failure {
            Failure::Final(_) => return Err(failure),
            // An address that has served its time is no failure; one that never works is.
            Failure::Expired(error) | Failure::Changed(error) => {
                // It may have been good for another connection, and be used up.
                let received = transfer.received();
                if std::mem::replace(&mut came_to_all, received) < received {
                    delays.reset();
                }
                let tried = delays.taken() > 0;
                let Some(delay) = delays.next() else {
                    return Err(error.into());
                };
                if tried {
                    sleep(delay).await;
                }
                transfer.renew(location.turn).await?;
                error
            }
            Failure::Again { error, after, busy } => {
                if busy && transfer.do_with_fewer(rest_time(retry.initial, after)) {
                    tracing::debug!("{error}; fewer connections");
                    return Ok(Outcome::GivenBack);
                }
                let Some(delay) = delays.next() else {
                    return Err(error.into());
                };
                if after.is_some() {
                    transfer.rest_for(rest_time(delay, after));
                } else if !progress {
                    sleep(delay).await;
                }
                error
            }
        };
        tracing::debug!("{error}; the rest of the range is requested again");
    }
}
