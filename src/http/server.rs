//! What serves a port: connections are taken in up to a number that leaves descriptors for everything else, and those are
//! ended that hold a place for nothing: silent ones, half a request, a client that takes nothing of its answer.
//!
//! A body that does not come is watched by [`body`](super::body). A connection that becomes a websocket keeps its place, and
//! is watched by [`websocket`](super::websocket) from then on.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt as _;

use super::websocket::Upgrades;

/// The longest that a new connection may take to its first whole request.
const FIRST: Duration = Duration::from_secs(20);
/// The longest between two requests. Whatever stands in front must be the first to close one, else it answers 502 now and
/// then: Go's proxies keep theirs for 90 s, Caddy for 120 s, Google's load balancers for 600 s.
const IDLE: Duration = Duration::from_secs(650);
/// Both, while the port is full.
const CROWDED: Duration = Duration::from_secs(2);
/// The longest that a client may take nothing of an answer that is there: somebody may have paused a film.
const UNREAD: Duration = Duration::from_mins(15);
/// The same, while the port is full.
const UNREAD_CROWDED: Duration = Duration::from_mins(2);
/// The longest that a client may go on sending a request that was answered before its end.
const LINGER: Duration = Duration::from_secs(30);
/// How often a connection is looked at that has something to do.
const LOOK: Duration = Duration::from_secs(15);
/// The pause after a connection could not be taken in, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a connection says nothing before its client's machine is asked whether it is still there. A client that fell off its
/// network would keep a websocket of a node pack for ever, which says nothing by itself.
const ASK_AFTER: Duration = Duration::from_mins(1);
/// The pause between two such questions.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// As far as the limit of descriptors is raised. Programs that ComfyUI starts inherit it, and some go through all of it before
/// they begin: where Docker allows a thousand million, that takes minutes.
const MOST_DESCRIPTORS: u64 = 65_536;

/// What a port is for. Each has connections of its own, so that the health check is answered when another is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Everything.
    Main,
    /// The Edit Plus API.
    Edit,
    /// The health check.
    Health,
    /// The metrics.
    Metrics,
}

impl Port {
    /// The most connections at once, in a process of so many descriptors. Together they leave three sixteenths, for files,
    /// downloads and ComfyUI.
    fn connections(self, descriptors: u64) -> usize {
        let (parts, most) = match self {
            Self::Main => (20, 16_384),
            Self::Edit => (4, 4_096),
            Self::Health | Self::Metrics => (1, 256),
        };
        let share = usize::try_from(descriptors / 32 * parts).unwrap_or(usize::MAX);
        share.clamp(1, most)
    }
}

/// Lets this process open as many files and connections as it may, up to `MOST_DESCRIPTORS`. Login shells and systemd begin
/// with 1024, of which connections that stay open would take all.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        raised_limit(soft, hard).map_or(Ok(()), |limit| setrlimit(Resource::RLIMIT_NOFILE, limit, hard))
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// What the limit is raised to; [`None`]: it is not.
fn raised_limit(soft: u64, hard: u64) -> Option<u64> {
    let limit = hard.min(MOST_DESCRIPTORS);
    (soft < limit).then_some(limit)
}

/// Serves a port until `close` is cancelled and its last answer is sent.
pub async fn serve(listener: TcpListener, router: Router, port: Port, close: CancellationToken) {
    // Where the system does not say, what every system allows.
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let most = port.connections(descriptors);
    let places = Arc::new(Semaphore::new(most));
    let crowded = watch::Sender::new(false);
    let connections = TaskTracker::new();
    // The others are for requests.
    let upgrades = Upgrades {
        places: Arc::new(Semaphore::new((most / 2).max(1))),
        closing: close.clone(),
    };
    let accepting = async {
        loop {
            let place = place(&places, most, &crowded).await;
            let (stream, peer) = accept(&listener).await;
            let place = Place {
                _permit: place,
                _token: connections.token(),
            };
            let (router, crowded) = (router.clone(), crowded.subscribe());
            tokio::spawn(converse(stream, peer, router, crowded, upgrades.clone(), place));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = close.cancelled() => {}
    }
    drop(listener);
    // Nobody who has asked for nothing is waited for.
    crowded.send_replace(true);
    connections.close();
    connections.wait().await;
}

/// A connection's place, for as long as there is a stream: what it became outlives the requests.
#[derive(Debug)]
struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    /// The port is over when there is none any more.
    _token: TaskTrackerToken,
}

