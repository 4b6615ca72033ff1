//! Makes a set: fetches the packs, resolves their packages together, fills the overlay, and puts the whole in force.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Packages;
use super::error::{Failure, NodesError};
use super::fetch::{Fetched, Fetcher};
use super::registry::Registry;
use super::requirements::{self, Demands};
use super::resolve::{Party, Resolved, resolve};
use super::set::{InstalledPack, Layout, NodeSet, Stamp, key, remove};
use super::wishes::Wishes;
use super::{manifest, script};
use crate::comfy::install::{InstallError, Installation, Pins, Runner, io, lock};
use crate::config::{Config, NodePack, NodesConfig};
use crate::disk::blocking;
use crate::telemetry::report::{Reporter, Unit};

/// How long the `install.py` of one pack may take.
const SCRIPT_TIME: Duration = Duration::from_mins(10);

/// Which packs, and where they go.
#[derive(Debug, Clone)]
pub struct NodesOptions {
    /// `CUSTOM_NODES_DIR`.
    pub dir: PathBuf,
    /// What is wanted.
    pub config: NodesConfig,
    /// Where uv keeps what it fetches, if not at its usual place: on a network volume, for all workers.
    pub uv_cache: Option<PathBuf>,
    /// Where uv and git are looked for, in the form of `PATH`.
    pub search_path: OsString,
}

impl NodesOptions {
    /// What the configuration asks for.
    pub fn new(config: &Config) -> Self {
        Self {
            dir: config.paths.nodes_dir.clone(),
            config: config.nodes.clone(),
            uv_cache: None,
            search_path: std::env::var_os("PATH").unwrap_or_default(),
        }
    }

    /// Whether anything is asked for.
    pub fn are_wanted(&self) -> bool {
        !self.config.packs.is_empty() || self.config.manifest.is_some()
    }
}

/// How much is done for a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// What is missing, and what failed for a reason that may have passed: at each start.
    Missing,
    /// All that failed is tried again.
    Failed,
    /// Made anew: branches, tags and newest versions are looked up again.
    Anew,
}

/// The set that the configuration asks for; installs first what is missing of it. Takes milliseconds where nothing is. What
/// cannot be installed is told in [`InstalledPack::failure`], and the others go on. Several at once, in one process or in many,
/// wait for the first. Dropping the future ends the programs that it runs; the next call finishes the work.
pub async fn ensure(
    options: &NodesOptions,
    base: &Installation,
    reporter: &dyn Reporter,
) -> Result<NodeSet, NodesError> {
    install(options, base, Effort::Missing, reporter).await
}

/// [`ensure`] with more effort.
pub async fn install(
    options: &NodesOptions,
    base: &Installation,
    effort: Effort,
    reporter: &dyn Reporter,
) -> Result<NodeSet, NodesError> {
    if !options.are_wanted() {
        return Ok(NodeSet::none(base));
    }
    let layout = Layout::new(&options.dir);
    let wishes = match read(options).await {
        Ok(wishes) => wishes,
        Err(error) => return last(&layout, base, error).await,
    };
    // A manifest may be there for others to fill, as in the image.
    if wishes.packs.is_empty() && wishes.packages.is_empty() {
        return Ok(NodeSet::none(base));
    }
    let key = {
        let (wishes, base) = (wishes.clone(), base.clone());
        blocking(move || key(&wishes, &base)).await
    };
    if let Some((set, stamp)) = found(&layout, &key).await
        && stamp.is_enough(effort)
    {
        in_force(&layout, &set).await?;
        return Ok(set);
    }
    match make(options, &layout, &wishes, base, &key, effort, reporter).await {
        Err(error) => last(&layout, base, error).await,
        made => made,
    }
}

/// Reads what is asked for. One pack that cannot be had as it is named is no reason against the others.
pub(super) async fn read(options: &NodesOptions) -> Result<Wishes, NodesError> {
    let mut config = options.config.clone();
    config.allow_floating = true;
    Ok(Wishes::new(manifest::read(&config).await?, &options.config))
}

