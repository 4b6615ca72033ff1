//! Where each model file stands that somebody asked for: what waiters, the log and `/health` read.

use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde::Serialize;
use tokio_util::sync::DropGuard;

use crate::config::ModelFile;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Download;

/// Where one file stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Standing {
    /// It is looked for, or waits for a connection or for another worker's download.
    Waiting,
    /// It is being fetched.
    Fetching,
    /// ComfyUI can load it.
    Present(PathBuf),
    /// It could not be had.
    Failed(JobError),
}

/// One file that somebody asked for.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) file: ModelFile,
    pub(super) standing: Standing,
    /// Whether the worker needs it before it takes jobs.
    pub(super) at_start: bool,
    /// Why the try before failed; told until this one has brought something.
    failed_before: Option<JobError>,
    bytes: u64,
    total: Option<u64>,
    /// When the first bytes of this try were counted, and how many were there before.
    begun: Option<(Instant, u64)>,
    /// Which try this is; what an earlier one reports is late.
    pub(super) attempt: u64,
    /// Who waits for it; the download is called off when nobody does.
    pub(super) interest: Weak<DropGuard>,
}

impl Entry {
    pub(super) fn new(file: ModelFile, attempt: u64, interest: Weak<DropGuard>) -> Self {
        Self {
            total: file.size,
            file,
            standing: Standing::Waiting,
            at_start: false,
            failed_before: None,
            bytes: 0,
            begun: None,
            attempt,
            interest,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Present(_) | Standing::Failed(_))
    }

    /// This try follows another one.
    pub(super) fn after(&mut self, before: &Self) {
        self.at_start |= before.at_start;
        self.failed_before = before.failure().cloned();
    }

    /// Why it is not there, as far as that is known.
    fn failure(&self) -> Option<&JobError> {
        match &self.standing {
            Standing::Failed(error) => Some(error),
            Standing::Waiting => self.failed_before.as_ref(),
            Standing::Fetching | Standing::Present(_) => None,
        }
    }
}

/// All files that somebody asked for, by the path at which they are put.
#[derive(Debug, Default)]
pub(super) struct Board(IndexMap<PathBuf, Entry>);

/// What has become of several files.
#[derive(Debug, PartialEq)]
pub(super) enum Sum {
    /// All are there.
    Present,
    /// One could not be had; the others may still be on their way.
    Failed(JobError),
    /// They are so far.
    Going(Download),
}

impl Board {
    pub(super) fn get(&self, target: &Path) -> Option<&Entry> {
        self.0.get(target)
    }

    pub(super) fn get_mut(&mut self, target: &Path) -> Option<&mut Entry> {
        self.0.get_mut(target)
    }

    /// Nobody asked for this file, or it is no longer there.
    pub(super) fn forget(&mut self, target: &Path) {
        self.0.shift_remove(target);
    }

    pub(super) fn put(&mut self, target: PathBuf, entry: Entry) {
        self.0.insert(target, entry);
    }

    /// The entry of this attempt, unless a later one has taken its place.
    pub(super) fn of(&mut self, target: &Path, attempt: u64) -> Option<&mut Entry> {
        self.0.get_mut(target).filter(|entry| entry.attempt == attempt)
    }

    /// The next attempt's number for a target.
    pub(super) fn next_attempt(&self, target: &Path) -> u64 {
        self.0.get(target).map_or(1, |entry| entry.attempt + 1)
    }

    /// Bytes of a file that are there.
    pub(super) fn progress(&mut self, target: &Path, attempt: u64, bytes: u64, total: Option<u64>, now: Instant) {
        let Some(entry) = self.of(target, attempt) else { return };
        entry.begun.get_or_insert((now, bytes));
        entry.bytes = bytes;
        entry.total = total.or(entry.total);
    }

    /// What has become of these files.
    pub(super) fn sum(&self, targets: &[PathBuf], now: Instant) -> Sum {
        let entries = || targets.iter().filter_map(|target| self.0.get(target));
        let failed = targets.iter().find_map(|target| match self.result(target) {
            Some(Err(error)) => Some(error),
            _ => None,
        });
        if let Some(error) = failed {
            return Sum::Failed(error);
        }
        let going = entries().filter(|entry| !entry.is_over());
        let first = going.clone().find(|entry| entry.standing == Standing::Fetching);
        let Some(first) = first.or_else(|| going.clone().next()) else {
            return Sum::Present;
        };
        Sum::Going(download(first, entries(), now))
    }

