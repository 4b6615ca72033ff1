//! Files as addresses in an S3 bucket, of any provider that speaks S3.
//!
//! ```text
//!  uploads ──► keys: prefix, folder, name ──► put, or parts of a large file ──► presigned or public URLs
//!               (no two alike)                  (eight requests at once)
//! ```
//!
//! The AWS SDK signs, retries and times out. It is told to send nothing that servers other than Amazon's refuse: no
//! checksum headers, no chunked encoding with trailers, no signed payload. It reads no environment, no profile and no
//! metadata service. What is uploaded is uploaded whole or not at all.

mod client;
mod error;
mod keys;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OnceCell, Semaphore};
use url::Url;

pub use error::{BucketError, Origin, Place};

use crate::config::{BucketAccess, BucketConfig, S3Endpoint, Secret};
use crate::echo;
use crate::net::guard::{AddressGuard, Refused};
use client::Patience;
use keys::Day;
use transfer::{Sizes, Transfers};

/// Files that are uploaded at once.
const FILES_AT_ONCE: usize = 4;
/// Requests with a body that one bucket has under way: whole files and parts, of all jobs together.
const REQUESTS_AT_ONCE: usize = 8;

/// A bucket that files are uploaded to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: S3Endpoint,
    access_key_id: String,
    secret_access_key: Secret,
    prefix: String,
    url_expiry: Duration,
    public_url: Option<Url>,
    origin: Origin,
    /// The endpoint as it was written, and its judge; [`None`]: the operator chose it.
    guarded: Option<(Url, AddressGuard)>,
    sizes: Sizes,
    /// Made by the first upload: it reads the machine's certificates.
    client: OnceCell<aws_sdk_s3::Client>,
    requests: Semaphore,
}

impl Inner {
    fn patience(&self) -> Patience {
        match self.origin {
            Origin::Request => Patience::OF_REQUEST,
            Origin::Configuration => Patience::CONFIGURED,
        }
    }
}

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

impl Bucket {
    /// The bucket of the configuration.
    pub fn new(config: &BucketConfig) -> Result<Self, BucketError> {
        Self::with_sizes(config, Sizes::default())
    }

    fn with_sizes(config: &BucketConfig, sizes: Sizes) -> Result<Self, BucketError> {
        Self::build(&config.access, Some(config), config.public_url.clone(), None, sizes)
    }

    /// A bucket of a request: its endpoint is a user's address, and goes through the guard. What its request does not
    /// say is as configured, or by default.
    pub fn of_request(
        access: &BucketAccess,
        configured: Option<&BucketConfig>,
        guard: &AddressGuard,
    ) -> Result<Self, BucketError> {
        guard
            .check_url(&access.endpoint)
            .map_err(|refused| refused_endpoint(&access.endpoint, refused))?;
        // The public address is of the configured bucket, and says nothing of this one.
        Self::build(access, configured, None, Some(guard), Sizes::default())
    }

    /// Judges the endpoint that a request names and what its name resolves to now. One that does not resolve passes: it may
    /// later.
    pub async fn check_of_request(access: &BucketAccess, guard: &AddressGuard) -> Result<(), BucketError> {
        let judged = guard.check_url_and_name(&access.endpoint).await;
        judged.map_err(|refused| refused_endpoint(&access.endpoint, refused))
    }

    fn build(
        access: &BucketAccess,
        configured: Option<&BucketConfig>,
        public_url: Option<Url>,
        guard: Option<&AddressGuard>,
        sizes: Sizes,
    ) -> Result<Self, BucketError> {
        let origin = guard.map_or(Origin::Configuration, |_| Origin::Request);
        let endpoint = S3Endpoint::resolve(access).map_err(|mistake| BucketError::Endpoint(mistake, origin))?;
        let prefix = configured.map_or(BucketConfig::DEFAULT_PREFIX, |config| &config.prefix);
        Ok(Self {
            inner: Arc::new(Inner {
                endpoint,
                access_key_id: access.access_key_id.clone(),
                secret_access_key: access.secret_access_key.clone(),
                prefix: prefix.to_owned(),
                url_expiry: configured.map_or(BucketConfig::DEFAULT_EXPIRY, |config| config.url_expiry),
                public_url,
                origin,
                guarded: guard.map(|guard| (access.endpoint.clone(), guard.clone())),
                sizes,
                client: OnceCell::new(),
                requests: Semaphore::new(REQUESTS_AT_ONCE),
            }),
        })
    }

