//! One report from all that is known of a start: what was asked for, what the start hook saw, what ComfyUI's log says, and
//! which classes there are. Pure but for looking at paths.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::{PackReport, PackState, one_line};
use crate::comfy::process::{Import, Outcome, Remark, Said};

/// A pack that the worker was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedPack {
    /// The name of its folder.
    pub name: String,
    /// Its version or commit.
    pub version: Option<String>,
    /// Where ComfyUI finds it.
    pub folder: PathBuf,
    /// Why it is not installed.
    pub failure: Option<String>,
}

/// What is known of one start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) asked: &'a [AskedPack],
    pub(super) imports: &'a [Import],
    pub(super) remarks: &'a [Remark],
    /// The classes by the module of their pack (`custom_nodes.NAME`), once ComfyUI was asked.
    pub(super) classes: Option<&'a IndexMap<String, Vec<String>>>,
    /// How ComfyUI ended, where it was never ready.
    pub(super) ended: Option<&'a str>,
    /// Files, and folders with all below them, that are no packs of the user's: told of only where they fail.
    pub(super) ours: &'a [PathBuf],
    /// ComfyUI's folder, whose own files are no packs.
    pub(super) root: &'a Path,
}

/// What is said of a pack that ComfyUI passed over.
pub(super) const NOT_IMPORTED: &str = "ComfyUI did not import it";

/// What is known of one pack, before it is judged.
#[derive(Default)]
struct Facts<'a> {
    asked: Option<&'a AskedPack>,
    folder: PathBuf,
    import: Option<&'a Import>,
    said: Vec<&'a Said>,
    classes: Vec<String>,
}

/// What became of each pack, by name.
pub(super) fn gather(sources: &Sources<'_>) -> Vec<PackReport> {
    let mut packs: IndexMap<PathBuf, Facts<'_>> = IndexMap::new();
    for asked in sources.asked {
        let facts = entry(&mut packs, &asked.folder);
        facts.asked = Some(asked);
    }
    for import in sources.imports {
        entry(&mut packs, &import.folder).import = Some(import);
    }
    for remark in sources.remarks {
        entry(&mut packs, &remark.pack).said.push(&remark.said);
    }
    let mut classes: HashMap<&str, &Vec<String>> = HashMap::new();
    for (module, of_module) in sources.classes.into_iter().flatten() {
        classes.insert(module.strip_prefix(MODULES).unwrap_or(module), of_module);
    }
    // Of two packs of one name the one that did not fail has the classes.
    packs.sort_by_cached_key(|_, facts| facts.judged(true).0 != PackState::Loaded);
    for facts in packs.values_mut() {
        let found = classes.remove(facts.name().as_str());
        facts.classes = found.cloned().unwrap_or_default();
    }
    let counted = sources.classes.is_some();
    // Without the start hook, and with a log level that hides what loads, nothing is heard of a pack before it is counted.
    let all_heard = counted || !sources.imports.is_empty();
    let ours: Vec<PathBuf> = sources.ours.iter().map(|ours| real(ours)).collect();
    let comfyuis = ["comfy_extras", "comfy_api_nodes"].map(|folder| real(&sources.root.join(folder)));
    let is_in = |folders: &[PathBuf], pack: &Path| folders.iter().any(|folder| pack.starts_with(folder));
    let mut reports: Vec<PackReport> = packs
        .iter()
        // Files of its own ComfyUI loads as it does packs.
        .filter(|(key, _)| !is_in(&comfyuis, key))
        .filter(|(key, facts)| facts.judged(true).0 == PackState::Failed || !is_in(&ours, key))
        .map(|(_, facts)| facts)
        // Before its turn came ComfyUI had ended; nothing is known of it.
        .filter(|facts| sources.ended.is_none() || facts.is_there() || facts.is_not_installed())
        .map(|facts| facts.report(counted, all_heard, sources.ended))
        .collect();
    reports.sort_by_key(|pack| pack.name.to_lowercase());
    reports
}

