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
use std::time::SystemTime;

use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OnceCell, Semaphore};
use url::Url;

pub use error::{BucketError, Origin, Place};

use crate::config::{BucketAccess, BucketConfig, S3Endpoint};
use crate::echo;
use crate::error::JobError;
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
    /// How it is configured, with the endpoint as it was written.
    config: BucketConfig,
    endpoint: S3Endpoint,
    /// Judges the endpoint; [`None`]: the operator chose it.
    guard: Option<AddressGuard>,
    origin: Origin,
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
        Self::build(config.clone(), None, Sizes::default())
    }

    /// A bucket of a request: its endpoint is a user's address, and goes through the guard. What its request does not
    /// say is as in the configured bucket, or by default.
    pub fn of_request(
        access: &BucketAccess,
        configured: Option<&Self>,
        guard: &AddressGuard,
    ) -> Result<Self, BucketError> {
        guard
            .check_url(&access.endpoint)
            .map_err(|refused| refused_endpoint(&access.endpoint, refused))?;
        let configured = configured.map(|bucket| &bucket.inner.config);
        let config = BucketConfig {
            access: access.clone(),
            prefix: configured.map_or_else(
                || BucketConfig::DEFAULT_PREFIX.to_owned(),
                |config| config.prefix.clone(),
            ),
            url_expiry: configured.map_or(BucketConfig::DEFAULT_EXPIRY, |config| config.url_expiry),
            // That of the configured bucket says nothing of this one.
            public_url: None,
        };
        Self::build(config, Some(guard.clone()), Sizes::default())
    }

    /// Judges the endpoint that a request names and what its name resolves to now. One that does not resolve passes: it may
    /// later.
    pub async fn check_of_request(access: &BucketAccess, guard: &AddressGuard) -> Result<(), BucketError> {
        let judged = guard.check_url_and_name(&access.endpoint).await;
        judged.map_err(|refused| refused_endpoint(&access.endpoint, refused))
    }

    fn build(config: BucketConfig, guard: Option<AddressGuard>, sizes: Sizes) -> Result<Self, BucketError> {
        let origin = guard.as_ref().map_or(Origin::Configuration, |_| Origin::Request);
        let endpoint = S3Endpoint::resolve(&config.access).map_err(|mistake| BucketError::Endpoint(mistake, origin))?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                endpoint,
                guard,
                origin,
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
        let keys = keys::keys(&self.inner.config.prefix, job, &day, &uploads);
        self.put(&day, &keys, uploads).await
    }

    /// The same with files that are needed for a while. What was begun of them is removed where one cannot be uploaded.
    pub async fn lend(&self, job: &str, uploads: Vec<Upload>) -> Result<(Lent, Vec<String>), BucketError> {
        let day = Day::of(SystemTime::now());
        let lent = Lent {
            bucket: self.clone(),
            keys: keys::keys(&self.inner.config.prefix, job, &day, &uploads),
            day,
        };
        match self.put(&lent.day, &lent.keys, uploads).await {
            Ok(addresses) => Ok((lent, addresses)),
            Err(error) => {
                tokio::spawn(lent.remove());
                Err(error)
            }
        }
    }

    async fn put(&self, day: &Day, keys: &[String], uploads: Vec<Upload>) -> Result<Vec<String>, BucketError> {
        let transfers = self.transfers(day).await?;
        let sends: Vec<_> = uploads
            .into_iter()
            .zip(keys)
            .map(|(upload, key)| transfers.send(key, upload))
            .collect();
        stream::iter(sends)
            .buffer_unordered(FILES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        let mut addresses = Vec::with_capacity(keys.len());
        for key in keys {
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
        if let Some(guard) = &inner.guard {
            Self::check_of_request(&inner.config.access, guard).await?;
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
            let access = &inner.config.access;
            client::client(&inner.endpoint, access, inner.guard.as_ref(), inner.patience())
        };
        let made = tokio::task::spawn_blocking(build).await;
        made.map_err(|error| format!("no S3 client can be made: {error}"))
    }

    async fn address(&self, transfers: &Transfers<'_>, key: &str) -> Result<String, BucketError> {
        if let Some(base) = &self.inner.config.public_url {
            return Ok(keys::public_address(base, key));
        }
        let expiry = PresigningConfig::expires_in(self.inner.config.url_expiry)
            .map_err(|error| BucketError::Other(transfers.place.clone(), error.to_string()))?;
        let request = transfers.client.get_object().bucket(&transfers.place.bucket).key(key);
        let signed = request.presigned(expiry).await;
        let signed = signed.map_err(|error| BucketError::of(&error, &transfers.place))?;
        Ok(signed.uri().to_owned())
    }
}

/// Files that lie in a bucket until they are removed.
#[derive(Debug)]
pub struct Lent {
    bucket: Bucket,
    keys: Vec<String>,
    day: Day,
}

impl Lent {
    /// Removes them. Who may put files there need not be allowed to: then they stay, and the log says so.
    pub async fn remove(self) {
        if let Err(error) = self.try_to_remove().await {
            tracing::warn!(
                "input files of a job stay in the bucket: {}",
                JobError::from(error).full_text()
            );
        }
    }

    async fn try_to_remove(&self) -> Result<(), BucketError> {
        let transfers = self.bucket.transfers(&self.day).await?;
        for key in &self.keys {
            transfers.remove(key).await?;
        }
        Ok(())
    }
}

fn refused_endpoint(endpoint: &Url, refused: Refused) -> BucketError {
    BucketError::Refused(echo::cut(endpoint.host_str().unwrap_or_default()), refused)
}

#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