/// A place for one more connection. While there is none, those that have asked for nothing are soon ended.
async fn place(places: &Arc<Semaphore>, most: usize, crowded: &watch::Sender<bool>) -> Option<OwnedSemaphorePermit> {
    let place = if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        Some(place)
    } else {
        if !crowded.send_replace(true) {
            tracing::warn!("{most} connections are open, which is the limit; those without a request are ended");
        }
        // It is never closed.
        Arc::clone(places).acquire_owned().await.ok()
    };
    if places.available_permits() > most / 4 {
        crowded.send_if_modified(std::mem::take);
    }
    place
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it the last piece of an answer waits up to 40 ms for the client's acknowledgement of those before.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection keeps its small packets back");
                }
                let asked = TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY);
                if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&asked) {
                    tracing::debug!(%error, "it will not be seen when a client's machine is gone");
                }
                return (stream, peer);
            }
            Err(error) => {
                tracing::debug!(%error, "a connection cannot be taken in");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Answers the requests of one connection until it ends, or is ended.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    mut crowded: watch::Receiver<bool>,
    upgrades: Upgrades,
    place: Place,
) {
    let load = Load::new();
    let requests = load.clone();
    let close = upgrades.closing.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let begun = requests.begin();
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(upgrades.clone());
        let answer = router.clone().oneshot(request);
        let ends = requests.clone();
        async move {
            let response = answer.await?;
            let connection = response.headers().get(header::CONNECTION);
            if connection.is_some() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                ends.last_answer();
            }
            // The request goes on as long as the answer's body is there, and this with it.
            let with_request = move |error| {
                let _ = &begun;
                error
            };
            Ok::<_, Infallible>(response.map(|body| body.map_err(with_request)))
        }
    });
    let stream = Watched {
        stream,
        load: load.clone(),
        _place: place,
    };
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut closing = false;
    loop {
        let left = load.left(*crowded.borrow_and_update());
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::trace!("a connection broke off: {error:#}");
                }
                return;
            }
            () = sleep(left.unwrap_or(LOOK)) => {
                if load.left(*crowded.borrow()).is_some_and(|left| left.is_zero()) {
                    return;
                }
            }
            // Its sender is gone with the port, which is over then.
            Ok(()) = crowded.changed() => {}
            () = close.cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What a connection has to do.
#[derive(Debug, Clone)]
struct Load(Arc<Mutex<Requests>>);

#[derive(Debug)]
struct Requests {
    /// Requests that are not answered to the end.
    in_flight: usize,
    /// Whether the client has yet to take something that there is of an answer.
    unsent: bool,
    /// Whether there was any.
    asked: bool,
    /// Whether an answer ends the connection, since its request is not read to the end.
    last: bool,
    /// Since when it is so, and nothing of an answer was taken.
    since: Instant,
}

impl Load {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Requests {
            in_flight: 0,
            unsent: false,
            asked: false,
            last: false,
            since: Instant::now(),
        })))
    }

    fn begin(&self) -> Begun {
        let mut requests = self.0.lock();
        requests.in_flight += 1;
        requests.asked = true;
        Begun(self.clone())
    }

    /// The answer that is sent next is the last.
    fn last_answer(&self) {
        self.0.lock().last = true;
    }

    fn is_last_answer(&self) -> bool {
        self.0.lock().last
    }

    /// Something is to be sent.
    fn sending(&self) {
        let mut requests = self.0.lock();
        if !requests.unsent {
            requests.unsent = true;
            requests.since = Instant::now();
        }
    }

    /// The client has taken something.
    fn sent(&self) {
        self.0.lock().since = Instant::now();
    }

    /// The client has taken all that there is.
    fn flushed(&self) {
        let mut requests = self.0.lock();
        if requests.unsent {
            requests.unsent = false;
            requests.since = Instant::now();
        }
    }

    /// How long it may go on so; [`None`]: as long as it likes, since we are at work.
    fn left(&self, crowded: bool) -> Option<Duration> {
        let requests = self.0.lock();
        let limit = match requests.in_flight {
            _ if requests.unsent && crowded => UNREAD_CROWDED,
            _ if requests.unsent => UNREAD,
            0 if crowded => CROWDED,
            0 if requests.last => LINGER,
            0 if requests.asked => IDLE,
            0 => FIRST,
            _ => return None,
        };
        Some(limit.saturating_sub(requests.since.elapsed()))
    }
}

/// A request in flight.
#[derive(Debug)]
struct Begun(Load);

impl Drop for Begun {
    fn drop(&mut self) {
        let mut requests = self.0.0.lock();
        requests.in_flight -= 1;
        requests.since = Instant::now();
    }
}

/// A connection of which it is seen when the client takes something.
struct Watched<S> {
    stream: S,
    load: Load,
    _place: Place,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.load.sending();
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.load.sent();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.load.sending();
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, bytes));
        self.load.sent();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(context));
        self.load.flushed();
        Poll::Ready(flushed)
    }

    /// Ends our side, and where the client is still sending, reads that away until it ends its own: a socket that is closed
    /// with bytes unread resets the connection, which takes the answer from a client that has not read it yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        if !self.load.is_last_answer() {
            return Poll::Ready(Ok(()));
        }
        let mut piece = [const { MaybeUninit::uninit() }; 8192];
        loop {
            let mut unread = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut unread))?;
            if unread.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "server_upgrade_tests.rs"]
mod upgrade_tests;
