//! Stage: images and other files that a request names by URL are fetched.
//!
//! ```text
//!  http, https ──► guard: each address, each redirect ──┐
//!                                                       ├──► at most so many bytes, in time ──► header ──► here
//!  s3 ──► the keys of the request's bucket, or ours ────┘
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Method, Response, StatusCode, header};
use url::Url;

use crate::config::{BucketAccess, ImagesConfig};
use crate::delivery::DeliverySettings;
use crate::delivery::s3::{Bucket, BucketError};
use crate::display::{error_chain, redacted};
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::job::{ImageContent, InputImage, JobRequest, Origin, Takes};
use crate::net::guard::{CONNECT_TIMEOUT, GuardedClient, ReadError, Redirects, Refused, read_limited};
use crate::net::retry::RetryPolicy;
use crate::net::unescaped;
use crate::telemetry::metrics::{ImageSource, metrics};

/// Images of one job that are fetched at once.
const AT_ONCE: usize = 4;
/// The most bytes of a job's images together, as a multiple of what one may have.
const IMAGES_WORTH: usize = 4;
/// How long a server may be silent at the least.
const SILENCE: Duration = Duration::from_secs(10);
/// What is asked for: servers that choose among formats send one that ComfyUI reads.
const ACCEPT: &str = "image/png,image/jpeg,image/webp,image/*;q=0.8,*/*;q=0.5";
/// The same for files of any kind.
const ACCEPT_ALL: &str = "*/*";
/// What to do about a server that is too slow.
const TOO_SLOW: &str = "Let its server answer sooner, or send the image itself as base64.";

/// Fetches images. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: GuardedClient,
    config: ImagesConfig,
    /// The longest that a server may be silent, before its answer or in the midst of it.
    silence: Duration,
    delivery: DeliverySettings,
}

/// Why an image did not come.
struct Failure {
    error: JobError,
    /// Whether another attempt may do better.
    passing: bool,
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self { error, passing: false }
    }
}

impl Fetcher {
    /// A fetcher that goes where the guard of `delivery` lets it, and that has the keys of its bucket.
    pub fn new(config: &ImagesConfig, delivery: &DeliverySettings) -> Result<Self, reqwest::Error> {
        Self::with_silence(config, delivery, longest_silence(config.timeout))
    }

