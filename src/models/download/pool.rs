//! The connections that bring the bytes: directly where that can be, else by `reqwest`, which knows proxies.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::{HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Client, Response, StatusCode};
use url::{Origin, Url};

use super::answer::send;
use super::error::{FetchError, Trouble};
use super::line::{Line, request};
use crate::display::{error_chain, redacted};
use crate::net::dial::Dialer;

/// How long a server may take to accept a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// How long a connection may wait for its next request; servers close them after about a minute.
const IDLE: Duration = Duration::from_secs(20);

/// What we call ourselves.
pub(super) const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Requests files, or parts of them.
#[derive(Debug)]
pub(super) struct Wire {
    dialer: Dialer,
    idle: Arc<Idle>,
    /// For all that is not plain.
    client: Client,
    proxies: Matcher,
}

/// Connections that wait for their next request.
#[derive(Default)]
struct Idle(Mutex<Vec<(Origin, Instant, Line)>>);

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").finish_non_exhaustive()
    }
}

impl Idle {
    fn take(&self, server: &Origin) -> Option<Line> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since, _)| since.elapsed() < IDLE);
        let index = idle.iter().rposition(|(of, ..)| of == server)?;
        Some(idle.swap_remove(index).2)
    }

    fn put(&self, server: Origin, line: Line) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push((server, Instant::now(), line));
    }
}

/// An answer: its head, and the means to read its body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Body,
}

enum Body {
    Direct {
        /// [`None`] at its end.
        line: Option<Line>,
        left: u64,
        /// Where the line goes at its end, if it may be used again.
        keep: Option<(Arc<Idle>, Origin)>,
    },
    Other(Response),
}

impl Answer {
    /// Reads the next bytes of the body to the end of `buffer`: about `most`, or fewer. 0: that was all.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>, most: usize) -> Result<usize, String> {
        let (line, left, keep) = match &mut self.body {
            Body::Direct { line, left, keep } => (line, left, keep),
            Body::Other(response) => {
                let chunk = response
                    .chunk()
                    .await
                    .map_err(|error| error_chain(&error.without_url()))?;
                let chunk = chunk.unwrap_or_default();
                buffer.extend_from_slice(&chunk);
                return Ok(chunk.len());
            }
        };
        let Some(reading) = line.as_mut().filter(|_| *left > 0) else {
            return Ok(0);
        };
        let most = usize::try_from(*left).unwrap_or(most).min(most);
        let count = reading.read(buffer, most).await.map_err(|error| error.to_string())?;
        *left -= count as u64;
        if *left == 0
            && let Some(line) = line.take().filter(|line| !line.has_more())
            && let Some((idle, server)) = keep.take()
        {
            idle.put(server, line);
        }
        Ok(count)
    }
}

impl Wire {
    /// Connections that `client` makes where they cannot be direct.
    pub(super) fn new(client: Client) -> Self {
        Self {
            dialer: Dialer::default(),
            idle: Arc::default(),
            client,
            proxies: Matcher::from_env(),
        }
    }

    /// Sends a GET request. No head of an answer within `stall` is a failure.
    pub(super) async fn get(&self, url: &Url, mut headers: HeaderMap, stall: Duration) -> Result<Answer, Trouble> {
        if self.is_direct(url) {
            headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
            match tokio::time::timeout(stall, self.ask(url, &headers)).await {
                Ok(Ok(Some(answer))) => return Ok(answer),
                // `reqwest` may do better.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    return Err(Trouble::again(FetchError::Request {
                        url: redacted(url),
                        why: error.to_string(),
                    }));
                }
                Err(_) => {
                    return Err(Trouble::again(FetchError::Stalled {
                        url: redacted(url),
                        waited: stall,
                    }));
                }
            }
        }
        let mut response = send(self.client.get(url.clone()).headers(headers), url, stall).await?;
        Ok(Answer {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body: Body::Other(response),
        })
    }

    fn is_direct(&self, url: &Url) -> bool {
        let plain = url.username().is_empty() && url.password().is_none();
        let uri = url.as_str().parse();
        plain && uri.is_ok_and(|uri| self.proxies.intercept(&uri).is_none())
    }

    /// Asks over a connection that is there, or a new one. [`None`]: in this way it cannot be had.
    async fn ask(&self, url: &Url, headers: &HeaderMap) -> io::Result<Option<Answer>> {
        let request = request(url, headers);
        let server = url.origin();
        let mut asked = None;
        // The server may have closed those that have waited.
        while asked.is_none()
            && let Some(mut line) = self.idle.take(&server)
        {
            asked = line.ask(&request).await.ok().map(|head| (line, head));
        }
        let (line, head) = if let Some(asked) = asked {
            asked
        } else {
            let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, self.dialer.dial(url)).await else {
                return Ok(None);
            };
            let mut line = Line::new(stream);
            let head = line.ask(&request).await?;
            (line, head)
        };
        let Some(left) = head.length else {
            return Ok(None);
        };
        Ok(Some(Answer {
            status: head.status,
            headers: head.headers,
            body: Body::Direct {
                line: Some(line),
                left,
                keep: head.keep.then(|| (self.idle.clone(), server)),
            },
        }))
    }
}
