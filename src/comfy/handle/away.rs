//! A ComfyUI that is away: the one at `COMFYUI_URL` is being restarted, or ours cannot be started. Jobs wait for it.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Boot, Comfy, Link, PROBE_TIMEOUT, REVIVAL_EVERY};
use crate::comfy::process::{Connection, State};
use crate::error::{ErrorKind, JobError};
use crate::net::retry::RetryPolicy;

/// The waits between two looks for an attached ComfyUI.
const LOOKS: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(100),
    factor: 2.0,
    longest: Duration::from_secs(5),
    jitter: 0.25,
    attempts: None,
};

impl Comfy {
    /// Waits until ComfyUI takes prompts, however long it is away. With a `patience` it fails after that, and at once
    /// where a ComfyUI of ours cannot be started. It fails too when the worker stops.
    pub async fn available(&self, patience: Option<Duration>) -> Result<Connection, JobError> {
        let begun = Instant::now();
        let mut delays = LOOKS.delays();
        loop {
            let error = match self.connection().await {
                Ok(connection) => {
                    self.found();
                    return Ok(connection);
                }
                Err(error) => error,
            };
            match &self.0.link {
                Link::Elsewhere => return Err(error),
                Link::Attached { .. } => {
                    self.lost(&error);
                    if patience.is_some_and(|patience| begun.elapsed() >= patience) {
                        return Err(error);
                    }
                    delays.wait().await;
                }
                Link::Supervised(_) => {
                    if patience.is_some() || self.is_stopped() {
                        return Err(error);
                    }
                    // After a while a job may have it started once more.
                    let _ = tokio::time::timeout(REVIVAL_EVERY, self.until_back()).await;
                }
            }
        }
    }

    /// What a job did there failed: whoever wants to run something looks first whether ComfyUI is there, and waits for it.
    /// One of ours is watched anyway.
    pub fn lost(&self, error: &JobError) {
        let Link::Attached { looked, away, .. } = &self.0.link else {
            return;
        };
        looked.store(false, Ordering::Relaxed);
        if away.send_replace(Some(error.clone())).is_none() {
            tracing::warn!("jobs wait for ComfyUI: {}", error.full_text());
        }
    }

    fn found(&self) {
        if let Link::Attached { away, .. } = &self.0.link
            && away.borrow().is_some()
        {
            away.send_replace(None);
            tracing::info!("ComfyUI is there again");
        }
    }

    /// Whether `error`, of something that was asked of ComfyUI, comes from its being away or having been started again.
    pub async fn is_lost(&self, connection: &Connection, error: &JobError) -> bool {
        if error.kind != ErrorKind::ComfyUnavailable {
            return false;
        }
        if connection.death_behind(error).await.is_some() {
            return true;
        }
        let answers = tokio::time::timeout(PROBE_TIMEOUT, connection.client.system_stats()).await;
        let is_there = matches!(answers, Ok(Ok(_)));
        if !is_there {
            self.lost(error);
        }
        !is_there
    }

    /// Resolves when where it stands changes after this was called. What its process does without our knowing is not seen at
    /// once.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut boot, mut state, mut away) = (None, None, None);
        match &self.0.link {
            Link::Elsewhere => {}
            Link::Attached { away: told, .. } => away = Some(told.subscribe()),
            Link::Supervised(told) => {
                let mut told = told.clone();
                if let Boot::Started(process) = &*told.borrow_and_update() {
                    let mut states = process.state();
                    states.mark_unchanged();
                    state = Some(states);
                }
                boot = Some(told);
            }
        }
        async move {
            tokio::select! {
                () = news(boot.as_mut()) => {}
                () = news(state.as_mut()) => {}
                () = news(away.as_mut()) => {}
            }
        }
    }

    /// Whether jobs have to wait for ComfyUI, other than for the end of a start that is under way.
    pub fn is_away(&self) -> bool {
        match &self.0.link {
            Link::Elsewhere => false,
            Link::Attached { away, .. } => away.borrow().is_some(),
            Link::Supervised(boot) => match &*boot.borrow() {
                Boot::Preparing => false,
                Boot::Failed(_) => true,
                Boot::Started(process) => matches!(*process.state().borrow(), State::Failed(_)),
            },
        }
    }

    /// Resolves when jobs have to wait for ComfyUI, with the reason.
    pub async fn until_away(&self) -> JobError {
        match self.until(true).await {
            Some(reason) => reason,
            None => pending().await,
        }
    }

    /// Resolves when they have not.
    pub async fn until_back(&self) {
        self.until(false).await;
    }

    async fn until(&self, wanted: bool) -> Option<JobError> {
        let boot = match &self.0.link {
            Link::Elsewhere => pending().await,
            Link::Attached { away, .. } => {
                let mut away = away.subscribe();
                let found = away.wait_for(|away| away.is_some() == wanted).await;
                return found.ok().and_then(|away| away.clone());
            }
            Link::Supervised(boot) => boot,
        };
        let mut boot = boot.clone();
        loop {
            let now = boot.borrow_and_update().clone();
            let settled = async {
                match now {
                    Boot::Preparing if !wanted => None,
                    Boot::Failed(error) if wanted => Some(error),
                    Boot::Started(process) => {
                        let mut state = process.state();
                        let found = state
                            .wait_for(|state| matches!(state, State::Failed(_)) == wanted)
                            .await;
                        let reason = found.map(|state| match &*state {
                            State::Failed(error) => Some(JobError::from(error.clone())),
                            _ => None,
                        });
                        match reason {
                            Ok(reason) => reason,
                            // The worker is ending.
                            Err(_) => pending().await,
                        }
                    }
                    Boot::Preparing | Boot::Failed(_) => pending().await,
                }
            };
            tokio::select! {
                settled = settled => return settled,
                changed = boot.changed() => if changed.is_err() {
                    // The worker is ending.
                    pending::<()>().await;
                },
            }
        }
    }

    /// Whether ours will not be started any more.
    fn is_stopped(&self) -> bool {
        let Link::Supervised(boot) = &self.0.link else {
            return false;
        };
        // What starts it is gone.
        if boot.has_changed().is_err() {
            return true;
        }
        let boot = boot.borrow();
        matches!(&*boot, Boot::Started(process) if matches!(*process.state().borrow(), State::Stopping | State::Stopped))
    }
}

/// Resolves when something is told; never once who tells is gone, as it is when the worker ends.
async fn news<T>(told: Option<&mut watch::Receiver<T>>) {
    let is_news = match told {
        Some(told) => told.changed().await.is_ok(),
        None => false,
    };
    if !is_news {
        pending::<()>().await;
    }
}
