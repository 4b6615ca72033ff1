//! What the worker tells the platform: results, progress, that it lives, and why it cannot work.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Client, RequestBuilder, StatusCode};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::addresses::Addresses;
use super::in_flight::InFlight;
use super::{AGENT, StartError};
use crate::config::{RunpodConfig, Secret};
use crate::dialect::answer::Answer;
use crate::display::error_chain;
use crate::net::retry::retry_after;

/// The longest that a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a post may take, its body apart.
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// The slowest line that a result is sent over, in bytes a second: a post may take that much longer.
const SLOWEST_LINE: u64 = 200_000;
/// The longest that a progress post may take. The result waits for it.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that the last ping of a worker that cannot work may take (`rp_fitness.py`).
const UNHEALTHY_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest reason that the platform takes, in characters (`rp_fitness.py`).
const LONGEST_REASON: usize = 256;
/// Characters of the platform's own words that are logged.
const LONGEST_WORDS: usize = 300;
/// Tries of one ping (`rp_ping.py`).
const PING_TRIES: u32 = 3;
/// Time between two of them.
const PING_RETRY: Duration = Duration::from_secs(1);
/// How long a 429 without `Retry-After` keeps a worker (`rp_scale.py`).
pub(super) const DEBOUNCE: Duration = Duration::from_secs(5);

/// Posts to the platform. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct PlatformClient {
    http: Client,
    key: Option<Secret>,
    pub(super) addresses: Addresses,
}

/// Why the platform did not take a post.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotTaken {
    /// It may be too large: 413, or 400, which RunPod answers then.
    #[error("the platform refuses the result: {status} {said}")]
    Refused {
        status: StatusCode,
        /// The platform's words.
        said: String,
    },
    /// Another try may succeed.
    #[error("{reason}")]
    Later {
        reason: String,
        /// How long the platform wants us to wait.
        wait: Option<Duration>,
    },
}

impl NotTaken {
    /// Whether the size is named as what is wrong.
    pub(super) fn names_size(&self) -> bool {
        let Self::Refused { status, said } = self else {
            return false;
        };
        let said = said.to_ascii_lowercase();
        let words = ["too large", "too big", "size", "exceed", "limit", "payload"];
        *status == StatusCode::PAYLOAD_TOO_LARGE || words.iter().any(|word| said.contains(word))
    }
}

impl PlatformClient {
    pub(super) fn new(config: &RunpodConfig) -> Result<Self, StartError> {
        let http = Client::builder()
            .user_agent(AGENT)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(StartError::Client)?;
        Ok(Self {
            http,
            key: config.api_key.clone(),
            addresses: Addresses::new(config).ok_or(StartError::NoOutput)?,
        })
    }

    /// Posts a job's end.
    pub(super) async fn done(&self, job: &str, body: &Answer, stream: bool) -> Result<(), NotTaken> {
        let length = body.length() as u64;
        let timeout = POST_TIMEOUT + Duration::from_secs(length / SLOWEST_LINE);
        let url = self.addresses.output(job, stream);
        let url = url.map_err(|error| later(format!("RUNPOD_WEBHOOK_POST_OUTPUT is no address: {error}")))?;
        self.post(url, job, body, timeout).await
    }

    /// Posts how far a job is. Lost ones are not sent again: the next one says more.
    pub(super) async fn progress(&self, job: &str, body: &Answer) {
        if let Ok(url) = self.addresses.output(job, false) {
            self.tell(url, job, body).await;
        }
    }

    /// Posts a chunk for `/stream`.
    pub(super) async fn chunk(&self, job: &str, body: &Answer) {
        if let Some(url) = self.addresses.stream(job) {
            self.tell(url, job, body).await;
        }
    }

    async fn tell(&self, url: Url, job: &str, body: &Answer) {
        if let Err(error) = self.post(url, job, body, PROGRESS_TIMEOUT).await {
            tracing::debug!(job.id = job, "progress was not taken: {error}");
        }
    }

