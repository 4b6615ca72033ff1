//! Whether this worker can work: looked at before the first job is taken. A worker that cannot says why, once, and ends,
//! so that the platform puts another in its place (`rp_fitness.py`).

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::comfy::{Comfys, Connection, gpu};
use crate::config::{Config, RequiredModel, RunpodConfig};
use crate::disk::blocking;
use crate::error::{ErrorKind, JobError};
use crate::models::Models;
use crate::queue::Queue;
use crate::warm_up::{self, Warming};
use crate::workflow::closest_files;

/// How long an attached ComfyUI may keep us waiting.
const ATTACHED_WAIT: Duration = Duration::from_secs(30);
/// Time between two looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time between two looks at how long the downloads will still take.
const LOOK_AT_DOWNLOADS_EVERY: Duration = Duration::from_secs(5);

pub use crate::comfy::gpu::Unfit;

impl Unfit {
    /// What an error makes unfit.
    pub fn new(check: &'static str, error: &JobError) -> Self {
        Self {
            check,
            reason: error.full_text(),
        }
    }
}

/// Waits for ComfyUI, and warns in time when the platform will not wait as long.
pub(super) async fn comfyui(comfy: &Comfys, config: &RunpodConfig) -> Result<Connection, Unfit> {
    let begun = Instant::now();
    let patience = config.init_timeout;
    let ready = async {
        loop {
            match comfy.connection().await {
                Err(_) if !comfy.is_supervised() && begun.elapsed() < ATTACHED_WAIT.min(patience) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                ready => return ready,
            }
        }
    };
    tokio::pin!(ready);
    for share in [2, 1] {
        tokio::select! {
            ready = &mut ready => return ready.map_err(|error| Unfit::new("comfyui", &error)),
            () = tokio::time::sleep_until(begun + patience / share) => {}
        }
        let (waited, patience) = (begun.elapsed().as_secs(), patience.as_secs());
        tracing::warn!(
            "ComfyUI is not ready after {waited} s; RunPod gives a worker up after {patience} s (RUNPOD_INIT_TIMEOUT). If models are still being loaded or fetched, raise it on the endpoint"
        );
    }
    ready.await.map_err(|error| Unfit::new("comfyui", &error))
}

/// Looks at the GPU, the memory and the disk while ComfyUI starts, and at what ComfyUI makes of the GPU afterwards. An
/// attached ComfyUI may be on any machine, which is its owner's to look after.
pub(super) async fn machine(comfy: &Comfys, platform: &RunpodConfig, config: &Config) -> Result<Connection, Unfit> {
    if !comfy.is_supervised() {
        return comfyui(comfy, platform).await;
    }
    let limits = config.fitness;
    let facts = async {
        let facts = gpu::facts().await;
        // What is unfit already need not wait for ComfyUI.
        gpu::fitness(facts.as_ref(), None, &limits)?;
        let folder = config.paths.data_dir.clone();
        warn(blocking(move || gpu::machine_warnings(&limits, &folder)).await);
        Ok(facts)
    };
    let (facts, connection) = tokio::try_join!(facts, comfyui(comfy, platform))?;
    let stats = connection.client.system_stats().await;
    let stats = stats.map_err(|error| Unfit::new("comfyui", &JobError::from(error)))?;
    let torch = stats
        .pointer("/system/pytorch_version")
        .and_then(serde_json::Value::as_str);
    let torch = torch.map(gpu::torch_build);
    warn(gpu::fitness(facts.as_ref(), torch, &limits)?);
    Ok(connection)
}

/// Waits for the models that are fetched at the start, and warns as soon as they will take longer than the platform
/// waits.
pub(super) async fn downloads(models: &Models, config: &RunpodConfig) -> Result<(), Unfit> {
    let (begun, patience) = (Instant::now(), config.init_timeout);
    let ready = models.ready();
    tokio::pin!(ready);
    let mut warned = false;
    loop {
        tokio::select! {
            ready = &mut ready => return ready.map_err(|error| Unfit::new("models", &error)),
            () = tokio::time::sleep(LOOK_AT_DOWNLOADS_EVERY), if !warned => {}
        }
        let download = models.health().download;
        let left = download.and_then(|download| download.eta_s).unwrap_or_default();
        if begun.elapsed() + Duration::from_secs(left) > patience {
            warned = true;
            tracing::warn!(
                "the models will take {left} s more; RunPod gives a worker up after {} s (RUNPOD_INIT_TIMEOUT). Raise it on the endpoint, or keep the models on a network volume",
                patience.as_secs()
            );
        }
    }
}

/// Looks whether ComfyUI lists the models that must be there. All that are missing are told at once.
pub(super) async fn models(connection: &Connection, required: &[RequiredModel]) -> Result<(), Unfit> {
    let mut missing = Vec::new();
    for RequiredModel { folder, name } in required {
        let listed = connection.client.models(folder).await;
        let listed = listed.map_err(|error| Unfit::new("comfyui", &JobError::from(error)))?;
        let Some(listed) = listed else {
            missing.push(format!("{folder}/{name} (ComfyUI has no folder `{folder}`)"));
            continue;
        };
        if listed.contains(name) {
            continue;
        }
        let closest = closest_files(name, listed.iter().map(String::as_str), 3);
        missing.push(if closest.is_empty() {
            format!("{folder}/{name} (of {} files there none has a like name)", listed.len())
        } else {
            format!("{folder}/{name} (there is {})", closest.join(", "))
        });
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("models of REQUIRED_MODELS are missing: {}", missing.join("; "));
    let error = JobError::new(ErrorKind::ModelMissing, message)
        .hint("Put them into ComfyUI's folders or on the network volume, or have them fetched (MODELS, MODEL_SET).");
    Err(Unfit::new("models", &error))
}

fn warn(warnings: Vec<String>) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// Runs the warm-up of the user's, so that the first job finds its models loaded.
pub(super) async fn warm_up(queue: &Queue, file: &Path, warming: &Warming) -> Result<(), Unfit> {
    let unfit = |error: &JobError| {
        let message = format!("the warm-up {} failed: {}", file.display(), error.full_text());
        Unfit::new("warmup", &JobError::new(error.kind, message))
    };
    let content = tokio::fs::read(file).await.map_err(|error| {
        unfit(&JobError::internal(format!("it cannot be read: {error}")).hint("Let WARMUP_WORKFLOW name a file."))
    })?;
    let done = warm_up::run(queue, &content, warming).await;
    done.map_err(|error| unfit(&error))
}
