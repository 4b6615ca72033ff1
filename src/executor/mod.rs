//! Runs a job: the only place that knows the order of the stages.
//!
//! fetch → parameters, or saved → contents → `url_models` → inputs → check (→ models) → generate → collect → safety check and delivery
//! ([`Results`]). A stage is a file; each takes what the one before left.
//!
//! What is done once more, and how often:
//!
//! | what went wrong | what is done | at most |
//! |---|---|---|
//! | ComfyUI goes away while images are uploaded or the graph is checked | it is waited for, then once more (`losses`) | five times each |
//! | a saved workflow does not become a graph | its classes are described again, and it is converted again (`saved`) | once |
//! | a graph does not pass the check | its classes are described again, and it is checked again (`check`) | once |
//! | only models are missing, and they can be had | they are fetched, and the graph is checked again (`check`) | once |
//! | ComfyUI refuses the prompt for a model that was there when its loader was described | the classes are described again, and the graph goes through check and generation again ([`Executor::run`]) | once |
//! | ComfyUI dies under a prompt, forgets it or stalls | the prompt is submitted again (`generate`, `losses`) | as the settings say |
//! | the same, and it was no fault of the prompt | it is submitted again | ten times |
//! | the kernel kills ComfyUI under a prompt for want of memory | nothing: it would be killed again (`generate`) | – |
//! | the graph came from ComfyUI's cache, and its files are gone | its output nodes run again ([`Executor::run`]) | once |

mod assets;
mod available;
mod check;
mod collect;
mod commit;
mod contents;
mod control;
pub mod elsewhere;
mod failure;
mod fetch;
mod follow;
mod generate;
mod inputs;
mod ledger;
mod leftovers;
mod losses;
mod parameters;
mod pictures;
mod quiet;
mod saved;
mod template;
#[cfg(test)]
pub(crate) mod testing;
mod told;
mod url_models;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;

use crate::blobs::Blobs;
use crate::comfy::nodes::finder::{ClassFinder, Elsewhere};
use crate::comfy::{Comfy, ComfyState, Connection};
use crate::config::{ComfyConfig, JobsConfig, Secret};
use crate::delivery::{Plan, Results, Wrote};
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Stage;
use crate::job::{JobId, JobRequest, Outcome, Work, check_mask_pixels, check_own_mask};
use crate::models::{Held, Models};
use crate::telemetry::start::Phase;
use crate::workflow::{Graph, Templates};

pub use control::{Event, JobControl};
pub use fetch::Fetcher;
pub(crate) use inputs::FOLDER as INPUTS;
pub use inputs::sweep as sweep_inputs;
pub use ledger::{Claim, LeftFile};
pub use parameters::template_of;
pub use told::Told;

use check::SchemaCache;
use control::ProgressSink;
use elsewhere::Numbers;
use losses::{Order, Preparations};
use saved::Descriptions;

/// What the executor is built with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How jobs are run.
    pub jobs: JobsConfig,
    /// How ComfyUI is spoken to, and comfy.org's key for requests that bring none.
    pub comfy: ComfyConfig,
    /// Fetches the images that requests name by URL.
    pub fetcher: Fetcher,
    /// Files that were uploaded before the requests that name them.
    pub blobs: Blobs,
    /// The Comfy Registry, which is asked for the classes that ComfyUI lacks.
    pub registry: Url,
    /// Where demo weights lie, where they are in use.
    pub demo: Option<PathBuf>,
    /// What every result says, such as that demo weights are in use.
    pub warnings: Vec<String>,
}

/// Runs jobs on one ComfyUI. Shared by all the ways in.
#[derive(Debug)]
pub struct Executor {
    comfy: Comfy,
    templates: Templates,
    models: Models,
    schemas: SchemaCache,
    descriptions: Arc<Descriptions>,
    finder: ClassFinder,
    settings: Settings,
    slots: Semaphore,
    order: Order,
    /// Of files that engines elsewhere made.
    numbers: Numbers,
    pub(crate) results: Arc<Results>,
}

