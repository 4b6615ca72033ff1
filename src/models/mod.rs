//! Models: what is wanted, where it is found, and how it is fetched.
//!
//! ```text
//! manifest ─► wanted files ─► locate ─┬─ there ──────────────────────► ComfyUI lists it
//!                                     ├─ in a cache: linked ─────────►
//!                                     └─ missing: downloaded, verified, renamed ─►
//! ```
//!
//! [`Models`] is the one place that puts these together. The worker asks it for the files of its sets when it starts, and
//! for those of a job's graph when ComfyUI lacks them; who asks for a file that is on its way waits for the same download.

mod by_url;
mod cache;
pub mod download;
mod fetch;
mod lent;
pub mod local;
pub mod locate;
pub mod manifest;
mod prefetch;
mod registry;
mod tidy;
pub mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{RwLock, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::{ModelFile, ModelsConfig};
use crate::disk::blocking;
use crate::error::JobError;
use crate::job::progress::Download;
use crate::net::retry::RetryPolicy;
use crate::telemetry::report::SharedReporter;
use crate::workflow::{MissingModel, ModelCatalog};
use by_url::ByUrl;
use cache::InUse;
use download::{Downloader, Settings};
use fetch::Task;
use lent::Lent;
use local::{Keeper, LocalCopies};
use locate::Places;
use prefetch::Ahead;
use registry::{Registry, Sum};

pub use by_url::UrlModel;
pub use cache::Held;
pub use lent::Loan;
pub use prefetch::{Beside, Item, OnDisk, Planned, Read};
pub use registry::{DownloadHealth, FailedModel, ModelsHealth, ModelsState};
pub use tidy::{Expected, Removed, Verified, verify_file};

/// The waits before models that could not be had at the start are tried again.
const RETRIES: RetryPolicy = RetryPolicy {
    initial: if cfg!(test) {
        Duration::from_millis(20)
    } else {
        Duration::from_mins(1)
    },
    factor: 2.0,
    longest: Duration::from_mins(15),
    jitter: 0.25,
    attempts: None,
};

/// Why files are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The worker needs them before it takes jobs; they stay.
    Start,
    /// A job needs them; they may be removed later (`MODEL_CACHE_GB`).
    Job,
}

/// The models of this worker. Clones are the same.
#[derive(Debug, Clone)]
pub struct Models(Arc<Inner>);