/// The set that was in force before, where there is one for this ComfyUI: better than none.
async fn last(layout: &Layout, base: &Installation, error: NodesError) -> Result<NodeSet, NodesError> {
    let here = layout.clone();
    let last = blocking(move || here.in_force()).await;
    match last.filter(|(_, stamp)| stamp.root == base.root && stamp.base_python == base.python) {
        Some((mut set, _)) => {
            set.notes.push(format!(
                "these are the packs of the last start, since now {error}. {}",
                error.hint()
            ));
            Ok(set)
        }
        None => Err(error),
    }
}

async fn found(layout: &Layout, key: &str) -> Option<(NodeSet, Stamp)> {
    let (layout, key) = (layout.clone(), key.to_owned());
    blocking(move || layout.find(&key)).await
}

async fn in_force(layout: &Layout, set: &NodeSet) -> Result<(), NodesError> {
    let (layout, set) = (layout.clone(), set.clone());
    let dir = layout.dir.clone();
    let written = blocking(move || layout.put_in_force(&set)).await;
    Ok(written.map_err(io("write to", dir))?)
}

async fn make(
    options: &NodesOptions,
    layout: &Layout,
    wishes: &Wishes,
    base: &Installation,
    key: &str,
    effort: Effort,
    reporter: &dyn Reporter,
) -> Result<NodeSet, NodesError> {
    let bench = Bench::open(options, layout, reporter).await?;
    let runner = bench.runner(options, layout, reporter);
    let previous = found(layout, key).await;
    if let Some((set, stamp)) = &previous
        && stamp.is_enough(effort)
    {
        in_force(layout, set).await?;
        return Ok(set.clone());
    }
    let registry = Registry::new(&options.config.registry);
    let known = previous
        .as_ref()
        .filter(|_| effort != Effort::Anew)
        .map(|(_, stamp)| stamp);
    let mut packs = fetch(&runner, &registry, layout, wishes, known, reporter).await?;
    let previous = previous.filter(|_| effort == Effort::Missing);
    if let Some(set) = previous.as_ref().and_then(|previous| as_before(previous, &packs)) {
        in_force(layout, &set).await?;
        return Ok(set);
    }
    let name = layout.next(key);
    let home = layout.home(&name);
    let mut stamp = Stamp::new(key, base);
    stamp.notes.clone_from(&wishes.notes);
    stamp.packages.clone_from(&wishes.packages);
    let nodes = home.join("custom_nodes");

    let cache = usable(options.uv_cache.clone()).await;
    let uv = Packages::prepare(&runner, &base.python, &layout.tools, cache.as_deref()).await?;
    let lock = loop {
        let (parties, at) = parties(&packs, wishes, &mut stamp.notes);
        let resolved = resolve(&uv, &parties).await?;
        leave_out(&mut packs, &at, &resolved, &mut stamp);
        if let Some(set) = previous.as_ref().and_then(|previous| as_before(previous, &packs)) {
            in_force(layout, &set).await?;
            return Ok(set);
        }
        fs::create_dir_all(&nodes).map_err(io("create", &nodes))?;
        let count = resolved.lock.names.len();
        let mut meter = reporter.begin("packages of custom nodes", None, Unit::Bytes);
        let made = uv
            .make_overlay(&home.join("venv"), &resolved.lock, resolved.offline, &mut *meter)
            .await;
        match made {
            Ok(()) => {
                meter.finish(&format!("{count} beside ComfyUI's own"));
                break resolved.lock;
            }
            Err(error) => {
                drop(meter);
                // One that cannot be built or fetched: its pack is left out, and the rest is resolved again.
                let guilty = guilty(&uv, &parties, &error).await;
                if guilty.is_empty() {
                    return Err(error.into());
                }
                for party in guilty {
                    blame(&mut packs, at[party], &error, &mut stamp);
                }
            }
        }
    };
    let list = home.join("requirements.lock");
    fs::write(&list, lock.text()).map_err(io("write", &list))?;
    place(&mut packs, &nodes, reporter).await?;
    let python = home.join("venv/bin/python");
    for pack in &mut packs {
        pack.run_script(&runner, wishes.run_install, &python, &nodes).await;
    }
    stamp.cached = packs
        .iter()
        .filter_map(|pack| pack.tree.as_ref().ok()?.cached.clone())
        .collect();
    stamp.packs = packs.into_iter().map(|pack| pack.installed(&nodes)).collect();

    let finished = {
        let (layout, name, key) = (layout.clone(), name.clone(), key.to_owned());
        blocking(move || {
            layout.stamp(&name, &stamp)?;
            let before = layout.name_in_force();
            let set = layout.find(&key).map(|(set, _)| set);
            let set = set.ok_or_else(|| std::io::Error::other("it was written, and is not as it was written"))?;
            layout.put_in_force(&set)?;
            // The last one stays, so that going back is quick.
            layout.remove_unused(&before.into_iter().chain([name]).collect::<Vec<_>>())?;
            Ok(set)
        })
    };
    Ok(finished.await.map_err(io("finish", home))?)
}

