//! Runs a job: the only place that knows the order of the stages.
//!
//! inputs → render → check → generate → collect → deliver. A stage is a file; each takes what the one before left.

mod check;
mod collect;
mod deliver;
mod failure;
mod generate;
mod inputs;
mod render;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Semaphore, watch};

use crate::comfy::{Comfy, Connection};
use crate::config::{ReturnImagesAs, Secret};
use crate::error::JobError;
use crate::job::progress::{Progress, Stage, Tracker};
use crate::job::{JobId, JobRequest, Outcome, Report};
use crate::workflow::{Graph, ModelCatalog, Templates};

pub use check::SchemaCache;

/// Prompts that are in ComfyUI at once: one runs, and one waits there, so that the GPU goes from one to the next
/// without us in between.
const PROMPTS_IN_COMFY: usize = 2;

/// What the executor is built with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often a job is run again when ComfyUI died under it.
    pub retries: u32,
    /// The form of results whose request does not say one. Never [`ReturnImagesAs::Auto`].
    pub return_images_as: ReturnImagesAs,
    /// comfy.org's key for requests that bring none.
    pub org_api_key: Option<Secret>,
    /// Attempts to connect a lost websocket again.
    pub reconnect_attempts: u32,
    /// Time between two of them.
    pub reconnect_delay: Duration,
    /// Whether each websocket message is logged.
    pub websocket_trace: bool,
    /// What every result says, such as that demo weights are in use.
    pub warnings: Vec<String>,
}

/// Runs jobs on one ComfyUI. Shared by all the ways in.
#[derive(Debug)]
pub struct Executor {
    comfy: Comfy,
    templates: Templates,
    catalog: ModelCatalog,
    schemas: SchemaCache,
    settings: Settings,
    slots: Semaphore,
}

/// The progress of one job, for whoever looks.
pub(crate) struct Watcher {
    tracker: Tracker,
    sender: watch::Sender<Progress>,
}

impl Watcher {
    fn change(&mut self, change: impl FnOnce(&mut Tracker)) {
        change(&mut self.tracker);
        let now = self.tracker.progress();
        self.sender.send_if_modified(|seen| {
            let changed = seen != now;
            if changed {
                seen.clone_from(now);
            }
            changed
        });
    }

    fn stage(&mut self, stage: Stage) {
        self.change(|tracker| tracker.stage(stage));
    }

    fn graph(&mut self, graph: &Graph) {
        self.tracker = Tracker::new(
            graph
                .nodes
                .iter()
                .map(|(id, node)| (id.as_str(), node.class_type.as_str())),
        );
    }
}

impl Executor {
    /// An executor for the given ComfyUI.
    pub fn new(comfy: Comfy, templates: Templates, catalog: ModelCatalog, settings: Settings) -> Arc<Self> {
        let slots = Semaphore::new(PROMPTS_IN_COMFY);
        Arc::new(Self {
            comfy,
            templates,
            catalog,
            schemas: SchemaCache::default(),
            settings,
            slots,
        })
    }

    /// The ComfyUI that jobs run on.
    pub fn comfy(&self) -> &Comfy {
        &self.comfy
    }

    /// Runs a job to its end. `progress` shows how far it is.
    pub async fn run(&self, id: JobId, request: JobRequest, progress: watch::Sender<Progress>) -> Report {
        let came = Instant::now();
        let mut watcher = Watcher {
            tracker: Tracker::new([]),
            sender: progress,
        };
        let mut begun = None;
        let result = self.stages(&id, request, &mut watcher, &mut begun).await;
        watcher.stage(Stage::Done);
        let begun = begun.unwrap_or_else(Instant::now);
        let report = Report {
            id,
            result,
            delay: begun - came,
            execution: begun.elapsed(),
        };
        log_end(&report);
        report
    }

