//! A worker of RunPod's serverless platform: it takes jobs from the platform's queue and gives their results back.
//!
//! ```text
//!              job-take ──► [intake] ──► queue ──► ComfyUI
//!              job-stop ──► [in_flight] ──► queue.cancel  (each job: one task of [report])
//!  job-done, job-stream ◄── [report] ◄── the job's progress and end, kept in the store until they are taken
//!                  ping ◄── [client], a thread of its own
//! ```
//!
//! The protocol is that of Python's `runpod` 1.12.0 (`serverless/modules/`): long polls for jobs and stop signals,
//! results as JSON text under a form's content type, the raw API key in `Authorization`. What the SDK loses is not lost
//! here: a result is in the store before the first post, and is posted until the platform takes it.

mod addresses;
mod client;
mod end;
mod fitness;
mod in_flight;
mod intake;
mod long_poll;
mod report;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::comfy::Comfys;
use crate::config::{Config, RunpodConfig};
use crate::delivery::Results;
use crate::models::Models;
use crate::queue::Queue;
use crate::warm_up::{WarmUp, Warming};
use client::PlatformClient;
use in_flight::InFlight;
use intake::Intake;
use report::Reporter;

pub use fitness::Unfit;

/// How the worker names itself to the platform.
const AGENT: &str = concat!("qwen-image-worker/", env!("CARGO_PKG_VERSION"));

/// Why the worker's side of the protocol cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Results could go nowhere.
    #[error(
        "RUNPOD_WEBHOOK_GET_JOB is set and RUNPOD_WEBHOOK_POST_OUTPUT is not, so results could go nowhere: RunPod sets both; SERVE_API_LOCALLY=true serves the HTTP API without them"
    )]
    NoOutput,
    /// No HTTP client.
    #[error("no client can be made for the platform")]
    Client(#[source] reqwest::Error),
    /// No thread, or nothing to run on it.
    #[error("the thread of the pings cannot be started")]
    Heartbeat(#[source] std::io::Error),
}

/// A worker of the platform. It says that it lives until it is dropped.
pub struct Worker {
    config: RunpodConfig,
    client: PlatformClient,
    in_flight: Arc<InFlight>,
    _heart: DropGuard,
}

impl Worker {
    /// A worker that says that it lives, and does nothing else yet.
    pub fn start(config: &RunpodConfig) -> Result<Self, StartError> {
        let client = PlatformClient::new(config)?;
        let (in_flight, heart) = (Arc::new(InFlight::default()), CancellationToken::new());
        client::start_heartbeat(config, client.addresses.clone(), Arc::clone(&in_flight), heart.clone())?;
        Ok(Self {
            config: config.clone(),
            client,
            in_flight,
            _heart: heart.drop_guard(),
        })
    }

    /// Tells the platform why this worker cannot work.
    pub async fn tell_unfit(&self, unfit: &Unfit) {
        tracing::error!("this worker cannot work ({}): {}", unfit.check, unfit.reason);
        self.client.unhealthy(unfit.check, &unfit.reason).await;
    }

    /// Waits until jobs can run, and warms up: with `WARMUP_WORKFLOW`, else with what is given.
    pub async fn get_ready(
        &self,
        queue: &Queue,
        (comfy, models): (&Comfys, &Models),
        (warm_up, warming): (Option<&WarmUp>, &Warming),
        config: &Config,
    ) -> Result<(), Unfit> {
        let (connection, ()) = tokio::try_join!(
            fitness::machine(comfy, &self.config, config),
            fitness::downloads(models, &self.config)
        )?;
        fitness::models(&connection, &self.config.required_models).await?;
        if let Some(file) = &self.config.warmup_workflow {
            fitness::warm_up(queue, file, warming).await?;
        } else if let Some(warm_up) = warm_up {
            // Without it the worker can work too.
            let left = self.config.init_timeout.saturating_sub(comfy.clock().elapsed());
            warm_up.run(queue, (comfy, models), warming, Some(left)).await;
        }
        Ok(())
    }

    /// Takes the platform's jobs until `stop`, or until a clean worker was asked for. What previous runs of the worker
    /// left is gone on with first. Every job that was handed out is in the queue when this returns.
    pub async fn serve(
        &self,
        queue: &Queue,
        results: &Arc<Results>,
        comfy: &Comfys,
        config: &Config,
        stop: &CancellationToken,
    ) -> (Reports, Result<(), Unfit>) {
        let leave = stop.child_token();
        let reporter = Arc::new(Reporter {
            queue: queue.clone(),
            results: Arc::clone(results),
            comfy: comfy.clone(),
            client: self.client.clone(),
            refresh_worker: self.config.refresh_worker,
            progress_interval: self.config.progress_interval,
            ttl: config.jobs.queue_ttl,
            retire: leave.clone(),
            tasks: TaskTracker::new(),
        });
        let listening = CancellationToken::new();
        let hearing = in_flight::hear_stops(
            self.config.clone(),
            self.client.clone(),
            Arc::clone(&self.in_flight),
            listening.clone(),
        );
        tokio::spawn(hearing);
        let concurrency = self.config.concurrency as usize;
        let all_slots = concurrency.max(comfy.all().count());
        let slots = Arc::new(Semaphore::new(all_slots));
        match queue.platform_jobs().await {
            Ok(jobs) => {
                for (id, policy) in jobs {
                    let job = policy.platform.as_ref().and_then(|job| self.in_flight.take(&job.id));
                    let Some(job) = job else { continue };
                    tracing::info!(job.id = job.id, "going on with a job of a previous start");
                    reporter.follow(job, id, policy, Arc::clone(&slots).try_acquire_owned().ok());
                }
            }
            Err(error) => tracing::error!("the jobs of previous starts are not known: {}", error.full_text()),
        }
        let intake = Intake {
            reporter: Arc::clone(&reporter),
            in_flight: Arc::clone(&self.in_flight),
            slots,
            all_slots,
            concurrency,
            max_bytes: config.delivery.result_max_bytes,
            // The platform watches the time itself, by the endpoint's own limit, and sends a stop signal.
            execution_timeout: config.jobs.chosen_timeout.unwrap_or(config.jobs.queue_ttl),
        };
        let served = intake.run(&self.config, &leave).await;
        let reports = Reports {
            reporter,
            _listening: listening.drop_guard(),
        };
        (reports, served)
    }
}

/// The jobs in flight when no more are taken. Stop signals are heard until it is dropped.
pub struct Reports {
    reporter: Arc<Reporter>,
    _listening: DropGuard,
}

impl Reports {
    /// Waits until every job in flight has ended and the platform has its result, at most `grace`. What is left is gone on
    /// with after the next start.
    pub async fn finish(&self, grace: Duration) {
        let tasks = &self.reporter.tasks;
        tasks.close();
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(
                jobs = tasks.len(),
                "the grace is over; jobs that have not ended, and results that the platform has not taken, wait for the next start"
            );
        }
    }
}
