//! The loop that delivers what waits in the outbox, and when a webhook is tried again.
//!
//! ```text
//!  Outbox (the store) ──due──► one in flight a host, eight in all ──► WebhookSender ──► receiver
//!        ▲                                                                │
//!        └──────────────────────────── tried ◄────────────────────────────┘
//! ```
//!
//! A message leaves the outbox when it is delivered or given up, and never before: what is in flight when the process
//! dies is delivered after the next start, perhaps for a second time, with the same id. One receiver that hangs takes
//! up one of the eight places and delays only its own messages.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use url::Url;

use super::webhook::{Attempts, Delivery, Message, WebhookSender};
use crate::config::WebhookConfig;
use crate::display::redacted;
use crate::net::retry::RetryPolicy;
use crate::telemetry::metrics::{WebhookResult, metrics};

/// Deliveries in flight at once.
const PLACES: usize = 8;

/// The shortest wait for the next message to become due: the outbox is not asked more often than that for nothing.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// Each wait is the one before times this: from 15 s, twelve attempts take about 22 hours.
const FACTOR: f64 = 2.5;
/// No wait of ours is longer, jitter apart.
const LONGEST: Duration = Duration::from_hours(6);
/// The share by which a wait is made longer or shorter at random.
const JITTER: f64 = 0.2;
/// The longest that a receiver's `Retry-After` is heeded; it may slow us down and not put us off for good.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);
/// The most attempts where the answer is one that seldom changes, see [`Attempts::Few`]; about ten minutes of them.
const FEW: u32 = 5;

/// What waits to be delivered. The store keeps it across restarts.
pub trait Outbox: Send + Sync + 'static {
    /// Why the outbox cannot be read or written.
    type Error: Display + Send;

    /// The messages that are due, the longest due first: at most `room`, at most one for a [`host`], and none for a
    /// host in `busy`.
    fn due(&self, busy: &[String], room: usize) -> impl Future<Output = Result<Due, Self::Error>> + Send;

    /// The body of a message; [`None`]: it is no more, and the message is given up.
    fn body(&self, id: &str) -> impl Future<Output = Result<Option<Body>, Self::Error>> + Send;

    /// Keeps what came of an attempt, which counts as made.
    fn tried(&self, id: &str, outcome: &Tried) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Waits for a message put in since [`Outbox::due`] was last called; may return early, must not miss one
    /// ([`tokio::sync::Notify::notify_one`] keeps that promise).
    fn wait_for_change(&self) -> impl Future<Output = ()> + Send;
}

/// What is due, and when more will be.
#[derive(Debug, Default)]
pub struct Due {
    /// To be delivered now.
    pub now: Vec<Pending>,
    /// The time until the next of the others is due, those for busy hosts apart; [`None`]: there is none.
    pub next: Option<Duration>,
}

/// A message that waits. Its body stays in the outbox until it is needed.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The message's id, the same in every attempt.
    pub id: String,
    /// Where to.
    pub url: Url,
    /// Attempts made so far.
    pub attempts: u32,
}

/// What is delivered.
#[derive(Debug, Clone)]
pub struct Body {
    /// The JSON.
    pub json: Bytes,
    /// The trace that it belongs to, as a header.
    pub traceparent: Option<String>,
}

/// What is kept of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// The receiver has it; the message can go.
    Delivered,
    /// It is due again after `wait`.
    Again {
        /// The time from now.
        wait: Duration,
        /// What went wrong. For logs and the operator.
        reason: String,
    },
    /// It will not be tried again, for this reason, which is for logs and the operator.
    GivenUp(String),
}

/// The receiver of a URL, as host and port: what deliveries are counted by.
pub fn host(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

/// When failed attempts are repeated.
pub fn schedule(config: &WebhookConfig) -> RetryPolicy {
    RetryPolicy {
        initial: config.first_delay,
        factor: FACTOR,
        longest: LONGEST,
        jitter: JITTER,
        attempts: Some(config.attempts.saturating_sub(1)),
    }
}

/// The wait after attempt number `attempt` (1 is the first) has failed; [`None`]: that was the last one.
/// `retry_after` is what the receiver asked for: it makes the wait longer, never shorter.
fn next_attempt(
    schedule: RetryPolicy,
    attempt: u32,
    attempts: Attempts,
    retry_after: Option<Duration>,
) -> Option<Duration> {
    if attempts == Attempts::Few && attempt >= FEW {
        return None;
    }
    let before = usize::try_from(attempt.saturating_sub(1)).ok()?;
    let wait = schedule.delays().nth(before)?;
    Some(wait.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)))
}

