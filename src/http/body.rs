//! Bodies in and out.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Fuse, Stream, StreamExt as _, poll_fn};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::dialect::answer::Answer;
use crate::disk::blocking;
use crate::error::{ErrorKind, JobError};

/// The longest wait for the next piece of a body. A client that begins a body and never ends it must not hold its
/// place in the queue.
const PIECE_TIME: Duration = Duration::from_secs(20);
/// The longest that a whole body may take: 64 MiB over 2 Mbit/s.
const WHOLE_TIME: Duration = Duration::from_mins(5);

impl IntoResponse for Answer {
    /// The pieces go out as they are.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::CONTENT_LENGTH, self.length().into()),
        ];
        let engine = self.engine.and_then(|engine| HeaderValue::try_from(engine).ok());
        let body = match <[Bytes; 1]>::try_from(self.pieces) {
            Ok([whole]) => Body::from(whole),
            Err(pieces) => Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>))),
        };
        let mut response = (status, headers, body).into_response();
        if let Some(engine) = engine {
            response.headers_mut().insert(ENGINE, engine);
        }
        response
    }
}

/// The header that says which engine elsewhere made what a front answers.
const ENGINE: &str = "x-engine";

/// Bodies of at least this many bytes are read on a blocking thread: they hold images to decode.
const LARGE: usize = 128 * 1024;
/// What all bodies in flight may have at once, in bytes, where the largest body allows no more.
const ROOM: usize = 256 * 1024 * 1024;
/// How many of the largest bodies there is room for.
const LARGEST: usize = 4;
/// How many large bodies are made sense of at once; fewer where they are larger than that share of the largest.
const PARSED_AT_ONCE: usize = 4;
/// A body's part of memory grows by at least this much at once, in bytes.
const GROWTH: usize = 1024 * 1024;
/// Of a body that is read this much counts as little, in bytes. With more of it here it must keep coming.
const LITTLE: usize = 1024 * 1024;
/// How much of it must come in [`STEP_TIME`] then, in bytes: 70 kbit/s, as slow lines have it.
const STEP: usize = 256 * 1024;
/// The longest that a [`STEP`] may take.
const STEP_TIME: Duration = Duration::from_secs(30);
/// The longest that a piece of a body waits for room. What has some waits too, and keeps it from others meanwhile: this is
/// what ends it where all that have some wait.
const ROOM_TIME: Duration = Duration::from_secs(10);

/// The bodies of all requests: how large each may be, and how much of them is in memory at once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bodies {
    limit: usize,
    /// Bytes that may still come, of all bodies together. What was only announced does not count.
    room: Arc<Semaphore>,
    all_room: usize,
    parsing: Arc<Semaphore>,
}

/// A body, or what was made of it, and its part of the room that bodies have.
#[derive(Debug)]
pub(super) struct Received<T = Bytes> {
    pub(super) content: T,
    length: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl Received {
    /// What was made of the body, which still needs its room.
    pub(super) async fn and_then<T>(
        self,
        make: impl AsyncFnOnce(Bytes) -> Result<T, JobError>,
    ) -> Result<Received<T>, JobError> {
        Ok(Received {
            content: make(self.content).await?,
            length: self.length,
            room: self.room,
        })
    }
}

impl Bodies {
    /// Bodies of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let all_room = ROOM.max(limit.saturating_mul(LARGEST));
        Self {
            limit,
            room: Arc::new(Semaphore::new(all_room)),
            all_room,
            parsing: Arc::new(Semaphore::new(limit.max(PARSED_AT_ONCE))),
        }
    }

    /// Reads a whole body, from a client that keeps sending.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Received, JobError> {
        self.read_at_most(self.limit, headers, body).await
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(super) async fn read_at_most(
        &self,
        limit: usize,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Received, JobError> {
        let read = self.read_whole(headers, body.into_data_stream(), limit);
        tokio::time::timeout(WHOLE_TIME, read)
            .await
            .unwrap_or_else(|_| Err(too_slow("The request body was not complete after", WHOLE_TIME)))
    }

    async fn read_whole(
        &self,
        headers: &HeaderMap,
        mut stream: BodyDataStream,
        limit: usize,
    ) -> Result<Received, JobError> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        let mut whole = BytesMut::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut pace = Pace::default();
        while let Some(piece) = next_piece(&mut stream).await? {
            if whole.len() + piece.len() > limit {
                return Err(too_large(limit));
            }
            let before = Instant::now();
            let more = self.take_room(piece.len()).await?;
            pace.pause(before.elapsed());
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            // Only for a client that sends: an announced length alone costs nothing.
            if whole.len() + piece.len() > whole.capacity() {
                let expected = announced.unwrap_or_default().saturating_sub(whole.len());
                whole.reserve(expected.min(whole.len().max(GROWTH)).max(piece.len()));
            }
            whole.extend_from_slice(&piece);
            pace.keep(whole.len())?;
        }
        Ok(Received {
            length: whole.len(),
            content: whole.freeze(),
            room,
        })
    }