struct Inner {
    catalog: ModelCatalog,
    /// [`None`]: nobody knows where ComfyUI has its models.
    store: Option<Store>,
    config: ModelsConfig,
    downloader: Downloader,
    reporter: SharedReporter,
    registry: watch::Sender<Registry>,
    in_use: InUse,
    /// Written while models are removed: who holds one meanwhile would hold what is gone.
    removing: RwLock<()>,
    lent: Lent,
    by_url: ByUrl,
    /// The names of models that jobs have used, for whoever copies them.
    used: Mutex<Option<mpsc::UnboundedSender<Vec<String>>>>,
    /// What is being read into memory.
    ahead: watch::Sender<Ahead>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Where models are.
#[derive(Debug, Clone)]
struct Store {
    places: Arc<Places>,
    /// Where new ones go.
    folder: PathBuf,
}

impl Store {
    fn target(&self, file: &ModelFile) -> PathBuf {
        self.folder.join(&file.folder).join(&file.name)
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Models {
    /// The models of a worker whose ComfyUI has them in `places`; [`None`] where that is not known, so that none can be
    /// fetched. Fails when no HTTP client can be made.
    pub fn new(
        catalog: ModelCatalog,
        places: Option<Arc<Places>>,
        config: &ModelsConfig,
        reporter: SharedReporter,
    ) -> Result<Self, reqwest::Error> {
        let mut settings = Settings::new(config.hub.endpoint.clone(), config.hub.token.clone());
        settings.parallel = config.parallel;
        let store = places.and_then(|places| {
            let folder = places.download_dir()?.to_owned();
            Some(Store { places, folder })
        });
        Ok(Self(Arc::new(Inner {
            catalog,
            store,
            config: config.clone(),
            downloader: Downloader::new(settings)?,
            reporter,
            registry: watch::Sender::default(),
            in_use: InUse::default(),
            removing: RwLock::default(),
            lent: Lent::default(),
            by_url: ByUrl::new(config)?,
            used: Mutex::default(),
            ahead: watch::Sender::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })))
    }

    /// The manifest.
    pub fn catalog(&self) -> &ModelCatalog {
        &self.0.catalog
    }

    /// Where models are, and where new ones go.
    pub fn places(&self) -> Option<&Arc<Places>> {
        self.0.store.as_ref().map(|store| &store.places)
    }

    /// Begins to have these files there before jobs are taken. Returns at once. Those that cannot be had are tried again
    /// while the worker runs: a token is given rights, a repository is there again.
    pub fn begin(&self, files: &[ModelFile]) {
        let Some(store) = self.0.store.clone() else { return };
        let mut wanted = files.to_vec();
        let mut asked = self.ask(&store, &wanted, Purpose::Start);
        let models = self.clone();
        let fetch = async move {
            let mut delays = RETRIES.delays();
            loop {
                // The interest lasts until they are there, or the worker stops.
                let (targets, _interest) = &asked;
                let results = models.all_over(targets).await;
                let mut results = results.iter();
                wanted.retain(|_| results.next().is_some_and(Result::is_err));
                if wanted.is_empty() || !delays.wait().await {
                    return;
                }
                tracing::info!(
                    models = wanted.len(),
                    "models that could not be had at the start are tried again"
                );
                asked = models.ask(&store, &wanted, Purpose::Start);
            }
        };
        self.0.tasks.spawn(self.0.stop.clone().run_until_cancelled_owned(fetch));
    }

    /// Waits until all files that the worker began with are there, or cannot be had. The error names them all.
    pub async fn ready(&self) -> Result<(), JobError> {
        let targets = self.0.registry.borrow().at_start();
        let mut failed = self.all_over(&targets).await.into_iter().filter_map(Result::err);
        let Some(first) = failed.next() else { return Ok(()) };
        let more: Vec<String> = failed.map(|error| error.message).collect();
        if more.is_empty() {
            return Err(first);
        }
        let hint = first.hint.clone();
        let mut error = JobError::new(first.kind, format!("{}; {}", first.message, more.join("; ")));
        error.hint = hint;
        Err(error)
    }

    /// The files of the manifest for models that a graph names and ComfyUI lacks, if all of them are known and may be
    /// fetched.
    pub fn obtainable(&self, missing: &[MissingModel]) -> Option<Vec<ModelFile>> {
        let store = self.0.store.as_ref().filter(|_| !missing.is_empty())?;
        let catalog = &self.0.catalog;
        let known = |missing: &MissingModel| match missing.folder {
            Some(folder) => catalog.lookup_in(folder, &missing.name),
            // A loader of a custom node does not tell the kind.
            None => catalog.lookup(&missing.name).filter(|file| file.name == missing.name),
        };
        let files: Vec<ModelFile> = missing
            .iter()
            .map(|missing| known(missing).cloned())
            .collect::<Option<_>>()?;
        if files.iter().any(|file| catalog.unaccepted(file).is_some()) {
            return None;
        }
        // What is on its way for the start is waited for in any case.
        let registry = self.0.registry.borrow();
        let is_coming = |file| registry.get(&store.target(file)).is_some_and(|entry| !entry.is_over());
        let may = self.0.config.on_demand || files.iter().all(is_coming);
        drop(registry);
        may.then_some(files)
    }

    /// Has these files there for a job; `tell` hears how far they are. The download is cancelled when nobody waits for it
    /// any longer; what has come is kept for the next who asks. The files stay as long as the answer does.
    pub async fn provide(&self, files: &[ModelFile], mut tell: impl FnMut(Download)) -> Result<Held, JobError> {
        let Some(store) = &self.0.store else {
            return Err(nowhere());
        };
        // Held before they are there: what another job asks for may need room at any time.
        let held = self.keep(files.iter().map(|file| store.target(file)).collect()).await;
        let (targets, _interest) = self.ask(store, files, Purpose::Job);
        self.once(|registry| match registry.sum(&targets, Instant::now()) {
            Sum::Present => Some(Ok(())),
            Sum::Failed(error) => Some(Err(error)),
            Sum::Going(download) => {
                tell(download);
                None
            }
        })
        .await?;
        Ok(held)
    }

    /// Has these files there, and waits for each; `tell` hears how far they all are. The results are in the order of the
    /// files.
    pub async fn pull(&self, files: &[ModelFile], mut tell: impl FnMut(Download)) -> Vec<Result<PathBuf, JobError>> {
        let Some(store) = &self.0.store else {
            return files.iter().map(|_| Err(nowhere())).collect();
        };
        let (targets, _interest) = self.ask(store, files, Purpose::Start);
        self.once(|registry| {
            if let Sum::Going(download) = registry.sum(&targets, Instant::now()) {
                tell(download);
            }
            registry.results(&targets)
        })
        .await
    }

    /// Keeps the models that a job uses from being removed, and notes their use.
    pub async fn hold(&self, names: Vec<String>) -> Held {
        self.0.ahead.send_modify(|ahead| ahead.a_job_names(&names));
        let (Some(store), Some(_)) = (&self.0.store, self.0.config.cache_max_bytes) else {
            return Held::default();
        };
        let folder = store.folder.clone();
        let _still = self.0.removing.read().await;
        self.0
            .in_use
            .hold(blocking(move || cache::named(&folder, &names)).await)
    }

    /// Jobs have used the models with these names.
    pub fn used(&self, names: Vec<String>) {
        if let Some(used) = &*self.0.used.lock()
            && !names.is_empty()
        {
            // Whoever listened is gone when the worker stops.
            let _ = used.send(names);
        }
    }

    /// Keeps copies on the local disk of the models that jobs use from now on, the warm-up's included: what is copied is in
    /// memory by then, and takes nothing from who reads the volume. Ends with [`Self::stop`].
    pub fn keep_local(&self, copies: LocalCopies) {
        let Some(places) = self.places().cloned() else { return };
        let (sender, mut names) = mpsc::unbounded_channel();
        *self.0.used.lock() = Some(sender);
        let (stop, mut ahead) = (self.0.stop.clone(), self.0.ahead.subscribe());
        let mut keeper = Keeper::new(copies, places);
        self.0.tasks.spawn(async move {
            while let Some(Some(names)) = stop.run_until_cancelled(names.recv()).await {
                let over = ahead.wait_for(|ahead| matches!(ahead, Ahead::Over));
                if !matches!(stop.run_until_cancelled(over).await, Some(Ok(_))) {
                    return;
                }
                let stop = stop.clone();
                keeper = blocking(move || {
                    // A thread whose priority is lowered does nothing else later.
                    std::thread::scope(|scope| {
                        scope.spawn(|| keeper.keep(names, &stop));
                    });
                    keeper
                })
                .await;
            }
        });
    }

    /// Keeps these files from being removed: those that are there when this returns stay.
    async fn keep(&self, files: Vec<PathBuf>) -> Held {
        let _still = self.0.removing.read().await;
        self.0.in_use.hold(files)
    }

    /// What `/health` says of the models.
    pub fn health(&self) -> ModelsHealth {
        self.0.registry.borrow().health(Instant::now())
    }

    /// Ends every download; what has come is kept.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Sees to it that each file is there or on its way. Gives their targets, and what keeps the downloads alive.
    fn ask(&self, store: &Store, files: &[ModelFile], purpose: Purpose) -> (Vec<PathBuf>, Vec<Arc<DropGuard>>) {
        let targets: Vec<PathBuf> = files.iter().map(|file| store.target(file)).collect();
        let stop = self.0.stop.child_token();
        let guard = Arc::new(stop.clone().drop_guard());
        let (mut interests, mut tasks) = (Vec::new(), Vec::new());
        self.0.registry.send_modify(|registry| {
            for (file, target) in files.iter().zip(&targets) {
                match registry.ask(file, target, purpose == Purpose::Start, &guard) {
                    Ok(interest) => interests.push(interest),
                    Err(attempt) => tasks.push(Task {
                        file: file.clone(),
                        target: target.clone(),
                        attempt,
                    }),
                }
            }
        });
        if tasks.is_empty() {
            // The guard of nothing is dropped unused.
            return (targets, interests);
        }
        interests.push(guard);
        self.0
            .tasks
            .spawn(fetch::run(Arc::clone(&self.0), store.clone(), tasks, purpose, stop));
        (targets, interests)
    }

    /// Waits until each of these is there or cannot be had.
    async fn all_over(&self, targets: &[PathBuf]) -> Vec<Result<PathBuf, JobError>> {
        self.once(|registry| registry.results(targets)).await
    }

    /// Looks at the registry at each of its changes until that gives something.
    async fn once<T>(&self, mut look: impl FnMut(&Registry) -> Option<T>) -> T {
        let mut registry = self.0.registry.subscribe();
        loop {
            if let Some(found) = look(&registry.borrow_and_update()) {
                return found;
            }
            if registry.changed().await.is_err() {
                // It lives as long as we do.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn nowhere() -> JobError {
    JobError::internal("nobody knows where ComfyUI has its models")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::config::{Config, Origin};
    use crate::telemetry::report::SilentReporter;

    #[tokio::test]
    async fn a_model_that_failed_at_the_start_is_tried_again() {
        let data = tempfile::tempdir().unwrap();
        let models_dir = data.path().join("models");
        std::fs::create_dir_all(models_dir.join("loras")).unwrap();
        // It has nothing.
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x.safetensors", server.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        let vars = [
            ("HOME", data.path().display().to_string()),
            ("NETWORK_VOLUMES", "none".to_owned()),
        ];
        let config = Config::from_vars(vars.map(|(name, value)| (name.to_owned(), value))).unwrap();
        let places = Arc::new(Places::new(&config, Some(&models_dir), &[]));
        let catalog = ModelCatalog::builtin().unwrap();
        let models = Models::new(catalog, Some(places), &config.models, Arc::new(SilentReporter)).unwrap();
        models.begin(&[ModelFile {
            origin: Origin::Url(url.parse().unwrap()),
            folder: "loras".to_owned(),
            name: "x.safetensors".to_owned(),
            size: None,
            sha256: None,
        }]);
        let mut registry = models.0.registry.subscribe();
        let mut until = async |state| {
            let found = registry.wait_for(|registry| registry.health(Instant::now()).state == state);
            let found = tokio::time::timeout(Duration::from_mins(2), found).await;
            drop(found.expect("in time").unwrap());
        };
        until(ModelsState::Failed).await;
        std::fs::write(models_dir.join("loras/x.safetensors"), "content").unwrap();
        until(ModelsState::Ready).await;
        models.stop().await;
    }
}
