//! Stage: the request's images go into ComfyUI's input folder, each execution's into a folder of its own.
//!
//! The folder goes with the execution. That of a worker that was killed is removed at the next start ([`sweep`]); it is
//! known by its lock, which ends with the process that holds it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::comfy::{Comfy, Connection, Folders};
use crate::echo;
use crate::error::JobError;
use crate::job::{ImageContent, ImageHeader, ImageName, InputImage, JobId, Medium};
use crate::workflow::Graph;

/// The folder in ComfyUI's input folder that holds one folder an execution.
pub(crate) const FOLDER: &str = "qwen-image-worker";
/// From this age on a folder without a lock is nobody's, where workers on several machines may use the input folder: not
/// every file system tells one machine of the locks of another.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);

/// What was uploaded. Dropping it removes the execution's folder, where it is on this machine.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// The name in the request, and the name by which LoadImage finds the file.
    pub(super) names: Vec<(String, String)>,
    folder: Option<PathBuf>,
    /// Says that the folder is in use.
    lock: Option<File>,
}

impl Drop for Uploads {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let lock = self.lock.take();
        let remove = move || {
            // Held until the folder is gone.
            let _lock = lock;
            if let Err(error) = std::fs::remove_dir_all(&folder)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "a job's input images could not be removed from {}", folder.display());
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
    for node in graph.as_object_mut().into_iter().flat_map(Map::values_mut) {
        for input in node["inputs"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            let Some(name) = input.as_str() else { continue };
            if let Some((requested, _)) = uploaded.iter().find(|(_, in_graph)| in_graph == name) {
                *input = Value::from(requested.as_str());
            }
        }
    }
    graph
}

pub(super) async fn upload(
    comfy: &Comfy,
    connection: &Connection,
    folder: &str,
    images: Vec<InputImage>,
) -> Result<Uploads, JobError> {
    if images.is_empty() {
        return Ok(Uploads::default());
    }
    let path = comfy.folders().map(|folders| folders.input.join(FOLDER).join(folder));
    let lock = match path.clone() {
        // A folder without a lock does its work too.
        Some(path) => tokio::task::spawn_blocking(move || claim(&path))
            .await
            .unwrap_or_default(),
        None => None,
    };
    // It is there from now on, so that the folder goes away also when an upload fails half-way.
    let mut uploads = Uploads {
        names: Vec::with_capacity(images.len()),
        folder: path,
        lock,
    };
    for image in images {
        let InputImage { name, content, .. } = image;
        let ImageContent::Here(content) = content else {
            let name = echo::cut(name.as_str());
            return Err(JobError::internal(format!("the image `{name}` was not fetched")));
        };
        let medium = Medium::of(&content);
        let media_type = match medium {
            Some(medium) => medium.media_type,
            None => ImageHeader::read(&content).map_or("application/octet-stream", |header| header.media_type),
        };
        let subfolder = match name.folder() {
            "" => format!("{FOLDER}/{folder}"),
            inner => format!("{FOLDER}/{folder}/{inner}"),
        };
        let stored = connection
            .client
            .upload(&stored_as(&name, medium), &subfolder, media_type, content)
            .await?;
        uploads.names.push((name.as_str().to_owned(), stored));
    }
    Ok(uploads)
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
