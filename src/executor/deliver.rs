//! Stage: the result in the form in which it goes back. ComfyUI is free meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use super::Executor;
use super::content::{Contents, renamed};
use super::convert::convert;
use super::fit::{self, Smaller, shown};
use super::ledger::Ledger;
use crate::config::{BucketConfig, ImageFormat, ReturnImagesAs};
use crate::delivery::inline;
use crate::delivery::s3::{Bucket, BucketError, Content, Upload};
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, FileKind, Outcome, OutputFile, Recoded};
use crate::net::guard::AddressGuard;

/// How long a job waits to be taken in for the look-up of its bucket's name.
const NAME_TIMEOUT: Duration = Duration::from_secs(3);

/// How results go back, unless their request says otherwise.
#[derive(Debug, Clone)]
pub struct DeliverySettings {
    /// Their form. Never [`ReturnImagesAs::Auto`].
    pub form: ReturnImagesAs,
    /// The format of their images; [`None`]: as the graph wrote them.
    pub output_format: Option<ImageFormat>,
    /// The quality of JPEG and WebP, 1 to 100.
    pub quality: u8,
    /// The most bytes of an answer that holds its files.
    pub max_bytes: Option<u64>,
    /// The configured bucket, and how it is configured.
    pub bucket: Option<(Bucket, BucketConfig)>,
    /// Judges the endpoints of requests.
    pub guard: AddressGuard,
}

/// How one result goes back.
#[derive(Debug)]
pub(super) struct Plan {
    form: ReturnImagesAs,
    format: Option<ImageFormat>,
    quality: u8,
    /// A quality was asked for that no format has.
    idle_quality: bool,
    max_bytes: Option<u64>,
    picture_url: bool,
    bucket: Option<Bucket>,
}

impl DeliverySettings {
    /// Looks at the bucket that a request names, and at what its name resolves to now, so that the user is told at once.
    pub(super) async fn check(&self, asked: &Delivery) -> Result<(), JobError> {
        self.plan(asked)?;
        let Some(access) = &asked.bucket else { return Ok(()) };
        let judged = Bucket::check_of_request(access, &self.guard);
        match tokio::time::timeout(NAME_TIMEOUT, judged).await {
            Ok(judged) => judged.map_err(|error| invalid_bucket(&error)),
            // It is judged again when it is used.
            Err(_) => Ok(()),
        }
    }

    /// What a request asks for, and for the rest what is configured. Fails when the request's bucket cannot be used.
    pub(super) fn plan(&self, asked: &Delivery) -> Result<Plan, JobError> {
        let configured = self.bucket.as_ref();
        let own = match &asked.bucket {
            Some(access) => {
                let bucket = Bucket::of_request(access, configured.map(|(_, config)| config), &self.guard);
                Some(bucket.map_err(|error| invalid_bucket(&error))?)
            }
            None => None,
        };
        let form = match asked.return_images_as {
            None | Some(ReturnImagesAs::Auto) if own.is_some() => ReturnImagesAs::S3Url,
            None | Some(ReturnImagesAs::Auto) => self.form,
            Some(form) => form,
        };
        let format = asked.output_format.or(self.output_format);
        Ok(Plan {
            form,
            format,
            idle_quality: asked.quality.is_some() && matches!(format, None | Some(ImageFormat::Png)),
            quality: asked.quality.unwrap_or(self.quality),
            max_bytes: asked
                .max_bytes
                .or(self.max_bytes)
                .map(|limit| room(limit, asked.picture_url)),
            picture_url: asked.picture_url,
            bucket: own.or_else(|| configured.map(|(bucket, _)| bucket.clone())),
        })
    }
}

fn invalid_bucket(error: &BucketError) -> JobError {
    JobError::invalid(format!("Invalid request: s3Config: {error}")).hint(error.hint())
}

impl Executor {
    /// Whether a result can go back as its request asks for, as far as that can be told before the job runs.
    pub async fn check_delivery(&self, asked: &Delivery) -> Result<(), JobError> {
        self.settings.delivery.check(asked).await
    }