/// What the modules of custom nodes begin with (`load_custom_node` in ComfyUI's `nodes.py`). What follows is the name of the
/// folder as it is, dots and all, or that of the file without its ending.
const MODULES: &str = "custom_nodes.";

/// What is known of the pack in this folder so far. The same folder may be named by way of different links.
fn entry<'m, 'a>(packs: &'m mut IndexMap<PathBuf, Facts<'a>>, folder: &Path) -> &'m mut Facts<'a> {
    let key = match (folder.parent().map(Path::canonicalize), folder.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => folder.to_owned(),
    };
    let facts = packs.entry(key).or_default();
    if facts.folder.as_os_str().is_empty() {
        folder.clone_into(&mut facts.folder);
    }
    facts
}

/// The path without links, where there is such a file; ComfyUI names its folders as it was given them, or not.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl Facts<'_> {
    fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.strip_suffix(".py").filter(|_| !self.folder.is_dir());
        stem.unwrap_or(&name).to_owned()
    }

    /// The state and the error. `has_classes`: it brought some, or nobody has looked.
    fn judged(&self, has_classes: bool) -> (PackState, Option<String>) {
        if let Some(failure) = self.asked.and_then(|asked| asked.failure.clone()) {
            return (PackState::NotInstalled, Some(failure));
        }
        if let Some(Outcome::Failed(error)) = self.import.map(|import| &import.outcome) {
            return (PackState::Failed, Some(plain(error).to_owned()));
        }
        let mut failed_without_reason = false;
        let mut prestartup = self.import.and_then(|import| import.prestartup_error.as_deref());
        for said in &self.said {
            match said {
                Said::Raised(error) => return (PackState::Failed, Some(plain(error).to_owned())),
                Said::NoMappings => {
                    let error = "it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint, by which ComfyUI finds nodes";
                    return (PackState::NoNodes, Some(error.to_owned()));
                }
                Said::Imported { done, .. } => failed_without_reason = !done,
                Said::PrestartupRaised(error) => prestartup = prestartup.or(Some(error)),
            }
        }
        let prestartup = prestartup.map(|error| format!("its prestartup script failed: {}", plain(error)));
        match () {
            () if failed_without_reason => (PackState::Failed, prestartup),
            () if has_classes => (PackState::Loaded, prestartup),
            () => (PackState::NoNodes, prestartup),
        }
    }

    fn report(&self, counted: bool, all_heard: bool, ended: Option<&str>) -> PackReport {
        let (mut state, mut error) = self.judged(!counted || !self.classes.is_empty());
        if let (Some(ended), Some(Outcome::Running)) = (ended, self.import.map(|import| &import.outcome)) {
            state = PackState::Failed;
            error = Some(format!("ComfyUI {ended} while it was imported"));
        }
        if all_heard && !self.is_there() && state != PackState::NotInstalled {
            state = PackState::Failed;
            error = Some(NOT_IMPORTED.to_owned());
        }
        let seconds = self.import.map(|import| import.seconds).or_else(|| {
            self.said.iter().rev().find_map(|said| match said {
                Said::Imported { seconds, .. } => Some(*seconds),
                _ => None,
            })
        });
        PackReport {
            name: self.asked.map_or_else(|| self.name(), |asked| asked.name.clone()),
            version: self.asked.and_then(|asked| asked.version.clone()),
            folder: self.folder.clone(),
            state,
            seconds,
            classes: self.classes.clone(),
            error: error.map(|error| one_line(&error)),
            asked: self.asked.is_some(),
        }
    }

    fn is_not_installed(&self) -> bool {
        self.asked.is_some_and(|asked| asked.failure.is_some())
    }

    /// Whether anything was heard of it in this start.
    fn is_there(&self) -> bool {
        self.import.is_some() || !self.said.is_empty() || !self.classes.is_empty()
    }
}

/// An error without the name of its class, where the message says it all.
fn plain(error: &str) -> &str {
    let named = ["ModuleNotFoundError: ", "ImportError: "];
    named.iter().find_map(|name| error.strip_prefix(name)).unwrap_or(error)
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
