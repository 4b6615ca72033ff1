//! Stage: the request's images go into ComfyUI's input folder, each execution's into a folder of its own.
//!
//! The folder goes with the execution. That of a worker that was killed is removed at the next start ([`sweep`]); it is
//! known by its lock, which ends with the process that holds it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::assets;
use crate::blobs::Blobs;
use crate::comfy::{Comfy, Connection, Folders};
use crate::disk::blocking;
use crate::echo;
use crate::error::JobError;
use crate::job::{AssetContent, ImageContent, ImageHeader, ImageName, InputImage, JobId, Medium, Origin};
use crate::models::{Loan, Models};
use crate::workflow::{Expected, Graph, replace_in_json, replace_texts};

/// The folder in ComfyUI's input folder that holds one folder an execution.
pub(crate) const FOLDER: &str = "qwen-image-worker";
/// The media type of what is not known.
const UNKNOWN: &str = "application/octet-stream";
/// From this age on a folder without a lock is nobody's, where workers on several machines may use the input folder: not
/// every file system tells one machine of the locks of another.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);

/// What was uploaded. Dropping it removes the execution's folder, where it is on this machine.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// The name in the request, and the name by which LoadImage finds the file.
    pub(super) names: Vec<(String, String)>,
    /// Those that were uploaded before the request: their names stand in the graph wherever a reference stood.
    assets: HashMap<String, String>,
    /// Files that are not there yet, and will be when the graph runs.
    pub(super) expected: Vec<Expected>,
    _folder: Option<Arc<OwnFolder>>,
    _models: Vec<Loan>,
}

impl Uploads {
    /// Those of a graph that is to be checked before its files are there.
    pub(super) fn expected(images: &[InputImage]) -> Self {
        let expected = images.iter().map(|image| Expected {
            name: image.name.as_str().to_owned(),
            model: match &image.content {
                ImageContent::Asset(asset) => asset.model.as_ref().map(|place| place.folder.clone()),
                _ => None,
            },
        });
        Self {
            expected: expected.collect(),
            ..Self::default()
        }
    }

    /// Puts the names by which ComfyUI finds the assets into the graph.
    pub(super) fn name_assets(&self, graph: &mut Graph) {
        if !self.assets.is_empty() {
            replace_texts(graph, |text| self.assets.get(text).cloned());
        }
    }
}

/// The folder of an execution. It goes with the last who uses it: a copy of a large file may outlast its job.
#[derive(Debug)]
struct OwnFolder {
    path: PathBuf,
    /// Says that the folder is in use.
    lock: Option<File>,
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        let (path, lock) = (std::mem::take(&mut self.path), self.lock.take());
        let remove = move || {
            // Held until the folder is gone.
            let _lock = lock;
            if let Err(error) = std::fs::remove_dir_all(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "a job's input images could not be removed from {}", path.display());
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The name by which LoadImage will find an image of this execution.
pub(super) fn name_in_comfy(folder: &str, name: &ImageName) -> String {
    format!("{FOLDER}/{folder}/{name}")
}

/// The name in the request of an image that LoadImage finds by `name`; [`None`] for a file that came with no request.
pub(super) fn name_in_request(name: &str) -> Option<&str> {
    let within = name.strip_prefix(FOLDER)?.strip_prefix('/')?;
    within.split_once('/').map(|(_, name)| name)
}

/// The graph as its owner knows it: its files under the names that they have in the request. `uploaded` are the name there and
/// that in the graph.
pub(super) fn with_names_of_request(graph: &Graph, uploaded: &[(String, String)]) -> Value {
    let mut graph = serde_json::to_value(graph).unwrap_or_default();
    replace_in_json(&mut graph, |text| {
        let (requested, _) = uploaded.iter().find(|(_, in_graph)| in_graph == text)?;
        Some(Value::from(requested.as_str()))
    });
    graph
}

/// Where the images of an execution go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) comfy: &'a Comfy,
    pub(super) models: &'a Models,
    pub(super) blobs: &'a Blobs,
    /// The name of the execution's folder.
    pub(super) folder: &'a str,
    /// The names of those that loaders of pictures load.
    pub(super) pictures: &'a HashSet<String>,
}

impl Stage<'_> {
    /// Has them all there.
    pub(super) async fn upload(&self, connection: &Connection, images: Vec<InputImage>) -> Result<Uploads, JobError> {
        if images.is_empty() {
            return Ok(Uploads::default());
        }
        let path = self
            .comfy
            .folders()
            .map(|folders| folders.input.join(FOLDER).join(self.folder));
        let folder = match path {
            // It is there from now on, so that the folder goes away also when an upload fails half-way. One without a lock
            // does its work too.
            Some(path) => Some(Arc::new(
                blocking(move || OwnFolder {
                    lock: claim(&path),
                    path,
                })
                .await,
            )),
            None => None,
        };
        let (mut names, mut assets, mut models) = (Vec::with_capacity(images.len()), HashMap::new(), Vec::new());
        for InputImage { name, content, origin } in images {
            let requested = name.as_str().to_owned();
            let stored = match content {
                ImageContent::Here(content) => self.send(connection, &name, content).await?,
                ImageContent::At(_) => {
                    let name = echo::cut(name.as_str());
                    return Err(JobError::internal(format!("the image `{name}` was not fetched")));
                }
                ImageContent::Asset(asset) if asset.model.is_some() => {
                    let loan = self.lend(*asset, name).await?;
                    let stored = loan.name().to_owned();
                    models.push(loan);
                    assets.insert(requested.clone(), stored.clone());
                    stored
                }
                ImageContent::Asset(asset) => {
                    let stored = self.place(connection, folder.as_ref(), *asset, name, origin).await?;
                    assets.insert(requested.clone(), stored.clone());
                    stored
                }
            };
            names.push((requested, stored));
        }
        Ok(Uploads {
            names,
            assets,
            expected: Vec::new(),
            _folder: folder,
            _models: models,
        })
    }

