//! Downloads of models that requests name by their address: one for all who wait for the same file, which ends when nobody
//! waits any longer.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::header::{self, Header};
use crate::disk::blocking;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Download;
use crate::models::cache::{self, Held};
use crate::models::download::{FetchError, Fetched, Progress, Source, Wanted, leftovers, sha256_of};
use crate::models::lent::tell_of;
use crate::models::{Inner, Store};

/// What a file ends with that is on its way: ComfyUI lists no such one.
pub(super) const INCOMING: &str = ".incoming";
/// What is left of downloads that broke off goes after so long.
const ABANDONED_AFTER: Duration = Duration::from_hours(1);

/// The downloads under way, by the files that they fill.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<PathBuf, Weak<Flight>>>);

/// One download. It ends with the last who waits for it.
#[derive(Debug)]
struct Flight {
    states: watch::Receiver<State>,
    _stop: DropGuard,
}

#[derive(Debug, Clone)]
enum State {
    Waiting,
    Going(Download),
    /// Where the file is. It stays as long as somebody has it.
    Done(Result<(PathBuf, Arc<Held>), JobError>),
}

/// A file that is to be had.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) source: Source,
    /// How errors and progress call it.
    pub(super) label: String,
    /// What is filled.
    pub(super) incoming: PathBuf,
    /// The header that it must have.
    pub(super) header: Arc<Header>,
    /// The SHA-256 that it must have, where somebody names it.
    pub(super) sha256: Option<String>,
}

/// The name of a file with this content.
pub(super) fn file_name(sha256: &str) -> String {
    format!("{sha256}.safetensors")
}

impl Flights {
    /// Has the file there; `tell` hears how far it is.
    pub(super) async fn join(
        &self,
        inner: &Arc<Inner>,
        store: &Store,
        wish: Wish,
        mut tell: impl FnMut(Download),
    ) -> Result<(PathBuf, Arc<Held>), JobError> {
        let label = wish.label.clone();
        let flight = {
            let mut flights = self.0.lock();
            flights.retain(|_, flight| flight.strong_count() > 0);
            let known = flights.get(&wish.incoming).and_then(Weak::upgrade);
            // One that has failed is no flight any more: whoever asks now gets another try.
            let known = known.filter(|flight| !matches!(&*flight.states.borrow(), State::Done(Err(_))));
            known.unwrap_or_else(|| {
                let stop = inner.stop.child_token();
                let (told, states) = watch::channel(State::Waiting);
                let flight = Arc::new(Flight {
                    states,
                    _stop: stop.clone().drop_guard(),
                });
                flights.insert(wish.incoming.clone(), Arc::downgrade(&flight));
                inner
                    .tasks
                    .spawn(run(Arc::clone(inner), store.clone(), wish, told, stop));
                flight
            })
        };
        let mut states = flight.states.clone();
        loop {
            match &*states.borrow_and_update() {
                State::Waiting => {}
                State::Going(download) => tell(download.clone()),
                State::Done(result) => return result.clone(),
            }
            if states.changed().await.is_err() {
                return Err(cancelled(&label));
            }
        }
    }
}

fn cancelled(label: &str) -> JobError {
    let message = format!("Failed to load model: {label}: its download was cancelled");
    JobError::new(ErrorKind::Cancelled, message).hint("What has come is kept; send the request again to go on.")
}

async fn run(inner: Arc<Inner>, store: Store, wish: Wish, told: watch::Sender<State>, stop: CancellationToken) {
    let began = Instant::now();
    let result = fetch(&inner, &store, &wish, &told, stop).await;
    let state = match result {
        Ok(done) => {
            tracing::info!(
                "model {}: fetched for a request, {} bytes in {:.1?}",
                wish.label,
                wish.header.file_length,
                began.elapsed()
            );
            Ok(done)
        }
        Err(FetchError::Cancelled) => Err(cancelled(&wish.label)),
        Err(error) => {
            let incoming = wish.incoming.clone();
            blocking(move || remove_leftovers(&incoming)).await;
            let error = told_to_user(&error, &wish.label);
            tracing::warn!("{}", error.full_text());
            Err(error)
        }
    };
    told.send_replace(State::Done(state));
    inner.make_room(&store, 0).await;
}

