//! Which files a job has made, told to its owner as soon as that is known, so that each is removed in its time however the
//! job ends: also the files of attempts that failed, that were cancelled, or that ComfyUI died under.
//!
//! A graph may name files that it did not make: inputs that it shows, and what lay in the output folder before. These are
//! returned, and nobody removes them. What ComfyUI gives from its cache was made by an earlier job; the owner knows by its
//! own list whether that was one of ours.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;

use super::collect;
use super::control::Event;
use super::leftovers::Prefixes;
use crate::comfy::Folders;
use crate::job::{OutputFile, OutputFolder};
use crate::workflow::Graph;

/// The most files that one attempt is looked through for.
const MOST_LEFT: usize = 10_000;

/// A file that a job left in one of ComfyUI's folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftFile {
    /// Which of ComfyUI's folders; never the one for inputs.
    pub folder: OutputFolder,
    /// The folder under it; empty for none. Parts are joined by `/`.
    pub subfolder: String,
    /// The name.
    pub filename: String,
    /// The size in bytes.
    pub bytes: u64,
    /// How sure it is that the job made it.
    pub claim: Claim,
}

impl LeftFile {
    fn new(folder: OutputFolder, subfolder: &str, filename: &str, bytes: u64, claim: Claim) -> Self {
        Self {
            folder,
            subfolder: subfolder.to_owned(),
            filename: filename.to_owned(),
            bytes,
            claim,
        }
    }
}

/// Why a file counts as a job's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The job made it.
    Made,
    /// The job names it, and it was there before: it is a job's only if another job made it.
    Named,
    /// It was found under a name that the job gives, and is the job's unless another job has it.
    Found,
}

/// What is known of the files of one job. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    events: mpsc::UnboundedSender<Event>,
    /// Where ComfyUI's folders are, if they are on this machine.
    folders: Option<Folders>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the first prompt of the job was submitted.
    since: Option<SystemTime>,
    /// The files that the job made, as far as they were told.
    made: HashSet<PathBuf>,
    /// The files that were there before, as far as they were told.
    named: HashSet<PathBuf>,
}

impl Ledger {
    /// The ledger of a job that `events` tells of. `resume` is the prompt of a previous run of the worker.
    pub(super) fn new(events: mpsc::UnboundedSender<Event>, folders: Option<&Folders>, resume: Option<&str>) -> Self {
        let state = State {
            since: resume.and_then(submitted_at),
            ..State::default()
        };
        Self(Arc::new(Inner {
            events,
            folders: folders.cloned(),
            state: Mutex::new(state),
        }))
    }

    /// A prompt of the job is about to be submitted. Gives the time.
    pub(super) fn submits(&self) -> SystemTime {
        let now = file_time();
        self.0.state.lock().since.get_or_insert(now);
        now
    }

    /// When the first prompt was submitted, as far as there was one.
    pub(super) fn since(&self) -> Option<SystemTime> {
        self.0.state.lock().since
    }

    /// Whether this job made the file.
    pub(super) fn has_made(&self, path: &Path) -> bool {
        self.0.state.lock().made.contains(path)
    }

