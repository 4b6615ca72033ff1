//! Websockets that clients open to us: the upgrade of their request, and what keeps one from costing more than it should:
//! small buffers, a largest message, an end for those who are silent, take nothing, or outlive the worker.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_util::sync::CancellationToken;

use crate::comfy::Frame;
use crate::error::{ErrorKind, JobError};

/// How often a client is asked whether it is there. One that has said nothing by the next time is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
/// The longest that a client may take nothing of what is sent to it.
const SEND_TIME: Duration = Duration::from_secs(30);
/// The longest that a websocket's end may take.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// The longest that a client may go on sending a message that is too large, before its connection is cut off.
const LINGER: Duration = Duration::from_secs(10);
/// What one reads at once, in bytes. Each has so much from its begin; the usual 128 KiB make 64 MB of 500 that do nothing.
const READ_BUFFER: usize = 4 * 1024;

/// What a port has for the connections that become websockets, among the extensions of each request.
#[derive(Debug, Clone)]
pub(super) struct Upgrades {
    /// How many there may still be.
    pub(super) places: Arc<Semaphore>,
    /// Ends them.
    pub(super) closing: CancellationToken,
}

/// The wish of a request to become a websocket.
#[derive(Debug)]
pub(super) struct Upgrade {
    pending: OnUpgrade,
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
    place: Option<OwnedSemaphorePermit>,
    closing: CancellationToken,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    /// Says what the request lacks.
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        let key = key(parts).map_err(|missing| {
            let error = JobError::invalid(format!("This is a websocket, and {missing}"))
                .hint("Open it with a websocket client.");
            let asked = [(header::UPGRADE, "websocket"), (header::SEC_WEBSOCKET_VERSION, "13")];
            (StatusCode::UPGRADE_REQUIRED, asked, error).into_response()
        })?;
        let accept = derive_accept_key(key.as_bytes());
        let accept = HeaderValue::try_from(accept).map_err(|_| StatusCode::BAD_REQUEST.into_response())?;
        let Some(pending) = parts.extensions.remove::<OnUpgrade>() else {
            let error = JobError::invalid("This connection cannot become a websocket");
            return Err((StatusCode::UPGRADE_REQUIRED, error).into_response());
        };
        let upgrades = parts.extensions.get::<Upgrades>();
        let place = upgrades.map(|upgrades| Arc::clone(&upgrades.places).try_acquire_owned());
        let place = place.transpose().map_err(|_| {
            let error = JobError::new(ErrorKind::Busy, "As many websockets are open as this worker keeps")
                .hint("Connect again later, and close those that you no longer need.");
            (StatusCode::SERVICE_UNAVAILABLE, error).into_response()
        })?;
        Ok(Self {
            pending,
            accept,
            protocol: None,
            place,
            closing: upgrades.map(|upgrades| upgrades.closing.clone()).unwrap_or_default(),
        })
    }
}

impl Upgrade {
    /// Says to the client which of the protocols that it named (`Sec-WebSocket-Protocol`) is spoken.
    pub(super) fn with_protocol(mut self, protocol: Option<HeaderValue>) -> Self {
        self.protocol = protocol;
        self
    }

    /// The answer. When it is sent, `serve` is given the websocket, whose messages may have `largest` bytes; it ends it by
    /// [`WebSocket::end`].
    pub(super) fn accept<F>(self, largest: usize, serve: impl FnOnce(WebSocket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self {
            pending,
            accept,
            protocol,
            place,
            closing,
        } = self;
        tokio::spawn(async move {
            match pending.await {
                // On the heap, so that a task has no room for it while it waits for its end.
                Ok(upgraded) => Box::pin(serve(WebSocket::new(upgraded, largest, closing).await)).await,
                Err(error) => tracing::debug!(%error, "a websocket was given up before it was open"),
            }
            drop(place);
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// Whether a request asks for a websocket, rightly or not.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    names(headers, &header::UPGRADE, "websocket")
}

/// The client's key, or what is missing for it to be a websocket (RFC 6455, section 4.2.1).
fn key(parts: &Parts) -> Result<&HeaderValue, &'static str> {
    let headers = &parts.headers;
    if parts.method != Method::GET || parts.version < Version::HTTP_11 {
        return Err("the request is no GET of HTTP/1.1");
    }
    if !is_asked_for(headers) || !names(headers, &header::CONNECTION, "upgrade") {
        return Err("the request does not ask for one (`Connection: Upgrade`, `Upgrade: websocket`)");
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err("the request is not of its version 13 (`Sec-WebSocket-Version`)");
    }
    headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or("the request has no `Sec-WebSocket-Key`")
}

/// Whether a header's list has a word.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(word)))
}

/// An open websocket. Pings are answered, and sent, by itself.
#[derive(Debug)]
pub(super) struct WebSocket {
    stream: WebSocketStream<TokioIo<Upgraded>>,
    closing: CancellationToken,
    ticks: Interval,
    /// Whether the client has said anything since it was last asked whether it is there.
    heard: bool,
    end: Option<End>,
}

/// The client can be sent nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// We say so, and why.
    Ours(CloseCode, &'static str),
    /// The client said so, or can be told nothing any more.
    Theirs,
}

impl WebSocket {
    async fn new(upgraded: Upgraded, largest: usize, closing: CancellationToken) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            // Each message is written at once.
            .write_buffer_size(0)
            .max_message_size(Some(largest))
            .max_frame_size(Some(largest));
        let mut ticks = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream: WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await,
            closing,
            ticks,
            heard: true,
            end: None,
        }
    }

