//! One connection: requests a piece, and requests the rest of it again when the answer breaks off.

use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{content_range, is_web_page, length, refusal, validator};
use super::error::{FetchError, Trouble};
use super::origin::rest as rest_time;
use super::plan::{PieceId, Rest};
use super::transfer::{Active, Place, Transfer};
use super::wire::Answer;

/// Bytes are written in portions of this size; smaller ones cost too many calls.
const PORTION: usize = 256 << 10;

/// Bytes wait no longer than this to be written.
const LINGER: Duration = Duration::from_millis(100);

/// Progress that makes up for a failure, in bytes.
const PROGRESS: u64 = 64 << 10;

/// How a connection ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The piece is there.
    Done,
    /// What is left of the piece is for others: the server wants fewer connections.
    GivenBack,
    /// The server gives whole files only.
    RangesIgnored,
}

/// A piece in work, given back to the plan whatever happens.
struct Held<'a> {
    transfer: &'a Active,
    id: PieceId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.transfer.plan().release(self.id);
    }
}

/// Fetches a piece. Ends early when the file has to be begun anew, or cannot be had.
pub(super) async fn fetch_piece(
    transfer: Active,
    id: PieceId,
    permit: OwnedSemaphorePermit,
) -> Result<Outcome, Trouble> {
    let held = Held {
        transfer: &transfer,
        id,
    };
    let mut delays = transfer.engine.settings.retry.delays();
    let mut came_to_all = transfer.received();
    let outcome = loop {
        let before = transfer.plan().rest(id);
        if before.is_empty() {
            break Outcome::Done;
        }
        transfer.rested().await;
        let place = transfer.place().await;
        let trouble = match request(&transfer, id, before, &place).await {
            Ok(Outcome::Done) => {
                delays.reset();
                continue;
            }
            Ok(other) => break other,
            Err(trouble) => trouble,
        };
        let came = transfer.plan().rest(id).at - before.at;
        let progress = came >= PROGRESS.min((before.end - before.at) / 8).max(1);
        if progress {
            delays.reset();
        }
        let error = match trouble {
            Trouble::Final(_) => return Err(trouble),
            // An address that has served its time is no failure; one that never works is.
            Trouble::Expired(error) | Trouble::Changed(error) => {
                // It may have been good for another connection, and be used up.
                let received = transfer.received();
                if std::mem::replace(&mut came_to_all, received) < received {
                    delays.reset();
                }
                let tried = delays.taken() > 0;
                let Some(delay) = delays.next() else {
                    return Err(Trouble::Final(error));
                };
                if tried {
                    tokio::time::sleep(delay).await;
                }
                transfer.renew(place.turn).await?;
                error
            }
            Trouble::Again { error, after, busy } => {
                if busy && transfer.do_with_fewer() {
                    transfer.rest_for(rest_time(transfer.engine.settings.retry.initial, after));
                    tracing::debug!("{error}; fewer connections");
                    break Outcome::GivenBack;
                }
                let Some(delay) = delays.next() else {
                    return Err(Trouble::Final(error));
                };
                if after.is_some() {
                    transfer.rest_for(rest_time(delay, after));
                } else if !progress {
                    tokio::time::sleep(delay).await;
                }
                error
            }
        };
        tracing::debug!("{error}; the rest of the range is requested again");
    };
    drop(held);
    // Only now may somebody else have the connection: they find what was given back.
    drop(permit);
    Ok(outcome)
}

/// The body of an answer, and where it belongs.
struct Body {
    answer: Answer,
    /// The place of its first byte.
    at: u64,
    /// The place after its last byte, where it is told.
    end: Option<u64>,
}

/// Requests what is left of a piece and writes it.
async fn request(transfer: &Active, id: PieceId, rest: Rest, place: &Place) -> Result<Outcome, Trouble> {
    let resolved = &place.resolved;
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if rest.end < u64::MAX {
        let range = HeaderValue::try_from(format!("bytes={}-{}", rest.at, rest.end - 1));
        headers.extend(range.map(|range| (RANGE, range)));
        let validator = resolved.validator.as_deref().map(HeaderValue::try_from);
        headers.extend(validator.and_then(Result::ok).map(|validator| (IF_RANGE, validator)));
    }
    if let Some(token) = &resolved.token {
        // What is no header was refused when the token was first sent.
        if let Ok(mut token) = HeaderValue::try_from(format!("Bearer {}", token.reveal())) {
            token.set_sensitive(true);
            headers.insert(AUTHORIZATION, token);
        }
    }
    let stall = transfer.engine.settings.stall;
    let answer = transfer
        .engine
        .wire
        .get(&resolved.url, headers, stall)
        .await
        .map_err(|trouble| trouble.map(|error| error.of(&transfer.label)))?;
    match open(transfer, rest, place, answer)? {
        Some(body) => receive(transfer, id, rest, body).await.map(|()| Outcome::Done),
        None => Ok(Outcome::RangesIgnored),
    }
}