    /// Takes down files as nodes name them, in ComfyUI's outputs by node; whoever calls need not wait for the disk.
    pub(super) fn outputs_in_background<'a>(&self, outputs: impl IntoIterator<Item = (&'a String, &'a Value)>) {
        let Some(folders) = self.0.folders.clone() else { return };
        let named = collect::named_files(outputs);
        if named.is_empty() {
            return;
        }
        let ledger = self.clone();
        tokio::task::spawn_blocking(move || {
            let found = named.into_iter().filter_map(|file| collect::found(&folders, file).ok());
            ledger.files(&found.collect::<Vec<_>>());
        });
    }

    /// Takes down files that are there. Blocks.
    pub(super) fn files(&self, files: &[OutputFile]) {
        let left = files.iter().filter_map(|file| {
            let (subfolder, filename) = (file.subfolder.as_str(), file.filename.as_str());
            self.look(file.folder, subfolder, filename)
        });
        self.tell(left.collect());
    }

    /// Takes down a file that we made ourselves, or one of ours that is gone again. Blocks.
    pub(super) fn wrote(&self, folder: OutputFolder, subfolder: &str, filename: &str) {
        let Some(path) = self.path(folder, subfolder, filename) else {
            return;
        };
        let bytes = fs::metadata(&path).map_or(0, |facts| facts.len());
        self.0.state.lock().made.insert(path);
        self.tell(vec![LeftFile::new(folder, subfolder, filename, bytes, Claim::Made)]);
    }

    /// Looks for files that an attempt left without a word: those under the names that the graph's nodes give to what they
    /// save, made in the time of the attempt, which is over by `until` at the latest. Only where nobody else keeps files:
    /// elsewhere one of somebody else's might have such a name too.
    pub(super) fn search_in_background(&self, graph: &Graph, from: SystemTime, until: Option<SystemTime>) {
        let now = SystemTime::now();
        let until = until.map_or(now, |until| until.min(now));
        let folders = self.0.folders.clone().filter(|folders| folders.are_ours);
        let (Some(folders), prefixes) = (folders, Prefixes::of(graph)) else {
            return;
        };
        if prefixes.is_empty() {
            return;
        }
        let ledger = self.clone();
        tokio::task::spawn_blocking(move || {
            let made = |facts: &Metadata| (from..=until).contains(&born(facts));
            let found = prefixes.find(&folders, made, MOST_LEFT);
            let left = found.into_iter().filter_map(|(folder, subfolder, filename)| {
                let path = ledger.path(folder, &subfolder, &filename)?;
                let bytes = fs::metadata(&path).ok()?.len();
                let left = LeftFile::new(folder, &subfolder, &filename, bytes, Claim::Found);
                ledger.0.state.lock().made.insert(path).then_some(left)
            });
            ledger.tell(left.collect());
        });
    }

    fn path(&self, folder: OutputFolder, subfolder: &str, filename: &str) -> Option<PathBuf> {
        self.0.folders.as_ref()?.path(folder, subfolder, filename)
    }

    /// The file, unless it was told before, or is one that went in.
    fn look(&self, folder: OutputFolder, subfolder: &str, filename: &str) -> Option<LeftFile> {
        if folder == OutputFolder::Input {
            return None;
        }
        let path = self.path(folder, subfolder, filename)?;
        let facts = fs::metadata(&path).ok()?;
        let mut state = self.0.state.lock();
        let (claim, told) = if state.since.is_some_and(|since| born(&facts) >= since) {
            (Claim::Made, &mut state.made)
        } else {
            (Claim::Named, &mut state.named)
        };
        let left = LeftFile::new(folder, subfolder, filename, facts.len(), claim);
        told.insert(path).then_some(left)
    }

    fn tell(&self, left: Vec<LeftFile>) {
        if !left.is_empty() {
            // An owner that is gone is told nothing.
            let _ = self.0.events.send(Event::Left(left));
        }
    }
}

/// When a file came to be; where that is not known, when it was last written. One that a job only writes into, such as a
/// list that it adds to, was there before.
fn born(facts: &Metadata) -> SystemTime {
    // Some file systems give the begin of time in place of what they do not know.
    let known = |time: &SystemTime| *time > UNIX_EPOCH + Duration::from_hours(24 * 365);
    let written = || facts.modified().unwrap_or(UNIX_EPOCH);
    facts.created().ok().filter(known).unwrap_or_else(written)
}

/// The time as file systems have it: the kernel stamps files by a clock that stands still for some milliseconds, so a file
/// may seem older than the exact time before it.
fn file_time() -> SystemTime {
    #[cfg(target_os = "linux")]
    if let Ok(time) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE) {
        return UNIX_EPOCH + Duration::from(time);
    }
    SystemTime::now()
}

/// When a prompt of ours was submitted: its id tells, a UUID of version 7.
fn submitted_at(prompt_id: &str) -> Option<SystemTime> {
    let (seconds, nanoseconds) = uuid::Uuid::parse_str(prompt_id).ok()?.get_timestamp()?.to_unix();
    Some(UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
