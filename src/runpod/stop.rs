//! Hears which jobs the platform wants stopped: those that were cancelled, or whose time is over.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::client::{DEBOUNCE, PlatformClient};
use super::hand::Hand;
use super::poll::{Answer, Poll};
use crate::config::RunpodConfig;
use crate::net::retry::RetryPolicy;

/// The waits after questions that failed.
const RETRIES: RetryPolicy = RetryPolicy {
    initial: Duration::from_secs(1),
    factor: 2.0,
    longest: Duration::from_secs(10),
    jitter: 0.25,
    attempts: None,
};
/// The time after an answer without a job, in case the platform does not hold questions open (`rp_scale.py`).
const PACE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Signals {
    #[serde(rename = "jobsToStop", default)]
    jobs: Vec<serde_json::Value>,
}

/// Passes stop signals on until `end`.
pub(super) async fn run(config: RunpodConfig, client: PlatformClient, hand: Arc<Hand>, end: CancellationToken) {
    let Some(url) = client.addresses.stop() else {
        tracing::warn!(
            "RUNPOD_WEBHOOK_GET_JOB does not hold /job-take/, so there is no address for stop signals: jobs cannot be cancelled one by one"
        );
        return;
    };
    let mut poll = Poll::new(config.api_key, end.clone());
    let mut delays = RETRIES.delays();
    while !end.is_cancelled() {
        let wait = match poll.ask(&url).await {
            Ok(Some(Answer {
                status: StatusCode::OK,
                body,
                ..
            })) => {
                delays.reset();
                if stop_all(&body, &hand) { Duration::ZERO } else { PACE }
            }
            Ok(Some(answer)) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                answer.retry_after.unwrap_or(DEBOUNCE)
            }
            Ok(None) => PACE,
            Ok(Some(answer)) if answer.status == StatusCode::NO_CONTENT => PACE,
            Ok(Some(answer)) => {
                tracing::debug!("no stop signals: the platform answers {}", answer.status);
                delays.next().unwrap_or(RETRIES.longest)
            }
            Err(error) => {
                tracing::debug!("no stop signals: {error}");
                delays.next().unwrap_or(RETRIES.longest)
            }
        };
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Says whether there were any.
fn stop_all(body: &[u8], hand: &Hand) -> bool {
    let signals: Signals = match serde_json::from_slice(body) {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!("a stop signal is not understood: {error}");
            return false;
        }
    };
    for signal in &signals.jobs {
        match signal.as_str() {
            Some(id) if hand.stop(id) => tracing::info!(job.id = id, "the platform wants the job stopped"),
            Some(id) => tracing::debug!(job.id = id, "a job is to be stopped that is not in hand"),
            None => tracing::warn!("a stop signal names a job by what is no text: {signal}"),
        }
    }
    !signals.jobs.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_jobs_are_stopped_and_rubbish_is_passed_over() {
        let hand = Arc::new(Hand::default());
        let job = hand.take("a").unwrap();
        for rubbish in [
            &b""[..],
            b"{",
            b"[]",
            b"{}",
            br#"{"jobsToStop": []}"#,
            br#"{"jobsToStop": 7}"#,
        ] {
            assert!(!stop_all(rubbish, &hand), "{rubbish:?}");
        }
        assert!(stop_all(br#"{"jobsToStop": ["b", 7]}"#, &hand));
        assert!(!job.stop.is_cancelled());
        assert!(stop_all(br#"{"jobsToStop": [null, "a"]}"#, &hand));
        assert!(job.stop.is_cancelled());
    }
}
