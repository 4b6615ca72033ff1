//! Models that clients upload and name in their graphs: lent to ComfyUI for the time of the jobs that load them.
//!
//! ```text
//! MODELS/loras/qwen-image-worker-assets/0123456789abcdef/style.safetensors
//!                                       └ of its content   └ as its client calls it
//! ```
//!
//! The name is the same for each job that brings the same file, so that ComfyUI knows the model that it has loaded already.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::Models;
use crate::disk::{blocking, write_atomically};
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::job::AssetContent;

/// The folder in each kind's folder that such models lie in.
const FOLDER: &str = "qwen-image-worker-assets";
/// How many digits of a content's hash name its folder.
const DIGITS: usize = 16;
/// Whoever runs ComfyUI may read it, and nobody is to write to it: it may be the very file that was uploaded.
const MODE: u32 = 0o444;
/// How often a file is tried to be made.
const TRIES: usize = 3;
/// Copies that take longer than this are told in the log.
const LONG: Duration = Duration::from_secs(1);

/// The files that are lent, by their paths.
#[derive(Debug, Clone, Default)]
pub(super) struct Lent(Arc<Mutex<HashMap<PathBuf, Arc<Slot>>>>);

/// One of them: how many borrow it. Locked while it is made or removed.
#[derive(Debug, Default)]
struct Slot(Mutex<usize>);

/// A model that ComfyUI lists for as long as this is there.
#[derive(Debug)]
pub struct Loan {
    /// Its name as ComfyUI lists it.
    name: String,
    path: PathBuf,
    slot: Arc<Slot>,
    lent: Lent,
}

impl Loan {
    /// Its name as ComfyUI lists it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let slot = std::mem::take(&mut self.slot);
        let lent = self.lent.clone();
        let give_back = move || {
            let mut borrowers = slot.0.lock();
            *borrowers = borrowers.saturating_sub(1);
            if *borrowers == 0 {
                remove(&path);
            }
            drop(borrowers);
            lent.forget(&path, &slot);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(give_back)),
            Err(_) => give_back(),
        }
    }
}

impl Lent {
    /// Has the file at `path`, made of the one at `source`, for one borrower more. Blocking.
    fn lend(&self, source: &File, from: &Path, path: PathBuf, name: String) -> io::Result<Loan> {
        let slot = Arc::clone(self.0.lock().entry(path.clone()).or_default());
        let lent = self.clone();
        let mut borrowers = slot.0.lock();
        // Somebody may have tidied up.
        if *borrowers == 0 || !path.is_file() {
            make(source, from, &path).inspect_err(|_| {
                if *borrowers == 0 {
                    remove(&path);
                }
            })?;
            tell_of(&path);
        }
        *borrowers += 1;
        drop(borrowers);
        Ok(Loan { name, path, slot, lent })
    }

    /// Forgets a file that nobody borrows, or is about to.
    fn forget(&self, path: &Path, slot: &Arc<Slot>) {
        let mut lent = self.0.lock();
        // The one in the list, and this one. A new borrower takes its own while it has the list.
        if Arc::strong_count(slot) == 2 && *slot.0.lock() == 0 {
            lent.remove(path);
        }
    }
}

/// Links the file, or copies it where it lies on another file system. It appears complete or not at all. Its folder may go
/// meanwhile with another name of the same content, so it is tried again.
fn make(source: &File, from: &Path, path: &Path) -> io::Result<()> {
    for _ in 1..TRIES {
        match try_to_make(source, from, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made,
        }
    }
    try_to_make(source, from, path)
}

fn try_to_make(source: &File, from: &Path, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if fs::hard_link(from, path).is_ok() {
        return fs::set_permissions(path, Permissions::from_mode(MODE));
    }
    let began = Instant::now();
    let copied = write_atomically(path, |file| {
        let mut source = source;
        source.rewind()?;
        io::copy(&mut source, file)?;
        file.set_permissions(Permissions::from_mode(MODE))
    });
    if copied.is_ok() && began.elapsed() > LONG {
        tracing::info!(
            "an uploaded model was copied to {} in {:.1?}: DATA_DIR lies on another file system",
            path.display(),
            began.elapsed()
        );
    }
    copied
}

/// Removes the file, and its folder. Blocking.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the uploaded model {} cannot be removed", path.display());
        }
        // Other names of the same content may be there.
        _ => drop(path.parent().map(fs::remove_dir)),
    }
    tell_of(path);
}

/// Sees to it that the folders above have another time of change than before. `ComfyUI` lists models again only where that has
/// changed (`cached_filename_list_` in its `folder_paths.py`), and stumbles over a folder that went without it. The kernel
/// notes these times by its ticks, some milliseconds long, in which more than one thing may happen.
pub(super) fn tell_of(path: &Path) {
    for folder in path.ancestors().skip(1).take(2) {
        // The nearest may be gone.
        let _ = File::open(folder).and_then(|folder| folder.set_modified(SystemTime::now()));
    }
}

impl Models {
    /// Has an uploaded model listed by ComfyUI, under the name that the answer tells, for as long as that is there. `blob` is
    /// where it lies, and `source` the file there.
    pub async fn lend(&self, asset: &AssetContent, blob: PathBuf, source: File) -> Result<Loan, JobError> {
        let Some(place) = &asset.model else {
            return Err(JobError::internal(format!("the asset {} is no model", asset.id)));
        };
        let places = self.0.store.as_ref().map(|store| Arc::clone(&store.places));
        let digits = asset.hash.hex()[..DIGITS].to_owned();
        let name = format!("{FOLDER}/{digits}/{}", place.name);
        let (lent, kind, listed) = (self.0.lent.clone(), place.folder.clone(), name.clone());
        let (id, called) = (asset.id.clone(), cut(&place.name));
        let work = move || {
            let Some(folder) = places.as_deref().and_then(|places| places.own(&kind)) else {
                let message =
                    format!("the asset {id} (`{called}`) is a model, and nobody knows where ComfyUI has its models");
                return Err(JobError::new(ErrorKind::ModelMissing, message).hint(
                    "Have the worker start ComfyUI itself, or tell it the folder (MODEL_DIR); or install the file there.",
                ));
            };
            let path = folder.join(&kind).join(&listed);
            lent.lend(&source, &blob, path, listed).map_err(|error| {
                tracing::error!(%error, "an uploaded model cannot be put into {}", folder.display());
                JobError::internal(format!(
                    "the asset {id} (`{called}`) cannot be put among ComfyUI's models: {error}"
                ))
                .hint("See that there is room on the worker's disk, and send the job again.")
            })
        };
        blocking(work).await
    }

    /// Removes the uploaded models that a killed worker left among ComfyUI's. Called before the first job runs. Blocking.
    pub fn sweep_lent(&self) {
        let Some(store) = &self.0.store else { return };
        let mut removed = 0;
        for (number, folder) in store.places.links().iter().enumerate() {
            for kind in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = kind.path().join(FOLDER);
                // ComfyUI's own folder may be a volume's, and other workers' too. The one under DATA_DIR is ours alone.
                if !path.is_dir() || (number == 0 && store.places.is_shared(&kind.path())) {
                    continue;
                }
                match fs::remove_dir_all(&path) {
                    Ok(()) => removed += 1,
                    Err(error) => tracing::warn!(%error, "uploaded models cannot be removed from {}", path.display()),
                }
            }
        }
        if removed > 0 {
            tracing::info!("uploaded models that a killed worker left were removed");
        }
    }
}

#[cfg(test)]
#[path = "lent_tests.rs"]
mod tests;