/// What is made of wishes without installing anything.
#[derive(Debug)]
pub struct Checked {
    /// All packs, in their order, with what would keep them from being installed.
    pub packs: Vec<InstalledPack>,
    /// The Python packages that would be installed, as lines of a requirement list.
    pub packages: Vec<String>,
    /// What is to be known of the whole.
    pub notes: Vec<String>,
}

/// Fetches and resolves everything as an installation would, and installs nothing.
pub async fn check(
    options: &NodesOptions,
    base: &Installation,
    reporter: &dyn Reporter,
) -> Result<Checked, NodesError> {
    let layout = Layout::new(&options.dir);
    let wishes = read(options).await?;
    let bench = Bench::open(options, &layout, reporter).await?;
    let runner = bench.runner(options, &layout, reporter);
    let registry = Registry::new(&options.config.registry);
    let mut packs = fetch(&runner, &registry, &layout, &wishes, None, reporter).await?;
    let mut stamp = Stamp::new("", base);
    stamp.notes.clone_from(&wishes.notes);
    let cache = usable(options.uv_cache.clone()).await;
    let uv = Packages::prepare(&runner, &base.python, &layout.tools, cache.as_deref()).await?;
    let (parties, at) = parties(&packs, &wishes, &mut stamp.notes);
    let resolved = resolve(&uv, &parties).await?;
    leave_out(&mut packs, &at, &resolved, &mut stamp);
    let lines = resolved.lock.text();
    let lines = lines.lines().filter(|line| !line.starts_with([' ', '#']));
    Ok(Checked {
        packs: packs.into_iter().map(|pack| pack.installed(Path::new(""))).collect(),
        packages: lines
            .map(|line| line.trim_end_matches(['\\', ' ']).to_owned())
            .collect(),
        notes: stamp.notes,
    })
}

/// The folder for uv's cache, if it can be written to and the user has not chosen another.
async fn usable(cache: Option<PathBuf>) -> Option<PathBuf> {
    let cache = cache.filter(|_| std::env::var_os("UV_CACHE_DIR").is_none())?;
    blocking(move || {
        let is_writable = fs::create_dir_all(&cache).is_ok() && tempfile::tempfile_in(&cache).is_ok();
        is_writable.then_some(cache)
    })
    .await
}

/// The lock, and a folder to work in.
pub(super) struct Bench {
    lock: fs::File,
    pins: Pins,
    work: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next one.
        let _ = remove(&self.work);
    }
}

impl Bench {
    /// Waits for the lock, and removes what a killed installation left.
    pub(super) async fn open(
        options: &NodesOptions,
        layout: &Layout,
        reporter: &dyn Reporter,
    ) -> Result<Self, NodesError> {
        fs::create_dir_all(&options.dir).map_err(io("create", &options.dir))?;
        let lock = lock(&layout.lock, reporter).await?;
        let here = layout.clone();
        let swept = blocking(move || {
            here.sweep()?;
            fs::create_dir_all(&here.work)?;
            fs::create_dir_all(&here.packs)
        });
        swept.await.map_err(io("clear", &layout.dir))?;
        Ok(Self {
            lock,
            pins: Pins::default(),
            work: layout.work.clone(),
        })
    }