    /// Where a file is, or why it is not there; [`None`] while it is on its way.
    pub(super) fn result(&self, target: &Path) -> Option<Result<PathBuf, JobError>> {
        match self.0.get(target).map(|entry| &entry.standing) {
            Some(Standing::Present(path)) => Some(Ok(path.clone())),
            Some(Standing::Failed(error)) => Some(Err(error.clone())),
            Some(Standing::Waiting | Standing::Fetching) => None,
            None => {
                let name = target.file_name().unwrap_or_default().to_string_lossy();
                let message = format!("Failed to load model: {name}: its download was called off");
                let hint = "What has come is kept; send the request again to go on.";
                Some(Err(JobError::new(ErrorKind::Cancelled, message).hint(hint)))
            }
        }
    }

    /// What `/health` says of the models.
    pub(super) fn health(&self, now: Instant) -> ModelsHealth {
        let entries = self.0.values();
        let failed: Vec<FailedModel> = entries
            .clone()
            .filter_map(|entry| {
                Some(FailedModel {
                    file: entry.file.target(),
                    error: entry.failure()?.full_text(),
                })
            })
            .collect();
        let going = entries.clone().find(|entry| !entry.is_over());
        let download = going.map(|first| download(first, entries.clone(), now));
        let start = entries.clone().filter(|entry| entry.at_start);
        let state = if start.clone().any(|entry| !entry.is_over() && entry.failure().is_none()) {
            ModelsState::Downloading
        } else if start.clone().any(|entry| entry.failure().is_some()) {
            ModelsState::Failed
        } else {
            ModelsState::Ready
        };
        ModelsHealth {
            state,
            wanted: start.clone().count(),
            present: start
                .filter(|entry| matches!(entry.standing, Standing::Present(_)))
                .count(),
            download: download.map(DownloadHealth::from),
            failed,
        }
    }

    /// The files that must be there before jobs are taken, by their targets.
    pub(super) fn at_start(&self) -> Vec<PathBuf> {
        let start = self.0.iter().filter(|(_, entry)| entry.at_start);
        start.map(|(target, _)| target.clone()).collect()
    }
}

/// The download of `first`, and with it of all that are on their way or have come with it.
fn download<'a>(first: &Entry, entries: impl Iterator<Item = &'a Entry>, now: Instant) -> Download {
    let (mut bytes, mut total, mut came, mut begun) = (0, Some(0), 0, None::<Instant>);
    for entry in entries {
        // What was there before anything was fetched is no part of the download.
        let Some((since, before)) = entry.begun else {
            if !entry.is_over() {
                total = total.zip(entry.total).map(|(sum, more)| sum + more);
            }
            continue;
        };
        bytes += entry.bytes;
        total = total.zip(entry.total).map(|(sum, more)| sum + more);
        came += entry.bytes.saturating_sub(before);
        begun = Some(begun.map_or(since, |begun| begun.min(since)));
    }
    let elapsed = begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
    let left = total.map(|total| total.saturating_sub(bytes));
    let eta = left
        .filter(|_| came > 0)
        .map(|left| elapsed.mul_f64(left as f64 / came as f64));
    Download {
        file: first.file.target(),
        bytes,
        total_bytes: total,
        eta,
    }
}

/// What the models that a worker needs are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelsState {
    /// All that are wanted are there.
    Ready,
    /// Some are still on their way.
    Downloading,
    /// Some could not be had.
    Failed,
}

/// What `/health` says of the models.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ModelsHealth {
    /// What those that are wanted from the start are doing.
    pub state: ModelsState,
    /// How many are wanted from the start.
    pub wanted: usize,
    /// How many of them are there.
    pub present: usize,
    /// What is being fetched, for the start or for a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<DownloadHealth>,
    /// What could not be had, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedModel>,
}

/// A download under way.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DownloadHealth {
    /// The file at work.
    pub file: String,
    /// Percent of the bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of all files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Seconds still needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_s: Option<u64>,
}

impl From<Download> for DownloadHealth {
    fn from(download: Download) -> Self {
        Self {
            percent: download.percent(),
            bytes: download.bytes,
            total_bytes: download.total_bytes,
            eta_s: download.eta.map(|eta| eta.as_secs()),
            file: download.file,
        }
    }
}

