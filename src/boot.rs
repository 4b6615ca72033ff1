//! Decides which ComfyUI runs and how, and starts it: found or installed, with demo weights or without.

mod prepare;
mod run_dir;
mod start;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use url::Url;

use crate::comfy::gpu::ChosenGpu;
use crate::comfy::install::{self, InUse, InstallOptions, Installation};
use crate::comfy::nodes::{NodeSet, NodesOptions};
use crate::comfy::process;
use crate::comfy::{KnownVersion, demo, gpu};
use crate::config::{ComfyConfig, ComfySource, Config, DemoChoice, GpuChoice, ModelFile};
use crate::disk::blocking;
use crate::display::redacted;
use crate::echo;
use crate::error::JobError;
use crate::models::local::LocalCopies;
use crate::models::locate::{Found, Places};
use crate::models::volumes::{self, Volume};
use crate::workflow::is_model_file;
use crate::workflow::{Defaults, ModelCatalog, Templates};

pub use run_dir::{FolderError, RunDir};
pub use start::start;

/// What will be started.
#[derive(Debug)]
pub enum Plan {
    /// Nothing: the engines are elsewhere, and their files are kept below this folder.
    Front(PathBuf),
    /// Nothing: there is an attached ComfyUI, or several.
    Attach(Vec<Url>),
    /// A process of ours.
    Start(Box<StartPlan>),
}

/// How a process of ours will be started.
#[derive(Debug)]
pub struct StartPlan {
    /// Where it comes from.
    pub source: Source,
    /// Whether demo weights are used.
    pub demo: Option<PathBuf>,
    /// Whether ComfyUI is told that there is no GPU.
    pub cpu: bool,
    /// The GPUs that get a ComfyUI each; with none of them there is one, which chooses itself.
    pub gpus: Vec<ChosenGpu>,
    /// The network volumes that are there.
    pub volumes: Vec<Volume>,
    /// ComfyUI's own models folder.
    pub models: PathBuf,
    /// Whether there is a GPU to run models on, and no diffusion model for it.
    pub lacks_models: bool,
    /// Where copies of models from volumes go, if any are made.
    pub copies: Option<LocalCopies>,
    /// Which packs of custom nodes it is to have.
    pub nodes: NodesOptions,
    /// Those that it was started with, once that is known.
    node_set: Mutex<Option<NodeSet>>,
    /// Why they are not those that were asked for.
    nodes_trouble: Mutex<Option<String>>,
    base_dir: Option<PathBuf>,
    data_dir: PathBuf,
    comfy: ComfyConfig,
    /// Which version was found or installed.
    version: KnownVersion,
    /// The installation is not removed while we run it.
    in_use: OnceLock<Option<InUse>>,
}

/// Where a process of ours comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Installed by us.
    Managed(Box<InstallOptions>),
    /// Installed by somebody.
    Existing(Installation),
}

/// Why ComfyUI cannot be started as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// A GPU worker without a GPU.
    #[error(
        "there is no NVIDIA GPU on this RunPod worker: choose a GPU for the endpoint, and see that the driver is there (`nvidia-smi`), or set RUNPOD_SKIP_GPU_CHECK=true to run on the CPU; demo weights are never used on RunPod"
    )]
    NoGpu,
    /// A folder in `COMFYUI_ARGS` that would lie in an installation of ours.
    #[error(
        "COMFYUI_ARGS: {flag} {folder}: name the folder by its whole path; the ComfyUI in which it would lie is the worker's own"
    )]
    RelativeFolder {
        /// The argument.
        flag: &'static str,
        /// Its value.
        folder: String,
    },
    /// The installation that `COMFYUI_DIR` names is none.
    #[error("{}", .0.full_text())]
    Existing(JobError),
    /// A folder of ours cannot be made.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// GPUs are named that cannot be used.
    #[error(transparent)]
    Gpus(#[from] gpu::ChoiceError),
}

