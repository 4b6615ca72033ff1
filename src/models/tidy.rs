//! What people do with the files that are there: compare them with what they should be, and remove them.

use std::fs;
use std::path::{Path, PathBuf};

use super::fetch::source_of;
use super::{Models, cache, download};
use crate::config::ModelFile;
use crate::display::error_chain;
use crate::error::JobError;
use crate::telemetry::report::{Reporter, Unit};

/// What a file should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its size in bytes, where somebody says it.
    pub size: Option<u64>,
    /// Its SHA-256, where somebody says it.
    pub sha256: Option<String>,
    /// Why nobody could be asked.
    pub unknown: Option<String>,
}

/// What came of comparing a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// It has the SHA-256 it should have.
    Right,
    /// Nothing is wrong with it, as far as that can be told: the reason why it cannot.
    Plausible(String),
    /// It is another file, or a damaged one: why, and what to do.
    Wrong(String),
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The file, or a link to one in a cache.
    File(PathBuf),
    /// Only what a download that broke off had left.
    Leftovers,
    /// There was nothing.
    Nothing,
}

impl Models {
    /// What a file should be: what the manifest says, and where that is not all, what its server says.
    pub async fn expected(&self, file: &ModelFile) -> Expected {
        let mut expected = Expected {
            size: file.size,
            sha256: file.sha256.clone(),
            unknown: None,
        };
        if expected.size.is_some() && expected.sha256.is_some() {
            return expected;
        }
        match self.0.downloader.facts(&source_of(file, &self.0.config)).await {
            Ok(facts) => {
                expected.size = expected.size.or(facts.size);
                expected.sha256 = expected.sha256.or(facts.sha256);
            }
            Err(error) => expected.unknown = Some(error.to_job_error(&file.target()).message),
        }
        expected
    }

    /// Removes a file from where this worker puts files, with what broken downloads of it have left. What lies elsewhere
    /// stays: on a volume it may be somebody else's. Blocking.
    pub fn remove(&self, folder: &str, name: &str) -> Result<Removed, JobError> {
        let Some(store) = &self.0.store else {
            return Ok(Removed::Nothing);
        };
        let failed = |path: &Path, error: &std::io::Error| {
            JobError::internal(format!("{} cannot be removed: {error}", path.display()))
                .hint("See that this user may write to its folder.")
        };
        let target = store.folder.join(folder).join(name);
        let leftovers = download::leftovers(&target);
        for path in &leftovers {
            fs::remove_file(path).map_err(|error| failed(path, &error))?;
        }
        let links = store.places.links().iter().map(|links| links.join(folder).join(name));
        for path in std::iter::once(target).chain(links) {
            // A link that leads nowhere is there too.
            if fs::symlink_metadata(&path).is_ok() {
                cache::remove(&path).map_err(|error| failed(&path, &error))?;
                return Ok(Removed::File(path));
            }
        }
        Ok(if leftovers.is_empty() {
            Removed::Nothing
        } else {
            Removed::Leftovers
        })
    }
}

/// Compares a file with what it should be. Blocking: it is read whole.
pub fn verify_file(path: &Path, label: &str, expected: &Expected, reporter: &dyn Reporter) -> Verified {
    let again = "`models rm` and `models pull` fetch it again";
    let size = match fs::metadata(path) {
        Ok(facts) => facts.len(),
        Err(error) => return Verified::Wrong(format!("it cannot be read: {error}")),
    };
    if let Some(expected) = expected.size.filter(|expected| *expected != size) {
        return Verified::Wrong(format!("it has {size} bytes and should have {expected}; {again}"));
    }
    if let Err(error) = download::check_header(path) {
        return Verified::Wrong(format!("{}; {again}", error_chain(&error)));
    }
    let Some(sha256) = &expected.sha256 else {
        let why = expected.unknown.as_deref().unwrap_or("its server says none");
        return Verified::Plausible(format!(
            "its size and its header are right; its SHA-256 is not known: {why}"
        ));
    };
    let mut meter = reporter.begin(&format!("model {label}: SHA-256"), Some(size), Unit::Bytes);
    match download::sha256_of(path, |position| meter.position(position)) {
        Ok(found) if found == *sha256 => Verified::Right,
        Ok(found) => Verified::Wrong(format!("its SHA-256 is {found} and should be {sha256}; {again}")),
        Err(error) => Verified::Wrong(format!("it cannot be read: {error}")),
    }
}
