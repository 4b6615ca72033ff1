//! One request for a piece of a file, and what its answer brings.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, IF_RANGE, RANGE};

use super::answer::{Resolved, content_range, is_web_page, length, refusal, validator, within};
use super::error::{Failure, FetchError};
use super::grid::PieceId;
use super::pool::Answer;
use super::transfer::Transfer;

/// Bytes wait no longer than this to be written.
const LINGER: Duration = Duration::from_millis(100);

/// The body of an answer, and where it belongs.
struct Body {
    answer: Answer,
    /// The place of its first byte.
    at: u64,
    /// The place after its last byte, where it is told.
    end: Option<u64>,
}

/// Requests what is left of a piece and writes it. False: the server gives whole files only.
pub(super) async fn request(
    transfer: &Arc<Transfer>,
    id: PieceId,
    rest: &Range<u64>,
    resolved: &Resolved,
) -> Result<bool, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if rest.end < u64::MAX {
        let range = HeaderValue::try_from(format!("bytes={}-{}", rest.start, rest.end - 1));
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
    let engine = &transfer.engine;
    let answer = engine
        .pool
        .get(&resolved.url, headers, &transfer.label, engine.settings.stall);
    match open(transfer, rest, resolved, answer.await?)? {
        Some(body) => receive(transfer, id, rest.clone(), body).await.map(|()| true),
        None => Ok(false),
    }
}

/// Looks at the head of an answer: does it give what was asked for? [`None`]: it gives the whole file, and other
/// connections have parts of it.
fn open(transfer: &Transfer, rest: &Range<u64>, resolved: &Resolved, answer: Answer) -> Result<Option<Body>, Failure> {
    let url = || transfer.label.clone();
    let (status, headers) = (answer.status, &answer.headers);
    let contradiction = |why: String| Err(Failure::again(FetchError::Contradiction { url: url(), why }));
    let (size, alone) = {
        let state = transfer.state();
        (state.grid.size(), state.alone)
    };
    let (at, end) = match status.as_u16() {
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
            (at, Some(end))
        }
        200 => {
            check_version(transfer, resolved, headers)?;
            if is_web_page(headers) && resolved.validator.is_some() {
                return Err(Failure::Expired(FetchError::WebPage {
                    url: url(),
                    token: resolved.token.is_some(),
                }));
            }
            check_size(transfer, size, length(headers))?;
            let whole = rest.start == 0 && size.is_none_or(|size| rest.end >= size);
            if !whole && !alone {
                return Ok(None);
            }
            (0, length(headers).or(size))
        }
        // The address moved on, or the file has become shorter.
        status @ (416 | 300..400) => {
            return Err(Failure::Expired(FetchError::Status { url: url(), status }));
        }
        code => {
            let expires = resolved.signed && matches!(code, 400 | 401 | 403 | 404 | 410);
            return Err(
                match refusal(status, headers, &transfer.label, resolved.token.is_some()) {
                    Failure::Final(error) if expires => Failure::Expired(error),
                    other => other,
                },
            );
        }
    };
    Ok(Some(Body { answer, at, end }))
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
        Some((expected, got)) => Err(Failure::Changed(FetchError::WrongSize {
            url: transfer.label.clone(),
            expected,
            got,
        })),
    }
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
            Ok(Err(why)) => break Some(Failure::broken(&transfer.label, why)),
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
        Some(failure) => Err(failure),
        // Only the end of this answer tells how long the file is.
        None if rest.end == u64::MAX => {
            transfer.state().grid.end_at(rest.start);
            Ok(())
        }
        None if body.end.is_some_and(|end| at >= end && end > body.at) => Ok(()),
        None => Err(Failure::broken(&transfer.label, format!("it ended after {at} bytes"))),
    }
}