impl Executor {
    /// An executor for the given ComfyUI, whose results go back so.
    pub fn new(
        comfy: Comfy,
        templates: Templates,
        models: Models,
        results: Arc<Results>,
        settings: Settings,
    ) -> Arc<Self> {
        let slots = Semaphore::new(1 + settings.jobs.prefetch);
        let elsewhere = Elsewhere::new(&settings.registry);
        let finder = ClassFinder::new(comfy.nodes().clone(), elsewhere, !comfy.is_supervised());
        Arc::new(Self {
            comfy,
            templates,
            models,
            schemas: SchemaCache::default(),
            descriptions: Arc::default(),
            finder,
            settings,
            slots,
            order: Order::default(),
            numbers: Numbers::default(),
            results,
        })
    }

    /// Another one, for another ComfyUI beside this one.
    pub fn beside(&self, comfy: Comfy) -> Arc<Self> {
        let (templates, models, settings) = (self.templates.clone(), self.models.clone(), self.settings.clone());
        Self::new(comfy, templates, models, Arc::clone(&self.results), settings)
    }

    /// The ComfyUI that jobs run on.
    pub fn comfy(&self) -> &Comfy {
        &self.comfy
    }

    /// Prompts that wait in ComfyUI behind the one that runs.
    pub fn prefetch(&self) -> usize {
        self.settings.jobs.prefetch
    }

    /// Whether a template has nodes whose class begins with `prefix`, and the ComfyUI that is ready now has them all.
    pub async fn has_nodes(&self, template: &str, prefix: &str) -> bool {
        let Some(template) = self.templates.get(template) else {
            return false;
        };
        let mut classes = template.graph().classes();
        classes.retain(|class| class.starts_with(prefix));
        if classes.is_empty() || !matches!(self.comfy.state().await, ComfyState::Ready { .. }) {
            return false;
        }
        let Ok(connection) = self.comfy.connection().await else {
            return false;
        };
        for class in classes {
            if !matches!(connection.client.object_info(class).await, Ok(Some(_))) {
                return false;
            }
        }
        true
    }

    /// Fetches the images that the request names by URL, and looks at its mask. Whoever does that before [`Self::run`]
    /// need not keep others waiting for it.
    pub async fn fetch(&self, request: &mut JobRequest) -> Result<(), JobError> {
        self.settings.fetcher.fetch_all(request).await?;
        let cores = self.results.cores();
        match (request.mask().cloned(), self.image_as_mask(request)) {
            (Some(mask), _) => cores.run(move || check_mask_pixels(&mask)).await?,
            (None, Some(image)) => cores.run(move || check_own_mask(&image)).await?,
            (None, None) => Ok(()),
        }
    }