    pub(super) fn contents(&self) -> Contents<'_> {
        Contents {
            comfy: &self.comfy,
            cores: &self.cores,
            texts: &self.texts,
        }
    }

    /// Converts the images, uploads the files under the `id` by which the job's owner knows it, or sees to it that they fit
    /// into the answer. What is written for that is taken down in the ledger.
    pub(super) async fn deliver(
        &self,
        id: &str,
        mut outcome: Outcome,
        mut plan: Plan,
        ledger: Option<&Ledger>,
    ) -> Result<Outcome, JobError> {
        let contents = self.contents();
        if plan.picture_url && plan.form == ReturnImagesAs::Metadata && self.comfy.folders().is_none() {
            // What is converted can be written nowhere, and is made anew as it is read.
            plan.form = ReturnImagesAs::Base64;
        }
        outcome.output_format = plan.format;
        outcome.picture_url = plan.picture_url;
        if plan.idle_quality {
            let warning =
                "quality has no effect: it is that of images returned as JPEG or WebP; ask for output_format too";
            outcome.warnings.push(warning.to_owned());
        }
        if let Some(format) = plan.format {
            if plan.form == ReturnImagesAs::Metadata && self.comfy.folders().is_none() {
                outcome.warnings.push(format!(
                    "images stay as they are, not {}: the worker cannot write where this ComfyUI (COMFYUI_URL) does; ask for \
                     return_images_as base64 or s3_url",
                    format.as_str()
                ));
            } else {
                convert(contents, &mut outcome, (format, plan.quality), ledger).await;
            }
        }
        // Why the files are in no bucket.
        let mut reason = None;
        match plan.form {
            ReturnImagesAs::Auto | ReturnImagesAs::Metadata => return Ok(outcome),
            ReturnImagesAs::Base64 => {}
            ReturnImagesAs::S3Url => match &plan.bucket {
                Some(bucket) => match upload(contents, bucket, id, &mut outcome).await? {
                    Ok(()) => return Ok(outcome),
                    Err(error) => reason = Some(error),
                },
                None => {
                    reason = Some(
                        "there is no bucket for s3_url (BUCKET_ENDPOINT_URL, or s3Config beside input)".to_owned(),
                    );
                }
            },
        }
        if let Some(reason) = &reason {
            outcome
                .warnings
                .push(format!("the files are in the answer, in base64: {reason}"));
        }
        outcome.inline = true;
        let Some(limit) = plan.max_bytes else {
            return Ok(outcome);
        };
        let size = fit::measure(contents, &outcome).await?;
        if size.total() <= limit {
            return Ok(outcome);
        }
        if plan.form == ReturnImagesAs::Base64
            && let Some(bucket) = &plan.bucket
        {
            match upload(contents, bucket, id, &mut outcome).await? {
                Ok(()) => {
                    outcome.warnings.push(in_the_bucket(size.total(), limit));
                    return Ok(outcome);
                }
                Err(error) => {
                    outcome
                        .warnings
                        .push(format!("the answer is too large for base64, and {error}"));
                    reason = Some(error);
                }
            }
        }
        let shrunk = fit::shrink(contents, &outcome, &size, limit).await?;
        let made = shrunk.map_err(|too_large| too_large.error(reason.as_deref()))?;
        outcome.warnings.push(fit::warning(&size, limit, &made));
        keep(contents, &mut outcome, made, ledger).await?;
        Ok(outcome)
    }

    /// A result that its receiver refused for its size, so that it takes at most `max_bytes`: its files in the
    /// configured bucket, or its images made smaller. It holds its files where [`Outcome::inline`] says so; what is
    /// stored of the job stays as it is. Fails with [`ErrorKind::Undeliverable`] when it cannot be done.
    pub async fn shrink(&self, id: &str, outcome: Arc<Outcome>, max_bytes: u64) -> Result<Arc<Outcome>, JobError> {
        let contents = self.contents();
        let mut outcome = Arc::unwrap_or_clone(outcome);
        let max_bytes = room(max_bytes, outcome.picture_url);
        if !outcome.inline {
            let message = "The result was refused for its size, and holds no files that could go elsewhere";
            return Err(JobError::new(ErrorKind::Undeliverable, message).hint("Have the graph make less text."));
        }
        let size = fit::measure(contents, &outcome).await?;
        let mut reason = None;
        if let Some((bucket, _)) = &self.settings.delivery.bucket {
            match upload(contents, bucket, id, &mut outcome).await? {
                Ok(()) => {
                    outcome.warnings.push(in_the_bucket(size.total(), max_bytes));
                    return Ok(Arc::new(outcome));
                }
                Err(error) => reason = Some(error),
            }
        }
        if size.total() > max_bytes {
            let shrunk = fit::shrink(contents, &outcome, &size, max_bytes).await?;
            let made = shrunk.map_err(|too_large| too_large.error(reason.as_deref()))?;
            outcome.warnings.push(fit::warning(&size, max_bytes, &made));
            hold(&mut outcome, made).await?;
        }
        self.inlined(Arc::new(outcome)).await
    }

    /// The content of a file as it is returned, wherever ComfyUI is.
    pub async fn content(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        self.contents().content(file).await
    }

    /// Fills an outcome's pictures in, whatever its form: each is read once and encoded once. Whoever asks has their addresses
    /// too, so one that cannot be read is left out.
    pub async fn with_pictures(&self, outcome: Arc<Outcome>) -> Arc<Outcome> {
        let contents = self.contents();
        let mut filled = Arc::unwrap_or_clone(outcome);
        let pictures = filled.wanted_mut();
        let empty = pictures.filter(|file| file.kind == FileKind::Image && file.base64.is_none());
        join_all(empty.map(|file| async move {
            match contents.base64(file).await {
                Ok(text) => file.base64 = Some(text),
                Err(error) => tracing::warn!("a picture is answered by its address alone: {}", error.full_text()),
            }
        }))
        .await;
        Arc::new(filled)
    }

    /// Fills an outcome's files in, where the answer is to hold them: each is read once and encoded once.
    pub async fn inlined(&self, outcome: Arc<Outcome>) -> Result<Arc<Outcome>, JobError> {
        if !outcome.inline {
            return Ok(outcome);
        }
        let contents = self.contents();
        let mut filled = Arc::unwrap_or_clone(outcome);
        let empty = filled.wanted_mut().filter(|file| file.base64.is_none());
        try_join_all(empty.map(|file| async move {
            file.base64 = Some(contents.base64(file).await?);
            Ok::<_, JobError>(())
        }))
        .await?;
        Ok(Arc::new(filled))
    }
}

