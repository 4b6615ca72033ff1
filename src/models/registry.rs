//! Where each model file stands that somebody asked for: what waiters, the log and `/health` read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde::Serialize;
use tokio_util::sync::DropGuard;

use crate::config::ModelFile;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Download;

/// Where one file stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Status {
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
    file: ModelFile,
    pub(super) status: Status,
    /// Whether the worker needs it before it takes jobs.
    at_start: bool,
    /// Why the try before failed; told until this one has brought something.
    failed_before: Option<JobError>,
    bytes: u64,
    total: Option<u64>,
    /// When the first bytes of this try were counted, and how many were there before.
    begun: Option<(Instant, u64)>,
    /// Which try this is; what an earlier one reports is late.
    attempt: u64,
    /// Who waits for it; the download is cancelled when nobody does.
    interest: Weak<DropGuard>,
}

impl Entry {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.status, Status::Present(_) | Status::Failed(_))
    }

    /// Why it is not there, as far as that is known.
    fn failure(&self) -> Option<&JobError> {
        match &self.status {
            Status::Failed(error) => Some(error),
            Status::Waiting => self.failed_before.as_ref(),
            Status::Fetching | Status::Present(_) => None,
        }
    }
}

/// All files that somebody asked for, by the path at which they are put.
#[derive(Debug, Default)]
pub(super) struct Registry(IndexMap<PathBuf, Entry>);

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

impl Registry {
    pub(super) fn get(&self, target: &Path) -> Option<&Entry> {
        self.0.get(target)
    }

    /// The entry of this attempt, unless a later one has taken its place.
    pub(super) fn of(&mut self, target: &Path, attempt: u64) -> Option<&mut Entry> {
        self.0.get_mut(target).filter(|entry| entry.attempt == attempt)
    }

    /// Nobody asked for this file, or it is no longer there.
    pub(super) fn forget(&mut self, target: &Path) {
        self.0.shift_remove(target);
    }

    /// Joins in the try that is on its way, and gives what keeps it alive; or begins a new one that `guard` keeps alive, and
    /// gives its number.
    pub(super) fn ask(
        &mut self,
        file: &ModelFile,
        target: &Path,
        at_start: bool,
        guard: &Arc<DropGuard>,
    ) -> Result<Arc<DropGuard>, u64> {
        let mut before = self.0.get_mut(target);
        if let Some(entry) = before.as_deref_mut().filter(|entry| !entry.is_over())
            && let Some(interest) = entry.interest.upgrade()
        {
            entry.at_start |= at_start;
            return Ok(interest);
        }
        let attempt = before.as_ref().map_or(1, |entry| entry.attempt + 1);
        let entry = Entry {
            file: file.clone(),
            status: Status::Waiting,
            at_start: at_start || before.as_ref().is_some_and(|entry| entry.at_start),
            failed_before: before.and_then(|entry| entry.failure().cloned()),
            bytes: 0,
            total: file.size,
            begun: None,
            attempt,
            interest: Arc::downgrade(guard),
        };
        self.0.insert(target.to_owned(), entry);
        Err(attempt)
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
        if let Some(error) = targets.iter().find_map(|target| self.result(target)?.err()) {
            return Sum::Failed(error);
        }
        let entries = || targets.iter().filter_map(|target| self.0.get(target));
        let going = || entries().filter(|entry| !entry.is_over());
        let fetching = going().find(|entry| entry.status == Status::Fetching);
        match fetching.or_else(|| going().next()) {
            Some(first) => Sum::Going(download(first, entries(), now)),
            None => Sum::Present,
        }
    }

    /// Where a file is, or why it is not there; [`None`] while it is on its way.
    pub(super) fn result(&self, target: &Path) -> Option<Result<PathBuf, JobError>> {
        match self.0.get(target).map(|entry| &entry.status) {
            Some(Status::Present(path)) => Some(Ok(path.clone())),
            Some(Status::Failed(error)) => Some(Err(error.clone())),
            Some(Status::Waiting | Status::Fetching) => None,
            None => {
                let name = target.file_name().unwrap_or_default().to_string_lossy();
                let message = format!("Failed to load model: {name}: its download was cancelled");
                let hint = "What has come is kept; send the request again to go on.";
                Some(Err(JobError::new(ErrorKind::Cancelled, message).hint(hint)))
            }
        }
    }

    /// [`Self::result`] of each file; [`None`] while any is on its way.
    pub(super) fn results(&self, targets: &[PathBuf]) -> Option<Vec<Result<PathBuf, JobError>>> {
        targets.iter().map(|target| self.result(target)).collect()
    }

