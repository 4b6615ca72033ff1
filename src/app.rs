//! Puts the parts together. Everything else receives what it needs and reads no globals.

mod beside;
mod parts;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use beside::Beside;
pub(crate) use parts::templates;
use parts::{assets, delivery, file_links, models, remotes, sessions, sweep_inputs};

use crate::assets::{AssetError, Assets};
use crate::blobs::Blobs;
use crate::boot::{self, BootError, RunDir};
use crate::comfy::Comfys;
use crate::comfy::memory::MemoryLimit;
use crate::config::{Config, ReturnImagesAs};
use crate::delivery::Results;
use crate::delivery::links::FileLinks;
use crate::delivery::s3::BucketError;
use crate::delivery::safety::SafetyChecker;
use crate::disk::blocking;
use crate::engine::Pool;
use crate::executor::{Executor, Fetcher, Settings};
use crate::http::Bodies;
use crate::http::auth::ApiKeys;
use crate::http::routes::comfyui::hub::Hub;
use crate::http::routes::gradio::Gradio;
use crate::http::sessions::Sessions;
use crate::member::{self, Member};
use crate::models::Models;
use crate::models::manifest::ManifestError;
use crate::net::guard::AddressGuard;
use crate::queue::Queue;
use crate::queue::store::{Store, StoreError, StoreOptions};
use crate::telemetry::metrics::{self, metrics};
use crate::telemetry::report::SharedReporter;
use crate::warm_up::{WarmUp, Warming};
use crate::workflow::templates::TemplateError;
use crate::{http, webhooks};

/// How long the end waits for what reads and writes files.
const LAST_READS: Duration = Duration::from_secs(10);

/// The worker's parts, built and running.
#[derive(Debug)]
pub struct App {
    /// The jobs, those that wait included.
    pub queue: Queue,
    /// What was uploaded for them.
    pub assets: Assets,
    /// What they made.
    pub results: Arc<Results>,
    /// The ComfyUIs they run on.
    pub comfy: Comfys,
    /// The models, and what is being fetched.
    pub models: Models,
    /// What is run before the first job, where no file of the user's is.
    pub warm_up: Option<WarmUp>,
    /// What every result warns of.
    pub warnings: Vec<String>,
    /// What runs the jobs, on the first ComfyUI.
    pub executor: Arc<Executor>,
    /// What runs them on each.
    executors: Vec<Arc<Executor>>,
    /// Whether it is being run, and the user's own too.
    pub warming: Warming,
    config: Config,
    gradio: Gradio,
    hub: Hub,
    bodies: Bodies,
    api_keys: ApiKeys,
    sessions: Sessions,
    file_links: FileLinks,
    /// The form of results that are answered by URL.
    url_form: ReturnImagesAs,
    /// What takes jobs of a fleet, once it does.
    member: OnceLock<Member>,
    /// Ends what delivers webhooks.
    ending: CancellationToken,
    tasks: TaskTracker,
    /// The folder of jobs that are not kept.
    _jobs: Option<RunDir>,
}

/// Whether jobs outlive the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// Under the data folder, which this worker has for itself.
    Kept,
    /// Until the process ends; another worker may use the data folder meanwhile.
    Forgotten,
}

