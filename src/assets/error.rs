//! Why something is not kept.

use std::io;

use crate::error::JobError;
use crate::queue::store::StoreError;

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssetError {
    /// It is larger than all files together may be.
    #[error("the file is larger than {most} bytes, which is the limit of all uploaded files together")]
    TooLarge {
        /// The limit.
        most: u64,
    },
    /// All files together have the limit, and jobs that have not ended need them, or other uploads do.
    #[error("uploaded files have {most} bytes together, which is the limit, and jobs that have not ended need them")]
    NoRoom {
        /// The limit.
        most: u64,
    },
    /// The disk has no room.
    #[error("the disk of the worker is full")]
    DiskFull,
    /// The key of the request was used before.
    #[error("the key of the request has been used")]
    KeyUsed,
    /// The store fails.
    #[error(transparent)]
    Store(StoreError),
    /// A file cannot be read or written.
    #[error("an uploaded file cannot be read or written")]
    File(#[source] io::Error),
}

impl From<io::Error> for AssetError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::File(error),
        }
    }
}

impl From<StoreError> for AssetError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { .. } => Self::DiskFull,
            StoreError::KeyUsed => Self::KeyUsed,
            error => Self::Store(error),
        }
    }
}

impl From<AssetError> for JobError {
    fn from(error: AssetError) -> Self {
        match error {
            AssetError::Store(error) => error.into(),
            AssetError::File(source) => {
                tracing::error!(error = %source, "an uploaded file cannot be read or written");
                Self::internal("an uploaded file cannot be read or written; the log has the reason")
            }
            AssetError::KeyUsed => StoreError::KeyUsed.into(),
            AssetError::DiskFull => crate::queue::store::full(),
            error => Self::new(crate::error::ErrorKind::TooLarge, error.to_string()),
        }
    }
}