    /// Executes a job. When it is cancelled, ComfyUI is free again when this returns.
    pub async fn run(&self, id: &JobId, mut request: JobRequest, owner: &JobControl) -> Result<Outcome, JobError> {
        let mut sink = ProgressSink::new(owner, &self.comfy);
        let _at_work = self.comfy.nodes().at_work();
        self.comfy.clock().reach(Phase::FirstJob);
        owner.watch.works(&request.work);
        let fetching = owner.watch.fetches(&request);
        owner.unless_cancelled(self.fetch(&mut request)).await?;
        drop(fetching);
        self.keep_transparency(&mut request);
        let JobRequest {
            work,
            mut images,
            delivery,
            org_api_key,
            mut extra_data,
            mut warnings,
        } = request;
        // A folder for this execution alone: one that was cancelled may still be on its way out when the job is retried.
        let folder = format!("{id}-{}", uuid::Uuid::new_v4().simple());
        // What can be refused without ComfyUI is refused before anything waits.
        let plan = self.plan_of(&delivery, owner)?;
        self.complete(&mut extra_data, org_api_key.as_ref(), owner);
        sink.secrets = told::secrets_in(&extra_data);
        let extra_data = Value::Object(extra_data);
        let of_template = url_models::is_of_template(&work);
        let mut template = None;
        let (mut graph, seed) = match work {
            Work::Workflow(graph) => (graph, None),
            Work::Template(request) => {
                let filled = self.fill(request, id, (&folder, owner.patience), &images);
                let filled = owner.unless_cancelled(filled).await?;
                warnings.extend(filled.warnings);
                owner.watch.template(&filled.template);
                template = Some(filled.template);
                (filled.graph, filled.seed)
            }
            Work::Saved(saved) => {
                let is_ours = saved.seed.is_none();
                let converted = self.graph_of_saved(saved, id, &mut sink);
                let converted = owner.unless_cancelled(converted).await?;
                warnings.extend(converted.warnings);
                (converted.graph, (is_ours && converted.chose).then(|| id.seed()))
            }
        };
        let contents = self.take_contents(&mut graph, &mut images, delivery.bucket.as_ref(), owner);
        owner.unless_cancelled(contents).await?;
        let by_url = self.take_url_models(&mut graph, of_template, &mut sink);
        let by_url = owner.unless_cancelled(Box::pin(by_url)).await?;
        warnings.extend(by_url.warnings.iter().cloned());
        let names = graph.model_names();
        let held = self.models.hold(names.clone()).await;
        let pictures = assets::loaded_as_pictures(&graph);
        let inputs = inputs::Stage {
            comfy: &self.comfy,
            models: &self.models,
            blobs: &self.settings.blobs,
            folder: &folder,
            pictures: &pictures,
        };
        let upload = async {
            let mut preparations = Preparations::default();
            loop {
                let connection = self.comfy.available(owner.patience).await?;
                sink.stage(Stage::Preparing);
                // They are there once, whoever else has them.
                let images = images.clone();
                match inputs.upload(&connection, images).await {
                    Err(error) if preparations.is_lost(self, &connection, &error).await => {}
                    uploaded => return uploaded,
                }
            }
        };
        let uploads = owner.unless_cancelled(upload).await?;
        uploads.name_assets(&mut graph);
        let (mut renew, mut ran, mut mark) = (false, None, self.comfy.mark());
        let collected = loop {
            let prepared = self.prepare(renew, &mut graph, &uploads, &mut sink);
            let (connection, provided, slot) = owner
                .unless_cancelled(prepared)
                .await
                .map_err(|error| failure::with_images(by_url.told(error), &graph, &uploads.names))?;
            if delivery.return_workflow {
                let names: Vec<_> = uploads.names.iter().cloned().chain(by_url.names()).collect();
                ran = Some(inputs::with_names_of_request(&graph, &names));
            }
            if let Some(mark) = mark.take() {
                leftovers::mark_prefixes(&mut graph, mark);
            }
            let collected = self.generate(&connection, &mut graph, &extra_data, &mut sink).await;
            drop((slot, provided));
            match collected {
                Err(error) if !renew && error.kind == ErrorKind::ModelMissing && !sink.has_ever_begun => {
                    tracing::info!("a model went after its loader was described; the graph is checked again");
                    renew = true;
                }
                collected => break collected,
            }
        };
        let collected = collected.map_err(|error| {
            let error = failure::with_images(by_url.told(error), &graph, &uploads.names);
            told::without(error, &sink.secrets)
        });
        warnings.extend(self.schemas.remarks(&graph, &uploads.names));
        drop((uploads, by_url, held));
        owner.tell(Event::ComfyFree);
        let collected = collected?;
        if !collected.files.is_empty() {
            self.comfy.clock().reach(Phase::FirstPicture);
        }
        self.models.used(names);
        warnings.extend(collected.warnings);
        let outcome = Outcome {
            files: collected.files,
            texts: collected.texts,
            seed,
            template,
            workflow: ran,
            warnings,
            ..Outcome::default()
        };
        self.hand_out(outcome, (plan, delivery.safety_check), sink).await
    }