    /// Room for a piece, which others give back when sense was made of them.
    async fn take_room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, JobError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes);
        if let Ok(Ok(room)) = tokio::time::timeout(ROOM_TIME, room).await {
            return Ok(room);
        }
        let room = self.all_room / 1024 / 1024;
        let message = format!("The bodies of the requests in flight have {room} MiB, which is the limit");
        Err(JobError::new(ErrorKind::Busy, message).hint("Send the request again later."))
    }

    /// Makes sense of a body, aside from the runtime if it is large, and beside few others then.
    pub(super) async fn parsed<B: Send + 'static, T: Send + 'static>(
        &self,
        received: Received<B>,
        parse: impl FnOnce(B) -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, JobError> {
        if received.length < LARGE {
            return parse(received.content);
        }
        let all = self.limit.max(PARSED_AT_ONCE);
        let weight = received.length.clamp(all / PARSED_AT_ONCE, all);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let turn = Arc::clone(&self.parsing).acquire_many_owned(weight).await;
        // Whoever asked may be gone meanwhile; its body is there until this ends, and so is its part of the room.
        blocking(move || {
            let parsed = parse(received.content);
            drop((received.room, turn));
            parsed
        })
        .await
    }
}

/// Whether a body of which there is more than a little keeps coming.
#[derive(Debug, Default)]
struct Pace(Option<(Instant, usize)>);

impl Pace {
    fn keep(&mut self, length: usize) -> Result<(), JobError> {
        match self.0 {
            None if length < LITTLE => Ok(()),
            Some((begun, _)) if begun.elapsed() > STEP_TIME => Err(too_slow(
                "The request body came too slowly: less than 256 KiB in",
                STEP_TIME,
            )),
            Some((_, next)) if length < next => Ok(()),
            _ => {
                self.0 = Some((Instant::now(), length + STEP));
                Ok(())
            }
        }
    }

    /// Leaves out a time in which the body was kept waiting.
    fn pause(&mut self, time: Duration) {
        if let Some((begun, _)) = &mut self.0 {
            *begun += time;
        }
    }
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

/// A body as it comes, from a client that keeps sending.
pub(super) fn coming(body: Body) -> impl Stream<Item = Result<Bytes, JobError>> {
    stream::try_unfold(body.into_data_stream(), async |mut stream| {
        Ok(next_piece(&mut stream).await?.map(|piece| (piece, stream)))
    })
}

fn too_slow(what: &str, time: Duration) -> JobError {
    JobError::new(ErrorKind::TooSlow, format!("{what} {} s", time.as_secs())).hint("Send it again.")
}

fn too_large(limit: usize) -> JobError {
    let message = format!("The request body is larger than {} MiB", limit / 1024 / 1024);
    JobError::new(ErrorKind::TooLarge, message)
        .hint("Send smaller images (JPEG or WebP instead of PNG), or raise MAX_BODY_MB.")
}

/// The most that is still read, in bytes.
const MOST_REST: usize = 64 * 1024 * 1024;
/// The longest that it is read.
const REST_TIME: Duration = Duration::from_secs(5);

/// A body that is read by a handler, and after it by us.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Fuse<BodyDataStream>>>);

impl SharedBody {
    fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body.into_data_stream().fuse())))
    }

    fn pieces(&self) -> impl Stream<Item = Result<Bytes, axum::Error>> + use<> {
        let body = self.clone();
        poll_fn(move |context: &mut Context<'_>| -> Poll<_> { body.0.lock().poll_next_unpin(context) })
    }

    fn is_over(&self) -> bool {
        self.0.lock().is_done()
    }

    /// Reads on to the end, as far as that is worth it.
    async fn read_on(&self) {
        let mut pieces = self.pieces();
        let mut read = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            read += piece.len();
            if read > MOST_REST {
                return;
            }
        }
    }
}

/// Reads what a handler leaves of its request's body, such as one that refuses the request unread, before the answer goes out.
///
/// hyper would close the connection then, in the midst of what the client is sending: many clients see that in place of the
/// answer, or stumble over it with their next request on that connection.
///
/// Where that is too much, or the client waits for our leave to send it, the answer
/// says that the connection ends with it.
pub(super) async fn drain_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // To read is to give leave (`Expect: 100-continue`).
    let waits = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = SharedBody::new(body);
    let handed = Body::from_stream(body.pieces());
    let mut response = next.run(Request::from_parts(parts, handed)).await;
    if !body.is_over() && !waits {
        // What does not come in time is seen below.
        let _ = tokio::time::timeout(REST_TIME, body.read_on()).await;
    }
    if !body.is_over() {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