/// A model that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FailedModel {
    /// `folder/name`
    pub file: String,
    /// Why, and what to do.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn entry(name: &str, size: Option<u64>) -> (PathBuf, Entry) {
        let file = ModelFile {
            origin: Origin::Url(format!("https://storage.example.com/{name}").parse().unwrap()),
            folder: "loras".to_owned(),
            name: name.to_owned(),
            size,
            sha256: None,
        };
        let mut entry = Entry::new(file, 1, Weak::new());
        entry.at_start = true;
        (PathBuf::from(name), entry)
    }

    fn board(entries: impl IntoIterator<Item = (PathBuf, Entry)>) -> (Board, Vec<PathBuf>) {
        let board = Board(entries.into_iter().collect());
        let targets = board.0.keys().cloned().collect();
        (board, targets)
    }

    #[test]
    fn the_pace_counts_what_came_and_not_what_was_there() {
        let (mut board, targets) = board([entry("a.pt", Some(1000)), entry("b.pt", None)]);
        let start = Instant::now();
        board.progress(Path::new("a.pt"), 1, 400, Some(1000), start);
        board.of(Path::new("a.pt"), 1).unwrap().standing = Standing::Fetching;
        let Sum::Going(first) = board.sum(&targets, start) else {
            panic!()
        };
        assert_eq!((first.bytes, first.total_bytes, first.eta), (400, None, None));

        board.progress(Path::new("b.pt"), 1, 0, Some(100), start);
        board.progress(Path::new("a.pt"), 1, 600, Some(1000), start + Duration::from_secs(2));
        let Sum::Going(then) = board.sum(&targets, start + Duration::from_secs(2)) else {
            panic!()
        };
        assert_eq!(
            (then.file.as_str(), then.bytes, then.total_bytes),
            ("loras/a.pt", 600, Some(1100))
        );
        assert_eq!(then.percent(), Some(54));
        // 200 bytes in two seconds, 500 to go.
        assert_eq!(then.eta, Some(Duration::from_secs(5)));
    }

    #[test]
    fn an_earlier_attempt_changes_nothing() {
        let (mut board, targets) = board([entry("a.pt", Some(10))]);
        let attempt = board.next_attempt(Path::new("a.pt"));
        board.put(
            PathBuf::from("a.pt"),
            Entry {
                attempt,
                ..entry("a.pt", Some(10)).1
            },
        );
        board.progress(Path::new("a.pt"), 1, 7, None, Instant::now());
        let Sum::Going(download) = board.sum(&targets, Instant::now()) else {
            panic!()
        };
        assert_eq!((download.bytes, download.total_bytes), (0, Some(10)));
    }

    #[test]
    fn health_tells_the_start_apart_from_jobs() {
        let (mut board, targets) = board([entry("a.pt", None), entry("b.pt", None)]);
        board.of(Path::new("b.pt"), 1).unwrap().at_start = false;
        let now = Instant::now();
        assert_eq!(board.health(now).state, ModelsState::Downloading);
        board.of(Path::new("a.pt"), 1).unwrap().standing = Standing::Present(PathBuf::from("a.pt"));
        let health = board.health(now);
        assert_eq!(
            (health.state, health.wanted, health.present),
            (ModelsState::Ready, 1, 1)
        );
        assert_eq!(health.download.unwrap().file, "loras/b.pt");
        let error = JobError::new(ErrorKind::ModelMissing, "Failed to load model: loras/b.pt: it is gone");
        board.of(Path::new("b.pt"), 1).unwrap().standing = Standing::Failed(error.clone());
        assert_eq!(board.sum(&targets, now), Sum::Failed(error));
        let health = board.health(now);
        assert_eq!((health.state, health.failed.len()), (ModelsState::Ready, 1));
        assert_eq!(board.at_start(), [PathBuf::from("a.pt")]);
    }

    #[test]
    fn a_failure_is_told_until_the_next_try_brings_something() {
        let (mut board, _) = board([entry("a.pt", None)]);
        let error = JobError::new(ErrorKind::ModelMissing, "it is gone");
        let path = Path::new("a.pt");
        board.of(path, 1).unwrap().standing = Standing::Failed(error);
        let mut next = entry("a.pt", None).1;
        next.attempt = 2;
        next.after(board.get(path).unwrap());
        board.put(path.to_owned(), next);
        let state = |board: &Board| board.health(Instant::now()).state;
        assert_eq!(state(&board), ModelsState::Failed);
        board.of(path, 2).unwrap().standing = Standing::Fetching;
        assert_eq!(state(&board), ModelsState::Downloading);
        board.of(path, 2).unwrap().standing = Standing::Present(path.to_owned());
        assert_eq!(state(&board), ModelsState::Ready);
    }
}
