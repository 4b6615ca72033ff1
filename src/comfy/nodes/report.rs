//! What became of each pack of custom nodes at the last start of ComfyUI: loaded or not, in what time, with which classes, and
//! what was wrong. It is told in the log, by `/health`, `check` and `nodes list`, and in the errors of graphs.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::disk::write_atomically;
use crate::echo;

mod advice;
mod board;
mod gather;
mod watch;

pub use board::{AtWork, NodesBoard};
pub use gather::AskedPack;
pub use watch::{Watched, watch};

/// The report of one start, as it is kept in `DATA_DIR/nodes/report.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodesReport {
    /// Which start of ComfyUI it is about, from 1 in each run of the worker.
    pub generation: u64,
    /// When it was made, in seconds since 1970 (UTC).
    pub at: u64,
    /// Whether the classes are known; they are asked for when no job is in the way.
    pub counted: bool,
    /// The packs, by name. What the worker and ComfyUI bring themselves is not among them.
    pub packs: Vec<PackReport>,
}

/// What became of one pack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackReport {
    /// The name of its folder, or of its file without `.py`: what ComfyUI calls it.
    pub name: String,
    /// Its version or its commit, where one is known.
    pub version: Option<String>,
    /// The folder, or the file.
    pub folder: PathBuf,
    /// What became of it.
    pub state: PackState,
    /// How long its import took.
    pub seconds: Option<f64>,
    /// The node classes that it brought, as far as they are known: see [`NodesReport::counted`].
    pub classes: Vec<String>,
    /// What was wrong, on one line.
    pub error: Option<String>,
    /// Whether the worker was asked for it (`CUSTOM_NODES`), and installs what it needs.
    pub asked: bool,
}

/// What became of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PackState {
    /// Its classes can be used.
    Loaded,
    /// It raised an error.
    Failed,
    /// It is asked for, and could not be installed.
    NotInstalled,
    /// It was imported and brought no class; many that only change the page bring none.
    NoNodes,
}

impl fmt::Display for PackState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loaded => "loaded",
            Self::Failed => "failed",
            Self::NotInstalled => "not installed",
            Self::NoNodes => "no nodes",
        })
    }
}

/// The longest error that is kept of a pack, in bytes.
const LONGEST_ERROR: usize = 600;

impl PackReport {
    /// Whether its classes are missing, though it is there or asked for.
    pub fn is_broken(&self) -> bool {
        matches!(self.state, PackState::Failed | PackState::NotInstalled)
    }

    /// Goes on after the name: `failed to load: No module named 'x'`. [`None`] where nothing is wrong.
    pub fn failure(&self) -> Option<String> {
        let error = self.error.as_deref();
        match self.state {
            PackState::Failed => Some(format!(
                "failed to load: {}",
                error.unwrap_or("ComfyUI does not say why")
            )),
            PackState::NotInstalled => Some(format!(
                "is not installed: {}",
                error.unwrap_or("the log of the start says why")
            )),
            PackState::NoNodes => error.map(|error| format!("brought no nodes: {error}")),
            PackState::Loaded => error.map(|error| format!("is loaded, but {error}")),
        }
    }

    /// What can be done about that, as a sentence; [`None`] where the error says it.
    pub fn next_step(&self) -> Option<String> {
        match self.state {
            PackState::NotInstalled => None,
            _ => self.error.as_deref().map(|error| advice::next_step(error, self.asked)),
        }
    }

    /// What a pack that loaded brings, for a log or a terminal: `ComfyUI-GGUF 1.1.0 loaded in 0.4 s with 9 classes`.
    /// [`None`] where it did not load. `counted`: [`NodesReport::counted`].
    pub fn success(&self, counted: bool) -> Option<String> {
        match self.state {
            PackState::Loaded => {}
            PackState::NoNodes if self.error.is_none() => {}
            _ => return None,
        }
        let mut text = format!("{} loaded", self.titled());
        if let Some(seconds) = self.seconds {
            text = format!("{text} in {seconds:.1} s");
        }
        if counted {
            text = match self.classes.len() {
                0 => format!("{text}, without classes"),
                number => format!("{text} with {}", classes(number)),
            };
        }
        Some(text)
    }

    /// Its name, and its version where it is known.
    fn titled(&self) -> String {
        match &self.version {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }

    /// The pack, what is wrong with it and what to do, for a log or a terminal. [`None`] where nothing is wrong.
    pub fn trouble(&self) -> Option<String> {
        let failure = self.failure()?;
        let mut text = format!("{} {}", self.titled(), failure.trim_end_matches('.'));
        if let Some(step) = self.next_step() {
            text = format!("{text}. {step}");
        }
        Some(text)
    }
}

impl NodesReport {
    /// The report of the last start on this data folder; [`None`] where there was none. Blocks.
    pub fn read(data_dir: &Path) -> Option<Self> {
        let text = fs::read(file(data_dir)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Keeps it for other processes. Blocks.
    pub(super) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let path = file(data_dir);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        write_atomically(&path, |file| Ok(serde_json::to_writer_pretty(file, self)?))
    }

    /// The packs that loaded, a line each: see [`PackReport::success`].
    pub fn successes(&self) -> impl Iterator<Item = String> {
        self.packs.iter().filter_map(|pack| pack.success(self.counted))
    }

    /// The packs whose classes are missing.
    pub fn broken(&self) -> impl Iterator<Item = &PackReport> {
        self.packs.iter().filter(|pack| pack.is_broken())
    }

    /// `5 packs, 2 of them failed; 14 classes; imported in 3.2 s`
    pub fn summary(&self) -> String {
        let packs = self.packs.len();
        let mut text = format!("{packs} {}", if packs == 1 { "pack" } else { "packs" });
        match self.broken().count() {
            0 => {}
            broken => text = format!("{text}, {broken} of them failed"),
        }
        if self.counted {
            let number = self.packs.iter().map(|pack| pack.classes.len()).sum();
            text = format!("{text}; {}", classes(number));
        }
        let seconds: f64 = self.packs.iter().filter_map(|pack| pack.seconds).sum();
        format!("{text}; imported in {seconds:.1} s")
    }

    /// When it was made: `2026-01-31T12:00:00Z`.
    pub fn time(&self) -> String {
        let time = i64::try_from(self.at).map(OffsetDateTime::from_unix_timestamp);
        time.ok()
            .and_then(Result::ok)
            .and_then(|time| time.format(&Rfc3339).ok())
            .unwrap_or_default()
    }

    /// Whether both say the same of the packs, if at another time or in another time.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let said = |pack: &PackReport| {
            (
                pack.name.clone(),
                pack.version.clone(),
                pack.folder.clone(),
                pack.state,
                pack.classes.len(),
                pack.error.clone(),
            )
        };
        self.packs.iter().map(said).eq(other.packs.iter().map(said))
    }
}

/// `1 class`, `2 classes`
fn classes(number: usize) -> String {
    format!("{number} {}", if number == 1 { "class" } else { "classes" })
}

/// Where the report of the last start is kept.
fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("nodes").join("report.json")
}

/// An error of somebody else on one line, and not too long.
pub(super) fn one_line(error: &str) -> String {
    let lines: Vec<&str> = error.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text: String = lines
        .join(" ")
        .chars()
        .filter(|character| !character.is_control())
        .collect();
    echo::at_most(text, LONGEST_ERROR)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