    /// Sends one that is in memory.
    async fn send(&self, connection: &Connection, name: &ImageName, content: Bytes) -> Result<String, JobError> {
        let medium = Medium::of(&content);
        let media_type = match medium {
            Some(medium) => medium.media_type,
            None => ImageHeader::read(&content).map_or(UNKNOWN, |header| header.media_type),
        };
        let (stored_as, subfolder) = (stored_as(name, medium), self.subfolder(name));
        let sent = connection.client.upload(&stored_as, &subfolder, media_type, content);
        Ok(sent.await?)
    }

    /// Puts an uploaded file where ComfyUI finds it: into its folder on this machine, or through its API.
    async fn place(
        &self,
        connection: &Connection,
        folder: Option<&Arc<OwnFolder>>,
        asset: AssetContent,
        name: ImageName,
        origin: Origin,
    ) -> Result<String, JobError> {
        let (blobs, subfolder) = (self.blobs.clone(), self.subfolder(&name));
        let is_picture = self.pictures.contains(name.as_str());
        let looked_at = blocking(move || {
            let (file, _) = assets::open(&blobs, &asset, &name)?;
            let opened = assets::look(file, &asset, &name, origin, is_picture)?;
            Ok::<_, JobError>((opened, asset, name))
        });
        let (opened, asset, name) = looked_at.await?;
        let stored_as = stored_as(&name, opened.medium);
        let Some(folder) = folder.cloned() else {
            let client = &connection.client;
            let sent = match opened.content {
                assets::Content::Made(content) => client.upload(&stored_as, &subfolder, UNKNOWN, content).await,
                assets::Content::File(file) => client.upload_file(&stored_as, &subfolder, file, asset.bytes).await,
            };
            return sent.map_err(|error| assets::not_taken(error, &asset, &name));
        };
        let inner = Path::new(name.folder()).join(&stored_as);
        blocking(move || assets::write(opened.content, &folder.path.join(inner))).await?;
        Ok(format!("{subfolder}/{stored_as}"))
    }

    /// Puts an uploaded model among ComfyUI's.
    async fn lend(&self, asset: AssetContent, name: ImageName) -> Result<Loan, JobError> {
        let blobs = self.blobs.clone();
        let opened = blocking(move || assets::open(&blobs, &asset, &name).map(|opened| (opened, asset)));
        let ((file, path), asset) = opened.await?;
        self.models.lend(&asset, path, file).await
    }

    fn subfolder(&self, name: &ImageName) -> String {
        match name.folder() {
            "" => format!("{FOLDER}/{}", self.folder),
            inner => format!("{FOLDER}/{}/{inner}", self.folder),
        }
    }
}

/// What a file is stored as: what is no picture and has a name without an ending gets that of its format, by which some nodes
/// go (3D models above all). Graphs are told the name that it has then.
fn stored_as(name: &ImageName, medium: Option<Medium>) -> String {
    let name = name.file_name();
    match medium.map_or("", |medium| medium.ending) {
        "" => name.to_owned(),
        _ if Path::new(name).extension().is_some() => name.to_owned(),
        ending => format!("{name}.{ending}"),
    }
}

/// Makes an execution's folder and locks it. Blocks.
fn claim(folder: &Path) -> Option<File> {
    let locked = std::fs::create_dir_all(folder)
        .and_then(|()| File::open(folder))
        .and_then(|lock| {
            lock.try_lock()?;
            Ok(lock)
        });
    locked
        .inspect_err(|error| tracing::debug!(%error, "the folder {} is not locked", folder.display()))
        .ok()
}

