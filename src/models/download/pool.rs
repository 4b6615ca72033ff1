//! The connections that bring the bytes: directly where that can be, else by `reqwest`, which knows proxies; and how many
//! are open at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Client, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::{Origin, Url};

use super::answer::{send, within};
use super::connection::{Connection, request};
use super::error::{Failure, forbidden};
use crate::display::error_chain;
use crate::net::dial::Dialer;
use crate::net::guard::{AddressGuard, Refused};

/// How long a server may take to accept a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// How long a connection may wait for its next request; servers close them after about a minute.
const IDLE: Duration = Duration::from_secs(20);

/// What we call ourselves.
pub(super) const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Connections at the start. A CDN gives 20 to 80 MB/s on each.
const FIRST: usize = 16;

/// How often the pace is looked at.
pub(super) const PACE: Duration = Duration::from_millis(250);

/// Doubling the connections is worth it while the pace grows by this factor.
const GAIN: f64 = 1.15;

/// Requests files, or parts of them.
pub(super) struct Pool {
    dialer: Dialer,
    idle: Arc<Idle>,
    /// For all that is not plain.
    client: Client,
    proxies: Matcher,
    /// Judges each address before it is reached, where users name them.
    guard: Option<AddressGuard>,
}

/// Connections that wait for their next request, and since when.
type Idle = Mutex<Vec<(Origin, Instant, Connection)>>;

/// An answer: its head, and the means to read its body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Body,
}

enum Body {
    Direct {
        /// [`None`] at its end.
        connection: Option<Connection>,
        left: u64,
        /// Where the connection goes at its end, if it may be used again.
        keep: Option<(Arc<Idle>, Origin)>,
    },
    Other(Response),
}

impl Answer {
    /// Reads the next bytes of the body to the end of `buffer`: about `most`, or fewer. 0: that was all.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>, most: usize) -> Result<usize, String> {
        let (connection, left, keep) = match &mut self.body {
            Body::Direct { connection, left, keep } => (connection, left, keep),
            Body::Other(response) => {
                let chunk = response.chunk().await;
                let chunk = chunk
                    .map_err(|error| error_chain(&error.without_url()))?
                    .unwrap_or_default();
                buffer.extend_from_slice(&chunk);
                return Ok(chunk.len());
            }
        };
        let Some(reading) = connection.as_mut().filter(|_| *left > 0) else {
            return Ok(0);
        };
        let most = usize::try_from(*left).unwrap_or(most).min(most);
        let count = reading.read(buffer, most).await.map_err(|error| error.to_string())?;
        *left -= count as u64;
        if *left == 0
            && let Some(connection) = connection.take().filter(|connection| !connection.has_more())
            && let Some((idle, server)) = keep.take()
        {
            idle.lock().push((server, Instant::now(), connection));
        }
        Ok(count)
    }
}

impl Pool {
    /// Connections that `client` makes where they cannot be direct.
    pub(super) fn new(client: Client, guard: Option<AddressGuard>) -> Self {
        Self {
            dialer: Dialer::default(),
            idle: Arc::default(),
            client,
            proxies: Matcher::from_env(),
            guard,
        }
    }

    /// Sends a GET request for the file that errors call `label`. No head of an answer within `stall` is a failure.
    pub(super) async fn get(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        label: &str,
        stall: Duration,
    ) -> Result<Answer, Failure> {
        if let Some(guard) = &self.guard {
            guard.check_url(url).map_err(|error| forbidden(&error))?;
        }
        if self.is_direct(url) {
            headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
            let asked = within(stall, label, self.ask(url, &headers)).await?;
            let asked = asked.map_err(|error| match refused(&error) {
                Some(refused) => forbidden(refused),
                None => Failure::broken(label, &error.to_string()),
            })?;
            // `reqwest` may do better.
            if let Some(answer) = asked {
                return Ok(answer);
            }
        }
        let mut response = send(self.client.get(url.clone()).headers(headers), label, stall).await?;
        Ok(Answer {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body: Body::Other(response),
        })
    }

    fn is_direct(&self, url: &Url) -> bool {
        let plain = url.username().is_empty() && url.password().is_none();
        let uri = url.as_str().parse();
        plain && uri.is_ok_and(|uri| self.guard.is_some() || self.proxies.intercept(&uri).is_none())
    }

