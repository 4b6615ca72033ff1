//! What a set says of itself: for which wishes and which ComfyUI it was made, and what came of it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::error::Failure;
use super::install::Effort;
use super::set::InstalledPack;
use super::wishes::Wishes;
use crate::comfy::install::{Installation, star_passwords};
use crate::config::PackOrigin;

/// Changes whenever a set of an older program must not be taken for one of this.
pub(super) const FORMAT: u32 = 1;

/// The content of a stamp.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) format: u32,
    pub(super) key: String,
    /// The ComfyUI that it goes with.
    pub(super) root: PathBuf,
    pub(super) base_python: PathBuf,
    pub(super) packs: Vec<InstalledPack>,
    #[serde(default)]
    pub(super) packages: Vec<String>,
    /// Why these are left out.
    #[serde(default)]
    pub(super) packages_failure: Option<Failure>,
    #[serde(default)]
    pub(super) notes: Vec<String>,
    /// Names of folders in the cache that it was made of.
    #[serde(default)]
    pub(super) cached: Vec<String>,
}

impl Stamp {
    pub(super) fn new(key: &str, base: &Installation) -> Self {
        Self {
            format: FORMAT,
            key: key.to_owned(),
            root: base.root.clone(),
            base_python: base.python.clone(),
            packs: Vec::new(),
            packages: Vec::new(),
            packages_failure: None,
            notes: Vec::new(),
            cached: Vec::new(),
        }
    }

    /// As it is written where others may read it.
    pub(super) fn without_passwords(&self) -> Self {
        let mut stamp = self.clone();
        for pack in &mut stamp.packs {
            if let PackOrigin::Git { repository, .. } = &mut pack.pack.origin {
                *repository = without_password(repository);
            }
        }
        for line in &mut stamp.packages {
            *line = star_passwords(line);
        }
        stamp
    }

    /// Whether nothing more is to be tried.
    pub(super) fn is_enough(&self, effort: Effort) -> bool {
        let of_manifest = self.packages_failure.as_ref();
        let mut failed = self.packs.iter().filter(|pack| pack.failure.is_some());
        match effort {
            Effort::Missing => {
                !failed.any(|pack| pack.may_pass) && !of_manifest.is_some_and(|failure| failure.may_pass)
            }
            Effort::Failed => {
                let is_well = |pack: &InstalledPack| pack.failure.is_none() && !pack.script_failed;
                self.packs.iter().all(is_well) && of_manifest.is_none()
            }
            Effort::Anew => false,
        }
    }
}

/// That the packages which the manifest asks for are not there.
pub(super) fn left_out(failure: &Failure) -> String {
    format!("the packages of CUSTOM_NODES_MANIFEST are left out: {}", failure.reason)
}

/// What names a set: the wishes, and the ComfyUI that they are for.
pub(super) fn key(wishes: &Wishes, base: &Installation) -> String {
    let lock = base.lock.as_ref().and_then(|lock| fs::read(lock).ok());
    let lock = lock.map(|lock| hex::encode(Sha256::digest(lock)));
    let parts = serde_json::json!({
        "format": FORMAT,
        "wishes": wishes.identity(),
        "root": base.root,
        "python": base.python,
        "version": base.version,
        "commit": base.commit,
        "lock": lock,
        "interpreter": interpreter(&base.python),
    });
    hex::encode(&Sha256::digest(parts.to_string())[..8])
}

/// Which Python is behind that of an environment: another one needs other packages.
fn interpreter(python: &Path) -> String {
    let home = python.parent().and_then(Path::parent);
    let said = home.and_then(|home| fs::read_to_string(home.join("pyvenv.cfg")).ok());
    said.unwrap_or_else(|| {
        let program = fs::canonicalize(python).unwrap_or_default();
        program.display().to_string()
    })
}

/// An address without user and password, as far as it has them in the usual place.
fn without_password(repository: &str) -> String {
    let Ok(mut url) = repository.parse::<Url>() else {
        return repository.to_owned();
    };
    // It fails for addresses that can have none.
    let _ = url.set_password(None);
    if url.scheme().starts_with("http") {
        let _ = url.set_username("");
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_that_all_may_read_has_no_password() {
        for (whole, shown) in [
            ("https://me:word@e.example/x.git", "https://e.example/x.git"),
            ("https://token@e.example/x.git", "https://e.example/x.git"),
            ("ssh://git@e.example/x.git", "ssh://git@e.example/x.git"),
            ("file:///srv/x", "file:///srv/x"),
        ] {
            assert_eq!(without_password(whole), shown);
        }
    }
}
