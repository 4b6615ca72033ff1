//! What a start needs before its process: installed, written, and again where what failed may succeed later.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::{Source, StartPlan, given};
use crate::comfy::install::{self, InUse, InstallError, Installation};
use crate::comfy::nodes::report::{AskedPack, Watched};
use crate::comfy::nodes::{self, NodeSet, own};
use crate::comfy::process::performance::{Known, choose};
use crate::comfy::process::{Launch, find_tcmalloc};
use crate::comfy::{Boot, ComfyVersion, demo, gpu};
use crate::config::Performance;
use crate::disk::blocking;
use crate::error::JobError;
use crate::models::local::LocalCopies;
use crate::models::volumes;
use crate::net::retry::RetryPolicy;
use crate::telemetry::report::Reporter;

impl StartPlan {
    /// Does what a first start would do before the process: installs ComfyUI and the custom nodes, writes the demo weights.
    /// Gives ComfyUI's folder and the Python that runs it.
    pub async fn set_up(&self, reporter: &dyn Reporter) -> Result<(PathBuf, PathBuf), JobError> {
        let launch = self.complete(self.launch(&self.data_dir), reporter).await;
        let launch = launch.map_err(|unprepared| unprepared.error)?;
        Ok((launch.root, launch.python))
    }

    /// The set of custom nodes, once it is there.
    pub fn node_set(&self) -> Option<NodeSet> {
        self.node_set.lock().clone()
    }

    /// Installs ComfyUI where it is missing, and no more.
    pub async fn install(&self, reporter: &dyn Reporter) -> Result<Installation, JobError> {
        self.installation(reporter).await.map_err(JobError::from)
    }

    /// ComfyUI as it is on this machine, installed first where it is the worker's own and missing.
    pub async fn installation(&self, reporter: &dyn Reporter) -> Result<Installation, InstallError> {
        match &self.source {
            Source::Managed(options) => install::ensure(options, reporter).await,
            Source::Existing(found) => Ok(found.clone()),
        }
    }

    /// Installs and writes what is missing, and completes the launch.
    async fn complete(&self, mut launch: Launch, reporter: &dyn Reporter) -> Result<Launch, Unprepared> {
        let installation = self.installation(reporter).await?;
        self.found(&installation).await;
        let nodes = self.custom_nodes(&installation, reporter).await;
        launch.python = nodes.map_or(installation.python, |nodes| nodes.python);
        launch.root = installation.root;
        if let Some(root) = self.demo.clone() {
            let weights = blocking(move || demo::ensure(&root)).await.map_err(JobError::from)?;
            launch.extra_model_paths.push(weights.extra_model_paths);
            let (name, value) = demo::ENVIRONMENT;
            launch.env.push((name.to_owned(), value.to_owned()));
            // A user's choice of attention stands; ComfyUI takes only one.
            let mut arguments = launch.extra_args.iter();
            if !arguments.any(|argument| argument.ends_with("-attention")) {
                launch.extra_args.insert(0, demo::ATTENTION.to_owned());
            }
        }
        Ok(launch)
    }

    /// Says which version it is, and keeps it from being removed for as long as this plan lives.
    async fn found(&self, installation: &Installation) {
        if self.version.set(ComfyVersion::from(installation)).is_err() {
            // A start that is prepared again has said so before.
            return;
        }
        tracing::info!("ComfyUI {} in {}", installation.named(), installation.root.display());
        if let Source::Managed(_) = &self.source {
            let root = installation.root.clone();
            let _ = self.in_use.set(blocking(move || InUse::claim(&root)).await);
        }
    }

    /// The packs that the configuration asks for, installed first where they are missing; [`None`] where there are none. What is
    /// wrong with them is told, and keeps nobody from starting.
    async fn custom_nodes(&self, installation: &Installation, reporter: &dyn Reporter) -> Option<NodeSet> {
        if !self.nodes.are_wanted() {
            return None;
        }
        match nodes::ensure(&self.nodes, installation, reporter).await {
            Ok(set) => {
                if let Some(trouble) = &set.trouble {
                    tracing::error!("custom nodes: {trouble}");
                }
                self.nodes_trouble.lock().clone_from(&set.trouble);
                let is_there = !set.packs.is_empty() || !set.packages.is_empty();
                if is_there {
                    tracing::info!("{} in {}", set.summary(), set.folder.display());
                }
                for (pack, told) in set.told() {
                    if let Some(pack) = pack {
                        tracing::warn!("custom node {pack}: {told}");
                    } else {
                        tracing::warn!("custom nodes: {told}");
                    }
                }
                // The list of them may be empty, as it is in the image.
                let set = is_there.then_some(set);
                self.node_set.lock().clone_from(&set);
                set
            }
            Err(error) => {
                let reason = format!("{error}. {}", error.hint());
                tracing::error!("ComfyUI starts without the custom nodes: {reason}");
                *self.node_set.lock() = None;
                *self.nodes_trouble.lock() = Some(reason);
                None
            }
        }
    }

