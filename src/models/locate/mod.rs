//! Where model files are, where they may be found instead of fetched, and where new ones go.
//!
//! ```text
//!            ┌ ComfyUI's own models folder ┐
//!  locate ──►│ extra_model_paths.yaml      │──► Present
//!            │ network volumes, MODEL_DIR  │
//!            └─────────────────────────────┘
//!            ┌ caches of the Hub's tools,  ┐──► Linkable ── link ──► ComfyUI's own models folder
//!            └ RunPod's cached models      ┘
//!            nothing ─────────────────────────► Missing ── (fetched) ──► target
//! ```
//!
//! Everything here looks at disks and blocks while it does; a volume may answer slowly.

mod caches;
mod extra_paths;
mod targets;

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

pub use targets::LocateError;

use caches::{in_hub_cache, in_runpod_cache};
use targets::{Candidate, Chosen};

use crate::config::model_folder::{KINDS, folders_of};
use crate::config::{ComfySource, Config, ModelFile, Origin};
use crate::models::volumes::{self, Volume};

/// The folder under `DATA_DIR` for links to files in caches, where ComfyUI's own models folder lies on a volume.
const LINKS: &str = "linked-models";

/// What a folder of local copies is called.
const COPIES: &str = "local copies";

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is where ComfyUI lists it under its name.
    Present(PathBuf),
    /// It is in a cache: [`Places::link`] brings it to ComfyUI.
    Linkable(PathBuf),
    /// There is a file, and it has another size than it must have. If it is in one of ComfyUI's folders, ComfyUI takes it
    /// before any that is fetched elsewhere.
    WrongSize {
        /// Where it is.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The size it must have, in bytes.
        expected: u64,
    },
    /// It is nowhere.
    Missing,
}

/// A folder in which ComfyUI looks for models.
#[derive(Debug, Clone)]
struct Folder {
    path: PathBuf,
    /// The kind of model in it; [`None`]: it has a folder for each kind.
    kind: Option<String>,
    what: &'static str,
}

impl Folder {
    /// Where a file of this kind and name may lie in it.
    fn places(&self, kind: &str, name: &str) -> Vec<PathBuf> {
        match &self.kind {
            Some(own) if own == kind => vec![self.path.join(name)],
            Some(_) => Vec::new(),
            None => folders_of(kind)
                .map(|folder| self.path.join(folder).join(name))
                .collect(),
        }
    }
}

/// All places where model files may be.
#[derive(Debug)]
pub struct Places {
    /// ComfyUI's folders, in the order in which it looks into them.
    folders: Vec<Folder>,
    /// Caches of the Hub's tools.
    hub_caches: Vec<PathBuf>,
    /// The folder of RunPod's Python SDK.
    runpod_cache: PathBuf,
    /// Where links go; the first that is not on a volume.
    links: Vec<PathBuf>,
    /// Where new files may go, the best first.
    candidates: Vec<Candidate>,
    chosen: OnceLock<Chosen>,
    /// The roots of the volumes.
    volumes: Vec<PathBuf>,
    /// What could not be read.
    problems: Vec<String>,
}

impl Places {
    /// The places of a configuration. `own` is the models folder of the ComfyUI that we start, `volumes` are what
    /// [`volumes::find`] has found. Blocking; writes nothing.
    pub fn new(config: &Config, own: Option<&Path>, volumes: &[Volume]) -> Self {
        let roots: Vec<PathBuf> = volumes.iter().map(|volume| volume.root().to_owned()).collect();
        let mut places = Self {
            folders: Vec::new(),
            hub_caches: Vec::new(),
            runpod_cache: PathBuf::from(caches::RUNPOD),
            links: Vec::new(),
            candidates: Vec::new(),
            chosen: OnceLock::new(),
            volumes: roots.iter().map(|root| real(root)).collect(),
            problems: Vec::new(),
        };
        places.add_comfyui(config, own);
        for volume in volumes {
            for models in volume.models() {
                places.add_folder(models, "network volume");
            }
            places.candidates.extend(candidate(volume, may_be_made(config)));
            places.hub_caches.push(volume.root().join(caches::ON_VOLUME));
        }
        if let Some(dir) = &config.models.dir {
            places.add_folder(dir, "MODEL_DIR");
            let named = Candidate {
                dir: dir.clone(),
                certain: true,
            };
            places.candidates = vec![named];
        } else {
            for candidate in places.candidates.clone() {
                places.add_folder(&candidate.dir, "network volume");
            }
            places.candidates.extend(own.map(|own| Candidate {
                dir: own.to_owned(),
                certain: true,
            }));
        }
        if let Some(own) = own {
            let fallback = config.paths.data_dir.join(LINKS);
            places.links.push(own.to_owned());
            if KINDS.iter().any(|(kind, _)| places.on_volume(&own.join(kind))) {
                places.add_folder(&fallback, "links to cached files");
                places.links.push(fallback);
            }
        }
        if let Some(cache) = &config.models.hub.cache {
            places.hub_caches.retain(|known| known != cache);
            places.hub_caches.insert(0, cache.clone());
        }
        places
    }

