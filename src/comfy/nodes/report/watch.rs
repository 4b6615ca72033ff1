//! Follows the starts of a ComfyUI of ours, and makes the report of each.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indexmap::IndexMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::board::NodesBoard;
use super::gather::{AskedPack, Sources, gather};
use super::{NodesReport, PackReport, PackState};
use crate::comfy::process::{
    ComfyProcess, Connection, Exit, Import, NodeLog, Outcome, ProcessError, Remark, State, imports,
};
use crate::disk::blocking;

/// How far the readers of ComfyUI's output may be behind its answers.
const READERS_LAG: Duration = Duration::from_millis(300);

/// How long jobs keep us from asking for the classes.
const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// The most of a `pyproject.toml` that is read for a version.
const LONGEST_PROJECT: u64 = 64 * 1024;

/// Where a ComfyUI of ours has its custom nodes.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Its `Launch::run_dir`, where the start hook keeps its record.
    pub run_dir: PathBuf,
    /// Where the report is kept.
    pub data_dir: PathBuf,
    /// Its own folder.
    pub root: PathBuf,
    /// The folders of custom nodes that are known to be read.
    pub folders: Vec<PathBuf>,
    /// Files, and folders with all below them, that are no packs of the user's: told of only where they fail.
    pub ours: Vec<PathBuf>,
    /// The packs that the worker was asked for.
    pub asked: Vec<AskedPack>,
}

/// Begins to make a report of each start. It ends with the process's supervisor, and keeps it no longer alive.
pub fn watch(process: &ComfyProcess, watched: Watched, board: NodesBoard) {
    let (states, log) = (process.state(), process.node_log());
    let reporter = Reporter {
        watched,
        board,
        log,
        summed_up: Mutex::default(),
    };
    tokio::spawn(reporter.run(states));
}

struct Reporter {
    watched: Watched,
    board: NodesBoard,
    log: NodeLog,
    /// The report whose summary the log had last.
    summed_up: Mutex<Option<NodesReport>>,
}

/// What is known of one start before ComfyUI was asked for anything.
struct Start {
    generation: u64,
    imports: Vec<Import>,
    remarks: Vec<Remark>,
    ended: Option<String>,
}

