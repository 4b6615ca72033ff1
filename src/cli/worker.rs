//! `worker`: jobs from the platform's queue.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::app::{App, Jobs};
use crate::config::Config;
use crate::error::JobError;
use crate::runpod::{Limits, Machine, Unfit, Worker};
use crate::telemetry::report::LogReporter;

pub(super) async fn worker(config: Config) -> anyhow::Result<ExitCode> {
    let stop = super::on_signals()?;
    let Some(queue) = &config.platform.queue else {
        anyhow::bail!(
            "there is no job queue: RunPod sets RUNPOD_WEBHOOK_GET_JOB on its serverless workers. `serve` serves the HTTP API elsewhere"
        );
    };
    let worker = Worker::start(queue)?;
    let app = match App::build(&config, Arc::new(LogReporter::default()), Jobs::Kept).await {
        Ok(app) => app,
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::from(error));
            worker
                .tell_unfit(&Unfit::new("start", &JobError::internal(reason)))
                .await;
            return Ok(ExitCode::FAILURE);
        }
    };
    let machine = Machine {
        limits: config.fitness,
        folder: config.paths.data_dir.clone(),
    };
    let ready = tokio::select! {
        ready = worker.get_ready(&app.queue, &app.comfy, &app.models, &machine) => ready,
        () = stop.cancelled() => Ok(()),
    };
    if let Err(unfit) = ready {
        worker.tell_unfit(&unfit).await;
        app.close().await;
        return Ok(ExitCode::FAILURE);
    }
    if stop.is_cancelled() {
        app.close().await;
        return Ok(ExitCode::SUCCESS);
    }
    tracing::info!("taking jobs from RunPod's queue");
    let (reports, served) = worker.serve(&app.queue, &app.comfy, limits(&config), &stop).await;
    if let Err(unfit) = &served {
        worker.tell_unfit(unfit).await;
    }
    reports.finish(config.http.shutdown_grace).await;
    app.stop(Duration::ZERO).await;
    tracing::info!("stopped");
    Ok(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn limits(config: &Config) -> Limits {
    let is_set = |name| {
        let mut resolved = config.resolved.iter();
        resolved.any(|resolved| resolved.name == name && resolved.from_environment)
    };
    Limits {
        result_max_bytes: config.delivery.result_max_bytes,
        // The platform watches the time itself, by the endpoint's own limit, and sends a stop signal.
        execution_timeout: if is_set("JOB_TIMEOUT_S") {
            config.jobs.timeout
        } else {
            config.jobs.queue_ttl
        },
        ttl: config.jobs.queue_ttl,
    }
}
