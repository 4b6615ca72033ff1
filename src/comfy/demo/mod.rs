//! Demo weights: small safetensors files that run the real Qwen-Image graphs on a CPU.
//!
//! [`ensure`] writes, under one folder, what ComfyUI needs beside its own code:
//!
//! ```text
//! models/<folder>/<name>.safetensors       one file for each that the usual graphs name
//! custom_nodes/qwen_image_worker_demo.py   tells ComfyUI the widths of those files, and of those only
//! extra_model_paths.yaml                   makes ComfyUI look here first
//! ```
//!
//! [`provide`] adds the files of other graphs, when one names them.
//!
//! Start ComfyUI with [`ATTENTION`], [`ENVIRONMENT`] and [`DemoWeights::extra_model_paths`]. Loaders, text encoder,
//! sampler, previews, LoRA and VAE that run are ComfyUI's own; only the widths are small. The transformers, the Lightning LoRAs and
//! the VAE were trained (`demo/` in the repository), so that a picture shows what a prompt of plain shapes asks for, or a plain edit; the
//! values of all else are random, so what control files, layers and Z-Image make is no picture of anything.

mod family;
mod models;
mod safetensors;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use models::{FILES, ModelFile};

use crate::error::JobError;
use crate::workflow::MissingModel;

/// What a user is told at start and with each result while demo weights are in use.
pub const WARNING: &str = "a small demo model draws the pictures, which knows plain shapes and colours: demo weights are \
                           in use, because there is no NVIDIA GPU or because they were asked for; for real \
                           pictures put the Qwen-Image model files into ComfyUI's models folders and set \
                           DEMO_WEIGHTS=false";

/// The variable, and its value, that switches our custom-node file on in ComfyUI's process.
pub const ENVIRONMENT: (&str, &str) = ("QWEN_IMAGE_WORKER_DEMO", "1");

/// The attention that ComfyUI should use with the weights, unless its user chose another; it takes only one.
///
/// The VAE compares every latent pixel with every other, however narrow it is: with the attention that ComfyUI chooses
/// on a CPU a picture of 1328x1328 needs 7 GB of memory and twice the time.
pub const ATTENTION: &str = "--use-pytorch-cross-attention";

/// Size of all files together, in MB (10^6 bytes), rounded up.
pub const TOTAL_MEGABYTES: u64 = 47;

/// Of the files' content. Raise it when a table, a seed, a rule or one of the two text files changes.
const VERSION: &str = "4";

/// The file that says, by its content, which [`VERSION`] lies complete in the folder.
const STAMP: &str = "complete";

const CUSTOM_NODE: &str = include_str!("qwen_image_worker_demo.py");
const EXTRA_MODEL_PATHS: &str = include_str!("extra_model_paths.yaml");

/// Where the demo weights lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoWeights {
    root: PathBuf,
    models: PathBuf,
    /// The file for ComfyUI's `--extra-model-paths-config`.
    pub extra_model_paths: PathBuf,
}

impl DemoWeights {
    fn under(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            models: root.join("models"),
            extra_model_paths: root.join("extra_model_paths.yaml"),
        }
    }

    fn stamp(&self) -> PathBuf {
        self.root.join(STAMP)
    }

    /// Where a model file goes.
    fn place(&self, file: &ModelFile) -> PathBuf {
        self.models.join(file.folder).join(format!("{}.safetensors", file.name))
    }

    /// Everything that is written for a start, with where it goes.
    fn parts(&self) -> Vec<(PathBuf, Content)> {
        let model = |file: &'static ModelFile| (self.place(file), Content::Model(file));
        let mut parts: Vec<_> = FILES.iter().map(model).collect();
        let custom_node = self.root.join("custom_nodes/qwen_image_worker_demo.py");
        parts.push((custom_node, Content::Text(CUSTOM_NODE)));
        parts.push((self.extra_model_paths.clone(), Content::Text(EXTRA_MODEL_PATHS)));
        parts
    }

    /// Whether this version lies here whole. A file is never there in part, so its presence is enough.
    fn complete(&self) -> bool {
        let stamped = fs::read_to_string(self.stamp()).is_ok_and(|stamp| stamp == VERSION);
        stamped && self.parts().iter().all(|(path, _)| path.is_file())
    }
}

/// What a file holds.
enum Content {
    Model(&'static ModelFile),
    Text(&'static str),
}

impl Content {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Model(file) => file.write(out),
            Self::Text(text) => out.write_all(text.as_bytes()),
        }
    }
}

