//! The connections of a file: each fetches a piece of it, and requests the rest of the piece again when an answer breaks
//! off, until all pieces are there.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderValue, IF_RANGE, RANGE};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use super::answer::{Resolved, content_range, is_web_page, length, refusal, validator, within};
use super::error::{Failure, FetchError};
use super::grid::PieceId;
use super::origin::rest as rest_time;
use super::pool::{Answer, PACE};
use super::transfer::Transfer;

/// Bytes wait no longer than this to be written.
const LINGER: Duration = Duration::from_millis(100);

/// How long the end of an answer is waited for whose bytes have all come.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

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
            Some(ended) = connections.join_next() => match ended.unwrap_or_else(without_end)? {
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

fn without_end(error: JoinError) -> Result<Outcome, Failure> {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(FetchError::Cancelled.into()),
    }
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
        let failure = match request(&transfer, id, &before, &location).await {
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
                transfer.renew(&location).await?;
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

/// The body of an answer, and where it belongs.
struct Body {
    answer: Answer,
    /// The place of its first byte.
    at: u64,
    /// The place after its last byte, where it is told.
    end: Option<u64>,
    /// Where the file should end, if the answer itself does not tell where it does.
    open: Option<u64>,
}

/// Requests what is left of a piece and writes it. False: the server gives whole files only.
async fn request(
    transfer: &Arc<Transfer>,
    id: PieceId,
    rest: &Range<u64>,
    resolved: &Resolved,
) -> Result<bool, Failure> {
    let mut headers = resolved.asking_for(rest);
    if headers.contains_key(RANGE) {
        let validator = resolved.validator.as_deref().map(HeaderValue::try_from);
        headers.extend(validator.and_then(Result::ok).map(|validator| (IF_RANGE, validator)));
    }
    let (pool, stall) = (&transfer.engine.pool, transfer.engine.settings.stall);
    let answer = pool.get(&resolved.url, headers, &transfer.label, stall).await?;
    match open(transfer, rest, resolved, answer)? {
        Some(body) => receive(transfer, id, rest.clone(), body).await.map(|()| true),
        None => Ok(false),
    }
}

/// Looks at the head of an answer: does it give what was asked for? [`None`]: it gives the whole file, and other
/// connections have parts of it.
fn open(transfer: &Transfer, rest: &Range<u64>, resolved: &Resolved, answer: Answer) -> Result<Option<Body>, Failure> {
    let url = &transfer.label;
    let (status, headers) = (answer.status, &answer.headers);
    let contradiction = |why: String| {
        let message = format!("{url} gives an answer that cannot be right: {why}");
        Err(Failure::again(FetchError::told(message, None)))
    };
    let (size, alone) = {
        let state = transfer.state();
        (state.grid.size(), state.alone)
    };
    let (at, end, open) = match status.as_u16() {
        206 => {
            check_version(transfer, resolved, headers)?;
            let Some(range) = content_range(headers) else {
                return contradiction("a part of a file that does not say which".to_owned());
            };
            let Some((at, end)) = range.part.filter(|(at, end)| *at == rest.start && *end <= rest.end) else {
                return contradiction(format!("another range than {}-{}", rest.start, rest.end - 1));
            };
            check_size(transfer, size, range.total)?;
            if let Some(length) = length(headers).filter(|length| *length != end - at) {
                return contradiction(format!("{length} bytes for the range {at}-{}", end - 1));
            }
            (at, Some(end), None)
        }
        200 => {
            check_version(transfer, resolved, headers)?;
            if is_web_page(headers) && resolved.validator.is_some() {
                let error = FetchError::web_page(url, resolved.token.is_some());
                return Err(Failure::Expired(error));
            }
            check_size(transfer, size, length(headers))?;
            let whole = rest.start == 0 && size.is_none_or(|size| rest.end >= size);
            if !whole && !alone {
                return Ok(None);
            }
            let told = length(headers);
            (0, told.or(size), size.filter(|_| told.is_none()))
        }
        // The address moved on, or the file has become shorter.
        status @ (416 | 300..400) => {
            return Err(Failure::Expired(FetchError::status(url, status)));
        }
        code => {
            let expires = resolved.signed && matches!(code, 400 | 401 | 403 | 404 | 410);
            return Err(match refusal(status, headers, url, resolved.token.is_some()) {
                Failure::Final(error) if expires => Failure::Expired(error),
                other => other,
            });
        }
    };
    Ok(Some(Body { answer, at, end, open }))
}

/// Is it still the same file?
fn check_version(transfer: &Transfer, resolved: &Resolved, headers: &HeaderMap) -> Result<(), Failure> {
    let (Some(known), Some(now)) = (&resolved.validator, validator(headers)) else {
        return Ok(());
    };
    // A tag and a time tell nothing of each other: not each answer has both.
    let is_tag = |validator: &str| validator.starts_with('"');
    if *known == now || is_tag(known) != is_tag(&now) {
        return Ok(());
    }
    Err(transfer.changed())
}

fn check_size(transfer: &Transfer, size: Option<u64>, said: Option<u64>) -> Result<(), Failure> {
    match size.zip(said).filter(|(expected, got)| expected != got) {
        None => Ok(()),
        Some((expected, got)) => {
            let error = FetchError::wrong_size(&transfer.label, expected, got);
            Err(Failure::Changed(error))
        }
    }
}

/// The file is there as far as `at`: an answer that goes on is of another file than was spoken of, and would be cut.
async fn see_end(transfer: &Transfer, body: &mut Body, at: u64) -> Result<(), Failure> {
    let Some(size) = body.open.filter(|size| *size <= at) else {
        return Ok(());
    };
    let mut more = Vec::new();
    let reading = body.answer.read(&mut more, 1);
    let patience = transfer.engine.settings.stall.min(LAST_PATIENCE);
    // All of it has come, however the connection ends.
    if size == at && !matches!(within(patience, &transfer.label, reading).await, Ok(Ok(1..))) {
        return Ok(());
    }
    let message = format!(
        "{} sends more than the {size} bytes that it should have",
        transfer.label
    );
    Err(FetchError::told(message, None).into())
}

/// Writes a body until the piece is full. What came before it broke off is written too.
async fn receive(transfer: &Arc<Transfer>, id: PieceId, mut rest: Range<u64>, mut body: Body) -> Result<(), Failure> {
    let stall = transfer.engine.settings.stall;
    let block = transfer.engine.block();
    // The next byte of the body; those of the piece that are not written yet, and since when.
    let mut at = body.at;
    let mut waiting = Vec::with_capacity(usize::try_from(block).unwrap_or_default());
    let mut since = Instant::now();
    let ended = loop {
        if waiting.is_empty() {
            since = Instant::now();
        }
        // Up to the end of a block.
        let room = block - (rest.start + waiting.len() as u64) % block;
        let reading = body
            .answer
            .read(&mut waiting, usize::try_from(room).unwrap_or(usize::MAX));
        let count = match within(stall, &transfer.label, reading).await {
            Ok(Ok(0)) => break None,
            Ok(Ok(count)) => count as u64,
            Ok(Err(why)) => break Some(Failure::broken(&transfer.label, &why)),
            Err(stalled) => break Some(stalled),
        };
        transfer.count(count);
        if at < rest.start {
            // The server began before the piece, and nothing else is waiting.
            let before = usize::try_from(rest.start - at).unwrap_or(usize::MAX);
            waiting.drain(..before.min(waiting.len()));
        }
        at += count;
        let next = rest.start + waiting.len() as u64;
        let due = count >= room || next >= rest.end || since.elapsed() >= LINGER;
        if due && !waiting.is_empty() {
            (rest, waiting) = transfer.write(id, waiting).await?;
            if rest.is_empty() {
                return see_end(transfer, &mut body, at).await;
            }
        }
    };
    if !waiting.is_empty() {
        (rest, _) = transfer.write(id, waiting).await?;
    }
    if rest.is_empty() {
        return Ok(());
    }
    match ended {
        Some(failure) => Err(failure),
        // Only the end of this answer tells how long the file is.
        None if rest.end == u64::MAX => {
            transfer.state().grid.end_at(rest.start);
            Ok(())
        }
        None if body.end.is_some_and(|end| at >= end && end > body.at) => Ok(()),
        None => Err(Failure::broken(&transfer.label, &format!("it ended after {at} bytes"))),
    }
}
