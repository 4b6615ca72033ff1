//! A start is prepared: again, where what failed may succeed later.

use std::time::Duration;

use tokio::sync::watch;

use crate::comfy::Boot;
use crate::comfy::install::InstallError;
use crate::comfy::process::Launch;
use crate::error::JobError;
use crate::net::retry::RetryPolicy;

/// The waits before a start is prepared again that failed for a reason which may pass.
const RETRIES: RetryPolicy = RetryPolicy {
    initial: Duration::from_secs(15),
    factor: 2.0,
    longest: Duration::from_mins(10),
    jitter: 0.25,
    attempts: None,
};

/// Why a start could not be prepared.
#[derive(Debug)]
pub(super) struct Unprepared {
    pub(super) error: JobError,
    /// Whether another try may succeed although nobody changed anything: the network is back, a disk has room again.
    may_pass: bool,
}

impl From<JobError> for Unprepared {
    fn from(error: JobError) -> Self {
        Self { error, may_pass: true }
    }
}

impl From<InstallError> for Unprepared {
    fn from(error: InstallError) -> Self {
        Self {
            may_pass: error.may_pass(),
            error: error.into(),
        }
    }
}

/// Prepares a start, as often as it takes; [`None`] where only a person can help. What went wrong is told meanwhile.
pub(super) async fn prepared<F: Future<Output = Result<Launch, Unprepared>>>(
    told: &watch::Sender<Boot>,
    mut prepare: impl FnMut() -> F,
) -> Option<Launch> {
    let mut delays = RETRIES.delays();
    loop {
        let Unprepared { error, may_pass } = match prepare().await {
            Ok(launch) => return Some(launch),
            Err(unprepared) => unprepared,
        };
        let delay = may_pass.then(|| delays.next()).flatten();
        let text = error.full_text();
        told.send_replace(Boot::Failed(error));
        let Some(delay) = delay else {
            tracing::error!("ComfyUI cannot be started: {text}");
            return None;
        };
        tracing::error!(
            "ComfyUI cannot be started: {text}\nThat is tried again in {} s",
            delay.as_secs()
        );
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_whose_cause_may_pass_is_tried_again_and_another_is_not() {
        let (told, boot) = watch::channel(Boot::Preparing);
        let offline = || InstallError::Network {
            step: "fetch ComfyUI",
            output: "no route to host".to_owned(),
        };
        let mut tries = 0;
        let launch = prepared(&told, || {
            tries += 1;
            if tries > 1 {
                // Why is told while it is tried again.
                assert!(matches!(&*boot.borrow(), Boot::Failed(error) if error.message.contains("no route to host")));
            }
            std::future::ready(if tries < 4 {
                Err(offline().into())
            } else {
                Ok(Launch::new("python", "/comfyui", "/run"))
            })
        });
        assert!(launch.await.is_some());
        assert_eq!(tries, 4);
        let mistaken = || InstallError::NotComfyUi { dir: "/nowhere".into() };
        let launch = prepared(&told, || std::future::ready(Err(mistaken().into()))).await;
        assert!(launch.is_none());
        assert!(matches!(&*boot.borrow(), Boot::Failed(error) if error.message.contains("/nowhere")));
    }
}
