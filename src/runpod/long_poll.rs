//! Questions that the platform leaves open until it has something to say: job-take and job-stop.
//!
//! A job-take that is simply dropped may lose a job: the platform hands it out at that moment, to a connection that
//! nobody reads any more. So a question is given up in two steps. First only the sending half of the connection is
//! closed (with TLS, after its `close_notify`): a platform that has not answered sees that the worker is gone and keeps
//! its jobs, and one that was just answering is still heard. Then, a moment later, the rest is closed. The HTTP
//! libraries above `hyper` cannot do that, which is why this is not `reqwest`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use url::Url;

use super::AGENT;
use crate::config::Secret;
use crate::net::dial::Dialer;
use crate::net::retry::retry_after;

/// How long an answer is waited for: the limit of Python's `runpod` (`rp_scale.py`).
const LIMIT: Duration = Duration::from_secs(90);
/// The longest that a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a platform that is told of our leaving may still begin an answer.
const LAST_WORD: Duration = Duration::from_millis(300);
/// The largest answer, in bytes: a batch of requests of 20 MB each, RunPod's limit.
const MOST_BYTES: usize = 400_000_000;

/// What the platform said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// How long it wants us to wait.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum PollError {
    #[error("the address has no host")]
    NoHost,
    #[error("no connection to {host} within {} s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout { host: String },
    #[error("no connection to {host}: {source}")]
    Connect { host: String, source: io::Error },
    #[error("the request cannot be written: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the answer broke off or is too large: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Asks one kind of question, over one connection that is kept.
pub(super) struct LongPoll {
    key: Option<Secret>,
    dialer: Dialer,
    connection: Option<Connection>,
    /// Gives every question up.
    leave: CancellationToken,
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Closes the sending half.
    close: CancellationToken,
}

impl LongPoll {
    pub(super) fn new(key: Option<Secret>, leave: CancellationToken) -> Self {
        Self {
            key,
            dialer: Dialer::default(),
            connection: None,
            leave,
        }
    }

    /// Asks. [`None`] when there was no answer in time, or when the question was given up.
    pub(super) async fn ask(&mut self, url: &Url) -> Result<Option<Answer>, PollError> {
        let kept = self
            .connection
            .take()
            .filter(|connection| !connection.sender.is_closed());
        if let Some(mut connection) = kept
            && connection.sender.ready().await.is_ok()
        {
            match self.ask_over(connection, url).await {
                // The platform closed the connection before the question came.
                Err(PollError::Broken(error)) if error.is_canceled() => {}
                answer => return answer,
            }
        }
        let connection = self.connect(url).await?;
        self.ask_over(connection, url).await
    }

    async fn ask_over(&mut self, mut connection: Connection, url: &Url) -> Result<Option<Answer>, PollError> {
        let mut request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
            .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.reveal());
        }
        let head = connection.sender.send_request(request.body(Empty::new())?);
        tokio::pin!(head);
        let in_time = tokio::select! {
            biased;
            head = &mut head => Some(head?),
            () = connection.close.cancelled() => None,
            () = tokio::time::sleep(LIMIT) => {
                connection.close.cancel();
                None
            }
        };
        let is_kept = in_time.is_some();
        let head = match in_time {
            Some(head) => head,
            None => match tokio::time::timeout(LAST_WORD, head).await {
                Ok(Ok(head)) => head,
                // It has closed the connection, as it should.
                Ok(Err(_)) | Err(_) => return Ok(None),
            },
        };
        let status = head.status();
        let retry_after = retry_after(head.headers());
        // What has begun is heard to its end, however long it is: the platform counts its jobs as handed out.
        let body = Limited::new(head.into_body(), MOST_BYTES).collect();
        let body = tokio::time::timeout(LIMIT, body).await;
        let body = body.map_err(|late| PollError::Body(late.into()))?;
        let answer = Answer {
            status,
            retry_after,
            body: body.map_err(PollError::Body)?.to_bytes(),
        };
        if is_kept {
            self.connection = Some(connection);
        }
        Ok(Some(answer))
    }

    async fn connect(&mut self, url: &Url) -> Result<Connection, PollError> {
        let host = url.host_str().ok_or(PollError::NoHost)?.to_owned();
        let failed = |source| PollError::Connect {
            host: host.clone(),
            source,
        };
        let close = self.leave.child_token();
        let connecting = async {
            let stream = self.dialer.dial(url, None).await.map_err(failed)?;
            handshake(stream, &close).await
        };
        let sender = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let sender = sender.map_err(|_| PollError::ConnectTimeout { host: host.clone() })??;
        Ok(Connection { sender, close })
    }
}

async fn handshake<S>(stream: S, close: &CancellationToken) -> Result<SendRequest<Empty<Bytes>>, PollError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = HalfClosing {
        stream,
        close: Some(Box::pin(close.clone().cancelled_owned())),
        closing: false,
    };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its sender, and its errors are told there.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// A connection whose sending half is closed on demand, while the other is read on.
struct HalfClosing<S> {
    stream: S,
    /// [`None`] once the sending half is closed.
    close: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    closing: bool,
}

impl<S: AsyncWrite + Unpin> HalfClosing<S> {
    /// Registers for the demand, and closes the half when it has come.
    fn poll_close(&mut self, context: &mut Context<'_>) {
        let Some(close) = &mut self.close else { return };
        if !self.closing && close.as_mut().poll(context).is_pending() {
            return;
        }
        self.closing = true;
        if Pin::new(&mut self.stream).poll_shutdown(context).is_ready() {
            self.close = None;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for HalfClosing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_close(context);
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HalfClosing<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "long_poll_tests.rs"]
mod tests;
