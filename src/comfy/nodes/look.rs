//! What there is, without installing anything: the state of the packs, what they are at the moment, and what may go.

use std::path::PathBuf;

use super::error::NodesError;
use super::fetch::Fetcher;
use super::install::{Bench, NodesOptions, read};
use super::manifest;
use super::registry::Registry;
use super::set::{InstalledPack, Layout, NodeSet};
use super::stamp::key;
use crate::comfy::install::{Installation, io, sizes};
use crate::config::NodePack;
use crate::disk::blocking;
use crate::telemetry::report::Reporter;

/// The packs that the configuration asks for, as far as they are installed.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// All of them, in their order.
    pub packs: Vec<InstalledPack>,
    /// The finished set of them; [`None`]: the next start makes one.
    pub set: Option<NodeSet>,
    /// What is to be known of the whole.
    pub notes: Vec<String>,
    /// What keeps the set from being all that is asked for, beside the packs.
    pub trouble: Option<String>,
}

/// Looks what of the configuration is installed for `base`; without one nothing is.
pub async fn status(options: &NodesOptions, base: Option<&Installation>) -> Result<Status, NodesError> {
    if !options.are_wanted() {
        return Ok(Status::default());
    }
    let (wishes, trouble) = read(options).await?;
    let layout = Layout::new(&options.dir);
    let set = {
        let (wishes, base) = (wishes.clone(), base.cloned());
        blocking(move || Some(layout.find(&key(&wishes, &base?))?.0)).await
    };
    if let Some(set) = set {
        return Ok(Status {
            packs: set.packs.clone(),
            notes: set.notes.clone(),
            trouble: trouble.or_else(|| set.trouble.clone()),
            set: Some(set),
        });
    }
    let packs = wishes.packs.into_iter().map(|wish| InstalledPack {
        pack: wish.pack,
        folder: PathBuf::new(),
        failure: wish.refusal,
        notes: Vec::new(),
        script_failed: false,
        may_pass: false,
    });
    Ok(Status {
        packs: packs.collect(),
        set: None,
        notes: wishes.notes,
        trouble,
    })
}

/// What the packs are at the moment, as a manifest of ours.
#[derive(Debug)]
pub struct Frozen {
    /// The manifest, with a commit or a version for each pack.
    pub manifest: String,
    /// Those whose commit or version cannot be found out, with the reason; they are not in it.
    pub failures: Vec<(NodePack, String)>,
    /// Why it is not all that is asked for, beside these.
    pub trouble: Option<String>,
}

/// What the packs are: as they are installed, else (or `anew`) as the repositories and the Registry have them now.
pub async fn freeze(
    options: &NodesOptions,
    base: Option<&Installation>,
    anew: bool,
    reporter: &dyn Reporter,
) -> Result<Frozen, NodesError> {
    let status = status(options, base).await?;
    let mut packs = Vec::new();
    let mut failures = Vec::new();
    // What moves is what this is for.
    let mut floating = options.clone();
    floating.config.allow_floating = true;
    let (wishes, trouble) = read(&floating).await?;
    let installed = status.set.filter(|_| !anew);
    let is_known = |pack: &InstalledPack| pack.failure.is_none() && !pack.pack.is_floating();
    let layout = Layout::new(&options.dir);
    let registry = Registry::new(&options.config.registry);
    let mut bench = None;
    for (position, wish) in wishes.packs.iter().enumerate() {
        let known = installed
            .as_ref()
            .and_then(|set| set.packs.get(position))
            .filter(|pack| is_known(pack));
        if let Some(known) = known {
            packs.push(known.pack.clone());
        } else if let Some(refusal) = &wish.refusal {
            failures.push((wish.pack.clone(), refusal.clone()));
        } else if !wish.pack.is_floating() {
            packs.push(wish.pack.clone());
        } else {
            if bench.is_none() {
                bench = Some(Bench::open(options, &layout, reporter).await?);
            }
            let Some(bench) = &bench else { continue };
            let runner = bench.runner(options, &layout, reporter);
            let fetcher = Fetcher::new(&runner, &registry, &layout.packs);
            match fetcher.freeze(&wish.pack).await {
                Ok((frozen, _)) => packs.push(frozen),
                Err(failure) => failures.push((wish.pack.clone(), failure.reason)),
            }
        }
    }
    Ok(Frozen {
        manifest: manifest::freeze(&packs, &wishes.packages),
        failures,
        trouble,
    })
}

/// What [`remove`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The sets that are gone.
    pub sets: usize,
    /// Sets that were to go, and stay since a worker uses them.
    pub in_use: usize,
    /// Bytes that are free now.
    pub freed: u64,
    /// Bytes of links to files that uv's cache still has.
    pub cached: u64,
}

/// Removes the sets that are not in force, and the packs in the cache that only they were made of; `all`: every set, and
/// what is kept for the next one.
pub async fn remove(options: &NodesOptions, all: bool, reporter: &dyn Reporter) -> Result<Removed, NodesError> {
    let layout = Layout::new(&options.dir);
    if !layout.dir.is_dir() {
        return Ok(Removed::default());
    }
    let _bench = Bench::open(options, &layout, reporter).await?;
    let dir = layout.dir.clone();
    let removed = blocking(move || {
        let (alone, shared) = sizes(&layout.dir);
        let kept: Vec<String> = layout.name_in_force().into_iter().filter(|_| !all).collect();
        let sets = layout.remove_unused(&kept)?.len();
        if all {
            layout.remove_cache()?;
        }
        let (still_alone, still_shared) = sizes(&layout.dir);
        Ok(Removed {
            sets,
            in_use: layout.count().saturating_sub(kept.len()),
            freed: alone.saturating_sub(still_alone),
            cached: shared.saturating_sub(still_shared),
        })
    });
    Ok(removed.await.map_err(io("remove what is not used from", dir))?)
}
