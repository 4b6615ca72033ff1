//! What is done beside ComfyUI's start: its phases are noted, the models of the first job are read into memory, and those that jobs
//! use are copied to the local disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Jobs;
use crate::boot::Plan;
use crate::comfy::Comfy;
use crate::comfy::process::State;
use crate::config::{Config, ModelFile};
use crate::models::local::LocalCopies;
use crate::models::{self, Models, Planned};
use crate::telemetry::start::Phase;
use crate::warm_up::{self, WarmUp};
use crate::workflow::Templates;

/// What a worker does beside the start of its ComfyUI.
#[derive(Debug)]
pub(super) struct Beside {
    /// Where copies of models go, if any are made.
    copies: Option<LocalCopies>,
    /// The installation of ComfyUI, if models are read ahead.
    root: Option<PathBuf>,
    /// The warm-up of the user's own.
    own: Option<PathBuf>,
}

impl Beside {
    /// A single job needs none of it: another worker may be at it in the same data folder.
    pub(super) fn planned(plan: &Plan, config: &Config, jobs: Jobs) -> Self {
        let is_worker = jobs == Jobs::Kept;
        let copies = match plan {
            Plan::Start(plan) if is_worker => plan.copies.clone(),
            _ => None,
        };
        let reads = is_worker && config.models.prefetch && !plan.is_demo();
        let queue = config.platform.job_queue();
        Self {
            copies,
            root: plan.root().filter(|_| reads).map(Path::to_owned),
            own: queue.and_then(|queue| queue.warmup_workflow.clone()),
        }
    }

    /// Begins with all of it, which ends with `ending`. `wanted` are the models that the worker is to have from the start.
    pub(super) fn begin(
        self,
        (comfy, models): (&Comfy, &Models),
        (templates, warm_up): (&Templates, Option<&WarmUp>),
        wanted: Vec<ModelFile>,
        ending: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        if !wanted.is_empty() {
            let (clock, models) = (comfy.clock().clone(), models.clone());
            let ready = async move {
                if models.ready().await.is_ok() {
                    clock.reach(Phase::ModelsPresent);
                }
            };
            tasks.spawn(ending.clone().run_until_cancelled_owned(ready));
        }
        if let Some(copies) = self.copies {
            models.keep_local(copies);
        }
        let Some(root) = self.root else { return };
        let (templates, known) = (templates.clone(), warm_up.map(WarmUp::models));
        let (own, known) = (self.own, known.unwrap_or_default().to_vec());
        let names = async move {
            match own {
                Some(file) => warm_up::models_of(&file, &templates).await,
                None => known,
            }
        };
        let reading = read_ahead(
            comfy.clone(),
            models.clone(),
            models.plan_prefetch(),
            (names, wanted),
            root,
            ending.clone(),
        );
        tasks.spawn(reading);
    }
}

/// Reads the models with these names, and these files, into memory, as far as they are on disk, from when the process of ComfyUI
/// has begun; `root` is its installation. Ends when ComfyUI cannot be started, and when `stop` is cancelled.
async fn read_ahead(
    comfy: Comfy,
    models: Models,
    planned: Planned,
    (names, wanted): (impl Future<Output = Vec<String>>, Vec<ModelFile>),
    root: PathBuf,
    stop: CancellationToken,
) {
    let begun = async {
        let process = comfy.process_begun().await?;
        Some((process, models.on_disk(&names.await, &wanted).await))
    };
    let Some(Some((process, on_disk))) = stop.run_until_cancelled(begun).await else {
        return;
    };
    if on_disk.items.is_empty() {
        return;
    }
    let beside = models::Beside {
        pid: process.pid(),
        is_ready: Arc::new(AtomicBool::new(false)),
        root,
    };
    let (mut state, is_ready) = (process.state(), Arc::clone(&beside.is_ready));
    // With the last handle ComfyUI would end.
    drop(process);
    let stop = stop.child_token();
    let reading = models.prefetch(planned, on_disk.items, beside, stop.clone());
    tokio::pin!(reading);
    let read = loop {
        // What ends is started again; it may have been ready before anybody looked.
        let is_lost = {
            let state = state.borrow_and_update();
            is_ready.store(matches!(*state, State::Ready(_)), Ordering::Relaxed);
            matches!(*state, State::Failed(_) | State::Stopped)
        };
        if is_lost {
            stop.cancel();
        }
        tokio::select! {
            read = &mut reading => break read,
            changed = state.changed(), if !stop.is_cancelled() => if changed.is_err() {
                stop.cancel();
            },
        }
    };
    if read.is_whole && on_disk.is_whole {
        comfy.clock().reach(Phase::ModelsCached);
    }
}
