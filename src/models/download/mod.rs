//! Fetches model files: several at once, in ranges, resumed, verified, each complete at its final name or not there.

#[cfg(feature = "xet")]
mod by_xet;
mod connection;
mod error;
mod file;
mod gate;
mod hash;
mod journal;
mod line;
mod lock;
mod origin;
mod part;
mod plan;
mod ranges;
mod safetensors;
mod space;
mod transfer;
mod wire;
#[cfg(feature = "xet")]
mod xet;

use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "xet")]
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use error::FetchError;
pub(super) use error::Trouble;
pub use hash::sha256_of;
pub use safetensors::check_header;

use crate::config::Secret;
use crate::net::retry::RetryPolicy;
use file::Job;
use gate::Gate;
use origin::Origins;
use part::Names;
use space::Space;
use transfer::Engine;
use wire::{AGENT, CONNECT, Wire};

/// Files that are filled at once, each of which has a thread that hashes it.
const FILES: usize = 8;

/// How files are fetched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Hub, or a mirror (`HF_ENDPOINT`).
    pub endpoint: Url,
    /// The user's token for the Hub; sent there and nowhere else.
    pub token: Option<Secret>,
    /// Several files, and several ranges of a file, at once.
    pub parallel: bool,
    /// The most connections at once.
    pub connections: usize,
    /// How long a connection may bring no byte.
    pub stall: Duration,
    /// Waits between tries of one range.
    pub retry: RetryPolicy,
    /// The smallest range worth a connection, in bytes.
    pub smallest_range: u64,
    /// Whether Xet may be used, where the worker was built with it.
    pub xet: bool,
}

/// Where a file is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The Hugging Face Hub.
    Hub(HubFile),
    /// Any other server.
    Url {
        /// The address.
        url: Url,
        /// Sent as `Authorization: Bearer` to that host alone.
        token: Option<Secret>,
    },
}

/// A file on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The path in the repository.
    pub path: String,
}

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where from.
    pub source: Source,
    /// Where to; its folder is made if it is not there.
    pub target: PathBuf,
    /// The size it must have, in bytes, where it is known.
    pub size: Option<u64>,
    /// The SHA-256 it must have, in lowercase hexadecimal, where it is known.
    pub sha256: Option<String>,
}

/// A file that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, where it was computed.
    pub sha256: Option<String>,
    /// Whether that was compared with the one it should have.
    pub verified: bool,
    /// The commit it is from, where the Hub said it.
    pub commit: Option<String>,
    /// Bytes that came over the network for it now.
    pub received: u64,
}

/// How far one file is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Which of the wanted files.
    pub index: usize,
    /// Its target.
    pub target: &'a Path,
    /// Bytes that are on the disk, those of earlier runs included.
    pub bytes: u64,
    /// Its size, once it is known.
    pub total: Option<u64>,
    /// Whether another process fetches it and this one waits.
    pub waiting: bool,
}

/// Hears how a batch of files gets on. Any `Fn(Progress<'_>)` is one that hears the progress alone.
pub trait Watcher: Send + Sync {
    /// How far a file is: at the begin, a few times a second, and at the end.
    fn progress(&self, progress: Progress<'_>);

    /// A file is there, or it is settled that it will not be. Once for each file, before the batch has ended.
    fn settled(&self, index: usize, result: &Result<Fetched, FetchError>) {
        let _ = (index, result);
    }
}

impl<F: Fn(Progress<'_>) + Send + Sync> Watcher for F {
    fn progress(&self, progress: Progress<'_>) {
        self(progress);
    }
}

/// What a server says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its SHA-256 in lowercase hexadecimal.
    pub sha256: Option<String>,
    /// The commit that its revision is now, on the Hub.
    pub commit: Option<String>,
}

impl Settings {
    /// The settings for a Hub: 64 connections, 15 s without a byte, five more tries from half a second to 20 s, ranges of
    /// at least 8 MB.
    pub fn new(endpoint: Url, token: Option<Secret>) -> Self {
        Self {
            endpoint,
            token,
            parallel: true,
            connections: 64,
            stall: Duration::from_secs(15),
            retry: RetryPolicy {
                initial: Duration::from_millis(500),
                longest: Duration::from_secs(20),
                attempts: Some(5),
                ..RetryPolicy::default()
            },
            smallest_range: 8_000_000,
            xet: false,
        }
    }
}

/// Fetches files. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Downloader {
    engine: Arc<Engine>,
}

impl Downloader {
    /// A downloader; fails when no HTTP client can be made.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let connections = if settings.parallel { settings.connections } else { 1 };
        let client = Client::builder()
            .user_agent(AGENT)
            .redirect(Policy::none())
            // A range on each connection: streams in one would share its pace.
            .http1_only()
            .connect_timeout(CONNECT)
            .pool_max_idle_per_host(connections)
            .build()?;
        let engine = Engine {
            origins: Origins::new(&settings, client.clone()),
            gate: Gate::new(connections),
            files: Semaphore::new(if settings.parallel { FILES } else { 1 }),
            wire: Wire::new(client),
            settings,
            #[cfg(feature = "xet")]
            xet: OnceLock::new(),
        };
        Ok(Self {
            engine: Arc::new(engine),
        })
    }

    /// Fetches the files. Each has its own result, in the order given; one that fails does not stop the others. When
    /// `stop` is cancelled, what is there is kept for the next time.
    pub async fn fetch(
        &self,
        wanted: Vec<Wanted>,
        watcher: &(impl Watcher + ?Sized),
        stop: CancellationToken,
    ) -> Vec<(Wanted, Result<Fetched, FetchError>)> {
        let space = Arc::new(Space::default());
        // All are announced before the first is looked at.
        let announced: Vec<_> = wanted.iter().map(|_| space.prepare()).collect();
        let (space, stop) = (&space, &stop);
        let jobs = wanted
            .iter()
            .zip(announced)
            .enumerate()
            .map(|(index, (wanted, preparing))| async move {
                let job = Job {
                    engine: &self.engine,
                    space,
                    index,
                    wanted,
                    watcher,
                    stop,
                    received: AtomicU64::new(0),
                };
                let result = job.run(preparing).await;
                watcher.settled(index, &result);
                result
            });
        let results = join_all(jobs).await;
        wanted.into_iter().zip(results).collect()
    }

    /// Asks what a server says about a file now.
    pub async fn facts(&self, source: &Source) -> Result<Facts, FetchError> {
        let engine = &self.engine;
        let resolved = engine.origins.resolve(source, None, &engine.settings).await?;
        Ok(Facts {
            size: resolved.size,
            sha256: resolved.sha256,
            commit: resolved.commit,
        })
    }
}

/// What downloads of this target have left that broke off: parts, journals, the lock. Nothing while a download runs. Blocks.
pub fn leftovers(target: &Path) -> Vec<PathBuf> {
    let names = Names::of(target);
    let lock = names.lock();
    if lock::is_held(&lock) {
        return Vec::new();
    }
    let mut found: Vec<_> = names.remnants().into_iter().map(|(_, path)| path).collect();
    if lock.exists() {
        found.push(lock);
    }
    found
}

/// Runs what blocks on a thread for that. A panic goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down; nobody waits for this any more.
            Err(_) => std::future::pending().await,
        },
    }
}