    pub(super) fn runner<'a>(
        &'a self,
        options: &'a NodesOptions,
        layout: &'a Layout,
        reporter: &'a dyn Reporter,
    ) -> Runner<'a> {
        Runner {
            pins: &self.pins,
            reporter,
            lock: &self.lock,
            dir: &layout.work,
            cache: &layout.uv_cache,
            search_path: &options.search_path,
        }
    }
}

/// A pack on its way.
struct Pack {
    /// As it was asked for.
    asked: NodePack,
    tree: Result<Fetched, Failure>,
    demands: Demands,
    notes: Vec<String>,
    script_failed: bool,
}

impl Pack {
    fn installed(self, nodes: &Path) -> InstalledPack {
        let (pack, failure) = match self.tree {
            Ok(fetched) => (fetched.pack, None),
            Err(failure) => (self.asked, Some(failure)),
        };
        let mut folder = nodes.join(&pack.name);
        if failure.is_some() && folder.exists() {
            // That of another pack of this name.
            folder = nodes.join(format!(".not-installed-{}", pack.name));
        }
        InstalledPack {
            folder,
            pack,
            notes: self.notes,
            script_failed: self.script_failed,
            may_pass: failure.as_ref().is_some_and(|failure| failure.may_pass),
            failure: failure.map(|failure| failure.reason),
        }
    }

    async fn run_script(&mut self, runner: &Runner<'_>, is_allowed: bool, python: &Path, nodes: &Path) {
        let folder = nodes.join(&self.asked.name);
        if self.tree.is_err() || !folder.join("install.py").is_file() {
            return;
        }
        if !is_allowed {
            self.notes.push(
                "it has an install.py, which was not run; CUSTOM_NODES_RUN_INSTALL=true runs it, if its nodes miss something"
                    .to_owned(),
            );
            return;
        }
        if let Err(reason) = script::run(runner, python, &folder, &self.asked.name, SCRIPT_TIME).await {
            self.script_failed = true;
            self.notes.push(format!("its install.py failed: {reason}"));
        }
    }
}

/// Gets all packs and reads what they ask for. `known`: where branches and newest versions were looked up before.
async fn fetch(
    runner: &Runner<'_>,
    registry: &Registry,
    layout: &Layout,
    wishes: &Wishes,
    known: Option<&Stamp>,
    reporter: &dyn Reporter,
) -> Result<Vec<Pack>, NodesError> {
    let fetcher = Fetcher {
        runner,
        registry,
        cache: &layout.packs,
    };
    let total = wishes.packs.len() as u64;
    let mut meter = reporter.begin("custom nodes", Some(total), Unit::Items);
    let mut packs = Vec::new();
    for (position, wish) in (0..).zip(&wishes.packs) {
        meter.position(position);
        meter.detail(&wish.pack.name);
        let known = known.and_then(|stamp| stamp.packs.get(packs.len()));
        let known = known.filter(|known| known.failure.is_none()).map(|known| &known.pack);
        let mut tree = match &wish.refusal {
            Some(refusal) => Err(Failure::lasting(refusal)),
            None => fetcher.fetch(known.unwrap_or(&wish.pack)).await,
        };
        let mut demands = Demands::default();
        if let Ok(fetched) = &tree {
            let (place, floating) = (fetched.tree.clone(), wishes.allow_floating);
            match blocking(move || requirements::read(&place, floating)).await {
                Ok(read) => demands = read,
                Err(reason) => tree = Err(Failure::lasting(reason)),
            }
        }
        packs.push(Pack {
            asked: wish.pack.clone(),
            tree,
            notes: std::mem::take(&mut demands.notes),
            demands,
            script_failed: false,
        });
    }
    meter.finish(&format!(
        "{} of {total} packs are there",
        packs.iter().filter(|pack| pack.tree.is_ok()).count()
    ));
    Ok(packs)
}

/// The set that is there, where a new one would hold no pack that it lacks; what still fails may do so for another reason now.
fn as_before(previous: &(NodeSet, Stamp), packs: &[Pack]) -> Option<NodeSet> {
    let mut set = previous.0.clone();
    for (old, new) in set.packs.iter_mut().zip(packs) {
        match (&mut old.failure, &new.tree) {
            (Some(_), Ok(_)) => return None,
            (Some(reason), Err(failure)) => reason.clone_from(&failure.reason),
            (None, _) => {}
        }
    }
    Some(set)
}