    async fn post(&self, url: Url, job: &str, body: &Answer, timeout: Duration) -> Result<(), NotTaken> {
        let pieces = body.pieces.clone().into_iter().map(Ok::<_, Infallible>);
        // The platform wants JSON text under a form's name, as Python's `runpod` sends it (`rp_http.py`).
        let request = authorized(self.http.post(url), self.key.as_ref())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("charset", "utf-8")
            .header("X-Request-ID", job)
            .header(CONTENT_LENGTH, body.length())
            .timeout(timeout)
            .body(Body::wrap_stream(stream::iter(pieces)));
        let response = request.send().await.map_err(|error| {
            later(format!(
                "the platform was not reached: {}",
                error_chain(&error.without_url())
            ))
        })?;
        let status = response.status();
        if status.is_success() {
            // A platform that breaks off while it says yes may not have taken it.
            let whole = response.bytes().await;
            return whole.map(drop).map_err(|error| {
                later(format!(
                    "the platform's answer broke off: {}",
                    error_chain(&error.without_url())
                ))
            });
        }
        let wait = retry_after(response.headers());
        let said = response.text().await.unwrap_or_default();
        let said: String = said.trim().chars().take(LONGEST_WORDS).collect();
        Err(match status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => NotTaken::Refused { status, said },
            StatusCode::TOO_MANY_REQUESTS => NotTaken::Later {
                reason: "the platform answers 429".to_owned(),
                wait: wait.or(Some(DEBOUNCE)),
            },
            _ => NotTaken::Later {
                reason: format!("the platform answers {status} {said}"),
                wait,
            },
        })
    }

    /// Says once why this worker cannot work. A platform that cannot be reached must not keep it from ending.
    pub(super) async fn unhealthy(&self, check: &str, reason: &str) {
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        let Some(url) = self.addresses.unhealthy(check, &reason) else {
            return;
        };
        let request = authorized(self.http.get(url), self.key.as_ref()).timeout(UNHEALTHY_TIMEOUT);
        if let Err(error) = request.send().await {
            let error = error_chain(&error.without_url());
            tracing::warn!("the platform could not be told that this worker is unhealthy: {error}");
        }
    }
}

fn later(reason: String) -> NotTaken {
    NotTaken::Later { reason, wait: None }
}

/// RunPod wants the key alone, without `Bearer`.
fn authorized(request: RequestBuilder, key: Option<&Secret>) -> RequestBuilder {
    match key {
        Some(key) => request.header(AUTHORIZATION, key.reveal()),
        None => request,
    }
}

/// Tells until `end` that the worker lives, with the jobs it has. A platform that hears nothing ends the worker, so the pings
/// have a thread of their own: nothing that the worker does can keep them back.
pub(super) fn start_heartbeat(
    config: &RunpodConfig,
    addresses: Addresses,
    in_flight: Arc<InFlight>,
    end: CancellationToken,
) -> Result<(), StartError> {
    if addresses.ping(&[]).is_none() {
        tracing::warn!("RUNPOD_WEBHOOK_PING is not set: the platform does not hear that this worker lives");
        return Ok(());
    }
    let (interval, key) = (config.ping_interval, config.api_key.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StartError::Heartbeat)?;
    let beat = move || runtime.block_on(ping(interval, key, addresses, in_flight, end));
    let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beat);
    thread.map(drop).map_err(StartError::Heartbeat)
}

async fn ping(
    interval: Duration,
    key: Option<Secret>,
    addresses: Addresses,
    in_flight: Arc<InFlight>,
    end: CancellationToken,
) {
    let client = Client::builder()
        .user_agent(AGENT)
        .no_proxy()
        .timeout(interval * 2)
        .pool_max_idle_per_host(1)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "no client can be made for pings");
            return;
        }
    };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for attempt in 1..=PING_TRIES {
            let Some(url) = addresses.ping(&in_flight.ids()) else {
                return;
            };
            let sent = tokio::select! {
                () = end.cancelled() => return,
                sent = authorized(client.get(url), key.as_ref()).send() => sent,
            };
            let failure = match sent.map(|answer| answer.status()) {
                Ok(status) if !is_passing(status) => break,
                Ok(status) => format!("the platform answers {status}"),
                Err(error) => error_chain(&error.without_url()),
            };
            tracing::warn!("ping {attempt} of {PING_TRIES} failed: {failure}");
            tokio::time::sleep(PING_RETRY.min(interval)).await;
        }
    }
}

/// The statuses after which Python's `runpod` tries again.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}