impl Plan {
    /// What every result warns of.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::Start(plan) if plan.demo.is_some() => vec![demo::WARNING.to_owned()],
            _ => Vec::new(),
        }
    }

    /// The sets of models that are fetched when none are chosen: on a GPU without any diffusion model, what the usual
    /// template needs.
    pub fn default_sets(&self, defaults: Defaults) -> Vec<&'static str> {
        match self {
            Self::Start(plan) if plan.lacks_models => vec![defaults.generate],
            _ => Vec::new(),
        }
    }

    /// The templates of requests that name none: by the card, and by the models that are there or wanted.
    pub async fn defaults(&self, config: &Config, catalog: &ModelCatalog) -> Defaults {
        if !self.has_gpu() {
            return Defaults::default();
        }
        // Those that may be chosen are ours, whatever the user has of the same name.
        let Ok(templates) = Templates::embedded() else {
            return Defaults::default();
        };
        let wanted = config.models.sets.as_deref().unwrap_or_default();
        let (chosen, known): (Vec<_>, Vec<_>) =
            Defaults::candidates().partition(|name| wanted.iter().any(|set| set == name));
        let known = known.into_iter().filter_map(|name| {
            let files = catalog.files(name)?.into_iter().cloned();
            Some((name, files.collect::<Vec<_>>()))
        });
        let (mut known, places) = (known.collect::<Vec<_>>(), self.places(config));
        let installed = blocking(move || {
            let is_here = |file: &ModelFile| {
                let places = places.as_ref();
                places.is_some_and(|places| matches!(places.locate(file), Found::Present(_) | Found::Linkable(_)))
            };
            known.retain(|(_, files)| !files.is_empty() && files.iter().all(is_here));
            known
        });
        let mut there = chosen;
        there.extend(installed.await.into_iter().map(|(name, _)| name));
        let choose = |memory_mib| Defaults::for_card(&templates, memory_mib, |name| there.contains(&name));
        let (largest, smallest) = (choose(None), choose(Some(0)));
        // The driver may take seconds, and is asked only where its answer counts.
        if largest == smallest {
            return largest;
        }
        let card = gpu::facts().await.ok();
        choose(card.and_then(|facts| facts.gpus.first()?.memory_mib))
    }

    /// Where ComfyUI's models are; [`None`] where it is attached and `MODEL_DIR` does not say.
    pub fn places(&self, config: &Config) -> Option<Places> {
        match self {
            Self::Start(plan) => Some(Places::new(config, Some(&plan.models), &plan.volumes)),
            Self::Front(_) => None,
            Self::Attach(_) => config.models.dir.is_some().then(|| Places::new(config, None, &[])),
        }
    }

    /// Has ComfyUI read these models folders too.
    pub fn read_also(&mut self, folders: &[PathBuf]) {
        if let Self::Start(plan) = self {
            for folder in folders {
                volumes::add(&mut plan.volumes, folder, &plan.models);
            }
        }
    }

    /// Finds out which GPUs get a ComfyUI each. Asks the driver only where there are several, or some are named.
    /// A single job needs no more than one.
    pub async fn choose_gpus(&mut self, all: bool) -> Result<(), BootError> {
        if let Self::Start(plan) = self
            && !plan.chooses_itself()
        {
            plan.gpus = gpu::choose(&plan.comfy.gpus).await?;
            plan.gpus.truncate(if all { usize::MAX } else { 1 });
        }
        Ok(())
    }

    /// Where the demo weights lie, where they stand in for the models.
    pub fn demo(&self) -> Option<PathBuf> {
        match self {
            Self::Start(plan) => plan.demo.clone(),
            Self::Front(_) | Self::Attach(_) => None,
        }
    }

    /// The folder of the ComfyUI that is started; [`None`] where none is.
    pub fn root(&self) -> Option<&Path> {
        match self {
            Self::Front(_) | Self::Attach(_) => None,
            Self::Start(plan) => Some(match &plan.source {
                Source::Managed(options) => &options.dir,
                Source::Existing(found) => &found.root,
            }),
        }
    }

    /// Whether ComfyUI runs on an NVIDIA GPU with models of its own.
    pub fn has_gpu(&self) -> bool {
        matches!(self, Self::Start(plan) if !plan.cpu && plan.demo.is_none() && gpu::nvidia_present())
    }

    /// Whether the demo weights stand in for the models.
    pub fn is_demo(&self) -> bool {
        matches!(self, Self::Start(plan) if plan.demo.is_some())
    }
}

/// The addresses of attached ComfyUIs, without what may be secret in them.
pub fn named(urls: &[Url]) -> String {
    let named: Vec<String> = urls.iter().map(redacted).collect();
    named.join(", ")
}

