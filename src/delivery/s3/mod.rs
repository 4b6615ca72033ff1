//! Files as addresses in an S3 bucket.

use std::path::PathBuf;

use bytes::Bytes;

use crate::config::{BucketAccess, BucketConfig};
use crate::net::guard::AddressGuard;

/// A bucket that files are uploaded to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {}

/// A file to upload.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The folder under the output folder; empty for none. Parts are joined by `/`.
    pub subfolder: String,
    /// Its name.
    pub filename: String,
    /// Its content.
    pub content: Content,
}

/// Where the content of an upload is.
#[derive(Debug, Clone)]
pub enum Content {
    /// In a file, which is not read into memory.
    File(PathBuf),
    /// In memory.
    Bytes(Bytes),
}

/// Why a bucket cannot be used, or an upload failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {}

impl Bucket {
    /// The bucket of the configuration.
    pub fn new(_config: &BucketConfig) -> Result<Self, BucketError> {
        Ok(Self {})
    }

    /// A bucket of a request: its endpoint is a user's address, and goes through the guard. What its request does not
    /// say is as configured, or by default.
    pub fn of_request(
        _access: &BucketAccess,
        _configured: Option<&BucketConfig>,
        _guard: &AddressGuard,
    ) -> Result<Self, BucketError> {
        Ok(Self {})
    }

    /// Uploads a job's files, several at once, each tried several times. Gives their addresses, in order.
    pub async fn upload(&self, _job: &str, _uploads: Vec<Upload>) -> Result<Vec<String>, BucketError> {
        Ok(Vec::new())
    }
}
