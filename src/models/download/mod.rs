//! Fetches model files: several at once, in ranges, resumed, verified, each complete at its final name or not there.

mod admission;
mod answer;
mod connection;
mod drive;
mod error;
mod file;
mod front;
mod grid;
mod origin;
mod part;
mod pool;
mod transfer;
mod types;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::future::join_all;
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use error::FetchError;
pub(super) use error::{CORRECT_MANIFEST, TRY_LATER};
pub use front::Located;
pub use types::{Facts, Fetched, Progress, Settings, Source, Wanted, Watcher};
pub use verify::{check_header, sha256_of};

use admission::{Space, is_held};
use file::Job;
use origin::Origins;
use part::Names;
use pool::{AGENT, CONNECT, Limiter, Pool};
use transfer::Engine;

/// Files that are filled at once, each of which has a thread that hashes it.
const FILES: usize = 8;

/// Fetches files. Clones share the connections.
#[derive(Clone)]
pub struct Downloader {
    engine: Arc<Engine>,
}

impl Downloader {
    /// A downloader; fails when no HTTP client can be made.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let connections = if settings.parallel { settings.connections } else { 1 };
        let mut client = Client::builder()
            .user_agent(AGENT)
            .redirect(Policy::none())
            // A range on each connection: streams in one would share its pace.
            .http1_only()
            .connect_timeout(CONNECT)
            .pool_max_idle_per_host(connections);
        if let Some(guard) = &settings.guard {
            client = client.dns_resolver(guard.clone()).no_proxy();
        }
        let client = client.build()?;
        let engine = Engine {
            origins: Origins::new(settings.clone(), client.clone()),
            limiter: Limiter::new(connections),
            files: Semaphore::new(if settings.parallel { FILES } else { 1 }),
            pool: Pool::new(client, settings.guard.clone()),
            settings,
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
        let resolved = self.engine.origins.resolve(source, None).await?;
        Ok(Facts {
            size: resolved.size,
            sha256: resolved.sha256,
        })
    }
}

/// What downloads of this target have left that broke off: parts, journals, the lock. Nothing while a download runs. Blocks.
pub fn leftovers(target: &Path) -> Vec<PathBuf> {
    let names = Names::of(target);
    let lock = names.lock();
    if is_held(&lock) {
        return Vec::new();
    }
    let mut found: Vec<_> = names.remnants().into_iter().map(|(_, path)| path).collect();
    if lock.exists() {
        found.push(lock);
    }
    found
}