    /// Uploads a job's files, several at once, each tried several times. Gives their addresses, in order. Dropping it
    /// ends it; what was begun of a large file is then taken back in the background.
    pub async fn upload(&self, job: &str, uploads: Vec<Upload>) -> Result<Vec<String>, BucketError> {
        if uploads.is_empty() {
            return Ok(Vec::new());
        }
        let day = Day::of(SystemTime::now());
        let transfers = self.transfers(&day).await?;
        let keys = keys::keys(&self.inner.prefix, job, &day, &uploads);
        let sends: Vec<_> = uploads
            .into_iter()
            .zip(&keys)
            .map(|(upload, key)| transfers.send(key, upload))
            .collect();
        stream::iter(sends)
            .buffer_unordered(FILES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        let mut addresses = Vec::with_capacity(keys.len());
        for key in &keys {
            addresses.push(self.address(&transfers, key).await?);
        }
        Ok(addresses)
    }

    /// Its name; [`None`]: it is called after the month.
    pub fn name(&self) -> Option<&str> {
        self.inner.endpoint.bucket.as_deref()
    }

    /// Reads an object of this bucket, or of another one that its keys open; [`None`]: it has more than `limit` bytes.
    pub async fn get(&self, bucket: &str, key: &str, limit: usize) -> Result<Option<Bytes>, BucketError> {
        let mut transfers = self.transfers(&Day::of(SystemTime::now())).await?;
        bucket.clone_into(&mut transfers.place.bucket);
        transfers.place.named = true;
        transfers.get(key, limit).await
    }

    /// Everything that an upload of this day needs. A user's host is judged by its name at once, so that a refusal is
    /// told without trying.
    async fn transfers(&self, day: &Day) -> Result<Transfers<'_>, BucketError> {
        let inner = &self.inner;
        if let Some((url, guard)) = &inner.guarded {
            let judged = guard.check_url_and_name(url).await;
            judged.map_err(|refused| refused_endpoint(url, refused))?;
        }
        let bucket = inner.endpoint.bucket.clone().unwrap_or_else(|| day.month_and_year());
        let place = Place {
            host: inner.endpoint.service.authority().to_owned(),
            bucket,
            named: inner.endpoint.bucket.is_some(),
            origin: inner.origin,
        };
        let client = inner.client.get_or_try_init(|| self.client()).await;
        let client = client.map_err(|reason| BucketError::Other(place.clone(), reason))?;
        Ok(Transfers {
            client,
            place,
            sizes: inner.sizes,
            patience: inner.patience(),
            requests: &inner.requests,
        })
    }

    async fn client(&self) -> Result<aws_sdk_s3::Client, String> {
        let inner = Arc::clone(&self.inner);
        let build = move || {
            let guard = inner.guarded.as_ref().map(|(_, guard)| guard);
            let (key_id, secret) = (&inner.access_key_id, &inner.secret_access_key);
            client::client(&inner.endpoint, key_id, secret, guard, inner.patience())
        };
        let made = tokio::task::spawn_blocking(build).await;
        made.map_err(|error| format!("no S3 client can be made: {error}"))
    }

    async fn address(&self, transfers: &Transfers<'_>, key: &str) -> Result<String, BucketError> {
        if let Some(base) = &self.inner.public_url {
            return Ok(keys::public_address(base, key));
        }
        let expiry = PresigningConfig::expires_in(self.inner.url_expiry)
            .map_err(|error| BucketError::Other(transfers.place.clone(), error.to_string()))?;
        let request = transfers.client.get_object().bucket(&transfers.place.bucket).key(key);
        let signed = request.presigned(expiry).await;
        let signed = signed.map_err(|error| BucketError::of(&error, &transfers.place))?;
        Ok(signed.uri().to_owned())
    }
}

fn refused_endpoint(endpoint: &Url, refused: Refused) -> BucketError {
    BucketError::Refused(echo::cut(endpoint.host_str().unwrap_or_default()), refused)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