    async fn stages(
        &self,
        id: &JobId,
        request: JobRequest,
        watcher: &mut Watcher,
        begun: &mut Option<Instant>,
    ) -> Result<Outcome, JobError> {
        let JobRequest {
            work,
            images,
            return_images_as,
            org_api_key,
            mut warnings,
        } = request;
        let form = match return_images_as {
            None | Some(ReturnImagesAs::Auto) => self.settings.return_images_as,
            Some(form) => form,
        };
        // What can be refused without ComfyUI is refused before anything waits.
        let rendered = render::render(&self.templates, work, id, &images)?;
        let mut connection = self.comfy.connection().await?;
        let slot = self
            .slots
            .acquire()
            .await
            .map_err(|_| JobError::internal("the worker is stopping"))?;
        *begun = Some(Instant::now());

        watcher.stage(Stage::Preparing);
        let uploads = inputs::upload(&self.comfy, &connection, id, images).await?;
        let mut graph = rendered.graph;
        self.check(&mut connection, &mut graph, &uploads).await?;

        watcher.graph(&graph);
        let extra_data = self.extra_data(org_api_key.as_ref());
        let files = self.generate(&connection, &mut graph, &extra_data, watcher).await?;
        // The GPU is free for the next prompt; what follows needs none.
        drop(slot);

        watcher.stage(Stage::Collecting);
        warnings.extend(files.warnings);
        let files_out = deliver::deliver(&self.comfy, files.files, form).await?;
        warnings.extend(self.settings.warnings.iter().cloned());
        Ok(Outcome {
            files: files_out,
            texts: files.texts,
            seed: rendered.chosen_seed,
            warnings,
        })
    }

    /// Checks the graph; once more, on the next start, when ComfyUI dies meanwhile.
    async fn check(
        &self,
        connection: &mut Connection,
        graph: &mut Graph,
        uploads: &inputs::Uploads,
    ) -> Result<(), JobError> {
        let Err(error) = check::check(&self.schemas, &self.catalog, connection, graph, uploads).await else {
            return Ok(());
        };
        let Some(death) = connection.death_behind(&error).await else {
            return Err(error);
        };
        tracing::warn!("the graph is checked again: {}", death.message);
        *connection = self.comfy.connection().await?;
        check::check(&self.schemas, &self.catalog, connection, graph, uploads).await
    }

    /// Runs the graph and collects what it left; once more when all of it was cached and its files are gone.
    async fn generate(
        &self,
        connection: &Connection,
        graph: &mut Graph,
        extra_data: &serde_json::Value,
        watcher: &mut Watcher,
    ) -> Result<collect::Collected, JobError> {
        let run = generate::Run {
            comfy: &self.comfy,
            settings: &self.settings,
            extra_data,
        };
        let entry = run.to_end(connection, graph, watcher).await?;
        let collected = collect::collect(&self.comfy, &entry).await;
        if entry.cached.is_empty() || !collected.incomplete {
            return Ok(collected);
        }
        tracing::info!("the graph came back from ComfyUI's cache without its files; its output nodes run again");
        self.schemas.mark_rerun(graph);
        let entry = run.to_end(connection, graph, watcher).await?;
        Ok(collect::collect(&self.comfy, &entry).await)
    }

    /// What goes to ComfyUI beside the graph: comfy.org's key, where API nodes look for it.
    fn extra_data(&self, key: Option<&Secret>) -> serde_json::Value {
        match key.or(self.settings.org_api_key.as_ref()) {
            Some(key) => json!({ "api_key_comfy_org": key.reveal() }),
            None => json!({}),
        }
    }
}

fn log_end(report: &Report) {
    let (id, execution_ms) = (report.id.as_str(), report.execution.as_millis());
    match &report.result {
        Ok(outcome) => tracing::info!(
            job.id = id,
            job.execution_ms = execution_ms,
            files = outcome.files.len(),
            "job completed"
        ),
        Err(error) => {
            tracing::warn!(job.id = id, job.execution_ms = execution_ms, kind = ?error.kind, "job failed: {}", error.full_text());
        }
    }
}