/// Delivers what is due until `stop`; then waits `grace` for what is in flight. What is left stays in the outbox.
pub async fn run<O: Outbox>(
    outbox: Arc<O>,
    sender: WebhookSender,
    schedule: RetryPolicy,
    stop: CancellationToken,
    grace: Duration,
) {
    let mut flights = Flights {
        outbox: Arc::clone(&outbox),
        sender,
        schedule,
        tasks: JoinSet::new(),
        aboard: HashMap::new(),
    };
    let mut troubles = RetryPolicy::default().delays();
    while !stop.is_cancelled() {
        let found = if flights.aboard.len() < PLACES {
            outbox.due(&flights.hosts(), PLACES - flights.aboard.len()).await
        } else {
            Ok(Due::default())
        };
        let next = match found {
            Ok(due) => {
                troubles.reset();
                for pending in due.now {
                    flights.start(pending);
                }
                due.next
            }
            Err(error) => {
                tracing::error!("the webhooks that are due cannot be read: {error}");
                troubles.next()
            }
        };
        let full = flights.aboard.len() >= PLACES;
        tokio::select! {
            () = stop.cancelled() => break,
            true = flights.land() => {}
            () = outbox.wait_for_change(), if !full => {}
            () = tokio::time::sleep(next.unwrap_or_default().max(SHORTEST_WAIT)), if next.is_some() && !full => {}
        }
    }
    let landed = async { while flights.land().await {} };
    if tokio::time::timeout(grace, landed).await.is_err() {
        tracing::warn!("the grace is over; webhooks in flight are kept and sent again after the next start");
    }
}

/// Deliveries in flight. Dropping it ends them.
struct Flights<O> {
    outbox: Arc<O>,
    sender: WebhookSender,
    schedule: RetryPolicy,
    tasks: JoinSet<()>,
    aboard: HashMap<Id, Pending>,
}

impl<O: Outbox> Flights<O> {
    fn hosts(&self) -> Vec<String> {
        self.aboard.values().map(|pending| host(&pending.url)).collect()
    }

    fn start(&mut self, pending: Pending) {
        // The outbox was asked to leave these out; a second flight of one message would be a second delivery.
        if self.hosts().contains(&host(&pending.url)) {
            return;
        }
        let span = tracing::info_span!("webhook", webhook.id = pending.id);
        let (outbox, sender, message) = (Arc::clone(&self.outbox), self.sender.clone(), pending.clone());
        let schedule = self.schedule;
        let task = async move { attempt(&*outbox, &sender, schedule, &message).await };
        let id = self.tasks.spawn(task.instrument(span)).id();
        self.aboard.insert(id, pending);
    }

    /// Waits for one to end; `false`, at once, when there is none. May be dropped while it waits.
    async fn land(&mut self) -> bool {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return false;
        };
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        // A panic is our own fault. Kept as nothing, the message would be due again at once, for ever.
        if let (Some(pending), Err(_)) = (self.aboard.remove(&id), ended) {
            let (outbox, message) = (Arc::clone(&self.outbox), pending.clone());
            let reason = "the delivery stumbled; the log has the reason".to_owned();
            let task = async move { keep(&*outbox, &message, &Tried::GivenUp(reason)).await };
            self.aboard.insert(self.tasks.spawn(task).id(), pending);
        }
        true
    }
}

/// One attempt, and what is kept of it.
async fn attempt<O: Outbox>(outbox: &O, sender: &WebhookSender, schedule: RetryPolicy, pending: &Pending) {
    let delivery = match outbox.body(&pending.id).await {
        Ok(Some(body)) => {
            let (id, url) = (pending.id.clone(), pending.url.clone());
            let Body { json, traceparent } = body;
            let message = Message {
                id,
                url,
                body: json,
                traceparent,
            };
            sender.deliver(&message).await
        }
        Ok(None) => Delivery::GiveUp("its body is no longer there".to_owned()),
        Err(error) => Delivery::Retry {
            attempts: Attempts::All,
            after: None,
            reason: format!("its body cannot be read: {error}"),
        },
    };
    let made = pending.attempts.saturating_add(1);
    let tried = match delivery {
        Delivery::Delivered => Tried::Delivered,
        Delivery::GiveUp(reason) => Tried::GivenUp(reason),
        Delivery::Retry {
            attempts,
            after,
            reason,
        } => match next_attempt(schedule, made, attempts, after) {
            Some(wait) => Tried::Again { wait, reason },
            None => Tried::GivenUp(reason),
        },
    };
    keep(outbox, pending, &tried).await;
}

/// Logs an outcome, and keeps it. As long as that fails the host stays busy: the message must not go out again only
/// because the disk is full.
async fn keep<O: Outbox>(outbox: &O, pending: &Pending, tried: &Tried) {
    let (id, attempt, url) = (&pending.id, pending.attempts.saturating_add(1), redacted(&pending.url));
    metrics().webhook_tried(match tried {
        Tried::Delivered => WebhookResult::Delivered,
        Tried::Again { .. } => WebhookResult::Failed,
        Tried::GivenUp(_) => WebhookResult::GivenUp,
    });
    match tried {
        Tried::Delivered => tracing::info!(webhook.id = id, attempt, "webhook delivered to {url}"),
        Tried::Again { wait, reason } => {
            let wait_s = wait.as_secs();
            tracing::warn!(
                webhook.id = id,
                attempt,
                wait_s,
                "webhook to {url} failed, next attempt in {wait_s} s: {reason}"
            );
        }
        Tried::GivenUp(reason) => {
            tracing::error!(
                webhook.id = id,
                attempt,
                "webhook to {url} given up after attempt {attempt}: {reason}"
            );
        }
    }
    let mut delays = RetryPolicy::default().delays();
    while let Err(error) = outbox.tried(id, tried).await {
        tracing::error!(webhook.id = id, "what came of a webhook cannot be kept yet: {error}");
        delays.wait().await;
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
