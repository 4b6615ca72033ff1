//! What is done beside ComfyUI's start: its phases are noted, and the models of the first job are read into memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::comfy::Comfy;
use crate::comfy::process::State;
use crate::config::ModelFile;
use crate::models::{Beside, Models};
use crate::telemetry::start::{Phase, StartClock};

/// Notes when ComfyUI first answers.
pub(super) fn note_ready(mut state: watch::Receiver<State>, clock: StartClock) {
    tokio::spawn(async move {
        if state.wait_for(|state| matches!(state, State::Ready(_))).await.is_ok() {
            clock.reach(Phase::Comfyui);
        }
    });
}

/// Reads `files` into memory, as far as they are on disk, from when the process of ComfyUI has begun; `root` is its
/// installation. Ends when ComfyUI cannot be started, and when `stop` is cancelled.
pub async fn read_ahead(comfy: Comfy, models: Models, files: Vec<ModelFile>, root: PathBuf, stop: CancellationToken) {
    let begun = async { Some((comfy.process_begun().await?, models.on_disk(files).await)) };
    let Some(Some((process, items))) = stop.run_until_cancelled(begun).await else {
        return;
    };
    if items.is_empty() {
        return;
    }
    let beside = Beside {
        pid: process.pid(),
        is_ready: Arc::new(AtomicBool::new(false)),
        root,
    };
    let (mut state, is_ready) = (process.state(), Arc::clone(&beside.is_ready));
    // With the last handle ComfyUI would end.
    drop(process);
    let stop = stop.child_token();
    let reading = models.prefetch(items, beside, stop.clone());
    tokio::pin!(reading);
    let read = loop {
        tokio::select! {
            read = &mut reading => break read,
            changed = state.changed(), if !stop.is_cancelled() => {
                let (is_up, is_lost) = match &*state.borrow() {
                    State::Ready(_) => (true, false),
                    State::Starting => (false, false),
                    State::Stopping | State::BackingOff(_) | State::Failed(_) | State::Stopped => (false, true),
                };
                is_ready.fetch_or(is_up, Ordering::Relaxed);
                if is_lost || changed.is_err() {
                    stop.cancel();
                }
            }
        }
    };
    if read.is_whole {
        comfy.clock().reach(Phase::ModelsCached);
    }
}