    /// The client's next message; [`None`]: it is over. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        while self.end.is_none() {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => self.stop(),
                message = self.stream.next() => {
                    self.heard = true;
                    match message {
                        Some(Ok(Message::Text(text))) => return Some(Frame::Text(text)),
                        Some(Ok(Message::Binary(bytes))) => return Some(Frame::Binary(bytes)),
                        // Its answer goes out as the next one is waited for, which is the end.
                        Some(Ok(_)) => {}
                        Some(Err(error)) => self.end = Some(End::of(&error)),
                        None => self.end = Some(End::Theirs),
                    }
                }
                _ = self.ticks.tick() => self.ask(),
            }
        }
        None
    }

    /// Sends a message. The websocket is over where the client takes nothing of it for too long.
    pub(super) async fn send(&mut self, frame: Frame) -> Result<(), Gone> {
        if self.end.is_some() {
            return Err(Gone);
        }
        let message = match frame {
            Frame::Text(text) => Message::Text(text),
            Frame::Binary(bytes) => Message::Binary(bytes),
        };
        tokio::select! {
            biased;
            () = self.closing.cancelled() => self.stop(),
            sent = timeout(SEND_TIME, self.stream.send(message)) => match sent {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => self.end = Some(End::Theirs),
                Err(_) => self.end = Some(End::Ours(CloseCode::Policy, "messages are not read")),
            },
        }
        Err(Gone)
    }

    /// Has it end with a code that says why, and a few words.
    pub(super) fn refuse(&mut self, code: CloseCode, reason: &'static str) {
        self.end.get_or_insert(End::Ours(code, reason));
    }

    fn stop(&mut self) {
        self.end = Some(End::Ours(CloseCode::Away, "the worker stops"));
    }

    /// Asks the client whether it is there; where it did not answer before, it is not.
    fn ask(&mut self) {
        if !self.heard {
            self.end = Some(End::Theirs);
            return;
        }
        self.heard = false;
        // Where there is no room for it the client takes nothing, and has as long as for an answer.
        let _ = self.stream.send(Message::Ping(Bytes::new())).now_or_never();
    }

    /// Ends it, with a close frame where the client is still there.
    pub(super) async fn end(mut self) {
        let (code, reason) = match self.end {
            Some(End::Theirs) => return,
            Some(End::Ours(code, reason)) => (code, reason),
            None => (CloseCode::Normal, ""),
        };
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let farewell = async {
            if self.stream.close(Some(frame)).await.is_ok() {
                // What is still on its way is passed over.
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        let _ = timeout(FAREWELL_TIME, farewell).await;
        if code == CloseCode::Size {
            let _ = timeout(LINGER, read_away(self.stream.get_mut())).await;
        }
    }
}

impl End {
    fn of(error: &Error) -> Self {
        match error {
            Error::Capacity(_) => Self::Ours(CloseCode::Size, "the message is too large"),
            Error::Utf8(_) => Self::Ours(CloseCode::Invalid, "the text is not UTF-8"),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Theirs,
            Error::Protocol(_) => Self::Ours(CloseCode::Protocol, "this is not as RFC 6455 has it"),
            _ => Self::Theirs,
        }
    }
}

/// Reads what the client still sends: a socket that is closed with bytes unread resets the connection, which takes our
/// last word from a client that has not read it yet.
async fn read_away(stream: &mut TokioIo<Upgraded>) {
    let _ = stream.shutdown().await;
    let mut piece = vec![0; 8 * 1024];
    while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
}
