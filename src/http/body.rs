//! Bodies in and out.

use std::convert::Infallible;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use crate::dialect::answer::Answer;
use crate::error::{ErrorKind, JobError};

/// How much of a body over the limit is still read, so that a client that sends first and reads later gets to see
/// the answer instead of a broken connection.
const READ_ON: usize = 512 * 1024 * 1024;

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

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, JobError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<usize>().ok());
    let mut stream = body.into_data_stream();
    if announced.is_some_and(|length| length > limit) {
        // A client that asked first (`Expect: 100-continue`) has sent nothing yet, and need not.
        if !headers.contains_key(header::EXPECT) {
            read_on(&mut stream).await;
        }
        return Err(too_large(limit));
    }
    let mut whole = BytesMut::with_capacity(announced.unwrap_or_default());
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            JobError::invalid(format!("The request body broke off: {error}")).hint("Send it again.")
        })?;
        if whole.len() + chunk.len() > limit {
            read_on(&mut stream).await;
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

async fn read_on(stream: &mut BodyDataStream) {
    let mut read = 0;
    while let Some(Ok(chunk)) = stream.next().await {
        read += chunk.len();
        if read > READ_ON {
            return;
        }
    }
}

fn too_large(limit: usize) -> JobError {
    let message = format!("The request body is larger than {} MiB", limit / 1024 / 1024);
    JobError::new(ErrorKind::TooLarge, message)
        .hint("Send smaller images (JPEG or WebP instead of PNG), or raise MAX_BODY_MB.")
}
