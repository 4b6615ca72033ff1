//! Where files go: new ones to the first place that can really be written to, and links to files in caches to where ComfyUI
//! lists models, so that found files are never copied.

use std::fs;
use std::io::{self, Write as _};
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
    #[error("{} is there already and is not the file wanted: remove it, or name the model otherwise", .0.display())]
    Taken(PathBuf),
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
                return Err(LocateError::Taken(path));
            }
            // Another worker may have been quicker.
            let _ = fs::remove_file(&path);
        }
        Err(failed(last))
    }
}

/// A place that new files may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The models folder.
    pub(super) dir: PathBuf,
    /// Whether it is taken as it is: the user named it, or nothing else is left.
    pub(super) certain: bool,
}

/// The place that was chosen, and why others were not.
#[derive(Debug, Clone, Default)]
pub(super) struct Chosen {
    pub(super) dir: Option<PathBuf>,
    pub(super) refused: Vec<String>,
}

/// The first candidate that can be written to. Makes its folder.
pub(super) fn choose(candidates: &[Candidate]) -> Chosen {
    let mut chosen = Chosen::default();
    for candidate in candidates {
        if !candidate.certain
            && let Err(error) = try_write(&candidate.dir)
        {
            chosen
                .refused
                .push(format!("new models cannot go to {}: {error}", candidate.dir.display()));
            continue;
        }
        chosen.dir = Some(candidate.dir.clone());
        break;
    }
    chosen
}

/// Writes a file and removes it again: permissions, a read-only mount and a full disk all show that way alone.
fn try_write(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!(".qwen-image-worker-{}", uuid::Uuid::new_v4().simple()));
    let written = fs::File::create_new(&path).and_then(|mut file| file.write_all(b"x"));
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(dir: &Path, certain: bool) -> Candidate {
        Candidate {
            dir: dir.to_owned(),
            certain,
        }
    }

    #[test]
    fn the_first_that_can_be_written_to_is_chosen_and_left_clean() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let good = root.path().join("volume/models");
        let chosen = choose(&[candidate(&file.join("models"), false), candidate(&good, false)]);
        assert_eq!(chosen.dir.as_deref(), Some(good.as_path()));
        assert_eq!(chosen.refused.len(), 1, "{:?}", chosen.refused);
        assert_eq!(fs::read_dir(&good).unwrap().count(), 0);
    }

    #[test]
    fn what_the_user_named_is_taken_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let named = root.path().join("new");
        assert_eq!(choose(&[candidate(&named, true)]).dir, Some(named.clone()));
        assert!(!named.exists());
        assert_eq!(choose(&[]).dir, None);
    }
}
