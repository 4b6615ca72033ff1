//! What can go wrong while the demo weights are written.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::JobError;

/// Why the demo weights are not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The disk, or the user's share of it, is full.
    #[error(
        "no space left for the demo weights ({} MB) in {}: free some, or set DATA_DIR to a folder on another disk",
        super::TOTAL_MEGABYTES,
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
    pub(super) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
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
