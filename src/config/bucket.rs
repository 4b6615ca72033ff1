//! The bucket that results go to.

use std::time::Duration;

use url::Url;

use super::secret::Secret;

/// Where results are uploaded, and under which names and addresses they are found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketConfig {
    /// The bucket and its keys.
    pub access: BucketAccess,
    /// The folder of each object, with `{job_id}`, `{date}` and `{filename}` filled in.
    pub prefix: String,
    /// How long a presigned URL is good.
    pub url_expiry: Duration,
    /// The address under which the bucket's objects are public; [`None`]: URLs are presigned.
    pub public_url: Option<Url>,
}

/// A bucket and the keys to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketAccess {
    /// The S3 endpoint, with the bucket in its host or path or without.
    pub endpoint: Url,
    /// The key's id.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: Secret,
    /// The bucket, where the endpoint does not name it.
    pub name: Option<String>,
    /// The region; [`None`]: guessed from the endpoint.
    pub region: Option<String>,
}
