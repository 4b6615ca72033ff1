//! The worker's sign of life, with the jobs it has. A platform that hears nothing ends the worker, so the pings have a
//! thread of their own: nothing that the worker does can keep them back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::addresses::Addresses;
use super::client::authorized;
use super::hand::Hand;
use super::{AGENT, StartError};
use crate::config::{RunpodConfig, Secret};
use crate::display::error_chain;

/// Tries of one ping (`rp_ping.py`).
const TRIES: u32 = 3;
/// Time between two of them.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Pings until `end`, from a thread of its own.
pub(super) fn start(
    config: &RunpodConfig,
    addresses: Addresses,
    hand: Arc<Hand>,
    end: CancellationToken,
) -> Result<(), StartError> {
    if addresses.ping(&[]).is_none() {
        tracing::warn!("RUNPOD_WEBHOOK_PING is not set: the platform does not hear that this worker lives");
        return Ok(());
    }
    let (interval, key) = (config.ping_interval, config.api_key.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StartError::Heartbeat)?;
    let beat = move || runtime.block_on(ping(interval, key, addresses, hand, end));
    let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beat);
    thread.map(drop).map_err(StartError::Heartbeat)
}

async fn ping(interval: Duration, key: Option<Secret>, addresses: Addresses, hand: Arc<Hand>, end: CancellationToken) {
    let client = reqwest::Client::builder()
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
        for attempt in 1..=TRIES {
            let Some(url) = addresses.ping(&hand.ids()) else { return };
            let sent = tokio::select! {
                () = end.cancelled() => return,
                sent = authorized(client.get(url), key.as_ref()).send() => sent,
            };
            let failure = match sent.map(|answer| answer.status()) {
                Ok(status) if !is_passing(status) => break,
                Ok(status) => format!("the platform answers {status}"),
                Err(error) => error_chain(&error.without_url()),
            };
            tracing::warn!("ping {attempt} of {TRIES} failed: {failure}");
            tokio::time::sleep(RETRY_AFTER.min(interval)).await;
        }
    }
}

/// The statuses after which Python's `runpod` tries again.
fn is_passing(status: reqwest::StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}
