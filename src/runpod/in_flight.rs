//! The platform's jobs that this worker has, from their taking to the delivery of their results; and the signals that stop them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::client::{DEBOUNCE, PlatformClient};
use super::long_poll::{Answer, LongPoll};
use crate::config::RunpodConfig;
use crate::net::retry::RetryPolicy;

/// The waits after questions that failed.
const RETRIES: RetryPolicy = RetryPolicy::doubling(Duration::from_secs(1), Duration::from_secs(10));
/// The time after an answer without a job, in case the platform does not hold questions open (`rp_scale.py`).
const PACE: Duration = Duration::from_secs(1);

/// The jobs in flight. In memory alone: what must outlive the process is in the store.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<BTreeMap<String, CancellationToken>>);

/// A job in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlightJob {
    /// Its id on the platform.
    pub(super) id: String,
    /// Cancelled when the platform wants it stopped.
    pub(super) stop: CancellationToken,
    all: Arc<InFlight>,
}

impl InFlight {
    /// Takes a job in; [`None`] when it is there already.
    pub(super) fn take(self: &Arc<Self>, id: &str) -> Option<InFlightJob> {
        let mut jobs = self.0.lock();
        if jobs.contains_key(id) {
            return None;
        }
        let stop = CancellationToken::new();
        jobs.insert(id.to_owned(), stop.clone());
        Some(InFlightJob {
            id: id.to_owned(),
            stop,
            all: Arc::clone(self),
        })
    }

    /// Has a job stopped. Says whether it is here.
    pub(super) fn stop(&self, id: &str) -> bool {
        let jobs = self.0.lock();
        let stop = jobs.get(id);
        if let Some(stop) = stop {
            stop.cancel();
        }
        stop.is_some()
    }

    /// Their ids.
    pub(super) fn ids(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl Drop for InFlightJob {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.id);
    }
}

#[derive(Deserialize)]
struct Signals {
    #[serde(rename = "jobsToStop", default)]
    jobs: Vec<serde_json::Value>,
}

/// Hears until `end` which jobs the platform wants stopped: those that were cancelled, or whose time is over.
pub(super) async fn hear_stops(
    config: RunpodConfig,
    client: PlatformClient,
    in_flight: Arc<InFlight>,
    end: CancellationToken,
) {
    let Some(url) = client.addresses.stop() else {
        tracing::warn!(
            "RUNPOD_WEBHOOK_GET_JOB does not hold /job-take/, so there is no address for stop signals: jobs cannot be cancelled one by one"
        );
        return;
    };
    let mut poll = LongPoll::new(config.api_key, end.clone());
    let mut delays = RETRIES.delays();
    while !end.is_cancelled() {
        let wait = match poll.ask(&url).await {
            Ok(Some(Answer {
                status: StatusCode::OK,
                body,
                ..
            })) => {
                delays.reset();
                if stop_all(&body, &in_flight) {
                    Duration::ZERO
                } else {
                    PACE
                }
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
fn stop_all(body: &[u8], in_flight: &InFlight) -> bool {
    let signals: Signals = match serde_json::from_slice(body) {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!("a stop signal is not understood: {error}");
            return false;
        }
    };
    for signal in &signals.jobs {
        match signal.as_str() {
            Some(id) if in_flight.stop(id) => tracing::info!(job.id = id, "the platform wants the job stopped"),
            Some(id) => tracing::debug!(job.id = id, "a job is to be stopped that is not here"),
            None => tracing::warn!("a stop signal names a job by what is no text: {signal}"),
        }
    }
    !signals.jobs.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_in_hand_once_until_it_is_dropped() {
        let all = Arc::new(InFlight::default());
        let job = all.take("a").unwrap();
        assert!(all.take("a").is_none());
        assert_eq!(all.ids(), ["a"]);
        assert!(all.stop("a") && !all.stop("b"));
        assert!(job.stop.is_cancelled());
        drop(job);
        assert_eq!(all.count(), 0);
        assert!(!all.take("a").unwrap().stop.is_cancelled());
    }

    #[test]
    fn known_jobs_are_stopped_and_rubbish_is_passed_over() {
        let all = Arc::new(InFlight::default());
        let job = all.take("a").unwrap();
        for rubbish in [
            &b""[..],
            b"{",
            b"[]",
            b"{}",
            br#"{"jobsToStop": []}"#,
            br#"{"jobsToStop": 7}"#,
        ] {
            assert!(!stop_all(rubbish, &all), "{rubbish:?}");
        }
        assert!(stop_all(br#"{"jobsToStop": ["b", 7]}"#, &all));
        assert!(!job.stop.is_cancelled());
        assert!(stop_all(br#"{"jobsToStop": [null, "a"]}"#, &all));
        assert!(job.stop.is_cancelled());
    }
}