/// How many bytes of an answer its files may take once. A picture may be there a second time, as a data URI.
fn room(limit: u64, picture_url: bool) -> u64 {
    if picture_url { limit / 2 } else { limit }
}

fn in_the_bucket(length: u64, limit: u64) -> String {
    format!(
        "the answer would have {} with its files in base64 and may have {}, so they are in the bucket",
        shown(length),
        shown(limit)
    )
}

/// Uploads the wanted files. Gives the reason when the bucket does not take them.
async fn upload(
    contents: Contents<'_>,
    bucket: &Bucket,
    id: &str,
    outcome: &mut Outcome,
) -> Result<Result<(), String>, JobError> {
    let uploads = outcome.wanted().map(|file| async move {
        let content = match contents.path(file, &file.filename)? {
            Some(path) => Content::File(path),
            None => Content::Bytes(contents.remote(file).await?),
        };
        Ok::<_, JobError>(Upload {
            subfolder: file.subfolder.clone(),
            filename: file.filename.clone(),
            content,
        })
    });
    let uploads = try_join_all(uploads).await?;
    if uploads.is_empty() {
        return Ok(Ok(()));
    }
    match bucket.upload(id, uploads).await {
        Ok(urls) => {
            for (file, url) in outcome.wanted_mut().zip(urls) {
                file.url = Some(url);
                file.base64 = None;
            }
            outcome.inline = false;
            Ok(Ok(()))
        }
        Err(error) => {
            tracing::warn!(%error, "the files could not be uploaded");
            let reason = JobError::from(error).full_text();
            Ok(Err(format!("the files could not be uploaded: {reason}")))
        }
    }
}

/// Gives the images that were made smaller to the outcome, written beside their originals where those are on this
/// machine.
async fn keep(
    contents: Contents<'_>,
    outcome: &mut Outcome,
    made: Vec<Smaller>,
    ledger: Option<&Ledger>,
) -> Result<(), JobError> {
    let mut made: HashMap<_, _> = made.into_iter().map(|image| (image.at, image)).collect();
    let images = outcome.wanted_mut().enumerate();
    let images = images.filter_map(|(at, file)| made.remove(&at).map(|image| (file, image)));
    try_join_all(images.map(|(file, image)| async move {
        let (format, quality) = (image.format, image.quality);
        let original = file.original().to_owned();
        let name = match contents.beside(file, ledger)? {
            Some(beside) => {
                // One that was made before, and that nobody was told of.
                let superseded = file.recoded.is_some().then(|| file.filename.clone());
                let written = contents.cores.run(move || {
                    let name = beside.write(format, &image.content)?;
                    if let Some(superseded) = superseded {
                        beside.remove(&superseded);
                    }
                    Ok::<_, std::io::Error>(name)
                });
                written.await?.map_err(|error| {
                    let name = echo::cut(&original);
                    JobError::internal(format!("`{name}` could not be written smaller: {error}"))
                        .hint("Look at the disk, and try again.")
                })?
            }
            None => renamed(&original, format),
        };
        rename(file, name, format, quality);
        Ok::<_, JobError>(())
    }))
    .await?;
    Ok(())
}

/// Gives the images that were made smaller to an outcome whose job has ended: nothing more is written for it.
async fn hold(outcome: &mut Outcome, made: Vec<Smaller>) -> Result<(), JobError> {
    let mut made: HashMap<_, _> = made.into_iter().map(|image| (image.at, image)).collect();
    for (at, file) in outcome.wanted_mut().enumerate() {
        let Some(image) = made.remove(&at) else { continue };
        let encoded = inline::encode(image.content.into()).await;
        file.base64 = Some(encoded.map_err(|error| JobError::internal(format!("base64 broke off: {error}")))?);
        let name = renamed(file.original(), image.format);
        rename(file, name, image.format, image.quality);
    }
    Ok(())
}

fn rename(file: &mut OutputFile, name: String, format: ImageFormat, quality: u8) {
    let original = file.original().to_owned();
    file.filename = name;
    file.recoded = Some(Recoded {
        original,
        format,
        quality,
    });
}

#[cfg(test)]
#[path = "deliver_tests.rs"]
mod tests;
