//! One file, or several that are asked for together: found, linked or fetched, and told to the board.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::board::Standing;
use super::cache;
use super::download::{FetchError, Fetched, HubFile, Progress, Source, Wanted, Watcher};
use super::locate::{Found, Places};
use super::{Inner, Purpose, Room};
use crate::config::{ModelFile, ModelsConfig, Origin};
use crate::error::JobError;
use crate::telemetry::report::{Meter, Unit, bytes};

/// A file to be had, with the target at which it is known.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) file: ModelFile,
    pub(super) target: PathBuf,
    pub(super) attempt: u64,
}

/// Has the files there, or tells the board why not. Ends early when `stop` is cancelled.
pub(super) async fn run(inner: Arc<Inner>, room: Room, tasks: Vec<Task>, purpose: Purpose, stop: CancellationToken) {
    let (located, missing) = {
        let (places, wanted) = (Arc::clone(&room.places), tasks.clone());
        match tokio::task::spawn_blocking(move || find(&places, wanted)).await {
            Ok(found) => found,
            Err(error) => {
                let error = JobError::internal(format!("the models could not be looked for: {error}"));
                return inner.settle(tasks.iter().map(|task| (task, Standing::Failed(error.clone()))));
            }
        }
    };
    inner.settle(located.iter().map(|(task, standing)| (task, standing.clone())));
    if missing.is_empty() {
        return;
    }
    let known = missing.iter().filter_map(|task| task.file.size).sum();
    if purpose == Purpose::Job {
        inner.make_room(&room, known).await;
    }
    let wanted = missing.iter().map(|task| wanted(task, &inner.config)).collect();
    let watcher = Teller {
        inner: &inner,
        purpose,
        tasks: &missing,
        meters: Mutex::default(),
    };
    inner.downloader.fetch(wanted, &watcher, stop).await;
    if purpose == Purpose::Job {
        inner.make_room(&room, 0).await;
    }
}

/// Looks for each file, and links what lies in a cache. Blocking.
fn find(places: &Places, tasks: Vec<Task>) -> (Vec<(Task, Standing)>, Vec<Task>) {
    let (mut located, mut missing) = (Vec::new(), Vec::new());
    for task in tasks {
        let label = task.file.target();
        match places.locate(&task.file) {
            Found::Present(path) => {
                tracing::debug!("model {label}: it is there, {}", path.display());
                located.push((task, Standing::Present(path)));
            }
            Found::Linkable(cached) => match places.link(&cached, &task.file) {
                Ok(link) => {
                    tracing::info!("model {label}: found in a cache, {}; linked", cached.display());
                    located.push((task, Standing::Present(link)));
                }
                Err(error) => {
                    tracing::warn!("model {label}: found in a cache, and not to be linked: {error}; it is fetched");
                    missing.push(task);
                }
            },
            // What lies where we put files is a download of somebody's that broke off.
            Found::WrongSize { path, found, expected } if path == task.target => {
                tracing::warn!(
                    "model {label}: {} has {found} bytes and should have {expected}; it is fetched anew",
                    path.display()
                );
                missing.push(task);
            }
            Found::WrongSize { path, found, expected } => {
                tracing::warn!(
                    "model {label}: {} has {found} bytes, the manifest says {expected}; it is used as it is. Remove it to have it fetched",
                    path.display()
                );
                located.push((task, Standing::Present(path)));
            }
            Found::Missing => missing.push(task),
        }
    }
    (located, missing)
}

/// Where a file is fetched from, with the token for its host.
pub(super) fn source_of(file: &ModelFile, config: &ModelsConfig) -> Source {
    match &file.origin {
        Origin::Hub { repo, revision, path } => Source::Hub(HubFile {
            repo: repo.clone(),
            revision: revision.clone(),
            path: path.clone(),
        }),
        Origin::Url(url) => Source::Url {
            token: url.host_str().and_then(|host| config.token(host)).cloned(),
            url: url.clone(),
        },
    }
}

fn wanted(task: &Task, config: &ModelsConfig) -> Wanted {
    let file = &task.file;
    Wanted {
        source: source_of(file, config),
        target: task.target.clone(),
        size: file.size,
        sha256: file.sha256.clone(),
    }
}

/// Tells the board, and the log or the terminal.
struct Teller<'a> {
    inner: &'a Inner,
    purpose: Purpose,
    tasks: &'a [Task],
    meters: Mutex<HashMap<usize, Box<dyn Meter>>>,
}

impl Teller<'_> {
    fn meters(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Box<dyn Meter>>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Teller<'_> {
    fn progress(&self, progress: Progress<'_>) {
        let Some(task) = self.tasks.get(progress.index) else {
            return;
        };
        self.inner.board.send_modify(|board| {
            let (bytes, total) = (progress.bytes, progress.total);
            if !progress.waiting {
                board.progress(&task.target, task.attempt, bytes, total, Instant::now());
            }
            if let Some(entry) = board.of(&task.target, task.attempt).filter(|entry| !entry.is_over()) {
                entry.standing = if progress.waiting {
                    Standing::Waiting
                } else {
                    Standing::Fetching
                };
            }
        });
        let mut meters = self.meters();
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
        let meter = self.meters().remove(&index);
        let standing = match result {
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
                Standing::Present(task.target.clone())
            }
            Err(FetchError::CalledOff) => {
                drop(meter);
                self.inner.board.send_modify(|board| {
                    if board.of(&task.target, task.attempt).is_some() {
                        board.forget(&task.target);
                    }
                });
                return;
            }
            Err(error) => {
                let error = error.to_job_error(&label);
                tracing::error!("model {label}: {}", error.full_text());
                Standing::Failed(error)
            }
        };
        self.inner.settle([(task, standing)]);
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
    /// Tells the board what has become of files.
    fn settle<'a>(&self, settled: impl IntoIterator<Item = (&'a Task, Standing)>) {
        self.board.send_modify(|board| {
            for (task, standing) in settled {
                if let Some(entry) = board.of(&task.target, task.attempt) {
                    entry.standing = standing;
                }
            }
        });
    }

    /// Makes room for so many bytes of models that jobs need, where there is a limit.
    async fn make_room(&self, room: &Room, more: u64) {
        let Some(limit) = self.config.cache_max_bytes else {
            return;
        };
        let (folder, in_use) = (room.folder.clone(), self.in_use.clone());
        let removed = tokio::task::spawn_blocking(move || cache::make_room(&folder, limit, more, &in_use));
        for path in removed.await.unwrap_or_default() {
            tracing::info!("model {}: removed to make room (MODEL_CACHE_GB)", path.display());
            self.board.send_modify(|board| board.forget(&path));
        }
    }
}