    /// ComfyUI's own folder, and those that its user has told it of.
    fn add_comfyui(&mut self, config: &Config, own: Option<&Path>) {
        let Some(own) = own else { return };
        self.add_folder(own, "ComfyUI's own models folder");
        let (root, mut files) = match &config.comfy.source {
            ComfySource::Existing(dir) => (dir.as_path(), vec![dir.join("extra_model_paths.yaml")]),
            _ => (config.paths.install_dir.as_path(), Vec::new()),
        };
        files.extend(extra_paths::files_of(&config.comfy.args, root));
        for file in files {
            match extra_paths::read(&file) {
                Ok(extra) => {
                    for folder in extra {
                        let place = if folder.first { 0 } else { self.folders.len() };
                        let folder = Folder {
                            path: folder.path,
                            kind: Some(folder.kind),
                            what: "extra_model_paths.yaml",
                        };
                        self.folders.insert(place, folder);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.problems.push(format!(
                    "the model folders in {} are not known: {error}",
                    file.display()
                )),
            }
        }
    }

    fn add_folder(&mut self, path: &Path, what: &'static str) {
        let known = |folder: &Folder| folder.kind.is_none() && real(&folder.path) == real(path);
        if !self.folders.iter().any(known) {
            self.folders.push(Folder {
                path: path.to_owned(),
                kind: None,
                what,
            });
        }
    }

    /// Has models looked for in this folder, of local copies, before all others.
    pub fn look_first_into(&mut self, folder: &Path) {
        let folder = Folder {
            path: folder.to_owned(),
            kind: None,
            what: COPIES,
        };
        self.folders.insert(0, folder);
    }

    /// The files that ComfyUI takes for this name, of each kind of which it lists one. Blocking.
    pub(super) fn listed(&self, name: &str) -> Vec<(&'static str, PathBuf)> {
        of_each_kind(name, |kind| self.first(kind, name, |_| true))
    }

    /// The same as they would be without local copies.
    pub(super) fn originals(&self, name: &str) -> Vec<(&'static str, PathBuf)> {
        of_each_kind(name, |kind| self.original(kind, name))
    }

    /// The file that ComfyUI would take for this kind and name if there were no local copies. Blocking.
    pub(super) fn original(&self, kind: &str, name: &str) -> Option<PathBuf> {
        self.first(kind, name, |folder| folder.what != COPIES)
    }

    fn first(&self, kind: &str, name: &str, counts: impl Fn(&Folder) -> bool) -> Option<PathBuf> {
        let folders = self.folders.iter().filter(|folder| counts(folder));
        let mut paths = folders.flat_map(|folder| folder.places(kind, name));
        paths.find(|path| path.is_file())
    }

    fn on_volume(&self, path: &Path) -> bool {
        let path = real(path);
        self.volumes.iter().any(|volume| path.starts_with(volume))
    }

    /// Looks for a file. Blocking.
    pub fn locate(&self, file: &ModelFile) -> Found {
        let listed = self
            .folders
            .iter()
            .flat_map(|folder| folder.places(&file.folder, &file.name));
        if let Some(found) = listed
            .map(|path| look(path, file))
            .find(|found| *found != Found::Missing)
        {
            return found;
        }
        let mut found = Found::Missing;
        for path in self.cached(file) {
            match look(path, file) {
                Found::Present(path) => return Found::Linkable(path),
                other if found == Found::Missing => found = other,
                _ => {}
            }
        }
        found
    }

    /// The file that ComfyUI takes for this kind and name. Blocking.
    pub fn taken(&self, kind: &str, name: &str) -> Option<PathBuf> {
        is_plain(name).then(|| self.first(kind, name, |_| true))?
    }

    /// The files of the caches that are this one by repository, revision and path.
    fn cached(&self, file: &ModelFile) -> Vec<PathBuf> {
        let Origin::Hub { repo, revision, path } = &file.origin else {
            return Vec::new();
        };
        let (wanted, sha256) = (
            (repo.as_str(), revision.as_str(), path.as_str()),
            file.sha256.as_deref(),
        );
        let in_hub_caches = self.hub_caches.iter();
        in_hub_caches
            .filter_map(|cache| in_hub_cache(cache, wanted, sha256))
            .chain(in_runpod_cache(&self.runpod_cache, wanted))
            .collect()
    }

    /// The models folder that new files go to, in folders by kind: `MODEL_DIR`, else the first volume that can be written
    /// to, else ComfyUI's own; [`None`] where there is none of them. The first call makes the folder on a volume, and
    /// writes a file there and removes it. Blocking.
    pub fn download_dir(&self) -> Option<&Path> {
        self.chosen().dir.as_deref()
    }

    fn chosen(&self) -> &Chosen {
        self.chosen.get_or_init(|| targets::choose(&self.candidates))
    }

    /// The models folders of ours in which links to cached files may lie.
    pub fn links(&self) -> &[PathBuf] {
        &self.links
    }

    /// The models folder for files of a kind that come and go with the jobs of this worker: one that no other worker uses, if
    /// there is one. Blocking, as [`Self::download_dir`].
    pub fn own(&self, kind: &str) -> Option<&Path> {
        let alone = self.links.iter().find(|links| !self.is_shared(&links.join(kind)));
        alone
            .or(self.links.last())
            .map(PathBuf::as_path)
            .or_else(|| self.download_dir())
    }

    /// Whether this lies on a volume, which other workers may use too.
    pub fn is_shared(&self, path: &Path) -> bool {
        self.on_volume(path)
    }

    /// The models folders that ComfyUI must be told of, beside its own and those of the volumes: for [`volumes::add`].
    /// Blocking, as [`Self::download_dir`].
    pub fn further_folders(&self) -> Vec<PathBuf> {
        let new = self.download_dir().map(Path::to_owned);
        new.into_iter().chain(self.links.iter().skip(1).cloned()).collect()
    }

    /// What is looked at, what is there, and where new files go, a line each: for `NETWORK_VOLUME_DEBUG`. Blocking.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for folder in &self.folders {
            let path = folder.path.display();
            lines.push(match &folder.kind {
                _ if !folder.path.is_dir() => format!("models: {} {path}: not there", folder.what),
                Some(kind) => format!("models: {} {path}: there, for {kind}", folder.what),
                None => format!("models: {}: {}", folder.what, volumes::described(&folder.path)),
            });
        }
        for cache in &self.hub_caches {
            let held = caches::described(cache);
            lines.push(format!("models: Hugging Face cache {}: {held}", cache.display()));
        }
        let runpod = &self.runpod_cache;
        let there = if runpod.is_dir() { "there" } else { "not there" };
        lines.push(format!("models: RunPod's cached models {}: {there}", runpod.display()));
        lines.extend(self.problems.iter().map(|problem| format!("models: {problem}")));
        lines.extend(self.chosen().refused.iter().map(|refused| format!("models: {refused}")));
        lines.push(match self.download_dir() {
            Some(dir) => format!("models: new ones go to {}", dir.display()),
            None => "models: new ones have no place to go to: set MODEL_DIR".to_owned(),
        });
        lines
    }
}