/// Why the worker cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// ComfyUI cannot be started as configured.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Jobs cannot be kept.
    #[error("the jobs cannot be kept: {}", .0.full_text())]
    Store(StoreError),
    /// Uploads cannot be kept.
    #[error("uploads cannot be kept in {folder} (DATA_DIR)")]
    Assets {
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: AssetError,
    },
    /// The folder of templates cannot be read.
    #[error("the templates in {folder} cannot be read (WORKFLOWS_DIR)")]
    TemplateFolder {
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A template is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The template to warm up with is none.
    #[error("WARMUP: {0}")]
    WarmUp(String),
    /// The model manifest is wrong, or the sets that are chosen from it are.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The configured bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// Nothing can be asked of, or sent to, others.
    #[error("no HTTP client can be made for {purpose}")]
    Client {
        /// What it is for.
        purpose: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The list of engines is wrong, or cannot be had.
    #[error("ENGINES: {0}")]
    Engines(String),
    /// Links to files cannot be made.
    #[error("links to files cannot be made: there is no key for them in {folder} (DATA_DIR)")]
    Links {
        /// The data folder.
        folder: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn no_client(purpose: &'static str) -> impl FnOnce(reqwest::Error) -> BuildError {
    move |source| BuildError::Client { purpose, source }
}

impl App {
    /// Builds every part, and begins to start ComfyUI. Takes milliseconds; ComfyUI gets ready in the background.
    pub async fn build(config: &Config, reporter: SharedReporter, jobs: Jobs) -> Result<Self, BuildError> {
        let templates = templates(config.paths.workflows_dir.as_deref())?;
        let mut plan = boot::plan(config)?;
        plan.choose_gpus(jobs == Jobs::Kept).await?;
        let (warnings, demo, has_gpu) = (plan.warnings(), plan.demo(), plan.has_gpu());
        let (models, wanted, defaults) = models(config, &mut plan, &reporter).await?;
        let templates = templates.with_defaults(defaults);
        let warm_up = WarmUp::planned(config, has_gpu, &templates, &wanted).map_err(BuildError::WarmUp)?;
        let gradio = Gradio::new(&config.gradio).map_err(no_client("PROMPT_ENHANCE_URL"))?;
        let run_dir = match jobs {
            Jobs::Kept => None,
            Jobs::Forgotten => Some(RunDir::claim(&config.paths.data_dir.join("run")).map_err(BootError::from)?),
        };
        let folder = run_dir
            .as_ref()
            .map_or(config.paths.data_dir.as_path(), |run_dir| run_dir.path());
        // A second worker on the same folder is refused here, before it starts a ComfyUI for nothing.
        let (store, unfinished) = Store::open(folder, StoreOptions::default())
            .await
            .map_err(BuildError::Store)?;
        let assets = assets(config, folder, &store).await?;
        let api_keys = ApiKeys::new(&config.http.api_keys);
        let sessions = sessions(folder, &api_keys).await;
        let beside = Beside::planned(&plan, config, jobs);
        let comfy = boot::start(plan, reporter)?;
        Box::pin(sweep_inputs(&comfy, &unfinished)).await;
        if run_dir.is_none() {
            let models = models.clone();
            blocking(move || models.sweep_lent()).await;
        }
        // Beside ComfyUI's own start.
        models.begin(&wanted);
        let (ending, tasks) = (CancellationToken::new(), TaskTracker::new());
        beside.begin(
            (comfy.first(), &models),
            (&templates, warm_up.as_ref()),
            wanted,
            &ending,
            &tasks,
        );
        let delivery = delivery(config)?;
        let safety = config.safety.as_ref().map(SafetyChecker::new).transpose();
        let settings = Settings {
            jobs: config.jobs,
            comfy: config.comfy.clone(),
            fetcher: Fetcher::new(&config.images, &delivery).map_err(no_client("input images"))?,
            blobs: Blobs::new(&config.paths.data_dir),
            registry: config.nodes.registry.clone(),
            demo,
            warnings: warnings.clone(),
        };
        let file_links = file_links(config).await?;
        let url_form = match delivery.form {
            ReturnImagesAs::S3Url => ReturnImagesAs::S3Url,
            ReturnImagesAs::Base64 if delivery.bucket.is_some() => ReturnImagesAs::S3Url,
            // What is converted can be written nowhere, and is made again as it is read.
            _ if comfy.folders().is_none() => ReturnImagesAs::Base64,
            _ => ReturnImagesAs::Metadata,
        };
        let bucket = delivery.bucket.clone();
        let results = Results::new(comfy.clone(), delivery, safety.map_err(no_client("the safety check"))?);
        let executor = Executor::new(
            comfy.first().clone(),
            templates,
            models.clone(),
            Arc::clone(&results),
            settings,
        );
        let rest = comfy.all().skip(1).map(|other| executor.beside(other.clone()));
        let executors: Vec<_> = std::iter::once(Arc::clone(&executor)).chain(rest).collect();
        let engines = match remotes(config, &executor, &store, bucket.as_ref()).await? {
            none if none.is_empty() => executors.iter().map(|executor| Arc::clone(executor) as _).collect(),
            remotes => remotes,
        };
        let engines = Pool::new(engines);
        let queue = Queue::start(Arc::clone(&executor), engines, store, unfinished, config.jobs).await;
        tasks.spawn(
            webhooks::deliver(
                config,
                queue.clone(),
                Arc::clone(&results),
                file_links.clone(),
                ending.clone(),
            )
            .map_err(no_client("webhooks"))?,
        );
        tasks.spawn(assets.clone().keep_tidy(ending.clone()));
        let known = executor.templates().iter().map(|template| template.name().to_owned());
        metrics().know_templates(known);
        tasks.spawn(metrics::upkeep(ending.clone()));
        let hub = Hub::start(&queue, &comfy, &ending, &tasks);
        Ok(Self {
            queue,
            assets,
            results,
            comfy,
            models,
            warm_up,
            warming: Warming::default(),
            warnings,
            executor,
            executors,
            config: config.clone(),
            gradio,
            hub,
            bodies: Bodies::new(config.http.max_body_bytes),
            api_keys,
            sessions,
            file_links,
            url_form,
            member: OnceLock::new(),
            ending,
            tasks,
            _jobs: run_dir,
        })
    }

    /// Begins to take jobs of the fleet, where the configuration names one.
    pub fn join_fleet(&self) {
        let Some(address) = self.config.fleet.clone() else {
            return;
        };
        self.member.get_or_init(|| {
            let parts = member::Parts {
                queue: self.queue.clone(),
                results: Arc::clone(&self.results),
                comfy: self.comfy.clone(),
                models: self.models.clone(),
                warming: self.warming.clone(),
            };
            Member::start(address, parts)
        });
    }

    /// Warms up beside the HTTP server, which is not ready until that is over.
    pub fn warm_up_in_background(&self) {
        let Some(warm_up) = self.warm_up.clone() else { return };
        let (queue, comfy, models) = (self.queue.clone(), self.comfy.clone(), self.models.clone());
        let warming = self.warming.clone();
        let work = async move {
            let _on = warming.begin();
            warm_up.run(&queue, (&comfy, &models), &warming, None).await;
        };
        self.tasks.spawn(self.ending.clone().run_until_cancelled_owned(work));
    }

    /// The HTTP server's routes.
    pub fn router(&self) -> axum::Router {
        http::router(self.http_state())
    }

    /// The routes of the Edit Plus API's own port.
    pub fn edit_router(&self) -> axum::Router {
        http::edit_router(self.http_state())
    }

    /// The routes of a port for the health check alone.
    pub fn health_router(&self) -> axum::Router {
        http::health_router(self.http_state())
    }

    /// The routes of a port for the metrics alone.
    pub fn metrics_router(&self) -> axum::Router {
        http::metrics_router(self.http_state())
    }

    fn http_state(&self) -> Arc<http::State> {
        Arc::new(http::State {
            queue: self.queue.clone(),
            assets: self.assets.clone(),
            results: Arc::clone(&self.results),
            executors: self.executors.clone(),
            comfy: self.comfy.clone(),
            memory_limit: MemoryLimit::of_this_process(),
            models: self.models.clone(),
            warming: self.warming.clone(),
            api_keys: self.api_keys.clone(),
            sessions: self.sessions.clone(),
            guard: AddressGuard::new(self.config.private_urls.clone()),
            bodies: self.bodies.clone(),
            gradio: self.gradio.clone(),
            hub: self.hub.clone(),
            member: self.member.get().cloned(),
            prompts: http::routes::comfyui::Prompts::default(),
            document: OnceLock::new(),
            warnings: self.warnings.clone(),
            file_links: self.file_links.clone(),
            result_ttl: self.config.jobs.result_ttl,
            url_form: self.url_form,
            page: self.config.page.is_on(&self.config.platform),
            manager: self.config.page.manager,
            http: self.config.http.clone(),
            edit: self.config.edit.clone(),
            b64_data_uri: self.config.openai_b64_data_uri,
        })
    }

    /// Waits for the jobs that run, at most `grace`. Jobs that wait, and those that do not end in time, are kept for the
    /// next start. A warm-up is no job that anybody waits for.
    pub async fn drain(&self, grace: Duration) {
        self.warming.stop(&self.queue).await;
        if let Some(member) = self.member.get() {
            member.leave();
        }
        if tokio::time::timeout(grace, self.queue.drain()).await.is_err() {
            let jobs = self.queue.counts().in_progress;
            let then = if self.comfy.is_elsewhere() {
                "their engines are asked for them after the next start"
            } else {
                "they run again after the next start"
            };
            tracing::warn!(jobs, "the grace is over for the jobs in flight; {then}");
            self.queue.abandon();
        }
        if let Some(member) = self.member.get() {
            member.finish().await;
        }
    }

    /// [`Self::drain`], then [`Self::close`].
    pub async fn stop(&self, grace: Duration) {
        self.drain(grace).await;
        self.close().await;
    }

    /// Ends ComfyUI and everything else.
    pub async fn close(&self) {
        self.warming.stop(&self.queue).await;
        self.ending.cancel();
        self.tasks.close();
        // A volume that does not answer holds who reads it.
        let models = tokio::time::timeout(LAST_READS, self.models.stop());
        let (models, (), ()) = tokio::join!(models, self.comfy.stop(), self.queue.store_at_last());
        let tasks = tokio::time::timeout(LAST_READS, self.tasks.wait()).await;
        if models.is_err() || tasks.is_err() {
            tracing::warn!(
                "what reads, copies or fetches models did not end in {} s, and is left: a disk or a volume does not answer",
                LAST_READS.as_secs()
            );
        }
    }
}
