//! Whence a node class comes that ComfyUI does not have: asked for the error of a graph that names one.
//!
//! In this order: packs that do not load and whose sources have it as a class; a small table of well-known packs; the Comfy
//! Registry, which is asked for a few classes at most and waited for no longer than two seconds; then weaker signs, a pack
//! that does not load and has the name somewhere, and one that is loaded and has it as of a class.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use self::sources::{Budget, Names};
use super::report::{NodesBoard, NodesReport, PackReport, PackState};
use crate::disk::blocking;
use crate::workflow::Absence;

mod elsewhere;
mod sources;

pub use self::elsewhere::Elsewhere;

/// How many classes are looked for: as many as an error lists.
const MOST_CLASSES: usize = 50;

/// How long the report of a start is waited for. It comes a moment after ComfyUI is ready, when the first job may be there
/// already.
const REPORT_PATIENCE: Duration = Duration::from_secs(2);

/// Finds the packs of missing classes. What it reads and asks, it does once for each start of ComfyUI.
#[derive(Debug)]
pub struct ClassFinder {
    board: NodesBoard,
    elsewhere: Elsewhere,
    /// Whether ComfyUI is somebody else's.
    attached: bool,
    read: Mutex<Read>,
}

/// The names in the sources of all packs, and of which packs those are: each with whether it is silent.
#[derive(Debug, Default)]
struct Read {
    packs: Vec<(PathBuf, PackState, bool)>,
    names: Arc<HashMap<PathBuf, Names>>,
}

impl ClassFinder {
    /// A finder for the ComfyUI of this board.
    pub fn new(board: NodesBoard, elsewhere: Elsewhere, attached: bool) -> Self {
        Self {
            board,
            elsewhere,
            attached,
            read: Mutex::default(),
        }
    }

    /// What is known of the first of these classes, which this start of ComfyUI lacks
    /// ([`Connection::generation`](crate::comfy::Connection::generation)). Takes no longer than some seconds.
    pub async fn look_up(&self, classes: &[&str], generation: u64) -> HashMap<String, Absence> {
        let classes = &classes[..classes.len().min(MOST_CLASSES)];
        let mut found = HashMap::new();
        if classes.is_empty() {
            return found;
        }
        // Nobody reports on a ComfyUI of somebody else's.
        let report = if self.attached {
            self.board.report()
        } else {
            self.board.report_of(generation, REPORT_PATIENCE).await
        };
        let report = report.unwrap_or_default();
        let names = self.names(&report).await;
        let mut rest = Vec::new();
        for class in classes {
            match declared(&report, &names, class) {
                Some(pack) => drop(found.insert((*class).to_owned(), broken(pack, true))),
                None => rest.push(*class),
            }
        }
        for (class, entry) in self.elsewhere.packs_of(&rest).await {
            let here = report.packs.iter().find(|pack| is_called(pack, &entry.id));
            let absence = match here {
                Some(pack) if is_silent(pack) => broken(pack, true),
                Some(pack) => left_out(pack, true),
                None => Absence::NotAsked {
                    pack: entry.id,
                    version: entry.version,
                    attached: self.attached,
                },
            };
            found.insert(class, absence);
        }
        for class in rest {
            if !found.contains_key(class)
                && let Some(absence) = mentioned(&report, &names, class)
            {
                found.insert(class.to_owned(), absence);
            }
        }
        found
    }

    /// The names in the sources of the packs of this report.
    async fn names(&self, report: &NodesReport) -> Arc<HashMap<PathBuf, Names>> {
        let packs: Vec<_> = report
            .packs
            .iter()
            .map(|pack| (pack.folder.clone(), pack.state, is_silent(pack)))
            .collect();
        let mut read = self.read.lock().await;
        if read.packs != packs {
            let mut folders: Vec<(PathBuf, bool)> = packs
                .iter()
                .map(|(folder, _, silent)| (folder.clone(), *silent))
                .collect();
            // Those that matter most, should there be more than is read.
            folders.sort_by_key(|(_, silent)| !silent);
            let names = blocking(move || {
                let mut budget = Budget::default();
                let names = folders.into_iter().map(|(folder, silent)| {
                    let names = Names::read(&folder, silent, &mut budget);
                    (folder, names)
                });
                names.collect()
            });
            let names = Arc::new(names.await);
            *read = Read { packs, names };
        }
        Arc::clone(&read.names)
    }
}

/// The pack without classes whose sources have this one as of a class.
fn declared<'a>(report: &'a NodesReport, names: &HashMap<PathBuf, Names>, class: &str) -> Option<&'a PackReport> {
    let has_it = |pack: &&PackReport| names.get(&pack.folder).is_some_and(|names| names.has_key(class));
    report.packs.iter().filter(|pack| is_silent(pack)).find(has_it)
}

/// The pack whose sources have the name of a class, where nothing better is known. One that loaded must have it as of a class;
/// one that did not may name its classes in ways that only running it would show.
fn mentioned(report: &NodesReport, names: &HashMap<PathBuf, Names>, class: &str) -> Option<Absence> {
    let names = |pack: &PackReport| names.get(&pack.folder);
    let (mut silent, mut loaded) = (
        report.packs.iter().filter(|pack| is_silent(pack)),
        report.packs.iter().filter(|pack| !is_silent(pack)),
    );
    if let Some(pack) = silent.find(|pack| names(pack).is_some_and(|names| names.has(class))) {
        return Some(broken(pack, false));
    }
    loaded
        .find(|pack| names(pack).is_some_and(|names| names.has_key(class)))
        .map(|pack| left_out(pack, false))
}

/// Whether no class of it is there, and that is no wonder.
fn is_silent(pack: &PackReport) -> bool {
    pack.is_broken() || (pack.state == PackState::NoNodes && pack.error.is_some())
}

fn broken(pack: &PackReport, sure: bool) -> Absence {
    Absence::Broken {
        pack: pack.name.clone(),
        sure,
        failure: pack.failure().unwrap_or_default(),
        step: pack.next_step(),
    }
}

fn left_out(pack: &PackReport, sure: bool) -> Absence {
    Absence::LeftOut {
        pack: pack.name.clone(),
        version: pack.version.clone(),
        sure,
    }
}

/// Whether a pack is the one that the registry calls so. Folders are often called after the repository, which differs in
/// its capitals.
fn is_called(pack: &PackReport, id: &str) -> bool {
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    plain(&pack.name) == plain(id)
}

#[cfg(test)]
#[path = "finder_tests.rs"]
mod tests;