/// Whether a name leads nowhere but down from its folder: a graph may hold anything as a name.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// What is found for a name of each kind.
fn of_each_kind(name: &str, find: impl Fn(&str) -> Option<PathBuf>) -> Vec<(&'static str, PathBuf)> {
    if !is_plain(name) {
        return Vec::new();
    }
    let kinds = KINDS.iter().map(|(kind, _)| *kind);
    kinds.filter_map(|kind| Some((kind, find(kind)?))).collect()
}

/// Whether there is a file, and of which size.
fn look(path: PathBuf, file: &ModelFile) -> Found {
    match (fs::metadata(&path), file.size) {
        (Ok(found), Some(expected)) if found.is_file() && found.len() != expected => Found::WrongSize {
            path,
            found: found.len(),
            expected,
        },
        (Ok(found), _) if found.is_file() => Found::Present(path),
        _ => Found::Missing,
    }
}

/// The models folder of a volume for new files: one that is there already, else, if it `may_be_made`, the usual one.
fn candidate(volume: &Volume, may_be_made: bool) -> Option<Candidate> {
    let usual = || may_be_made.then(|| volume.root().join("models"));
    Some(Candidate {
        dir: volume.models().next().map(Path::to_owned).or_else(usual)?,
        certain: false,
    })
}

/// Whether a folder of models may be made on what is mounted as a volume. Off RunPod a `/workspace` may be anything, such
/// as somebody's source code.
fn may_be_made(config: &Config) -> bool {
    config.platform.on_runpod() || config.paths.network_volumes_are_chosen
}

/// The path without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    for there in path.ancestors() {
        if let Ok(real) = there.canonicalize() {
            return match path.strip_prefix(there) {
                Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
                _ => real,
            };
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests;
