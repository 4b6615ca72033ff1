//! Downloads of models that requests name by their address: one for all who wait for the same file, which ends when nobody
//! waits any longer.
//!
//! ```text
//! header ─► each who waits judges it ─► the first who wants the file still ─► file
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::header::{self, Header};
use super::incoming::{self, remove_leftovers, sweep};
use super::judge::Judge;
use super::{NAME_SAFETENSORS, told_to_user};
use crate::disk::blocking;
use crate::display::Size;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Download;
use crate::models::cache::Held;
use crate::models::download::{FetchError, Located, Progress, Source, TRY_LATER, Wanted};
use crate::models::{Inner, Store};

/// How long a header may be on its way.
const HEADER_PATIENCE: Duration = Duration::from_mins(2);
/// A download that brings fewer bytes than [`CRAWL`] in this time is given up: its server means to keep it open.
const CRAWL_TIME: Duration = Duration::from_mins(2);
/// 8 KB a second.
const CRAWL: u64 = 1_000_000;
/// No bytes are waited for.
const IDLE: u64 = u64::MAX;

/// The downloads under way, by the files that they fill.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<PathBuf, Weak<Flight>>>);

/// One download. It ends with the last who waits for it.
#[derive(Debug)]
struct Flight {
    states: watch::Receiver<State>,
    /// Somebody wants more than the header.
    go: Arc<Notify>,
    _stop: DropGuard,
}

#[derive(Debug, Clone, Default)]
struct State {
    header: Option<Arc<Header>>,
    phase: Phase,
}

#[derive(Debug, Clone, Default)]
enum Phase {
    #[default]
    Begun,
    Going(Download),
    Over(Result<Arrived, JobError>),
}

/// A file that is there. It stays as long as somebody has this.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) path: PathBuf,
    pub(super) held: Arc<Held>,
}

/// A file that is to be had.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) source: Source,
    pub(super) located: Located,
    /// How errors and progress call it.
    pub(super) label: String,
    /// What is filled.
    pub(super) incoming: PathBuf,
    /// The SHA-256 that it must have, where somebody names it.
    pub(super) sha256: Option<String>,
    /// The most bytes that it may have.
    pub(super) most: u64,
}

impl Wish {
    /// Whether a file of this size may be had.
    pub(super) fn fits(&self, size: u64) -> Result<(), FetchError> {
        if size <= self.most {
            return Ok(());
        }
        let message = format!("it has {}, and the most is {}", Size(size), Size(self.most));
        let hint = "URL_MODEL_MAX_GB and MODEL_CACHE_GB say how large a model by URL may be.";
        Err(FetchError::told(message, Some(hint)))
    }
}

impl Flights {
    /// Has the file there, if it is good for the one who asks; `tell` hears how far it is. Gives what is to be said of it too.
    pub(super) async fn join(
        &self,
        inner: &Arc<Inner>,
        store: &Store,
        wish: Wish,
        judge: &Judge,
        mut tell: impl FnMut(Download),
    ) -> Result<(Arrived, Option<String>), JobError> {
        let label = wish.label.clone();
        let flight = self.flight(inner, store, wish);
        let mut states = flight.states.clone();
        let mut judged = None;
        loop {
            let State { header, phase } = states.borrow_and_update().clone();
            if let (Some(header), None) = (header, &judged) {
                judged = Some(judge.judge(&header).await?);
                flight.go.notify_one();
            }
            match phase {
                Phase::Begun => {}
                Phase::Going(download) => tell(download),
                Phase::Over(result) => return Ok((result?, judged.flatten())),
            }
            if states.changed().await.is_err() {
                return Err(cancelled(&label));
            }
        }
    }

    /// The download that fills this file, which is begun if there is none.
    fn flight(&self, inner: &Arc<Inner>, store: &Store, wish: Wish) -> Arc<Flight> {
        let mut flights = self.0.lock();
        flights.retain(|_, flight| flight.strong_count() > 0);
        let known = flights.get(&wish.incoming).and_then(Weak::upgrade);
        // One that has failed is no flight any more: whoever asks now gets another try.
        let known = known.filter(|flight| !matches!(flight.states.borrow().phase, Phase::Over(Err(_))));
        known.unwrap_or_else(|| {
            let stop = inner.stop.child_token();
            let (told, states) = watch::channel(State::default());
            let go = Arc::new(Notify::new());
            let flight = Arc::new(Flight {
                states,
                go: Arc::clone(&go),
                _stop: stop.clone().drop_guard(),
            });
            flights.insert(wish.incoming.clone(), Arc::downgrade(&flight));
            let crew = Crew {
                inner: Arc::clone(inner),
                store: store.clone(),
                wish,
                told,
                go,
                stop,
            };
            inner.tasks.spawn(crew.run());
            flight
        })
    }
}

fn cancelled(label: &str) -> JobError {
    let message = format!("Failed to load model: {label}: its download was cancelled");
    JobError::new(ErrorKind::Cancelled, message).hint("What has come is kept; send the request again to go on.")
}

/// What it takes to bring a file.
struct Crew {
    inner: Arc<Inner>,
    store: Store,
    wish: Wish,
    told: watch::Sender<State>,
    go: Arc<Notify>,
    stop: CancellationToken,
}

impl Crew {
    async fn run(self) {
        let began = Instant::now();
        let label = &self.wish.label;
        let result = match self.bring().await {
            Ok((arrived, bytes)) => {
                let took = began.elapsed();
                tracing::info!("model {label}: fetched for a request, {} in {took:.1?}", Size(bytes));
                Ok(arrived)
            }
            Err(FetchError::Cancelled) => Err(cancelled(label)),
            Err(error) => {
                let incoming = self.wish.incoming.clone();
                blocking(move || remove_leftovers(&incoming)).await;
                Err(told_to_user(&error, label))
            }
        };
        self.told.send_modify(|state| state.phase = Phase::Over(result));
        self.inner.make_room(&self.store, 0).await;
    }