    /// [`Self::complete`], the models on network volumes, and what ComfyUI gets for this run.
    pub(super) async fn prepare(&self, launch: Launch, reporter: &dyn Reporter) -> Result<Launch, Unprepared> {
        let mut launch = self.complete(launch, reporter).await?;
        let (volumes, run_dir) = (self.volumes.clone(), launch.run_dir.clone());
        let (root, base, copies) = (launch.root.clone(), self.base_dir.clone(), self.copies.clone());
        let (nodes, on_volumes) = (self.node_set(), self.nodes.config.on_volumes);
        let written = blocking(move || {
            let on_volumes = volumes::custom_nodes(&volumes, on_volumes);
            let volumes = volumes::write(
                &volumes,
                copies.as_ref().map(LocalCopies::folder),
                &run_dir.join("network_volumes.yaml"),
            )?;
            let collector = own::write_collector(&run_dir.join("collector")).inspect_err(|error| {
                tracing::warn!("each job takes 0.3 s longer, as a file in DATA_DIR cannot be written: {error}");
            });
            let own = base.map(|base| own::name_own(&root, &base, &run_dir.join("own_nodes.yaml")));
            let own = own.transpose().inspect_err(|error| {
                tracing::warn!(
                    "ComfyUI's own custom nodes are not known, as a file in DATA_DIR cannot be written: {error}"
                );
            });
            let own = own.ok().flatten().flatten();
            let folders = nodes.map(|nodes| nodes.folder).into_iter().chain(on_volumes);
            let packs = own::name_folders(folders, &run_dir.join("custom_nodes.yaml")).map_err(|error| {
                JobError::internal(format!(
                    "cannot write a file in DATA_DIR that tells ComfyUI of the custom nodes: {error}"
                ))
            })?;
            Ok::<_, JobError>(volumes.into_iter().chain(collector.ok()).chain(own).chain(packs))
        });
        launch.extra_model_paths.extend(written.await?);
        Ok(launch)
    }

    /// What the card can compute, where that decides what makes ComfyUI faster (`PERFORMANCE`).
    pub(super) async fn card_to_tune(&self) -> Option<(u32, u32)> {
        let is_wanted = self.comfy.performance != Performance::Exact && !self.cpu && self.demo.is_none();
        if is_wanted && gpu::nvidia_present() {
            gpu::compute_capability().await
        } else {
            None
        }
    }

    /// Adds what makes ComfyUI faster on this card, where that is wanted, and says what and why. Gives what results are to
    /// warn of.
    pub(super) async fn tune(&self, launch: &mut Launch, card: Option<(u32, u32)>) -> Option<String> {
        if self.comfy.performance == Performance::Exact {
            return None;
        }
        let (root, python) = (launch.root.clone(), launch.python.clone());
        let known = blocking(move || Known::of(&root, &python)).await;
        let chosen = choose(card, &known, &launch.extra_args);
        tracing::info!("PERFORMANCE=fast: {chosen}");
        let warning = chosen.warning();
        launch.extra_args.splice(0..0, chosen.arguments);
        warning
    }

    /// Whether ComfyUI's folders are this worker's alone: those that lie in the base folder of its own choice. In any that
    /// the user names there may be files of others.
    pub(super) fn has_folders_alone(&self, launch: &Launch) -> bool {
        let chosen_by_us = given(&self.comfy, "--base-directory").is_none();
        let Some(base) = self.base_dir.as_deref().filter(|_| chosen_by_us) else {
            return false;
        };
        let is_below = |folder: &Path| {
            let inner = folder.strip_prefix(base);
            inner.is_ok_and(|inner| !inner.components().any(|part| part == Component::ParentDir))
        };
        is_below(&launch.output_directory()) && is_below(&launch.input_directory())
    }

    /// Where what is launched has its custom nodes.
    pub(super) async fn watched(&self, launch: &Launch) -> Watched {
        let own = launch.root.join("custom_nodes");
        let base = self.base_dir.as_ref().map(|base| base.join("custom_nodes"));
        let nodes = self.node_set().unwrap_or_default();
        let asked = nodes.packs.iter().map(|pack| AskedPack {
            name: pack.pack.name.clone(),
            version: pack.version().map(str::to_owned),
            folder: pack.folder.clone(),
            failure: pack.failure.clone(),
        });
        let mut asked: Vec<AskedPack> = asked.collect();
        let folder = (!asked.is_empty()).then(|| nodes.folder.clone());
        if let Some(reason) = self.nodes_trouble.lock().clone() {
            asked.extend(self.missing(&nodes, &reason));
        }
        let volumes = self.volumes.clone();
        let on_volumes = if self.nodes.config.on_volumes {
            blocking(move || volumes::folders_of_nodes(&volumes)).await
        } else {
            Vec::new()
        };
        Watched {
            run_dir: launch.run_dir.clone(),
            data_dir: self.data_dir.clone(),
            root: launch.root.clone(),
            ours: [launch.run_dir.join("collector"), own.join("websocket_image_save.py")]
                .into_iter()
                .chain(self.demo.clone())
                .collect(),
            folders: std::iter::once(own)
                .chain(base)
                .chain(folder)
                .chain(on_volumes)
                .collect(),
            asked,
        }
    }