/// Makes sure that the demo weights lie under `root`, and says where.
///
/// Blocking, for about a second the first time and for a few file look-ups later. Several processes may call it at
/// once: one writes, the others wait and find it done. What a killed one left is replaced.
pub fn ensure(root: &Path) -> Result<DemoWeights, DemoError> {
    // ComfyUI runs in a folder of its own.
    let root = std::path::absolute(root).map_err(|source| DemoError::new("find", root, source))?;
    let weights = DemoWeights::under(&root);
    if weights.complete() {
        return Ok(weights);
    }
    create_folder(&root)?;
    let _lock = lock(&root)?;
    // Whoever held the lock before us may have done the work.
    if weights.complete() {
        return Ok(weights);
    }
    tracing::info!(path = %root.display(), "writing demo weights ({TOTAL_MEGABYTES} MB) to {}", root.display());
    remove_if_there(&weights.stamp())?;
    // Of another version; they are written again when they are asked for.
    for file in family::FILES {
        remove_if_there(&weights.place(file))?;
    }
    for (path, content) in weights.parts() {
        write_whole(&path, &content)?;
    }
    write_whole(&weights.stamp(), &Content::Text(VERSION))?;
    Ok(weights)
}

/// Whether there are demo weights for all these models, which a graph names and ComfyUI lacks.
pub fn knows(missing: &[MissingModel]) -> bool {
    !missing.is_empty() && family::files_for(missing).len() == missing.len()
}

/// Writes the demo weights for those of these models that have some, under the `root` that [`ensure`] was given. Gives false
/// where none has. Blocks.
pub fn provide(root: &Path, missing: &[MissingModel]) -> Result<bool, DemoError> {
    let files = family::files_for(missing);
    if files.is_empty() {
        return Ok(false);
    }
    let root = std::path::absolute(root).map_err(|source| DemoError::new("find", root, source))?;
    let weights = DemoWeights::under(&root);
    create_folder(&root)?;
    let _lock = lock(&root)?;
    for file in files {
        let path = weights.place(file);
        if !path.is_file() {
            tracing::info!("writing the demo weights `{}`", file.name);
            write_whole(&path, &Content::Model(file))?;
        }
    }
    Ok(true)
}

fn create_folder(folder: &Path) -> Result<(), DemoError> {
    fs::create_dir_all(folder).map_err(|source| DemoError::new("create", folder, source))
}

/// Waits until no other process, and no other thread, writes under `root`. The lock ends with the returned file, or
/// with the process.
fn lock(root: &Path) -> Result<File, DemoError> {
    let path = root.join(".lock");
    let locked = File::create(&path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| DemoError::new("lock", &path, source))
}

fn remove_if_there(path: &Path) -> Result<(), DemoError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(DemoError::new("remove", path, source)),
        _ => Ok(()),
    }
}

/// Writes a file beside its place and moves it there when it is whole.
fn write_whole(path: &Path, content: &Content) -> Result<(), DemoError> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    // One name for each file, so that what a killed process left is written over. The lock keeps it ours.
    let part = path.with_added_extension("part");
    let written = File::create(&part).and_then(|mut file| {
        content.write(&mut file)?;
        // Some file systems tell only now that they are full.
        file.sync_all()?;
        fs::rename(&part, path)
    });
    written.map_err(|source| {
        // On a full disk, leave no more behind than we found.
        let _ = fs::remove_file(&part);
        DemoError::new("write", path, source)
    })
}

/// Why the demo weights are not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The disk, or the user's share of it, is full.
    #[error(
        "no space left for the demo weights ({} MB) in {}: free some, or set DATA_DIR to a folder on another disk",
        TOTAL_MEGABYTES,
        folder.display()
    )]
    DiskFull {
        /// The folder that was being filled.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file or folder could not be made.
    #[error(
        "cannot {action} {}, which the demo weights need: set DATA_DIR to a folder that this user may write to",
        path.display()
    )]
    File {
        /// What we tried, as in "cannot write FILE".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl DemoError {
    /// The error of `action` on `path`, by what the system said.
    fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let folder = path.parent().unwrap_or(path).to_owned();
            return Self::DiskFull { folder, source };
        }
        let path = path.to_owned();
        Self::File { action, path, source }
    }
}