    fn take_idle(&self, server: &Origin) -> Option<Connection> {
        let mut idle = self.idle.lock();
        idle.retain(|(_, since, _)| since.elapsed() < IDLE);
        let index = idle.iter().rposition(|(of, ..)| of == server)?;
        Some(idle.swap_remove(index).2)
    }

    /// Asks over a connection that is there, or a new one. [`None`]: in this way it cannot be had.
    async fn ask(&self, url: &Url, headers: &HeaderMap) -> io::Result<Option<Answer>> {
        let request = request(url, headers);
        let server = url.origin();
        let mut asked = None;
        // The server may have closed those that have waited.
        while asked.is_none()
            && let Some(mut connection) = self.take_idle(&server)
        {
            asked = connection.ask(&request).await.ok().map(|head| (connection, head));
        }
        let (connection, head) = if let Some(asked) = asked {
            asked
        } else {
            let dialled = tokio::time::timeout(CONNECT, self.dialer.dial(url, self.guard.as_ref())).await;
            let stream = match dialled {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) if refused(&error).is_some() => return Err(error),
                _ => return Ok(None),
            };
            let mut connection = Connection::new(stream);
            let head = connection.ask(&request).await?;
            (connection, head)
        };
        Ok(head.length.map(|left| Answer {
            status: head.status,
            headers: head.headers,
            body: Body::Direct {
                connection: Some(connection),
                left,
                keep: head.keep.then(|| (self.idle.clone(), server)),
            },
        }))
    }
}

/// The guard's refusal, if it is what an error is about.
fn refused(error: &io::Error) -> Option<&Refused> {
    error.get_ref().and_then(|inner| Refused::within(inner))
}

/// How many connections are open at once, over all files. It begins with a few and doubles as long as that brings more
/// bytes a second, up to what the settings allow.
pub(super) struct Limiter {
    permits: Arc<Semaphore>,
    received: AtomicU64,
    pace: Mutex<Pace>,
    most: usize,
}

struct Pace {
    open: usize,
    since: Instant,
    received: u64,
    /// The best pace so far, in bytes a second.
    best: f64,
}

impl Limiter {
    /// A limiter for at most `most` connections.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        let open = FIRST.min(most);
        Self {
            permits: Arc::new(Semaphore::new(open)),
            received: AtomicU64::new(0),
            pace: Mutex::new(Pace {
                open,
                since: Instant::now(),
                received: 0,
                best: 0.0,
            }),
            most,
        }
    }

    /// The most connections there may ever be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Waits for a connection. In the order of asking, so that all files get their share.
    pub(super) async fn enter(&self) -> OwnedSemaphorePermit {
        match self.permits.clone().acquire_owned().await {
            Ok(permit) => permit,
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// A connection, if one is free.
    pub(super) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Counts bytes that came.
    pub(super) fn count(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Opens more connections if that has helped so far. To be called now and then.
    pub(super) fn observe(&self, now: Instant) {
        let mut pace = self.pace.lock();
        let passed = now.saturating_duration_since(pace.since);
        if passed < PACE {
            return;
        }
        let received = self.received.load(Ordering::Relaxed);
        let rate = (received - pace.received) as f64 / passed.as_secs_f64();
        pace.since = now;
        pace.received = received;
        let all_in_use = self.permits.available_permits() == 0;
        if all_in_use && rate > pace.best * GAIN {
            pace.best = rate;
            let more = pace.open.min(self.most - pace.open);
            pace.open += more;
            self.permits.add_permits(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_as_long_as_it_helps() {
        let limiter = Limiter::new(64);
        let mut held = Vec::new();
        let start = Instant::now();
        let mut steps = Vec::new();
        for (tick, bytes) in (1..).zip([100_u64, 200, 400, 400]) {
            while let Some(permit) = limiter.try_enter() {
                held.push(permit);
            }
            steps.push(held.len());
            limiter.count(bytes);
            limiter.observe(start + tick * 2 * PACE);
        }
        assert_eq!(steps, [16, 32, 64, 64]);
    }

    #[tokio::test]
    async fn stays_where_more_do_not_help() {
        let limiter = Limiter::new(64);
        let mut held = Vec::new();
        let start = Instant::now();
        for tick in 1..6 {
            while let Some(permit) = limiter.try_enter() {
                held.push(permit);
            }
            limiter.count(100);
            limiter.observe(start + tick * 2 * PACE);
        }
        assert_eq!(held.len(), 32);
    }
}