    /// What `/health` says of the models.
    pub(super) fn health(&self, now: Instant) -> ModelsHealth {
        let entries = self.0.values();
        let failed = entries.clone().filter_map(|entry| {
            Some(FailedModel {
                file: entry.file.target(),
                error: entry.failure()?.full_text(),
            })
        });
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
            present: start.filter(|entry| matches!(entry.status, Status::Present(_))).count(),
            download: download.map(DownloadHealth::from),
            failed: failed.collect(),
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
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::Origin;

    /// Asks for a file that nobody waits for.
    fn ask(registry: &mut Registry, name: &str, size: Option<u64>) -> u64 {
        let file = ModelFile {
            origin: Origin::Url(format!("https://storage.example.com/{name}").parse().unwrap()),
            folder: "loras".to_owned(),
            name: name.to_owned(),
            size,
            sha256: None,
        };
        let guard = Arc::new(CancellationToken::new().drop_guard());
        registry.ask(&file, Path::new(name), true, &guard).unwrap_err()
    }

    fn registry<const N: usize>(files: [(&str, Option<u64>); N]) -> (Registry, Vec<PathBuf>) {
        let mut registry = Registry::default();
        for (name, size) in files {
            assert_eq!(ask(&mut registry, name, size), 1);
        }
        let targets = registry.0.keys().cloned().collect();
        (registry, targets)
    }

    #[test]
    fn the_pace_counts_what_came_and_not_what_was_there() {
        let (mut registry, targets) = registry([("a.pt", Some(1000)), ("b.pt", None)]);
        let start = Instant::now();
        registry.progress(Path::new("a.pt"), 1, 400, Some(1000), start);
        registry.of(Path::new("a.pt"), 1).unwrap().status = Status::Fetching;
        let Sum::Going(first) = registry.sum(&targets, start) else {
            panic!()
        };
        assert_eq!((first.bytes, first.total_bytes, first.eta), (400, None, None));

        registry.progress(Path::new("b.pt"), 1, 0, Some(100), start);
        registry.progress(Path::new("a.pt"), 1, 600, Some(1000), start + Duration::from_secs(2));
        let Sum::Going(then) = registry.sum(&targets, start + Duration::from_secs(2)) else {
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
        let (mut registry, targets) = registry([("a.pt", Some(10))]);
        assert_eq!(ask(&mut registry, "a.pt", Some(10)), 2);
        registry.progress(Path::new("a.pt"), 1, 7, None, Instant::now());
        let Sum::Going(download) = registry.sum(&targets, Instant::now()) else {
            panic!()
        };
        assert_eq!((download.bytes, download.total_bytes), (0, Some(10)));
    }

    #[test]
    fn health_tells_the_start_apart_from_jobs() {
        let (mut registry, targets) = registry([("a.pt", None), ("b.pt", None)]);
        registry.of(Path::new("b.pt"), 1).unwrap().at_start = false;
        let now = Instant::now();
        assert_eq!(registry.health(now).state, ModelsState::Downloading);
        registry.of(Path::new("a.pt"), 1).unwrap().status = Status::Present(PathBuf::from("a.pt"));
        let health = registry.health(now);
        assert_eq!(
            (health.state, health.wanted, health.present),
            (ModelsState::Ready, 1, 1)
        );
        assert_eq!(health.download.unwrap().file, "loras/b.pt");
        let error = JobError::new(ErrorKind::ModelMissing, "Failed to load model: loras/b.pt: it is gone");
        registry.of(Path::new("b.pt"), 1).unwrap().status = Status::Failed(error.clone());
        assert_eq!(registry.sum(&targets, now), Sum::Failed(error));
        let health = registry.health(now);
        assert_eq!((health.state, health.failed.len()), (ModelsState::Ready, 1));
        assert_eq!(registry.at_start(), [PathBuf::from("a.pt")]);
    }

    #[test]
    fn a_failure_is_told_until_the_next_try_brings_something() {
        let (mut registry, _) = registry([("a.pt", None)]);
        let error = JobError::new(ErrorKind::ModelMissing, "it is gone");
        let path = Path::new("a.pt");
        registry.of(path, 1).unwrap().status = Status::Failed(error);
        assert_eq!(ask(&mut registry, "a.pt", None), 2);
        let state = |registry: &Registry| registry.health(Instant::now()).state;
        assert_eq!(state(&registry), ModelsState::Failed);
        registry.of(path, 2).unwrap().status = Status::Fetching;
        assert_eq!(state(&registry), ModelsState::Downloading);
        registry.of(path, 2).unwrap().status = Status::Present(path.to_owned());
        assert_eq!(state(&registry), ModelsState::Ready);
    }
}