/// Decides what will be started. Looks at files; starts and writes nothing.
pub fn plan(config: &Config) -> Result<Plan, BootError> {
    let (comfy, data_dir) = (&config.comfy, &config.paths.data_dir);
    if config.engines.source.is_some() {
        return Ok(Plan::Front(data_dir.join("front")));
    }
    let source = match &comfy.source {
        ComfySource::Attached(urls) => return Ok(Plan::Attach(urls.clone())),
        ComfySource::Managed => {
            let options = InstallOptions::configured(&config.paths.install_dir, comfy);
            Source::Managed(Box::new(options))
        }
        ComfySource::Existing(dir) => {
            let environment = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
            let found = install::existing(dir, comfy.python.as_deref(), environment.as_deref());
            Source::Existing(found.map_err(|error| BootError::Existing(error.into()))?)
        }
    };
    let wants_none = comfy.gpus == GpuChoice::None;
    let has_gpu = gpu::nvidia_present() && !wants_none;
    let on_runpod = config.platform.on_runpod();
    if on_runpod && !has_gpu && !config.fitness.skip_gpu {
        return Err(BootError::NoGpu);
    }
    // A managed installation is shared and read-only; what changes lies under the data folder, or where the user says.
    let base_dir = match (given(comfy, "--base-directory"), &source) {
        (Some(base), Source::Existing(found)) => Some(found.root.join(base)),
        (Some(base), Source::Managed(_)) => Some(base.to_owned()),
        (None, Source::Managed(_)) => Some(data_dir.join("base")),
        (None, Source::Existing(_)) => None,
    };
    if let Source::Managed(_) = source {
        for flag in FOLDER_FLAGS {
            if let Some(folder) = given(comfy, flag).filter(|folder| folder.is_relative()) {
                return Err(BootError::RelativeFolder {
                    flag,
                    folder: echo::cut(&folder.display().to_string()),
                });
            }
        }
    }
    let models = match (&base_dir, &source) {
        (Some(base), _) => base.join("models"),
        (None, Source::Existing(found)) => found.root.join("models"),
        (None, Source::Managed(options)) => options.dir.join("models"),
    };
    let volumes = volumes::find(&config.paths.network_volumes, &models);
    let has_model = std::iter::once(models.as_path())
        .chain(volumes.iter().flat_map(Volume::models))
        .chain(config.models.dir.as_deref())
        .any(holds_diffusion_model);
    let wants_demo = match comfy.demo {
        DemoChoice::On => !on_runpod,
        DemoChoice::Off => false,
        DemoChoice::Auto => !has_gpu && !on_runpod && !has_model && !config.models.are_chosen(),
    };
    let managed = matches!(source, Source::Managed(_));
    let mut nodes = NodesOptions::new(config);
    nodes.uv_cache = volumes::uv_cache(&volumes);
    Ok(Plan::Start(Box::new(StartPlan {
        source,
        demo: wants_demo.then(|| data_dir.join("demo")),
        models,
        copies: LocalCopies::configured(data_dir, config.models.local_copies_bytes, &volumes).filter(|_| !wants_demo),
        lacks_models: has_gpu && !has_model && !wants_demo,
        // Off RunPod the user's own installation may know another kind of GPU.
        cpu: wants_none || !has_gpu && (managed || wants_demo || on_runpod),
        gpus: Vec::new(),
        nodes,
        node_set: Mutex::default(),
        nodes_trouble: Mutex::default(),
        base_dir,
        data_dir: data_dir.clone(),
        comfy: comfy.clone(),
        version: KnownVersion::default(),
        in_use: OnceLock::new(),
        volumes,
    })))
}

impl StartPlan {
    /// Whether the user's arguments, or the demo weights, say already what ComfyUI runs on.
    fn chooses_itself(&self) -> bool {
        let is_auto = self.comfy.gpus == GpuChoice::Auto;
        let on_what = ["--cuda-device", "--default-device", "--cpu", "--directml"];
        let says = on_what.iter().any(|flag| process::gives(&self.comfy.args, flag));
        is_auto && (says || self.cpu || self.demo.is_some())
    }
}

