//! Bodies in and out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

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
/// What all bodies in hand may have at once, in bytes, where the largest body allows no more.
const ROOM: usize = 256 * 1024 * 1024;
/// How many of the largest bodies there is room for.
const LARGEST: usize = 4;
/// How many large bodies are made sense of at once; fewer where they are larger than that share of the largest.
const PARSED_AT_ONCE: usize = 4;
/// A body's part of memory grows by at least this much at once, in bytes.
const GROWTH: usize = 1024 * 1024;
/// Of a body that is read this much counts as little, in bytes. With more in hand it must keep coming.
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
            // A client that asked first (`Expect: 100-continue`) has sent nothing yet, and need not.
            if !headers.contains_key(header::EXPECT) {
                read_on(&mut stream).await;
            }
            return Err(too_large(limit));
        }
        let mut whole = BytesMut::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut pace = Pace::default();
        while let Some(piece) = next_piece(&mut stream).await? {
            if whole.len() + piece.len() > limit {
                read_on(&mut stream).await;
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
        let message = format!("The bodies of the requests in hand have {room} MiB, which is the limit");
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
        let parsed = tokio::task::spawn_blocking(move || {
            let parsed = parse(received.content);
            drop((received.room, turn));
            parsed
        });
        let parsed = parsed.await;
        parsed.map_err(|error| JobError::internal(format!("the request could not be read: {error}")))?
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
    JobError::new(ErrorKind::TooSlow, format!("{what} {} s", time.as_secs())).hint("Send it again.")
}

fn too_large(limit: usize) -> JobError {
    let message = format!("The request body is larger than {} MiB", limit / 1024 / 1024);
    JobError::new(ErrorKind::TooLarge, message)
        .hint("Send smaller images (JPEG or WebP instead of PNG), or raise MAX_BODY_MB.")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A body that sends pieces of so many bytes, one each `pause`, for ever.
    fn dripping(bytes: usize, pause: Duration) -> Body {
        Body::from_stream(futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes])), ()))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let bodies = Bodies::new(100 * LITTLE);
        for (bytes, pause, words) in [
            (1, Duration::MAX, "nothing for 20 s"),
            (1, PIECE_TIME / 2, "not complete after 300 s"),
            (LITTLE, PIECE_TIME / 2, "not complete after 300 s"),
            (STEP / 2, PIECE_TIME / 2, "not complete after 300 s"),
            (STEP / 4, PIECE_TIME / 2, "less than 256 KiB in 30 s"),
        ] {
            let error = bodies
                .read(&HeaderMap::new(), dripping(bytes, pause))
                .await
                .unwrap_err();
            assert!(error.message.contains(words), "{bytes} {}", error.message);
            assert_eq!((error.kind.status(), error.kind.retryable()), (408, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_in_hand_have_a_limit_of_their_own_and_what_is_only_announced_does_not_count() {
        let bodies = Bodies::new(100 * LITTLE);
        let whole = |length: usize| Body::from(vec![b' '; length]);
        let announced = HeaderMap::from_iter([(header::CONTENT_LENGTH, (100 * LITTLE).into())]);
        let mut begun = Vec::new();
        for _ in 0..20 {
            let mut reading = Box::pin(bodies.read(&announced, dripping(1, Duration::MAX)));
            assert!(futures_util::poll!(&mut reading).is_pending());
            begun.push(reading);
        }
        let mut in_hand = Vec::new();
        for _ in 0..LARGEST {
            in_hand.push(bodies.read(&HeaderMap::new(), whole(100 * LITTLE)).await.unwrap());
        }
        let error = bodies.read(&HeaderMap::new(), whole(1)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy);
        assert!(error.message.contains("400 MiB"), "{}", error.message);
        // One that was made sense of is no longer there, and who waits for room has it then.
        let headers = HeaderMap::new();
        let mut waiting = Box::pin(bodies.read(&headers, whole(100 * LITTLE)));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        tokio::time::sleep(ROOM_TIME / 2).await;
        assert!(futures_util::poll!(&mut waiting).is_pending());
        bodies.parsed(in_hand.remove(0), |_| Ok(())).await.unwrap();
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_waits_for_room_is_not_slow() {
        let bodies = Bodies::new(100 * LITTLE);
        let mut pace = Pace::default();
        pace.keep(LITTLE).unwrap();
        tokio::time::sleep(STEP_TIME * 2).await;
        pace.pause(STEP_TIME * 2);
        pace.keep(LITTLE + 1).unwrap();
        // Those that have room and wait for more keep it from each other for a while, not for ever.
        let piece = bodies.all_room / 2;
        let halves = [
            bodies.take_room(piece).await.unwrap(),
            bodies.take_room(piece).await.unwrap(),
        ];
        let grow = async |half: OwnedSemaphorePermit, before: Duration| {
            tokio::time::sleep(before).await;
            let more = bodies.take_room(piece).await;
            drop(half);
            more.is_ok()
        };
        let [first, second] = halves;
        let later = Duration::from_secs(1);
        assert_eq!(
            tokio::join!(grow(first, Duration::ZERO), grow(second, later)),
            (false, true)
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn few_large_bodies_are_made_sense_of_at_once() {
        let bodies = Bodies::new(8 * LITTLE);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let (bodies, now, most) = (bodies.clone(), Arc::clone(&now), Arc::clone(&most));
            tasks.push(tokio::spawn(async move {
                let received = bodies.read(&HeaderMap::new(), Body::from(vec![b' '; LITTLE])).await?;
                let parse = move |_| {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                };
                bodies.parsed(received, parse).await
            }));
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= PARSED_AT_ONCE);
    }
}
