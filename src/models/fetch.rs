//! One file, or several that are asked for together: found, linked or fetched, and told to the registry.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cache;
use super::download::{FetchError, Fetched, Progress, Source, Wanted, Watcher};
use super::locate::{Found, Places};
use super::registry::Status;
use super::{Inner, Purpose, Store};
use crate::config::{ModelFile, ModelsConfig, Origin};
use crate::disk::blocking;
use crate::telemetry::report::{Meter, Unit, bytes};

/// A file to be had, with the target at which it is known.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) file: ModelFile,
    pub(super) target: PathBuf,
    pub(super) attempt: u64,
}

/// Has the files there, or tells the registry why not. Ends early when `stop` is cancelled.
pub(super) async fn run(inner: Arc<Inner>, store: Store, tasks: Vec<Task>, purpose: Purpose, stop: CancellationToken) {
    let places = Arc::clone(&store.places);
    let (located, missing) = blocking(move || find(&places, tasks)).await;
    inner.settle(located);
    if missing.is_empty() {
        return;
    }
    let known = missing.iter().filter_map(|task| task.file.size).sum();
    if purpose == Purpose::Job {
        inner.make_room(&store, known).await;
    }
    let wanted = missing.iter().map(|Task { file, target, .. }| Wanted {
        source: source_of(file, &inner.config),
        target: target.clone(),
        size: file.size,
        sha256: file.sha256.clone(),
    });
    let watcher = Reporting {
        inner: &inner,
        purpose,
        tasks: &missing,
        meters: Mutex::default(),
    };
    inner.downloader.fetch(wanted.collect(), &watcher, stop).await;
    if purpose == Purpose::Job {
        inner.make_room(&store, 0).await;
    }
}

/// Looks for each file, and links what lies in a cache. Blocking.
fn find(places: &Places, tasks: Vec<Task>) -> (Vec<(Task, Status)>, Vec<Task>) {
    let (mut located, mut missing) = (Vec::new(), Vec::new());
    for task in tasks {
        let label = task.file.target();
        match places.locate(&task.file) {
            Found::Present(path) => {
                tracing::debug!("model {label}: it is there, {}", path.display());
                located.push((task, Status::Present(path)));
            }
            Found::Linkable(cached) => match places.link(&cached, &task.file) {
                Ok(link) => {
                    tracing::info!("model {label}: found in a cache, {}; linked", cached.display());
                    located.push((task, Status::Present(link)));
                }
                Err(error) => {
                    tracing::warn!("model {label}: found in a cache, and not to be linked: {error}; it is fetched");
                    missing.push(task);
                }
            },
            // What lies where we put files is a download of somebody's that broke off.
            Found::WrongSize { path, found, expected } if path == task.target => {
                tracing::warn!(
                    "model {label}: {} has {found} bytes and should have {expected}; it is fetched again",
                    path.display()
                );
                missing.push(task);
            }
            Found::WrongSize { path, found, expected } => {
                tracing::warn!(
                    "model {label}: {} has {found} bytes, the manifest says {expected}; it is used as it is. Remove it to have it fetched",
                    path.display()
                );
                located.push((task, Status::Present(path)));
            }
            Found::Missing => missing.push(task),
        }
    }
    (located, missing)
}

/// Where a file is fetched from, with the token for its host.
pub(super) fn source_of(file: &ModelFile, config: &ModelsConfig) -> Source {
    let host = match &file.origin {
        Origin::Hub { .. } => None,
        Origin::Url(url) => url.host_str(),
    };
    Source {
        origin: file.origin.clone(),
        token: host.and_then(|host| config.token(host)).cloned(),
    }
}

/// Tells the registry, and the log or the terminal.
struct Reporting<'a> {
    inner: &'a Inner,
    purpose: Purpose,
    tasks: &'a [Task],
    meters: Mutex<HashMap<usize, Box<dyn Meter>>>,
}

impl Watcher for Reporting<'_> {
    fn progress(&self, progress: Progress<'_>) {
        let Some(task) = self.tasks.get(progress.index) else {
            return;
        };
        self.inner.registry.send_modify(|registry| {
            let (bytes, total) = (progress.bytes, progress.total);
            if !progress.waiting {
                registry.progress(&task.target, task.attempt, bytes, total, Instant::now());
            }
            if let Some(entry) = registry.of(&task.target, task.attempt).filter(|entry| !entry.is_over()) {
                entry.status = if progress.waiting {
                    Status::Waiting
                } else {
                    Status::Fetching
                };
            }
        });
        let mut meters = self.meters.lock();
        let meter = meters.entry(progress.index).or_insert_with(|| {
            let title = format!("model {}", task.file.target());
            self.inner.reporter.begin(&title, progress.total, Unit::Bytes)
        });
        if progress.waiting {
            meter.detail("waiting for another worker, which fetches it");
        } else {
            meter.detail("");
            meter.position(progress.bytes);
        }
    }

    fn settled(&self, index: usize, result: &Result<Fetched, FetchError>) {
        let Some(task) = self.tasks.get(index) else { return };
        let label = task.file.target();
        let meter = self.meters.lock().remove(&index);
        let status = match result {
            Ok(fetched) => {
                if self.purpose == Purpose::Job && self.inner.config.cache_max_bytes.is_some() {
                    cache::mark(&task.target);
                }
                let summary = summary(fetched);
                if let Some(meter) = meter {
                    meter.finish(&summary);
                } else {
                    tracing::info!("model {label}: {summary}");
                }
                Status::Present(task.target.clone())
            }
            Err(FetchError::Cancelled) => {
                drop(meter);
                self.inner.registry.send_modify(|registry| {
                    if registry.of(&task.target, task.attempt).is_some() {
                        registry.forget(&task.target);
                    }
                });
                return;
            }
            Err(error) => {
                let error = error.to_job_error(&label);
                tracing::error!("model {label}: {}", error.full_text());
                Status::Failed(error)
            }
        };
        self.inner.settle([(task, status)]);
    }
}

/// `20.4 GB, SHA-256 as it should be`
fn summary(fetched: &Fetched) -> String {
    let size = bytes(fetched.size);
    match (fetched.received, fetched.verified) {
        (0, false) => format!("{size}, there already"),
        (_, true) => format!("{size}, SHA-256 verified"),
        (_, false) => format!("{size}; there is no SHA-256 to compare it with"),
    }
}

impl Inner {
    /// Tells the registry what has become of files.
    fn settle(&self, settled: impl IntoIterator<Item = (impl Borrow<Task>, Status)>) {
        self.registry.send_modify(|registry| {
            for (task, status) in settled {
                let task = task.borrow();
                if let Some(entry) = registry.of(&task.target, task.attempt) {
                    entry.status = status;
                }
            }
        });
    }

    /// Makes room for so many bytes of models that jobs need, where there is a limit.
    pub(super) async fn make_room(&self, store: &Store, more: u64) {
        let Some(limit) = self.config.cache_max_bytes else {
            return;
        };
        let (folder, in_use) = (store.folder.clone(), self.in_use.clone());
        let removed = {
            let _alone = self.removing.write().await;
            blocking(move || cache::make_room(&folder, limit, more, &in_use)).await
        };
        for path in removed {
            tracing::info!("model {}: removed to make room (MODEL_CACHE_GB)", path.display());
            self.registry.send_modify(|registry| registry.forget(&path));
        }
    }
}