impl Reporter {
    async fn run(self, mut states: watch::Receiver<State>) {
        let mut seen = 0;
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Ready(connection) if connection.generation() > seen => {
                    seen = connection.generation();
                    tokio::select! {
                        () = self.ready(&connection) => {}
                        _ = connection.exited() => {}
                    }
                }
                State::BackingOff(exit)
                | State::Failed(ProcessError::StartFailed(exit) | ProcessError::CrashLoop { exit, .. })
                    if exit.ready_for.is_none() && exit.generation > seen =>
                {
                    seen = exit.generation;
                    self.never_ready(&exit).await;
                }
                _ => {}
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells what failed at once, and which classes there are when no job is in the way.
    async fn ready(&self, connection: &Connection) {
        tokio::time::sleep(READERS_LAG).await;
        let generation = connection.generation();
        let start = self.start(generation).await;
        let (report, may_have_packs) = self.report(start, None).await;
        let without_packs = report.packs.is_empty() && !may_have_packs;
        self.publish(report, without_packs).await;
        if without_packs {
            return;
        }
        self.board.idle(LONGEST_WAIT).await;
        let classes = match connection.client.custom_classes().await {
            Ok(classes) => Some(classes),
            Err(error) => {
                tracing::warn!(%error, "the classes of the custom nodes are not known");
                None
            }
        };
        let start = self.start(generation).await;
        let (report, _) = self.report(start, classes).await;
        self.publish(report, true).await;
    }

    /// Where ComfyUI ended in the midst of a pack, that pack is told of.
    async fn never_ready(&self, exit: &Exit) {
        let start = Start {
            generation: exit.generation,
            // The record on the disk may be the next start's by now.
            imports: exit.imports.clone(),
            remarks: self.log.of(exit.generation),
            ended: Some(exit.how()),
        };
        if start.imports.iter().any(|import| import.outcome == Outcome::Running) {
            let (report, _) = self.report(start, None).await;
            self.publish(report, false).await;
        }
    }

    async fn start(&self, generation: u64) -> Start {
        let run_dir = self.watched.run_dir.clone();
        Start {
            generation,
            imports: blocking(move || imports(&run_dir)).await,
            remarks: self.log.of(generation),
            ended: None,
        }
    }

    /// The report, and whether there is anything in the folders that may be a pack.
    async fn report(&self, start: Start, classes: Option<IndexMap<String, Vec<String>>>) -> (NodesReport, bool) {
        let watched = self.watched.clone();
        blocking(move || {
            let mut packs = gather(&Sources {
                asked: &watched.asked,
                imports: &start.imports,
                remarks: &start.remarks,
                classes: classes.as_ref(),
                ended: start.ended.as_deref(),
                ours: &watched.ours,
                root: &watched.root,
            });
            for pack in packs.iter_mut().filter(|pack| pack.version.is_none()) {
                pack.version = version(&pack.folder);
            }
            let report = NodesReport {
                generation: start.generation,
                at: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs(),
                counted: classes.is_some(),
                packs,
            };
            let may_have_packs = watched.folders.iter().any(|folder| watched.holds_packs(folder));
            (report, may_have_packs)
        })
        .await
    }

    /// Hangs the report up, keeps it for other processes, and tells in the log what is new in it. `whole`: nothing more
    /// comes for this start.
    async fn publish(&self, report: NodesReport, whole: bool) {
        let before = self.board.hang_up(report.clone());
        for pack in &report.packs {
            let told = before.as_ref().is_some_and(|before| before.has_told(pack));
            // Why one could not be installed was said when that was tried.
            if let Some(trouble) = pack
                .trouble()
                .filter(|_| !told && pack.state != PackState::NotInstalled)
            {
                tracing::warn!(pack = pack.name, "Custom nodes: {trouble}");
            }
        }
        if whole && self.is_news(&report) {
            for success in report.successes() {
                tracing::info!("Custom nodes: {success}");
            }
            tracing::info!(packs = report.packs.len(), "Custom nodes: {}", report.summary());
        }
        let data_dir = self.watched.data_dir.clone();
        let written = blocking(move || report.write(&data_dir)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "what became of the custom nodes cannot be kept in DATA_DIR for `check`");
        }
    }
}

impl Reporter {
    /// Whether the log has not had this summary yet; a restart of the same packs is none.
    fn is_news(&self, report: &NodesReport) -> bool {
        let mut summed_up = self.summed_up.lock();
        let is_known = summed_up.as_ref().is_some_and(|known| known.says_the_same(report));
        if is_known || (summed_up.is_none() && report.packs.is_empty()) {
            return false;
        }
        *summed_up = Some(report.clone());
        true
    }
}

impl NodesReport {
    /// Whether it says of this pack what is wrong with it.
    fn has_told(&self, pack: &PackReport) -> bool {
        self.packs
            .iter()
            .any(|known| known.folder == pack.folder && known.error == pack.error)
    }
}

impl Watched {
    /// Whether a folder of custom nodes holds something that ComfyUI would import, beside what is ours. Blocks.
    fn holds_packs(&self, folder: &Path) -> bool {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_read = name != "__pycache__" && !name.ends_with(".disabled");
            let is_pack = path.is_dir() || name.ends_with(".py");
            is_read && is_pack && !self.ours.iter().any(|ours| path.starts_with(ours))
        })
    }
}

/// The version in the pack's `pyproject.toml`, where it has one. Blocks.
fn version(folder: &Path) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct File {
        project: Project,
    }
    #[derive(serde::Deserialize)]
    struct Project {
        version: String,
    }
    let mut text = String::new();
    let file = fs::File::open(folder.join("pyproject.toml")).ok()?;
    file.take(LONGEST_PROJECT).read_to_string(&mut text).ok()?;
    let file: File = toml::from_str(&text).ok()?;
    Some(crate::echo::cut(&file.project.version))
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
