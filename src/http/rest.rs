//! What a handler leaves of a request's body, such as one that refuses the request unread.
//!
//! hyper would close the connection then, in the midst of what the client is sending: many clients see that in place of the
//! answer, or stumble over it with their next request on that connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{Fuse, poll_fn};
use futures_util::{Stream, StreamExt as _};

/// The most that is still read, in bytes.
const MOST: usize = 64 * 1024 * 1024;
/// The longest that it is read.
const TIME: Duration = Duration::from_secs(5);

/// A body that is read by a handler, and after it by us.
#[derive(Clone)]
struct Shared(Arc<Mutex<Fuse<BodyDataStream>>>);

impl Shared {
    fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body.into_data_stream().fuse())))
    }

    /// A lock whose holder panicked protects a stream that has come to its end for all we know.
    fn lock(&self) -> MutexGuard<'_, Fuse<BodyDataStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pieces(&self) -> impl Stream<Item = Result<Bytes, axum::Error>> + use<> {
        let body = self.clone();
        poll_fn(move |context: &mut Context<'_>| -> Poll<_> { body.lock().poll_next_unpin(context) })
    }

    fn is_over(&self) -> bool {
        self.lock().is_done()
    }

    /// Reads on to the end, as far as that is worth it.
    async fn read_on(&self) {
        let mut pieces = self.pieces();
        let mut read = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            read += piece.len();
            if read > MOST {
                return;
            }
        }
    }
}

/// Reads the rest before the answer goes out. Where that is too much, or the client waits for our leave to send it, the answer
/// says that the connection ends with it.
pub(super) async fn read_rest(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // To read is to give leave (`Expect: 100-continue`).
    let waits = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = Shared::new(body);
    let handed = Body::from_stream(body.pieces());
    let mut response = next.run(Request::from_parts(parts, handed)).await;
    if !body.is_over() && !waits {
        // What does not come in time is seen below.
        let _ = tokio::time::timeout(TIME, body.read_on()).await;
    }
    if !body.is_over() {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