/// ComfyUI's arguments that name folders, which it would look for in its own where they are relative.
const FOLDER_FLAGS: [&str; 5] = [
    "--base-directory",
    "--output-directory",
    "--input-directory",
    "--temp-directory",
    "--user-directory",
];

/// The folder that `COMFYUI_ARGS` gives for one of these.
fn given<'a>(comfy: &'a ComfyConfig, flag: &str) -> Option<&'a Path> {
    process::value(&comfy.args, flag).map(Path::new)
}

/// Whether somebody has put a diffusion model into ComfyUI's folders.
fn holds_diffusion_model(models: &Path) -> bool {
    ["diffusion_models", "unet", "checkpoints"]
        .iter()
        .any(|folder| holds_model(&models.join(folder), 3))
}

fn holds_model(folder: &Path, depth: u32) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            depth > 0 && holds_model(&path, depth - 1)
        } else {
            is_model_file(&path)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_the_users_is_seen_in_subfolders() {
        let models = tempfile::tempdir().unwrap();
        let folder = models.path().join("diffusion_models/qwen");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("put_models_here"), "").unwrap();
        assert!(!holds_diffusion_model(models.path()));
        std::fs::write(folder.join("x.safetensors"), "").unwrap();
        assert!(holds_diffusion_model(models.path()));
    }

    fn planned(arguments: &str) -> Result<Plan, BootError> {
        planned_in("/data", arguments)
    }

    fn planned_in(data_dir: &str, arguments: &str) -> Result<Plan, BootError> {
        let vars = [
            ("DATA_DIR", data_dir),
            ("NETWORK_VOLUMES", "none"),
            ("COMFYUI_ARGS", arguments),
        ];
        plan(&Config::from_vars(vars.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap())
    }

    #[test]
    fn folders_that_the_user_names_are_not_the_workers_alone() {
        for (arguments, expected) in [
            ("", true),
            ("--lowvram", true),
            ("--output-directory /data/base/output/mine", true),
            ("--output-directory /data/base/../pictures", false),
            ("--output-directory /elsewhere", false),
            ("--input-directory /elsewhere", false),
            ("--base-directory /elsewhere", false),
            ("--base-directory=/elsewhere", false),
            ("--base-directory /data/base", false),
            ("--base-directory / --output-directory /data/base/output", false),
        ] {
            let Plan::Start(plan) = planned(arguments).unwrap() else {
                panic!("{arguments}")
            };
            let launch = plan.launch(Path::new("/run/one"));
            assert_eq!(plan.has_folders_alone(&launch), expected, "{arguments}");
        }
        let Plan::Start(plan) = planned_in("../data", "").unwrap() else {
            panic!()
        };
        assert!(plan.has_folders_alone(&plan.launch(Path::new("/run/one"))));
    }

    #[test]
    fn models_are_below_the_base_folder_that_the_user_gives() {
        for (arguments, expected) in [
            ("", "/data/base/models"),
            ("--base-directory /elsewhere", "/elsewhere/models"),
            ("--base-directory=/elsewhere --lowvram", "/elsewhere/models"),
        ] {
            let Plan::Start(plan) = planned(arguments).unwrap() else {
                panic!("{arguments}")
            };
            assert_eq!(plan.models, Path::new(expected), "{arguments}");
            let launch = plan.launch(Path::new("/run/one"));
            assert_eq!(
                launch.output_directory(),
                Path::new(expected).with_file_name("output"),
                "{arguments}"
            );
        }
        let error = planned("--temp-directory=here").unwrap_err().to_string();
        assert!(
            error.contains("--temp-directory here") && error.contains("whole path"),
            "{error}"
        );
    }

    #[test]
    fn a_model_on_a_network_volume_is_no_case_for_demo_weights() {
        let (data, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config::from_vars(
            [("DATA_DIR", data.path()), ("NETWORK_VOLUMES", volume.path())]
                .map(|(name, path)| (name.to_owned(), path.display().to_string())),
        )
        .unwrap();
        let uses_demo = || match plan(&config).unwrap() {
            Plan::Start(plan) => plan.demo.is_some(),
            Plan::Front(_) | Plan::Attach(_) => false,
        };
        assert_eq!(uses_demo(), !gpu::nvidia_present());
        let folder = volume.path().join("ComfyUI/models/unet");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("x.gguf"), "").unwrap();
        assert!(!uses_demo());
    }
}
