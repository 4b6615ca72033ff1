//! Webhooks: the final body of a job, posted to a URL of the user's.
//!
//! One [`WebhookSender::deliver`] is one attempt, which the [`outbox`](super::outbox) repeats. The request follows Standard
//! Webhooks (standardwebhooks.com): `webhook-id` is the same in every attempt, so that a receiver can drop what it has got already; `webhook-timestamp` is the time of the attempt
//! in seconds since 1970; `webhook-signature` is there when a secret is set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode};
use sha2::Sha256;
use url::Url;

use crate::config::{SigningKey, WebhookConfig};
use crate::display::{error_chain, redacted};
use crate::encoding::STANDARD;
use crate::net::guard::{AddressGuard, GuardedClient, Redirects, Refused};
use crate::net::retry::retry_after;
use crate::telemetry::traces;

/// The most of an answer that is read, in bytes.
const MOST_READ: usize = 64 * 1024;
/// The most of an answer that goes into a reason, in characters.
const MOST_SHOWN: usize = 200;

/// What is delivered, and where to.
#[derive(Debug, Clone)]
pub struct Message {
    /// The same in every attempt: what the receiver knows a repetition by.
    pub id: String,
    /// Where to.
    pub url: Url,
    /// The JSON body.
    pub body: Bytes,
    /// The trace that it belongs to, as the header `traceparent`.
    pub traceparent: Option<String>,
}

/// How many attempts a failure is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// As many as are configured: the receiver is down or busy.
    All,
    /// Five: the receiver is up and does not want us, which a deployment in progress explains, but only for minutes.
    Few,
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver has it.
    Delivered,
    /// It may work later.
    Retry {
        /// How many attempts it is worth.
        attempts: Attempts,
        /// What the receiver asked us to wait.
        after: Option<Duration>,
        /// What went wrong. For logs: it quotes the answer.
        reason: String,
    },
    /// It would fail again in the same way. The reason is for logs: it quotes the answer.
    GiveUp(String),
}

/// Posts webhooks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WebhookSender {
    client: GuardedClient,
    keys: Vec<SigningKey>,
    timeout: Duration,
}

impl WebhookSender {
    /// A sender that goes only where the guard lets it.
    pub fn new(guard: &AddressGuard, config: &WebhookConfig) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: guard.client(Redirects::Never, config.timeout)?,
            keys: config.keys.clone(),
            timeout: config.timeout,
        })
    }

    /// Posts a message once.
    pub async fn deliver(&self, message: &Message) -> Delivery {
        let request = match self.client.request(Method::POST, &message.url) {
            Ok(request) => request,
            Err(refused) => return refusal(&refused),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_secs();
        let mut request = request
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp)
            .body(message.body.clone());
        if let Some(signatures) = signatures(&self.keys, &message.id, timestamp, &message.body) {
            request = request.header("webhook-signature", signatures);
        }
        if let Some(traceparent) = &message.traceparent {
            request = request.header(traces::HEADER, traceparent);
        }
        match request.send().await {
            Ok(response) => {
                let (status, retry_after) = (response.status(), retry_after(response.headers()));
                let quote = quote(response).await;
                classify(status, retry_after, &quote)
            }
            Err(error) => failure(error, &message.url),
        }
    }
}

/// The value of `webhook-signature`, by the symmetric scheme `v1`: for each key `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, with
/// spaces between them; a receiver takes the webhook when one of them is right. [`None`]: there is no key.
/// `timestamp` is in seconds since 1970.
fn signatures(keys: &[SigningKey], id: &str, timestamp: u64, body: &[u8]) -> Option<String> {
    let signed: Vec<String> = keys
        .iter()
        // HMAC takes keys of any length: this never leaves one out.
        .filter_map(|key| Hmac::<Sha256>::new_from_slice(key.reveal()).ok())
        .map(|mut mac| {
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        })
        .collect();
    (!signed.is_empty()).then(|| signed.join(" "))
}

/// Decides what an answer's status is worth.
///
/// - 2xx: the receiver has it.
/// - 408, 425, 429 and 5xx: the receiver is busy or broken, and says so. Tried to the end of the schedule.
/// - 3xx: not followed, since the receiver was to be what the user named; a login page put before it, or a redirect to
///   https, is put right by a person or not at all. A few attempts.
/// - 401, 403, 404, 409, 421, 423, 424: a deployment in progress, a route or a key not yet there. A few attempts.
/// - Every other 4xx (410 among them: "gone") is about this very request, which will be the same next time. Given up.
fn classify(status: StatusCode, after: Option<Duration>, quote: &str) -> Delivery {
    let reason = format!("the receiver answered {status}{quote}");
    let retry = |attempts, reason| Delivery::Retry {
        attempts,
        after,
        reason,
    };
    match status.as_u16() {
        200..=299 => Delivery::Delivered,
        408 | 425 | 429 | 500.. => retry(Attempts::All, reason),
        300..=399 => retry(
            Attempts::Few,
            format!("{reason}; redirects of webhooks are not followed, name the final URL"),
        ),
        401 | 403 | 404 | 409 | 421 | 423 | 424 => retry(Attempts::Few, reason),
        _ => Delivery::GiveUp(reason),
    }
}

/// Decides what an attempt without an answer is worth: all are tried again but refusals of the guard, and requests
/// that cannot even be written down.
fn failure(error: reqwest::Error, url: &Url) -> Delivery {
    if let Some(refused) = Refused::within(&error) {
        return refusal(refused);
    }
    // The error names the URL with all its secrets; ours leaves them out.
    let (builder, error) = (error.is_builder(), error.without_url());
    let reason = format!("no answer from {}: {}", redacted(url), error_chain(&error));
    if builder {
        return Delivery::GiveUp(reason);
    }
    Delivery::Retry {
        attempts: Attempts::All,
        after: None,
        reason,
    }
}

fn refusal(refused: &Refused) -> Delivery {
    Delivery::GiveUp(refused.to_string())
}

/// The begin of an answer, to be put after its status: where it leads, or what it says. A body that is cut or broken
/// off changes nothing: the status counts.
async fn quote(mut response: Response) -> String {
    if let Some(location) = response.headers().get(LOCATION) {
        let target = location.to_str().ok().and_then(|text| response.url().join(text).ok());
        return target.map_or_else(String::new, |target| format!(" (a redirect to {})", redacted(&target)));
    }
    let mut body = Vec::new();
    while body.len() < MOST_READ
        && let Ok(Some(piece)) = response.chunk().await
    {
        body.extend_from_slice(&piece);
    }
    let text = String::from_utf8_lossy(&body);
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    // `escape_debug` keeps line breaks and control characters out of the log.
    let begin: String = text.chars().take(MOST_SHOWN).collect();
    format!(": {}", begin.escape_debug())
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
