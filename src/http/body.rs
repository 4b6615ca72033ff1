//! Bodies in and out.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::error_response;
use crate::dialect::answer::Answer;
use crate::error::{ErrorKind, JobError};

/// How much of a body over the limit is still read, so that a client that sends first and reads later gets to see
/// the answer instead of a broken connection.
const READ_ON: usize = 512 * 1024 * 1024;

/// The longest wait for the next piece of a body. A client that begins a body and never ends it must not hold its
/// place in the queue.
const PIECE_TIME: Duration = Duration::from_secs(20);
/// The longest that a whole body may take: 64 MiB over 2 Mbit/s.
const WHOLE_TIME: Duration = Duration::from_mins(5);

/// Sends an answer, or the error in its place.
pub(super) fn respond(answer: Result<Answer, JobError>) -> Response {
    match answer {
        Ok(answer) => response(answer),
        Err(error) => error_response(&error),
    }
}

/// Sends an answer; its pieces go out as they are.
pub(super) fn response(answer: Answer) -> Response {
    let length = answer.length();
    let body = match <[Bytes; 1]>::try_from(answer.pieces) {
        Ok([whole]) => Body::from(whole),
        Err(pieces) => Body::from_stream(futures_util::stream::iter(pieces.into_iter().map(Ok::<_, Infallible>))),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

/// Bodies of at least this many bytes are read on a blocking thread: they hold images to decode.
const LARGE: usize = 128 * 1024;

/// Makes sense of a body, aside from the runtime if it is large.
pub(super) async fn parsed<T: Send + 'static>(
    bytes: Bytes,
    parse: impl FnOnce(&[u8]) -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    aside(bytes.len(), move || parse(&bytes)).await
}

/// Makes sense of something of so many bytes, aside from the runtime if that is much.
pub(super) async fn aside<T: Send + 'static>(
    length: usize,
    parse: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    if length < LARGE {
        return parse();
    }
    let parsed = tokio::task::spawn_blocking(parse).await;
    parsed.map_err(|error| JobError::internal(format!("the request could not be read: {error}")))?
}

/// Reads a whole body of at most `limit` bytes, from a client that keeps sending.
pub(super) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, JobError> {
    let read = read_whole(headers, body.into_data_stream(), limit);
    tokio::time::timeout(WHOLE_TIME, read)
        .await
        .unwrap_or_else(|_| Err(too_slow("The request body was not complete after", WHOLE_TIME)))
}

async fn read_whole(headers: &HeaderMap, mut stream: BodyDataStream, limit: usize) -> Result<Bytes, JobError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        // A client that asked first (`Expect: 100-continue`) has sent nothing yet, and need not.
        if !headers.contains_key(header::EXPECT) {
            read_on(&mut stream).await;
        }
        return Err(too_large(limit));
    }
    let mut whole = BytesMut::new();
    while let Some(piece) = next_piece(&mut stream).await? {
        if whole.len() + piece.len() > limit {
            read_on(&mut stream).await;
            return Err(too_large(limit));
        }
        // Only for a client that sends: an announced length alone costs nothing.
        if whole.is_empty() {
            whole.reserve(announced.unwrap_or_default());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

async fn next_piece(stream: &mut BodyDataStream) -> Result<Option<Bytes>, JobError> {
    match tokio::time::timeout(PIECE_TIME, stream.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(Some(Err(error))) => {
            Err(JobError::invalid(format!("The request body broke off: {error}")).hint("Send it again."))
        }
        Err(_) => Err(too_slow("The request body stopped coming: nothing for", PIECE_TIME)),
    }
}

async fn read_on(stream: &mut BodyDataStream) {
    let mut read = 0;
    while let Ok(Some(piece)) = next_piece(stream).await {
        read += piece.len();
        if read > READ_ON {
            return;
        }
    }
}

fn too_slow(what: &str, time: Duration) -> JobError {
    JobError::invalid(format!("{what} {} s", time.as_secs())).hint("Send it again.")
}

fn too_large(limit: usize) -> JobError {
    let message = format!("The request body is larger than {} MiB", limit / 1024 / 1024);
    JobError::new(ErrorKind::TooLarge, message)
        .hint("Send smaller images (JPEG or WebP instead of PNG), or raise MAX_BODY_MB.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that sends one byte each `pause`, for ever.
    fn dripping(pause: Duration) -> Body {
        Body::from_stream(futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        for (pause, words) in [
            (Duration::MAX, "nothing for 20 s"),
            (PIECE_TIME / 2, "not complete after 300 s"),
        ] {
            let error = read(&HeaderMap::new(), dripping(pause), 1000).await.unwrap_err();
            assert!(error.message.contains(words), "{}", error.message);
        }
    }
}