    /// Fetches the header, and the file when somebody still wants it. Gives its size too.
    async fn bring(&self) -> Result<(Arrived, u64), FetchError> {
        let header = self.unless_stopped(self.header()).await??;
        let told = Arc::clone(&header);
        self.told.send_modify(|state| state.header = Some(told));
        self.unless_stopped(self.go.notified()).await?;
        let (folder, own) = (self.wish.incoming.clone(), self.wish.incoming.clone());
        blocking(move || folder.parent().map(|folder| sweep(folder, &own))).await;
        self.inner.make_room(&self.store, header.file_length).await;
        let arrived = self.file(&header).await?;
        Ok((arrived, header.file_length))
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, FetchError> {
        self.stop.run_until_cancelled(work).await.ok_or(FetchError::Cancelled)
    }

    /// Reads the header, and looks whether the file may be had by it.
    async fn header(&self) -> Result<Arc<Header>, FetchError> {
        let Wish { source, located, .. } = &self.wish;
        let downloader = &self.inner.by_url.downloader;
        let refused = |why: String| FetchError::told(format!("the file {why}"), Some(NAME_SAFETENSORS));
        let front = downloader.front(source, located, |front| header::wanted(front).map_err(refused));
        let Ok(front) = tokio::time::timeout(HEADER_PATIENCE, front).await else {
            let message = format!("its header did not come within {} s", HEADER_PATIENCE.as_secs());
            return Err(FetchError::told(message, Some(TRY_LATER)));
        };
        let (front, size) = (front?, located.size());
        let header = blocking(move || header::parse(&front, size)).await.map_err(refused)?;
        self.wish.fits(header.file_length)?;
        if size.is_none() && downloader.has_byte(source, located, header.file_length).await {
            return Err(refused(format!(
                "goes on after the {} bytes that it has by its header",
                header.file_length
            )));
        }
        Ok(Arc::new(header))
    }

    /// Fetches the file.
    async fn file(&self, header: &Arc<Header>) -> Result<Arrived, FetchError> {
        let wanted = Wanted {
            source: self.wish.source.clone(),
            target: self.wish.incoming.clone(),
            size: Some(header.file_length),
            sha256: self.wish.sha256.clone(),
        };
        let (since, so_far) = (OnceLock::new(), AtomicU64::new(IDLE));
        let watcher = |progress: Progress<'_>| {
            let is_going = !progress.waiting && progress.bytes < header.file_length;
            so_far.store(if is_going { progress.bytes } else { IDLE }, Ordering::Relaxed);
            let begun = *since.get_or_init(|| (Instant::now(), progress.bytes));
            let download = how_far(&self.wish.label, &progress, begun);
            self.told.send_modify(|state| state.phase = Phase::Going(download));
        };
        let end = self.stop.child_token();
        let mut fetching = pin!(self.inner.by_url.downloader.fetch(vec![wanted], &watcher, end.clone()));
        let fetched = tokio::select! {
            fetched = &mut fetching => fetched,
            () = crawls(&so_far) => {
                end.cancel();
                fetching.await;
                let message = format!("its server sends less than {} in {} s", Size(CRAWL), CRAWL_TIME.as_secs());
                return Err(FetchError::told(message, Some("Name the file at another server.")));
            }
        };
        let fetched = fetched.into_iter().next().map(|(_, result)| result);
        let fetched = fetched.unwrap_or(Err(FetchError::Cancelled))?;
        let (wish, header) = (self.wish.clone(), Arc::clone(header));
        let sha256 = blocking(move || incoming::check(&wish, &header, fetched.sha256)).await?;
        let (incoming, in_use) = (self.wish.incoming.clone(), self.inner.in_use.clone());
        let _still = self.inner.removing.read().await;
        blocking(move || incoming::publish(&incoming, &sha256, &in_use)).await
    }
}

/// Ends when a download under way brings next to nothing.
async fn crawls(so_far: &AtomicU64) {
    let mut before = IDLE;
    loop {
        tokio::time::sleep(CRAWL_TIME).await;
        let now = so_far.load(Ordering::Relaxed);
        // One that was begun again has fewer than before.
        let came = now.checked_sub(before).filter(|_| before != IDLE && now != IDLE);
        if came.is_some_and(|came| came < CRAWL) {
            return;
        }
        before = now;
    }
}

fn how_far(label: &str, progress: &Progress<'_>, (since, before): (Instant, u64)) -> Download {
    let came = progress.bytes.saturating_sub(before);
    let left = progress.total.map(|total| total.saturating_sub(progress.bytes));
    Download {
        file: label.to_owned(),
        bytes: progress.bytes,
        total_bytes: progress.total,
        eta: left
            .filter(|_| came > 0)
            .map(|left| since.elapsed().mul_f64(left as f64 / came as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_download_that_crawls_is_told_from_one_that_waits_or_goes() {
        let so_far = AtomicU64::new(IDLE);
        let mut crawling = pin!(crawls(&so_far));
        let mut after = async |bytes: u64| {
            so_far.store(bytes, Ordering::Relaxed);
            let time = CRAWL_TIME + Duration::from_secs(1);
            tokio::time::timeout(time, &mut crawling).await.is_ok()
        };
        for bytes in [IDLE, IDLE, 10, CRAWL + 10, 5, CRAWL + 5, IDLE, 7] {
            assert!(!after(bytes).await, "{bytes}");
        }
        assert!(after(8).await);
    }
}
