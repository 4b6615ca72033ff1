//! Where new files go: to the first place that can really be written to.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

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