/// What a job is told whose model cannot be had from its address.
pub(super) fn told_to_user(error: &FetchError, label: &str) -> JobError {
    match error {
        FetchError::WrongHash { .. } => error
            .to_job_error(label)
            .hint("It is not the file that its page names: try again later, or name another version."),
        _ => error.to_job_error(label),
    }
}

async fn fetch(
    inner: &Arc<Inner>,
    store: &Store,
    wish: &Wish,
    told: &watch::Sender<State>,
    stop: CancellationToken,
) -> Result<(PathBuf, Arc<Held>), FetchError> {
    let folder = wish.incoming.parent().unwrap_or(Path::new("")).to_owned();
    blocking(move || sweep(&folder)).await;
    inner.make_room(store, wish.header.file_length).await;
    let wanted = Wanted {
        source: wish.source.clone(),
        target: wish.incoming.clone(),
        size: Some(wish.header.file_length),
        sha256: wish.sha256.clone(),
    };
    let since = OnceLock::new();
    let watcher = |progress: Progress<'_>| {
        told.send_replace(State::Going(so_far(
            &wish.label,
            &progress,
            *since.get_or_init(|| (Instant::now(), progress.bytes)),
        )));
    };
    let fetched = inner.by_url.downloader.fetch(vec![wanted], &watcher, stop).await;
    let fetched = fetched
        .into_iter()
        .next()
        .map_or(Err(FetchError::Cancelled), |(_, result)| result)?;
    let (wish, in_use) = (wish.clone(), inner.in_use.clone());
    let counts = inner.config.cache_max_bytes.is_some();
    blocking(move || publish(&wish, &fetched, counts, |path| in_use.hold(vec![path]))).await
}

fn so_far(label: &str, progress: &Progress<'_>, (since, before): (Instant, u64)) -> Download {
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

/// Looks at the whole file once more, and gives it its name. Blocking.
fn publish(
    wish: &Wish,
    fetched: &Fetched,
    counts: bool,
    hold: impl FnOnce(PathBuf) -> Held,
) -> Result<(PathBuf, Arc<Held>), FetchError> {
    let incoming = &wish.incoming;
    let unread = |action| {
        move |source| FetchError::File {
            action,
            path: incoming.clone(),
            source,
        }
    };
    let refused = |why: &str| {
        let _ = fs::remove_file(incoming);
        FetchError::told(why.to_owned(), None)
    };
    let sha256 = match &fetched.sha256 {
        Some(sha256) => sha256.clone(),
        // It was complete before its worker was killed.
        None => sha256_of(incoming, |_| ()).map_err(unread("read"))?,
    };
    if let Some(expected) = wish.sha256.as_ref().filter(|expected| **expected != sha256) {
        let _ = fs::remove_file(incoming);
        return Err(FetchError::WrongHash {
            url: wish.label.clone(),
            expected: expected.clone(),
            got: sha256,
        });
    }
    match header::of_file(incoming) {
        Ok(header) if header == *wish.header => {}
        Ok(_) => return Err(refused("the file changed while it was being fetched")),
        Err(why) => return Err(refused(&format!("the file {why}"))),
    }
    let path = incoming.with_file_name(file_name(&sha256));
    let held = Arc::new(hold(path.clone()));
    fs::rename(incoming, &path).map_err(unread("give its name to"))?;
    if counts {
        cache::mark(&path);
    }
    tell_of(&path);
    Ok((path, held))
}

fn remove_leftovers(incoming: &Path) {
    for path in leftovers(incoming) {
        let _ = fs::remove_file(path);
    }
}

/// Removes what downloads have left that broke off long ago. One that is going on is written to. Blocking.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.contains(INCOMING));
        let written = entry.metadata().and_then(|facts| facts.modified());
        let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age > ABANDONED_AFTER);
        if is_ours && written.is_ok_and(is_old) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
