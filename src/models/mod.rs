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

mod board;
mod cache;
pub mod download;
mod fetch;
pub mod locate;
pub mod manifest;
mod tidy;
pub mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::{ModelFile, ModelsConfig};
use crate::error::JobError;
use crate::job::progress::Download;
use crate::net::retry::RetryPolicy;
use crate::telemetry::report::SharedReporter;
use crate::workflow::{MissingModel, ModelCatalog};
use board::{Board, Entry, Sum};
use cache::InUse;
use download::{Downloader, Settings};
use fetch::Task;
use locate::Places;

pub use board::{DownloadHealth, FailedModel, ModelsHealth, ModelsState};
pub use cache::Held;
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
    room: Option<Room>,
    config: ModelsConfig,
    downloader: Downloader,
    reporter: SharedReporter,
    board: watch::Sender<Board>,
    in_use: InUse,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Where models are.
#[derive(Debug, Clone)]
struct Room {
    places: Arc<Places>,
    /// Where new ones go.
    folder: PathBuf,
}

impl Room {
    fn target(&self, file: &ModelFile) -> PathBuf {
        self.folder.join(&file.folder).join(&file.name)
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models")
            .field("room", &self.room)
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
        let room = places.and_then(|places| {
            let folder = places.download_dir()?.to_owned();
            Some(Room { places, folder })
        });
        Ok(Self(Arc::new(Inner {
            catalog,
            room,
            config: config.clone(),
            downloader: Downloader::new(settings)?,
            reporter,
            board: watch::Sender::default(),
            in_use: InUse::default(),
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
        self.0.room.as_ref().map(|room| &room.places)
    }

    /// Begins to have these files there before jobs are taken. Returns at once. Those that cannot be had are tried again
    /// while the worker runs: a token is given rights, a repository is there again.
    pub fn begin(&self, files: &[ModelFile]) {
        let Some(room) = self.0.room.clone() else { return };
        let mut wanted = files.to_vec();
        let mut asked = self.ask(&room, &wanted, Purpose::Start);
        let (models, stop) = (self.clone(), self.0.stop.clone());
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
                asked = models.ask(&room, &wanted, Purpose::Start);
            }
        };
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = fetch => {}
            }
        });
    }

    /// Waits until all files that the worker began with are there, or cannot be had. The error names them all.
    pub async fn ready(&self) -> Result<(), JobError> {
        let targets = self.0.board.borrow().at_start();
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
        let room = self.0.room.as_ref().filter(|_| !missing.is_empty())?;
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
        // What is on its way for the start is waited for in any case.
        let board = self.0.board.borrow();
        let is_coming = |file| board.get(&room.target(file)).is_some_and(|entry| !entry.is_over());
        let may = self.0.config.on_demand || files.iter().all(is_coming);
        drop(board);
        may.then_some(files)
    }

    /// Has these files there for a job; `tell` hears how far they are. The download is called off when nobody waits for
    /// it any longer; what has come is kept for the next who asks. The files stay as long as the answer does.
    pub async fn provide(&self, files: &[ModelFile], mut tell: impl FnMut(Download)) -> Result<Held, JobError> {
        let Some(room) = &self.0.room else {
            return Err(JobError::internal("nobody knows where ComfyUI has its models"));
        };
        // Held before they are there: what another job asks for may need room at any time.
        let held = self.0.in_use.hold(files.iter().map(|file| room.target(file)).collect());
        let (targets, _interest) = self.ask(room, files, Purpose::Job);
        let mut board = self.0.board.subscribe();
        loop {
            let sum = board.borrow_and_update().sum(&targets, Instant::now());
            match sum {
                Sum::Present => return Ok(held),
                Sum::Failed(error) => return Err(error),
                Sum::Going(download) => tell(download),
            }
            if board.changed().await.is_err() {
                return Err(JobError::internal("the worker is stopping"));
            }
        }
    }

    /// Has these files there, and waits for each; `tell` hears how far they all are. The results are in the order of the
    /// files.
    pub async fn pull(&self, files: &[ModelFile], mut tell: impl FnMut(Download)) -> Vec<Result<PathBuf, JobError>> {
        let Some(room) = &self.0.room else {
            let error = JobError::internal("nobody knows where ComfyUI has its models");
            return files.iter().map(|_| Err(error.clone())).collect();
        };
        let (targets, _interest) = self.ask(room, files, Purpose::Start);
        let mut board = self.0.board.subscribe();
        let all = self.all_over(&targets);
        tokio::pin!(all);
        loop {
            let sum = board.borrow_and_update().sum(&targets, Instant::now());
            if let Sum::Going(download) = sum {
                tell(download);
            }
            tokio::select! {
                results = &mut all => return results,
                _ = board.changed() => {}
            }
        }
    }

    /// Keeps the models that a job uses from being removed, and notes their use.
    pub async fn hold(&self, names: Vec<String>) -> Held {
        let (Some(room), Some(_)) = (&self.0.room, self.0.config.cache_max_bytes) else {
            return Held::default();
        };
        let folder = room.folder.clone();
        let paths: Vec<PathBuf> = tokio::task::spawn_blocking(move || cache::named(&folder, &names))
            .await
            .unwrap_or_default();
        self.0.in_use.hold(paths)
    }

    /// What `/health` says of the models.
    pub fn health(&self) -> ModelsHealth {
        self.0.board.borrow().health(Instant::now())
    }

    /// Ends every download; what has come is kept.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Sees to it that each file is there or on its way. Gives their targets, and what keeps the downloads alive.
    fn ask(&self, room: &Room, files: &[ModelFile], purpose: Purpose) -> (Vec<PathBuf>, Vec<Arc<DropGuard>>) {
        let targets: Vec<PathBuf> = files.iter().map(|file| room.target(file)).collect();
        let stop = self.0.stop.child_token();
        let guard = Arc::new(stop.clone().drop_guard());
        let (mut interests, mut tasks) = (Vec::new(), Vec::new());
        self.0.board.send_modify(|board| {
            for (file, target) in files.iter().zip(&targets) {
                let going = board.get_mut(target).filter(|entry| !entry.is_over());
                if let Some(entry) = going
                    && let Some(interest) = entry.interest.upgrade()
                {
                    entry.at_start |= purpose == Purpose::Start;
                    interests.push(interest);
                    continue;
                }
                let attempt = board.next_attempt(target);
                let mut entry = Entry::new(file.clone(), attempt, Arc::downgrade(&guard));
                entry.at_start = purpose == Purpose::Start;
                if let Some(before) = board.get(target) {
                    entry.after(before);
                }
                board.put(target.clone(), entry);
                tasks.push(Task {
                    file: file.clone(),
                    target: target.clone(),
                    attempt,
                });
            }
        });
        if tasks.is_empty() {
            // The guard of nothing is dropped unused.
            return (targets, interests);
        }
        interests.push(guard);
        self.0
            .tasks
            .spawn(fetch::run(Arc::clone(&self.0), room.clone(), tasks, purpose, stop));
        (targets, interests)
    }

    /// Waits until each of these is there or cannot be had.
    async fn all_over(&self, targets: &[PathBuf]) -> Vec<Result<PathBuf, JobError>> {
        let mut board = self.0.board.subscribe();
        loop {
            let results: Option<Vec<_>> = {
                let board = board.borrow_and_update();
                targets.iter().map(|target| board.result(target)).collect()
            };
            match results {
                Some(results) => return results,
                None if board.changed().await.is_err() => {
                    let error = JobError::internal("the worker is stopping");
                    return targets.iter().map(|_| Err(error.clone())).collect();
                }
                None => {}
            }
        }
    }
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
        let mut board = models.0.board.subscribe();
        let mut until = async |state| {
            let found = board.wait_for(|board| board.health(Instant::now()).state == state);
            let found = tokio::time::timeout(Duration::from_mins(2), found).await;
            drop(found.expect("in time").unwrap());
        };
        until(ModelsState::Failed).await;
        std::fs::write(models_dir.join("loras/x.safetensors"), "content").unwrap();
        until(ModelsState::Ready).await;
        models.stop().await;
    }
}