    /// What is asked for and not in `nodes`, for this reason: packs by name, and the manifest, which may name more.
    fn missing(&self, nodes: &NodeSet, reason: &str) -> Vec<AskedPack> {
        let config = &self.nodes.config;
        let is_there = |name: &str| nodes.packs.iter().any(|pack| pack.pack.name == name);
        let packs = config
            .packs
            .iter()
            .map(|pack| pack.name.as_str())
            .filter(|name| !is_there(name));
        let manifest = config.manifest.is_some().then_some("CUSTOM_NODES_MANIFEST");
        let pack = |name: &str| AskedPack {
            name: name.to_owned(),
            version: None,
            folder: self.nodes.dir.join(name),
            failure: Some(reason.to_owned()),
        };
        packs.chain(manifest).map(pack).collect()
    }

    /// All of the launch that is known before anything is installed.
    pub(super) fn launch(&self, run_dir: &Path) -> Launch {
        let (python, root) = match &self.source {
            Source::Managed(options) => (PathBuf::new(), options.dir.clone()),
            Source::Existing(found) => (found.python.clone(), found.root.clone()),
        };
        let mut launch = Launch::new(python, root, run_dir);
        launch.base_dir.clone_from(&self.base_dir);
        launch.preload = find_tcmalloc();
        launch.log_level.clone_from(&self.comfy.log_level);
        launch.cpu = self.cpu;
        launch.extra_args.clone_from(&self.comfy.args);
        launch.env_names.clone_from(&self.comfy.env);
        launch
    }
}

/// The waits before a start is prepared again that failed for a reason which may pass.
const RETRIES: RetryPolicy = RetryPolicy::doubling(Duration::from_secs(15), Duration::from_mins(10));

/// Why a start could not be prepared.
#[derive(Debug)]
pub(super) struct Unprepared {
    error: JobError,
    /// Whether another try may succeed although nobody changed anything: the network is back, a disk has room again.
    may_pass: bool,
}

impl From<JobError> for Unprepared {
    fn from(error: JobError) -> Self {
        Self { error, may_pass: true }
    }
}

impl From<InstallError> for Unprepared {
    fn from(error: InstallError) -> Self {
        Self {
            may_pass: error.may_pass(),
            error: error.into(),
        }
    }
}

/// Prepares a start, as often as it takes; [`None`] where only a person can help. What went wrong is told meanwhile.
pub(super) async fn prepared<F: Future<Output = Result<Launch, Unprepared>>>(
    tell: impl Fn(Boot),
    mut prepare: impl FnMut() -> F,
) -> Option<Launch> {
    let mut delays = RETRIES.delays();
    loop {
        let Unprepared { error, may_pass } = match prepare().await {
            Ok(launch) => return Some(launch),
            Err(unprepared) => unprepared,
        };
        let delay = may_pass.then(|| delays.next()).flatten();
        let text = error.full_text();
        tell(Boot::Failed(error));
        let Some(delay) = delay else {
            tracing::error!("ComfyUI cannot be started: {text}");
            return None;
        };
        tracing::error!(
            "ComfyUI cannot be started: {text}\nThat is tried again in {} s",
            delay.as_secs()
        );
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_whose_cause_may_pass_is_tried_again_and_another_is_not() {
        let (told, boot) = watch::channel(Boot::Preparing);
        let offline = || InstallError::Network {
            step: "fetch ComfyUI",
            output: "no route to host".to_owned(),
        };
        let mut tries = 0;
        let tell = |boot| drop(told.send_replace(boot));
        let launch = prepared(tell, || {
            tries += 1;
            if tries > 1 {
                // Why is told while it is tried again.
                assert!(matches!(&*boot.borrow(), Boot::Failed(error) if error.message.contains("no route to host")));
            }
            std::future::ready(if tries < 4 {
                Err(offline().into())
            } else {
                Ok(Launch::new("python", "/comfyui", "/run"))
            })
        });
        assert!(launch.await.is_some());
        assert_eq!(tries, 4);
        let mistaken = || InstallError::NotComfyUi("/nowhere".into());
        let launch = prepared(tell, || std::future::ready(Err(mistaken().into()))).await;
        assert!(launch.is_none());
        assert!(matches!(&*boot.borrow(), Boot::Failed(error) if error.message.contains("/nowhere")));
    }
}