    /// The last stages: the safety check where it is wanted, and delivery.
    async fn hand_out(
        &self,
        mut outcome: Outcome,
        (plan, is_checked): (Plan, bool),
        mut sink: ProgressSink<'_>,
    ) -> Result<Outcome, JobError> {
        sink.stage(Stage::Delivering);
        let mut warnings = std::mem::take(&mut outcome.warnings);
        warnings.extend(self.settings.warnings.iter().cloned());
        warnings.extend(self.comfy.warnings().all());
        outcome.warnings = echo::listed(warnings);
        let (commits, owner) = (sink.commits.clone(), sink.owner);
        let ledger = sink.ledger;
        let wrote: Wrote = {
            let ledger = ledger.clone();
            Arc::new(move |folder, subfolder, name| ledger.wrote(folder, subfolder, name))
        };
        let delivered = Box::pin(async {
            if is_checked {
                self.results
                    .check_safety(&mut outcome, |path| ledger.has_made(path))
                    .await?;
            }
            let outcome = self.results.deliver(&owner.name, outcome, plan, &wrote).await?;
            commits.all(&self.results, &outcome).await;
            Ok(outcome)
        });
        owner.unless_cancelled(delivered).await
    }

    /// Puts what is ours into what goes to ComfyUI beside the graph.
    fn complete(&self, extra_data: &mut Map<String, Value>, org_api_key: Option<&Secret>, owner: &JobControl) {
        // API nodes look for comfy.org's key there. Whoever brings a token pays by that.
        let ours = self.settings.comfy.org_api_key.as_ref();
        let ours = ours.filter(|_| !extra_data.contains_key("auth_token_comfy_org"));
        if let Some(key) = org_api_key.or(ours) {
            extra_data.insert("api_key_comfy_org".to_owned(), key.reveal().into());
        }
        if owner.told.is_some() {
            // The pictures are dragged back into ComfyUI's page, which reads its workflow out of them.
            extra_data.insert(told::MARK.to_owned(), json!({ "metadata": true }));
        }
    }

    /// Checks the graph, has its models fetched, and waits for the job's turn. `renew` has its classes described again.
    async fn prepare(
        &self,
        renew: bool,
        graph: &mut Graph,
        uploads: &inputs::Uploads,
        sink: &mut ProgressSink<'_>,
    ) -> Result<(Connection, Held, SemaphorePermit<'_>), JobError> {
        let patience = sink.owner.patience;
        let mut preparations = Preparations::default();
        let provided = loop {
            let mut connection = self.comfy.available(patience).await?;
            sink.stage(Stage::Preparing);
            let checked = async {
                if renew {
                    self.schemas.renew(&connection, graph).await?;
                }
                self.check_or_provide(&mut connection, graph, uploads, sink).await
            };
            match checked.await {
                Err(error) if preparations.is_lost(self, &connection, &error).await => {}
                provided => break provided?,
            }
        };
        sink.graph(graph);
        sink.stage(Stage::Waiting);
        sink.owner.turn.cancelled().await;
        let slot = self.slots.acquire().await;
        let slot = slot.map_err(|_| JobError::internal("the worker is stopping"))?;
        // ComfyUI may have been restarted while the job waited for its turn.
        Ok((self.comfy.available(patience).await?, provided, slot))
    }

    /// Runs the graph and collects what it left; once more when all of it was cached and its files are gone.
    async fn generate(
        &self,
        connection: &Connection,
        graph: &mut Graph,
        extra_data: &Value,
        sink: &mut ProgressSink<'_>,
    ) -> Result<collect::Collected, JobError> {
        let run = generate::Run {
            comfy: &self.comfy,
            order: &self.order,
            settings: &self.settings,
            owner: sink.owner,
            extra_data,
        };
        let mut resume = sink.owner.resume.clone();
        let mut is_last = false;
        loop {
            let entry = Box::pin(run.to_end(connection, graph, sink, resume.take())).await?;
            sink.stage(Stage::Collecting);
            let mut collected = collect::collect(&self.comfy, &entry, &sink.ledger).await;
            collected.warnings.append(&mut sink.warnings);
            if is_last || entry.cached.is_empty() || !collected.incomplete {
                return Ok(collected);
            }
            tracing::info!("the graph came back from ComfyUI's cache without its files; its output nodes run again");
            self.schemas.mark_rerun(graph);
            is_last = true;
        }
    }
}