/// Looks at the head of an answer: does it give what was asked for? [`None`]: it gives the whole file, and other
/// connections have parts of it.
fn open(transfer: &Transfer, rest: Rest, place: &Place, answer: Answer) -> Result<Option<Body>, Trouble> {
    let url = || transfer.label.clone();
    let resolved = &place.resolved;
    let headers = &answer.headers;
    let status = answer.status;
    let contradiction = |why: String| Trouble::again(FetchError::Contradiction { url: url(), why });
    let size = transfer.plan().size();
    let (at, end) = match status.as_u16() {
        206 => {
            check_version(transfer, place, headers)?;
            let Some(range) = content_range(headers) else {
                return Err(contradiction("a part of a file that does not say which".to_owned()));
            };
            let Some((at, end)) = range.part.filter(|(at, end)| *at == rest.at && *end <= rest.end) else {
                return Err(contradiction(format!(
                    "another range than {}-{}",
                    rest.at,
                    rest.end - 1
                )));
            };
            check_size(transfer, size, range.total)?;
            if let Some(length) = length(headers).filter(|length| *length != end - at) {
                return Err(contradiction(format!("{length} bytes for the range {at}-{}", end - 1)));
            }
            (at, Some(end))
        }
        200 => {
            check_version(transfer, place, headers)?;
            if is_web_page(headers) && resolved.validator.is_some() {
                return Err(Trouble::Expired(FetchError::WebPage {
                    url: url(),
                    token: resolved.token.is_some(),
                }));
            }
            check_size(transfer, size, length(headers))?;
            let whole = rest.at == 0 && size.is_none_or(|size| rest.end >= size);
            if !whole && !transfer.is_alone() {
                return Ok(None);
            }
            (0, length(headers).or(size))
        }
        // The address moved on, or the file has become shorter.
        416 | 300..400 => {
            return Err(Trouble::Expired(FetchError::Status {
                url: url(),
                status: status.as_u16(),
            }));
        }
        _ => {
            let trouble = refusal(status, headers, &resolved.url, resolved.token.is_some());
            let trouble = trouble.map(|error| error.of(&transfer.label));
            let expires = resolved.signed && matches!(status.as_u16(), 400 | 401 | 403 | 404 | 410);
            return Err(match trouble {
                Trouble::Final(error) if expires => Trouble::Expired(error),
                other => other,
            });
        }
    };
    Ok(Some(Body { answer, at, end }))
}

/// Is it still the same file?
fn check_version(transfer: &Transfer, place: &Place, headers: &HeaderMap) -> Result<(), Trouble> {
    let (Some(known), Some(now)) = (&place.resolved.validator, validator(headers)) else {
        return Ok(());
    };
    // A tag and a time tell nothing of each other: not each answer has both.
    let is_tag = |validator: &str| validator.starts_with('"');
    if *known == now || is_tag(known) != is_tag(&now) {
        return Ok(());
    }
    Err(Trouble::Changed(FetchError::Changing {
        url: transfer.label.clone(),
    }))
}

fn check_size(transfer: &Transfer, size: Option<u64>, said: Option<u64>) -> Result<(), Trouble> {
    match (size, said) {
        (Some(expected), Some(got)) if expected != got => Err(Trouble::Changed(FetchError::WrongSize {
            url: transfer.label.clone(),
            expected,
            got,
        })),
        _ => Ok(()),
    }
}

/// Writes a body until the piece is full. What came before it broke off is written too.
async fn receive(transfer: &Active, id: PieceId, mut rest: Rest, mut body: Body) -> Result<(), Trouble> {
    let stall = transfer.engine.settings.stall;
    let portion = usize::try_from(transfer.engine.settings.smallest_range / 8).unwrap_or(PORTION);
    let portion = portion.clamp(16 << 10, PORTION);
    let url = || transfer.label.clone();
    // The next byte of the body; those of the piece that are not written yet, and since when.
    let mut at = body.at;
    let mut waiting = Vec::with_capacity(portion);
    let mut since = Instant::now();
    let ended = loop {
        let room = portion - waiting.len();
        if waiting.is_empty() {
            since = Instant::now();
        }
        let count = match tokio::time::timeout(stall, body.answer.read(&mut waiting, room)).await {
            Ok(Ok(0)) => break None,
            Ok(Ok(count)) => count as u64,
            Ok(Err(why)) => break Some(Trouble::again(FetchError::Request { url: url(), why })),
            Err(_) => {
                break Some(Trouble::again(FetchError::Stalled {
                    url: url(),
                    waited: stall,
                }));
            }
        };
        transfer.count(count);
        if at < rest.at {
            // The server began before the piece, and nothing else is waiting.
            let before = usize::try_from(rest.at - at).unwrap_or(usize::MAX);
            waiting.drain(..before.min(waiting.len()));
        }
        at += count;
        let full = rest.at + waiting.len() as u64 >= rest.end;
        if full || waiting.len() >= portion || (!waiting.is_empty() && since.elapsed() >= LINGER) {
            (rest, waiting) = transfer.write(id, waiting).await?;
            if rest.is_empty() {
                return Ok(());
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
        Some(trouble) => Err(trouble),
        // Only the end of this answer tells how long the file is.
        None if rest.end == u64::MAX => {
            transfer.plan().end_at(rest.at);
            Ok(())
        }
        None if body.end.is_some_and(|end| at >= end && end > body.at) => Ok(()),
        None => Err(Trouble::again(FetchError::Request {
            url: url(),
            why: format!("it ended after {at} bytes"),
        })),
    }
}
