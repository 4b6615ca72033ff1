//! Links from where ComfyUI lists models to files in caches: found files are never copied.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Places;
use crate::config::ModelFile;

/// How often a link is tried to be made while others make and remove it.
const TRIES: usize = 3;

/// Why a file in a cache was not linked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// There is no folder for links.
    #[error(
        "there is no folder to link cached model files into: ComfyUI is not started by this worker, or its models folder \
         and DATA_DIR both lie on a network volume, where links of one worker are in the way of others"
    )]
    NoFolder,
    /// Something else is there.
    #[error("{} is there already and is not the file wanted: remove it, or name the model otherwise", path.display())]
    Taken {
        /// Where the link belongs.
        path: PathBuf,
    },
    /// The link cannot be made.
    #[error("cannot link {} to {}: {source}", path.display(), found.display())]
    Link {
        /// Where the link belongs.
        path: PathBuf,
        /// The file in the cache.
        found: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Places {
    /// Links a file of a cache to where ComfyUI lists it; gives the link. Replaces a link that leads nowhere, and never a
    /// file. Blocking.
    pub fn link(&self, found: &Path, file: &ModelFile) -> Result<PathBuf, LocateError> {
        let links = self.links.iter().map(|links| links.join(&file.folder).join(&file.name));
        let path = links
            .into_iter()
            .find(|path| !path.parent().is_some_and(|folder| self.on_volume(folder)))
            .ok_or(LocateError::NoFolder)?;
        let failed = |source| LocateError::Link {
            path: path.clone(),
            found: found.to_owned(),
            source,
        };
        let found = std::path::absolute(found).map_err(failed)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..TRIES {
            match symlink(&found, &path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(failed(error)),
            }
            if fs::read_link(&path).is_ok_and(|target| target == found) {
                return Ok(path);
            }
            let dangling = fs::symlink_metadata(&path).is_ok_and(|data| data.is_symlink()) && !path.exists();
            if !dangling {
                return Err(LocateError::Taken { path });
            }
            // Another worker may have been quicker.
            let _ = fs::remove_file(&path);
        }
        Err(failed(last))
    }
}
