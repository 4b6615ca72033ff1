//! Makes a set: fetches the packs, resolves their packages together, fills the overlay, and puts the whole in force.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::environment::Packages;
use super::error::NodesError;
use super::manifest::{self, ManifestError};
use super::pack::{OfManifest, Pack, as_before, blame, fetch, guilty, leave_out, parties, place};
use super::registry::Registry;
use super::resolve::resolve;
use super::set::{InstalledPack, Layout, NodeSet};
use super::stamp::{Stamp, key, left_out};
use super::wishes::Wishes;
use crate::comfy::install::{Installation, Pins, Runner, io, lock};
use crate::config::{Config, NodesConfig};
use crate::disk::{blocking, remove};
use crate::telemetry::report::{Reporter, Unit};

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
    match install(options, base, Effort::Missing, reporter).await {
        Err(error) => last(&Layout::new(&options.dir), base, error).await,
        installed => installed,
    }
}

/// [`ensure`] with more effort. What fails is an error here, also where an older set could be taken.
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
    let (wishes, trouble) = read(options).await?;
    // A manifest may be there for others to fill, as in the image.
    if wishes.packs.is_empty() && wishes.packages.is_empty() {
        let mut none = NodeSet::none(base);
        (none.notes, none.trouble) = (wishes.notes, trouble);
        return Ok(none);
    }
    let key = {
        let (wishes, base) = (wishes.clone(), base.clone());
        blocking(move || key(&wishes, &base)).await
    };
    let mut set = match found(&layout, &key).await {
        Some((set, stamp)) if stamp.is_enough(effort) => {
            in_force(&layout, &set).await?;
            set
        }
        _ => make(options, &layout, &wishes, base, &key, effort, reporter).await?,
    };
    // What is wrong with the manifest says more than what is wrong with its packages.
    set.trouble = trouble.or(set.trouble);
    Ok(set)
}

/// Reads what is asked for, and what is wrong with a manifest of which nothing can be used. That, and one pack that cannot be
/// had as it is named, are no reason against the others.
pub(super) async fn read(options: &NodesOptions) -> Result<(Wishes, Option<String>), NodesError> {
    let mut config = options.config.clone();
    let (manifest, trouble) = match manifest::read(&config).await {
        Err(error @ ManifestError::Wrong { .. }) if !config.packs.is_empty() => {
            config.manifest = None;
            let error = NodesError::from(error);
            let trouble = format!("only the packs of CUSTOM_NODES are there, since {}", error.whole());
            (manifest::read(&config).await?, Some(trouble))
        }
        manifest => (manifest?, None),
    };
    Ok((Wishes::new(manifest, &options.config), trouble))
}

/// The set that was in force before, where there is one for this ComfyUI: better than none.
async fn last(layout: &Layout, base: &Installation, error: NodesError) -> Result<NodeSet, NodesError> {
    let here = layout.clone();
    let last = blocking(move || here.in_force()).await;
    match last.filter(|(_, stamp)| stamp.root == base.root && stamp.base_python == base.python) {
        Some((mut set, _)) => {
            set.trouble = Some(format!(
                "these are the packs of the last start, since now {}",
                error.whole()
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
    let known = previous.as_ref().map(|(_, stamp)| stamp);
    let mut packs = fetch(&runner, &registry, layout, wishes, known, effort, reporter).await?;
    let mut of_manifest = OfManifest::new(wishes);
    let previous = previous.filter(|_| effort == Effort::Missing);
    let as_before = |packs: &[Pack], of_manifest: &OfManifest| as_before(previous.as_ref()?, packs, of_manifest);
    if let Some(set) = as_before(&packs, &of_manifest) {
        in_force(layout, &set).await?;
        return Ok(set);
    }
    let name = layout.next(key);
    let home = layout.home(&name);
    let mut stamp = Stamp::new(key, base);
    stamp.notes.clone_from(&wishes.notes);
    stamp.notes.extend_from_slice(of_manifest.notes());
    stamp.packages.clone_from(&wishes.packages);
    let nodes = home.join("custom_nodes");

    let cache = usable(options.uv_cache.clone()).await;
    let uv = Packages::prepare(&runner, &base.python, &layout.tools, cache.as_deref()).await?;
    let lock = loop {
        let (parties, at) = parties(&packs, &of_manifest);
        let resolved = resolve(&uv, &parties).await?;
        leave_out(&mut packs, &mut of_manifest, &at, &resolved);
        if let Some(set) = as_before(&packs, &of_manifest) {
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
            Err(failed) => {
                drop(meter);
                // One that cannot be built or fetched: its pack is left out, and the rest is resolved again.
                let guilty = guilty(&uv, &parties, &failed, resolved.offline).await;
                if guilty.is_empty() {
                    return Err(failed.error.into());
                }
                for (party, package) in guilty {
                    blame(&mut packs, &mut of_manifest, at[party], &package, &failed.error);
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
    stamp.packages_failure = of_manifest.failure().cloned();
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
    /// What would keep the set from being all that was asked for, beside the packs.
    pub trouble: Option<String>,
}

/// Fetches and resolves everything as an installation would, and installs nothing.
pub async fn check(
    options: &NodesOptions,
    base: &Installation,
    reporter: &dyn Reporter,
) -> Result<Checked, NodesError> {
    let layout = Layout::new(&options.dir);
    let (wishes, trouble) = read(options).await?;
    let bench = Bench::open(options, &layout, reporter).await?;
    let runner = bench.runner(options, &layout, reporter);
    let registry = Registry::new(&options.config.registry);
    let mut packs = fetch(&runner, &registry, &layout, &wishes, None, Effort::Missing, reporter).await?;
    let mut of_manifest = OfManifest::new(&wishes);
    let cache = usable(options.uv_cache.clone()).await;
    let uv = Packages::prepare(&runner, &base.python, &layout.tools, cache.as_deref()).await?;
    let (parties, at) = parties(&packs, &of_manifest);
    let resolved = resolve(&uv, &parties).await?;
    leave_out(&mut packs, &mut of_manifest, &at, &resolved);
    let lines = resolved.lock.text();
    let lines = lines.lines().filter(|line| !line.starts_with([' ', '#']));
    Ok(Checked {
        packs: packs.into_iter().map(|pack| pack.installed(Path::new(""))).collect(),
        packages: lines
            .map(|line| line.trim_end_matches(['\\', ' ']).to_owned())
            .collect(),
        notes: wishes.notes.iter().chain(of_manifest.notes()).cloned().collect(),
        trouble: trouble.or_else(|| of_manifest.failure().map(left_out)),
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
        let lock = lock(&layout.lock, "custom nodes", reporter).await?;
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

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
