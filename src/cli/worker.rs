//! `worker`: jobs from the platform's queue.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::serve::{begin_traces, listen_for_metrics};
use crate::app::{App, Jobs};
use crate::config::Config;
use crate::error::JobError;
use crate::http::server::{Port, serve as serve_port};
use crate::runpod::{Unfit, Worker};
use crate::telemetry::report::LogReporter;
use crate::telemetry::traces;

pub(super) async fn worker(config: Config) -> anyhow::Result<ExitCode> {
    let stop = super::on_signals()?;
    let Some(queue) = &config.platform.queue else {
        anyhow::bail!(
            "there is no job queue: RunPod sets RUNPOD_WEBHOOK_GET_JOB on its serverless workers. `serve` serves the HTTP API elsewhere"
        );
    };
    if config.engines.source.is_some() {
        anyhow::bail!(
            "ENGINES makes a front, which takes no jobs from RunPod's queue: take it out, or set SERVE_API_LOCALLY=true"
        );
    }
    begin_traces(&config.traces);
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
    let close = CancellationToken::new();
    match listen_for_metrics(&config.http).await {
        Ok(Some(listener)) => {
            tokio::spawn(serve_port(listener, app.metrics_router(), Port::Metrics, close.clone()));
        }
        Ok(None) => {}
        // Jobs can run all the same.
        Err(error) => tracing::warn!("there are no metrics: {error:#}"),
    }
    let ready = tokio::select! {
        ready = worker.get_ready(&app.queue, (&app.comfy, &app.models), (app.warm_up.as_ref(), &app.warming), &config) => ready,
        () = stop.cancelled() => Ok(()),
    };
    if let Err(unfit) = ready {
        worker.tell_unfit(&unfit).await;
        app.close().await;
        return Ok(ExitCode::FAILURE);
    }
    if stop.is_cancelled() {
        app.stop(config.http.shutdown_grace).await;
        return Ok(ExitCode::SUCCESS);
    }
    tracing::info!("taking jobs from RunPod's queue");
    let (reports, served) = worker.serve(&app.queue, &app.results, &app.comfy, &config, &stop).await;
    if let Err(unfit) = &served {
        worker.tell_unfit(unfit).await;
    }
    reports.finish(config.http.shutdown_grace).await;
    app.stop(Duration::ZERO).await;
    close.cancel();
    traces::end().await;
    tracing::info!("stopped");
    Ok(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}