impl From<DemoError> for JobError {
    fn from(error: DemoError) -> Self {
        let (DemoError::DiskFull { source, .. } | DemoError::File { source, .. }) = &error;
        Self::internal(format!("{error} ({source})"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn modified(path: &Path) -> std::time::SystemTime {
        fs::metadata(path).unwrap().modified().unwrap()
    }

    /// Paths under `folder`, relative to it, in order.
    fn listing(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(folder).unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn writes_everything_once_and_then_only_looks() {
        let folder = tempfile::tempdir().unwrap();
        let weights = ensure(&folder.path().join("demo")).unwrap();
        let parts = weights.parts();
        let bytes: u64 = parts.iter().map(|(path, _)| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(bytes.div_ceil(1_000_000), TOTAL_MEGABYTES);
        // The stamp and the lock come on top.
        assert_eq!(listing(&weights.root).len(), parts.len() + 2);

        let before: Vec<_> = parts.iter().map(|(path, _)| modified(path)).collect();
        assert_eq!(ensure(&weights.root).unwrap(), weights);
        let after: Vec<_> = parts.iter().map(|(path, _)| modified(path)).collect();
        assert_eq!(before, after);
    }

    #[test]
    fn what_a_graph_asks_for_is_written_then_and_goes_with_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let weights = ensure(folder.path()).unwrap();
        let missing = |name: &str| MissingModel {
            folder: None,
            name: format!("{name}.safetensors"),
        };
        let before = listing(folder.path()).len();
        assert!(!provide(folder.path(), &[missing("mine")]).unwrap());
        assert!(!provide(folder.path(), &[]).unwrap());
        assert_eq!(listing(folder.path()).len(), before);

        assert!(knows(&[missing("ae")]));
        assert!(!knows(&[missing("ae"), missing("mine")]));
        // What is known is written, so that the rest alone is told as missing.
        assert!(provide(folder.path(), &[missing("ae"), missing("mine")]).unwrap());
        let ae = weights.models.join("vae/ae.safetensors");
        let written = modified(&ae);
        assert!(provide(folder.path(), &[missing("ae")]).unwrap());
        assert_eq!(modified(&ae), written);

        ensure(folder.path()).unwrap();
        assert!(ae.is_file());
        fs::write(weights.stamp(), "0").unwrap();
        ensure(folder.path()).unwrap();
        assert!(!ae.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let weights = DemoWeights::under(folder.path());
        let vae = weights.models.join("vae/qwen_image_vae.safetensors");
        fs::create_dir_all(vae.parent().unwrap()).unwrap();
        fs::write(vae.with_added_extension("part"), "half a fi").unwrap();
        assert!(!weights.complete());

        ensure(folder.path()).unwrap();
        assert!(weights.complete());
        assert!(!vae.with_added_extension("part").exists());
    }

    #[test]
    fn another_version_and_a_missing_file_are_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let weights = ensure(folder.path()).unwrap();

        fs::write(weights.stamp(), "0").unwrap();
        fs::write(&weights.extra_model_paths, "old").unwrap();
        ensure(folder.path()).unwrap();
        assert_eq!(
            fs::read_to_string(&weights.extra_model_paths).unwrap(),
            EXTRA_MODEL_PATHS
        );

        fs::remove_file(&weights.extra_model_paths).unwrap();
        ensure(folder.path()).unwrap();
        assert!(weights.extra_model_paths.is_file());
    }

    #[test]
    fn two_at_once_do_the_work_once() {
        let folder = tempfile::tempdir().unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..2).map(|_| scope.spawn(|| ensure(folder.path()))).collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let weights = DemoWeights::under(folder.path());
        assert!(weights.complete());
        let parts = listing(folder.path())
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "part"));
        assert_eq!(parts.count(), 0);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("taken");
        fs::write(&file, "").unwrap();
        let error = ensure(&file).unwrap_err().to_string();
        assert!(error.contains("taken") && error.contains("DATA_DIR"), "{error}");
    }

    #[test]
    fn a_full_disk_names_the_folder_and_the_next_step() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = DemoError::new("write", Path::new("/data/demo/models/vae/x"), full);
        assert_eq!(
            error.to_string(),
            "no space left for the demo weights (47 MB) in /data/demo/models/vae: free some, or set DATA_DIR to a \
             folder on another disk"
        );
    }

    #[test]
    fn the_custom_node_knows_the_width_of_the_tables() {
        let widths = |files: &[ModelFile], name: &str, axis: usize| {
            let found = files.iter().map(safetensors::tests::header_of);
            let found = found.filter_map(|header| header[name]["shape"][axis].as_u64());
            found.collect::<BTreeSet<_>>()
        };
        let width = |name: &str, axis: usize| {
            let found = widths(FILES, name, axis);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            found.into_iter().next().unwrap()
        };
        let text = width("txt_norm.weight", 0);
        assert_eq!(width("model.embed_tokens.weight", 1), text);
        assert!(CUSTOM_NODE.contains(&format!("\nTEXT_WIDTH = {text}\n")));
        let vae = width("decoder.head.0.gamma", 0);
        assert!(CUSTOM_NODE.contains(&format!("\nVAE_WIDTH = {vae}\n")));
        // Those that were trained, and the others of the family.
        let heads = |files| widths(files, "transformer_blocks.0.attn.norm_q.weight", 0);
        assert_eq!(heads(FILES), BTreeSet::from([32]));
        assert!(heads(family::FILES).contains(&128));
        for head in ["\"attention_head_dim\": 32,", "\"attention_head_dim\": 128,"] {
            assert!(CUSTOM_NODE.contains(head), "{head}");
        }
        assert!(CUSTOM_NODE.contains(ENVIRONMENT.0));
    }
}