/// Removes the folders of executions whose worker was killed. `ours` are the jobs that this worker is to go on with. Called
/// before the first job runs. Blocks.
pub fn sweep(folders: &Folders, ours: &[JobId]) {
    let mut removed = 0;
    for entry in std::fs::read_dir(folders.input.join(FOLDER))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let (Ok(facts), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else {
            continue;
        };
        if !facts.is_dir() || !is_execution(&name) {
            continue;
        }
        let Ok(lock) = File::open(&path) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let is_ours = || ours.iter().any(|id| name.starts_with(&format!("{id}-")));
        let is_old = || {
            let written = facts.modified().ok().and_then(|time| time.elapsed().ok());
            written.is_some_and(|age| age > ABANDONED_AFTER)
        };
        if !(folders.are_ours || is_ours() || is_old()) {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => removed += 1,
            Err(error) => {
                tracing::warn!(%error, "input images of a killed worker could not be removed from {}", path.display());
            }
        }
    }
    if removed > 0 {
        tracing::info!(jobs = removed, "input images that a killed worker left were removed");
    }
}

/// Whether a folder is called as those of executions are: a job's id and 32 hexadecimal digits.
fn is_execution(name: &str) -> bool {
    let Some((job, execution)) = name.rsplit_once('-') else {
        return false;
    };
    JobId::parse(job).is_some() && execution.len() == 32 && execution.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder for inputs with the folders of an execution in use, of a job that is known, of another worker's, of a job long
    /// ago, and of a user's.
    struct Left {
        data: tempfile::TempDir,
        known: JobId,
        names: [String; 5],
        _in_use: Option<File>,
    }

    impl Left {
        fn new() -> Self {
            let data = tempfile::tempdir().unwrap();
            let (known, others) = (JobId::new(), [(); 3].map(|()| JobId::new()));
            let folder = |id: &JobId| format!("{id}-{}", uuid::Uuid::new_v4().simple());
            let names = [
                folder(&others[0]),
                folder(&known),
                folder(&others[1]),
                folder(&others[2]),
                "my-pictures".to_owned(),
            ];
            for name in &names {
                let path = data.path().join("input").join(FOLDER).join(name);
                std::fs::create_dir_all(&path).unwrap();
                std::fs::write(path.join("a.png"), "x").unwrap();
            }
            let path = |name: &str| data.path().join("input").join(FOLDER).join(name);
            let old = std::time::SystemTime::now() - ABANDONED_AFTER * 2;
            for name in &names[3..] {
                File::open(path(name)).unwrap().set_modified(old).unwrap();
            }
            Self {
                _in_use: claim(&path(&names[0])),
                data,
                known,
                names,
            }
        }

        /// Which of them are there after a sweep.
        fn swept(self, are_ours: bool) -> [bool; 5] {
            let folders = Folders {
                output: self.data.path().join("output"),
                input: self.data.path().join("input"),
                temp: self.data.path().join("temp"),
                are_ours,
            };
            sweep(&folders, std::slice::from_ref(&self.known));
            let input = folders.input.join(FOLDER);
            self.names.map(|name| input.join(name).exists())
        }
    }

    #[test]
    fn what_a_killed_worker_left_is_swept_and_what_is_in_use_stays() {
        assert_eq!(Left::new().swept(true), [true, false, false, false, true]);
    }

    #[test]
    fn in_a_folder_that_others_use_too_only_known_and_old_ones_go() {
        assert_eq!(Left::new().swept(false), [true, false, true, false, true]);
    }

    #[test]
    fn the_graph_that_is_returned_tells_no_folder_of_ours() {
        let graph = Graph::parse(&serde_json::json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "qwen-image-worker/job-1/a/b.png"}, "_meta": {"title": "x"}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a/b.png"}},
        }));
        let uploaded = [("a/b.png".to_owned(), "qwen-image-worker/job-1/a/b.png".to_owned())];
        let returned = with_names_of_request(&graph.unwrap(), &uploaded);
        assert_eq!(returned["1"]["inputs"]["image"], "a/b.png");
        assert_eq!(returned["1"]["_meta"]["title"], "x");
        assert_eq!(returned["2"]["inputs"]["images"], serde_json::json!(["1", 0]));
        assert!(!returned.to_string().contains("job-1"));
    }

    #[test]
    fn what_is_no_picture_has_an_ending() {
        let glb = Medium::of(b"glTF\x02\0\0\0\x0c\0\0\0");
        for (name, medium, stored) in [
            ("graph_1", glb, "graph_1.glb"),
            ("models/chair", glb, "chair.glb"),
            ("chair.bin", glb, "chair.bin"),
            ("photo", Medium::of(b"\x89PNG\r\n\x1a\n"), "photo"),
        ] {
            assert_eq!(stored_as(&ImageName::parse(name).unwrap(), medium), stored);
        }
    }

    #[test]
    fn the_name_in_the_request_is_found_again() {
        let name = ImageName::parse("people/anna.png").unwrap();
        assert_eq!(name_in_request(&name_in_comfy("job-1", &name)), Some("people/anna.png"));
        for other in [
            "example.png",
            "qwen-image-worker/a.png",
            "qwen-image-worker-2/job-1/a.png",
        ] {
            assert_eq!(name_in_request(other), None, "{other}");
        }
    }
}
