//! The packs of a set on their way: fetched, asked what they need, left out where that cannot be had, and put in their places.

use std::path::Path;
use std::time::Duration;

use super::environment::{NotMade, Packages};
use super::error::{Failure, NodesError};
use super::fetch::{Fetched, Fetcher};
use super::install::Effort;
use super::registry::Registry;
use super::requirements::{self, Demands};
use super::resolve::{Party, Resolved};
use super::script;
use super::set::{InstalledPack, Layout, NodeSet};
use super::stamp::Stamp;
use super::wishes::Wishes;
use crate::comfy::install::{InstallError, Runner, io};
use crate::config::{NodePack, PackOrigin};
use crate::disk::blocking;
use crate::telemetry::report::{Reporter, Unit};

/// How long the `install.py` of one pack may take.
const SCRIPT_TIME: Duration = Duration::from_mins(10);

/// A pack on its way.
pub(super) struct Pack {
    /// As it was asked for.
    asked: NodePack,
    pub(super) tree: Result<Fetched, Failure>,
    demands: Demands,
    notes: Vec<String>,
    script_failed: bool,
}

impl Pack {
    pub(super) fn installed(self, nodes: &Path) -> InstalledPack {
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

    pub(super) async fn run_script(&mut self, runner: &Runner<'_>, is_allowed: bool, python: &Path, nodes: &Path) {
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

/// Gets all packs and reads what they ask for. `known`: where branches and newest versions were looked up before; with
/// `effort` to look them up again, that is what they stay where it cannot be done now.
pub(super) async fn fetch(
    runner: &Runner<'_>,
    registry: &Registry,
    layout: &Layout,
    wishes: &Wishes,
    known: Option<&Stamp>,
    effort: Effort,
    reporter: &dyn Reporter,
) -> Result<Vec<Pack>, NodesError> {
    let fetcher = Fetcher::new(runner, registry, &layout.packs);
    let total = wishes.packs.len() as u64;
    let mut meter = reporter.begin("custom nodes", Some(total), Unit::Items);
    let mut packs = Vec::new();
    for (position, wish) in (0..).zip(&wishes.packs) {
        meter.position(position);
        meter.detail(&wish.pack.name);
        let known = known.and_then(|stamp| stamp.packs.get(packs.len()));
        let known = known.filter(|known| known.failure.is_none());
        let known = known.map(|known| with_address(&known.pack, &wish.pack));
        let known = known.as_ref();
        let at_first = known.filter(|_| effort != Effort::Anew).unwrap_or(&wish.pack);
        let mut tree = match &wish.refusal {
            Some(refusal) => Err(Failure::lasting(refusal)),
            None => fetcher.fetch(at_first).await,
        };
        let mut stays = None;
        if let (Err(failure), Some(known)) = (&tree, known)
            && effort == Effort::Anew
            && failure.may_pass
        {
            let reason = failure.reason.clone();
            if let Ok(fetched) = fetcher.fetch(known).await {
                stays = Some(format!("it stays at the version that it had: {reason}"));
                tree = Ok(fetched);
            }
        }
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
            notes: stays.into_iter().chain(std::mem::take(&mut demands.notes)).collect(),
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

/// What is known of a pack, at the address that is asked for: a stamp keeps it without a password.
fn with_address(known: &NodePack, asked: &NodePack) -> NodePack {
    let mut known = known.clone();
    if let (PackOrigin::Git { repository, .. }, PackOrigin::Git { repository: whole, .. }) =
        (&mut known.origin, &asked.origin)
    {
        repository.clone_from(whole);
    }
    known
}

/// The set that is there, where a new one would hold no pack that it lacks; what still fails may do so for another reason now.
pub(super) fn as_before(previous: &(NodeSet, Stamp), packs: &[Pack], of_manifest: &OfManifest) -> Option<NodeSet> {
    let mut set = previous.0.clone();
    if previous.1.packages_failure.is_some() && of_manifest.failure().is_none() {
        return None;
    }
    for (old, new) in set.packs.iter_mut().zip(packs) {
        match (&mut old.failure, &new.tree) {
            (Some(_), Ok(_)) => return None,
            (Some(reason), Err(failure)) => reason.clone_from(&failure.reason),
            (None, _) => {}
        }
    }
    Some(set)
}

/// What the manifest asks for beside the packs.
pub(super) struct OfManifest {
    demands: Result<Demands, Failure>,
}

impl OfManifest {
    pub(super) fn new(wishes: &Wishes) -> Self {
        let demands = requirements::of_manifest(&wishes.packages, wishes.allow_floating);
        Self {
            demands: demands.map_err(Failure::lasting),
        }
    }

    /// What of it was not taken.
    pub(super) fn notes(&self) -> &[String] {
        self.demands.as_ref().map_or(&[], |demands| &demands.notes)
    }

    /// Why its packages are left out.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.demands.as_ref().err()
    }
}

/// Who asks for packages, each with the position of its pack; [`None`] stands for the manifest.
pub(super) fn parties(packs: &[Pack], of_manifest: &OfManifest) -> (Vec<Party>, Vec<Option<usize>>) {
    let (mut parties, mut at) = (Vec::new(), Vec::new());
    if let Ok(demands) = &of_manifest.demands {
        parties.push(Party {
            name: "the list of packages in CUSTOM_NODES_MANIFEST".to_owned(),
            lines: demands.lines.clone(),
        });
        at.push(None);
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

/// Leaves out who could not be reconciled with the others.
pub(super) fn leave_out(packs: &mut [Pack], of_manifest: &mut OfManifest, at: &[Option<usize>], resolved: &Resolved) {
    for (party, failure) in &resolved.left_out {
        refuse(packs, of_manifest, at[*party], failure.clone());
    }
}

fn refuse(packs: &mut [Pack], of_manifest: &mut OfManifest, at: Option<usize>, failure: Failure) {
    match at {
        Some(position) => packs[position].tree = Err(failure),
        None => of_manifest.demands = Err(failure),
    }
}

/// Which parties' packages an installation failed for, each with the package. `offline`: as they were resolved.
pub(super) async fn guilty(
    uv: &Packages<'_>,
    parties: &[Party],
    failed: &NotMade,
    offline: bool,
) -> Vec<(usize, String)> {
    let mut guilty = Vec::new();
    if failed.packages.is_empty() {
        return guilty;
    }
    for (position, party) in parties.iter().enumerate().filter(|(_, party)| !party.lines.is_empty()) {
        let lines: Vec<&str> = party.lines.iter().map(String::as_str).collect();
        let lock = uv.resolve(&lines, offline).await.unwrap_or_default();
        if let Some(package) = failed.packages.iter().find(|package| lock.names.contains(package)) {
            guilty.push((position, package.clone()));
        }
    }
    guilty
}

/// Leaves out one of the guilty.
pub(super) fn blame(
    packs: &mut [Pack],
    of_manifest: &mut OfManifest,
    at: Option<usize>,
    package: &str,
    error: &InstallError,
) {
    let failure = Failure {
        reason: format!(
            "the Python package {package}, which it needs, cannot be installed: {error}\nAnother version of the pack may do without it"
        ),
        may_pass: matches!(error, InstallError::Network { .. }),
    };
    refuse(packs, of_manifest, at, failure);
}

/// Puts the packs where ComfyUI reads them: a copy of each, since they write into their folders; a folder of this machine by a
/// link, since its owner works on it.
pub(super) async fn place(packs: &mut [Pack], nodes: &Path, reporter: &dyn Reporter) -> Result<(), NodesError> {
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