    fn with_silence(
        config: &ImagesConfig,
        delivery: &DeliverySettings,
        silence: Duration,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: delivery.guard.client(Redirects::Checked, silence)?,
            config: config.clone(),
            silence,
            delivery: delivery.clone(),
        })
    }

    /// Fetches what the request names by URL, several at once. Afterwards all of its images are here, and a mask fits the
    /// image that it belongs to.
    pub(super) async fn fetch_all(&self, request: &mut JobRequest) -> Result<(), JobError> {
        if !request.has_images_to_fetch() {
            return request.check_mask();
        }
        let takes = request.takes();
        let images = std::mem::take(&mut request.images);
        request.images = self
            .fetch_images(images, request.delivery.bucket.as_ref(), takes)
            .await?;
        request.check_mask()
    }

    /// Fetches those of the images that are still at their URLs; `own` is the bucket that the request brings.
    pub(super) async fn fetch_images(
        &self,
        images: Vec<InputImage>,
        own: Option<&BucketAccess>,
        takes: Takes,
    ) -> Result<Vec<InputImage>, JobError> {
        let most = self.config.max_bytes * IMAGES_WORTH;
        let fetches = images.into_iter().map(|image| self.here(image, own, takes));
        let (images, _) = stream::iter(fetches)
            .buffered(AT_ONCE)
            .try_fold((Vec::new(), 0), async |(mut images, total), (image, bytes)| {
                let total = total + bytes;
                if total > most {
                    let message =
                        format!("the images that the request names by URL have more than {most} bytes together");
                    return Err(JobError::new(ErrorKind::TooLarge, message)
                        .hint("Send fewer or smaller ones (JPEG or WebP instead of PNG).")
                        .at(image.origin.field(&image.name)));
                }
                images.push(image);
                Ok((images, total))
            })
            .await?;
        Ok(images)
    }

    /// The image with its content, and the bytes that were fetched for that.
    async fn here(
        &self,
        image: InputImage,
        own: Option<&BucketAccess>,
        takes: Takes,
    ) -> Result<(InputImage, usize), JobError> {
        let ImageContent::At(url) = &image.content else {
            return Ok((image, 0));
        };
        let (content, answer) = self.fetch(&image, url, own).await?;
        let bytes = content.len();
        let whence = format!(" from {}{answer}", redacted(url));
        let InputImage { name, origin, .. } = image;
        Ok((InputImage::looked_at(name, content, origin, takes, &whence)?, bytes))
    }

    /// The content, and what its server answered.
    async fn fetch(
        &self,
        image: &InputImage,
        url: &Url,
        own: Option<&BucketAccess>,
    ) -> Result<(Bytes, String), JobError> {
        let InputImage { name, origin, .. } = image;
        let accept = if *origin == Origin::Images { ACCEPT } else { ACCEPT_ALL };
        let subject = origin.subject(name);
        let limit = self.config.timeout;
        let mut before = None;
        let fetched = tokio::time::timeout(limit, async {
            if url.scheme() == "s3" {
                let content = self.bucket(url, own).await?;
                metrics().image_came(ImageSource::Bucket, content.len());
                return Ok((content, String::new()));
            }
            let mut delays = RetryPolicy::BRIEF.delays();
            loop {
                let done = self.web(url, accept).await;
                let Err(failure) = &done else { return done };
                if !failure.passing {
                    return done;
                }
                before = Some(failure.error.message.clone());
                if !delays.wait().await {
                    return done;
                }
                tracing::info!("{subject} is fetched again: {}", failure.error.message);
            }
        });
        let mut error = match fetched.await {
            Ok(Ok(fetched)) => return Ok(fetched),
            Ok(Err(failure)) => failure.error,
            Err(_) => {
                let before = before.map_or(String::new(), |why| format!("; an attempt before that failed: {why}"));
                JobError::invalid(format!("it was not complete after {limit:?}{before}")).hint(TOO_SLOW)
            }
        };
        let (url, why) = (redacted(url), &error.message);
        error.message = format!("{subject} cannot be fetched from {url}: {why}");
        if error.kind == ErrorKind::TooLarge && *origin != Origin::Images {
            error = error.hint("Send a smaller one.");
        }
        Err(error.at(origin.field(name)))
    }

    async fn web(&self, url: &Url, accept: &'static str) -> Result<(Bytes, String), Failure> {
        let request = self.client.request(Method::GET, url).map_err(|error| refused(&error))?;
        let sent = request.header(header::ACCEPT, accept).send().await;
        let response = sent.map_err(|error| self.unanswered(error))?;
        let status = response.status();
        if !status.is_success() {
            let passing = status.is_server_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            let hint = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    "Name an address that needs no login; a signed one may have expired."
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => "See that the address is right and still there.",
                _ => "See that the address works, or send the image itself as base64.",
            };
            let error = JobError::invalid(format!("its server answered {status}")).hint(hint);
            return Err(Failure { error, passing });
        }
        let answer = answer(&response);
        let read = read_limited(response, self.config.max_bytes).await;
        let content = read.map_err(|error| match error {
            ReadError::TooLarge { limit } => too_large(limit).into(),
            ReadError::Broken { source } if source.is_timeout() => self.silent(" in the midst of its answer").into(),
            broken @ ReadError::Broken { .. } => passing(error_chain(&broken)),
        })?;
        metrics().image_came(ImageSource::Web, content.len());
        Ok((content, answer))
    }

    /// A server that gave no answer. One that was silent for so long is not asked again: others wait as well.
    fn unanswered(&self, error: reqwest::Error) -> Failure {
        if let Some(error) = Refused::within(&error) {
            return refused(error).into();
        }
        if error.is_timeout() && error.is_connect() {
            let why = format!("there was no connection to its server after {CONNECT_TIMEOUT:?}");
            return passing(why).error.into();
        }
        if error.is_timeout() {
            return self.silent("").into();
        }
        // The client's error names the URL with all its secrets.
        passing(error_chain(&error.without_url()))
    }

    fn silent(&self, when: &str) -> JobError {
        let why = format!("its server said nothing for {:?}{when}", self.silence);
        JobError::invalid(why).hint(TOO_SLOW)
    }

    /// Reads an object with the keys of the request's own bucket if it brings one, else with ours.
    async fn bucket(&self, url: &Url, own: Option<&BucketAccess>) -> Result<Bytes, JobError> {
        let name = url.host_str().unwrap_or_default();
        let key = unescaped(url.path().trim_start_matches('/'));
        let bucket = match (own, &self.delivery.bucket) {
            (Some(access), configured) => {
                Bucket::of_request(access, configured.as_ref(), &self.delivery.guard).map_err(of_bucket)?
            }
            (None, Some(bucket)) => {
                self.may_read(bucket, name)?;
                bucket.clone()
            }
            (None, None) => {
                let error = JobError::invalid("the worker has no bucket, so no keys to read it with");
                return Err(error.hint(
                    "Send s3Config beside input, or an https address, or set BUCKET_ENDPOINT_URL and its keys.",
                ));
            }
        };
        let limit = self.config.max_bytes;
        let content = bucket.get(name, &key, limit).await.map_err(of_bucket)?;
        content.ok_or_else(|| too_large(limit))
    }

    /// Our keys may open more than users are to see.
    fn may_read(&self, bucket: &Bucket, name: &str) -> Result<(), JobError> {
        let allowed = bucket.name() == Some(name) || self.config.buckets.iter().any(|other| other == name);
        if allowed {
            return Ok(());
        }
        let name = cut(name);
        let error = JobError::invalid(format!(
            "the bucket `{name}` is not one that input images are read from"
        ));
        Err(error.hint("Put it into the bucket of the results, or send a presigned https address."))
    }
}

/// How long a server may be silent where an image may take so long in all: a third of that, but no less than some seconds.
fn longest_silence(timeout: Duration) -> Duration {
    (timeout / 3).max(SILENCE)
}

/// What a server answered, as an error tells it: ` (200 OK, text/html)`.
fn answer(response: &Response) -> String {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind
        .and_then(|kind| kind.to_str().ok())
        .map(|kind| format!(", {}", cut(kind)));
    format!(" ({}{})", response.status(), kind.unwrap_or_default())
}

fn passing(why: String) -> Failure {
    let hint = "See that the worker can reach that address, or send the image itself as base64.";
    Failure {
        error: JobError::invalid(why).hint(hint),
        passing: true,
    }
}

fn refused(refused: &Refused) -> JobError {
    let hint = match refused {
        Refused::Redirects { .. } => "Name the address where they end, or send the image itself as base64.",
        _ => "Name a public address, or send the image itself as base64.",
    };
    JobError::invalid(refused.to_string()).hint(hint)
}

fn too_large(limit: usize) -> JobError {
    JobError::new(ErrorKind::TooLarge, format!("it has more than {limit} bytes"))
        .hint("Send a smaller one (JPEG or WebP instead of PNG).")
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn of_bucket(error: BucketError) -> JobError {
    JobError::invalid(error.to_string()).hint(error.hint())
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
