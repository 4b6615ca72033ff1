//! Which tree is installed: the pinned one, or a commit of a git repository.
//!
//! A release or a branch is looked up once, and what it was found to be is kept in a file of `DIR/references/`, so that the
//! next start needs no network and runs the same. [`super::update`] looks again.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use super::InstallOptions;
use super::child::Runner;
use super::error::{InstallError, io};
use super::layout::{self, digest};
use crate::comfy::git::{self, Commit};
use crate::config::VersionChoice;
use crate::display::redacted;
use crate::telemetry::report::{Reporter, Unit};

/// Which tree is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Release {
    /// The one that this program was tested with.
    Pinned,
    /// A commit of a git repository.
    Git {
        /// What was asked for: `v0.46.0`.
        reference: String,
        /// What that was found to be.
        commit: Commit,
    },
}

impl Release {
    /// The commit, where it has one.
    pub(super) fn commit(&self) -> Option<&Commit> {
        match self {
            Self::Pinned => None,
            Self::Git { commit, .. } => Some(commit),
        }
    }

    /// What was asked for, where it is not the pinned one.
    pub(super) fn reference(&self) -> Option<&str> {
        match self {
            Self::Pinned => None,
            Self::Git { reference, .. } => Some(reference),
        }
    }
}

/// What a reference was found to be.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    /// Without a password.
    repository: String,
    reference: String,
    commit: String,
}

/// The release that `options` name, as far as that is known without a network.
pub(super) fn known(options: &InstallOptions) -> Option<Release> {
    let reference = match &options.version {
        VersionChoice::Pinned => return Some(Release::Pinned),
        VersionChoice::Reference(reference) => reference,
    };
    let repository = shown(&options.repository);
    let commit = reference.to_ascii_lowercase().parse().ok().or_else(|| {
        let file = file(&options.dir, &repository, reference);
        let found: Found = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        let is_this = found.repository == repository && found.reference == *reference;
        found.commit.parse().ok().filter(|_| is_this)
    })?;
    Some(Release::Git {
        reference: reference.clone(),
        commit,
    })
}

/// The release that `options` name, looked up in the repository.
pub(super) async fn look_up(options: &InstallOptions, reporter: &dyn Reporter) -> Result<Release, InstallError> {
    let VersionChoice::Reference(reference) = &options.version else {
        return Ok(Release::Pinned);
    };
    let title = format!("version {reference} of ComfyUI");
    let mut meter = reporter.begin(&title, None, Unit::Items);
    meter.detail(&format!("asking {}", shown(&options.repository)));
    let desk = Desk::new()?;
    let commit = git::resolve(&desk.runner(options, reporter), &options.repository, Some(reference)).await?;
    meter.finish(&format!("it is commit {commit}"));
    Ok(Release::Git {
        reference: reference.clone(),
        commit,
    })
}

/// Keeps what `release` was found to be, for [`known`].
pub(super) fn remember(options: &InstallOptions, release: &Release) -> Result<(), InstallError> {
    let Release::Git { reference, commit } = release else {
        return Ok(());
    };
    let repository = shown(&options.repository);
    let path = file(&options.dir, &repository, reference);
    let found = Found {
        repository,
        reference: reference.clone(),
        commit: commit.to_string(),
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    }
    layout::write(&path, &layout::json(&found))
}

fn file(dir: &Path, repository: &str, reference: &str) -> PathBuf {
    dir.join("references")
        .join(format!("{}.json", digest(&[repository, reference])))
}

/// A repository's address as people may read it.
pub(super) fn shown(repository: &str) -> String {
    Url::parse(repository).map_or_else(|_| repository.to_owned(), |url| redacted(&url))
}

/// A place for programs that belong to no installation: questions to a repository.
pub(super) struct Desk {
    dir: tempfile::TempDir,
    lock: File,
}

impl Desk {
    pub(super) fn new() -> Result<Self, InstallError> {
        let temp = std::env::temp_dir();
        Ok(Self {
            dir: tempfile::tempdir().map_err(io("create a folder in", temp))?,
            lock: tempfile::tempfile().map_err(io("create a file in", std::env::temp_dir()))?,
        })
    }

    pub(super) fn runner<'a>(&'a self, options: &'a InstallOptions, reporter: &'a dyn Reporter) -> Runner<'a> {
        Runner {
            pins: &options.pins,
            reporter,
            lock: &self.lock,
            dir: self.dir.path(),
            cache: self.dir.path(),
            search_path: &options.search_path,
        }
    }
}