/// Who asks for packages, each with the position of its pack; [`None`] stands for the manifest.
fn parties(packs: &[Pack], wishes: &Wishes, notes: &mut Vec<String>) -> (Vec<Party>, Vec<Option<usize>>) {
    let (mut parties, mut at) = (Vec::new(), Vec::new());
    match requirements::of_manifest(&wishes.packages, wishes.allow_floating) {
        Ok(demands) => {
            let of_manifest = "the list of packages in CUSTOM_NODES_MANIFEST".to_owned();
            parties.push(Party {
                name: of_manifest,
                lines: demands.lines,
            });
            at.push(None);
        }
        Err(reason) => notes.push(format!("the packages of CUSTOM_NODES_MANIFEST are left out: {reason}")),
    }
    for (position, pack) in packs.iter().enumerate().filter(|(_, pack)| pack.tree.is_ok()) {
        parties.push(Party {
            name: pack.asked.name.clone(),
            lines: pack.demands.lines.clone(),
        });
        at.push(Some(position));
    }
    (parties, at)
}

fn leave_out(packs: &mut [Pack], at: &[Option<usize>], resolved: &Resolved, stamp: &mut Stamp) {
    for (party, failure) in &resolved.left_out {
        match at[*party] {
            Some(position) => packs[position].tree = Err(failure.clone()),
            None => stamp.notes.push(format!(
                "the packages of CUSTOM_NODES_MANIFEST are left out: {}",
                failure.reason
            )),
        }
    }
}

/// Which parties' packages an installation failed for, as far as its error names a package.
async fn guilty(uv: &Packages<'_>, parties: &[Party], error: &InstallError) -> Vec<usize> {
    let (InstallError::Failed { output, .. }
    | InstallError::Network { output, .. }
    | InstallError::HashMismatch { output, .. }) = error
    else {
        return Vec::new();
    };
    let named =
        |word: &str| super::environment::normalized(word.split(['=', '@', ' ', '[']).next().unwrap_or_default());
    let blamed: Vec<String> = output.split('`').skip(1).step_by(2).map(named).collect();
    let mut guilty = Vec::new();
    for (position, party) in parties.iter().enumerate().filter(|(_, party)| !party.lines.is_empty()) {
        let lines: Vec<&str> = party.lines.iter().map(String::as_str).collect();
        let lock = uv.resolve(&lines, false).await.unwrap_or_default();
        if lock.names.iter().any(|name| blamed.contains(name)) {
            guilty.push(position);
        }
    }
    guilty
}

fn blame(packs: &mut [Pack], at: Option<usize>, error: &InstallError, stamp: &mut Stamp) {
    let reason = format!("its Python packages cannot be installed: {error}");
    match at {
        Some(position) => {
            packs[position].tree = Err(Failure {
                reason,
                may_pass: matches!(error, InstallError::Network { .. }),
            });
        }
        None => stamp
            .notes
            .push(format!("the packages of CUSTOM_NODES_MANIFEST are left out: {reason}")),
    }
}

/// Puts the packs where ComfyUI reads them: a copy of each, since they write into their folders; a folder of this machine by a
/// link, since its owner works on it.
async fn place(packs: &mut [Pack], nodes: &Path, reporter: &dyn Reporter) -> Result<(), NodesError> {
    let mut meter = reporter.begin("folders of custom nodes", Some(packs.len() as u64), Unit::Items);
    for (position, pack) in (0..).zip(packs.iter_mut()) {
        meter.position(position);
        let Ok(fetched) = &pack.tree else { continue };
        let (from, to) = (fetched.tree.clone(), nodes.join(&pack.asked.name));
        let is_copied = fetched.cached.is_some();
        let placed = blocking(move || {
            if is_copied {
                super::copy::copy(&from, &to)
            } else {
                std::os::unix::fs::symlink(&from, &to)
            }
        });
        placed.await.map_err(io("copy a pack to", nodes))?;
    }
    meter.finish("in their place");
    Ok(())
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
