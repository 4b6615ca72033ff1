//! What a job made, in the form in which it goes back: made at the job's end, and read for each answer that holds it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use super::files::{Cores, Files};
use super::recode::{self, Wrote};
use super::s3::{Bucket, BucketError, Content, Upload};
use super::safety::SafetyChecker;
use super::size_limit;
use crate::comfy::Comfys;
use crate::config::{ImageFormat, ReturnImagesAs};
use crate::display::Size;
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, FileKind, JobView, Outcome, OutputFile};
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
    /// The configured bucket.
    pub bucket: Option<Bucket>,
    /// Judges the endpoints of requests.
    pub guard: AddressGuard,
}

/// How one result goes back.
#[derive(Debug)]
pub struct Plan {
    form: ReturnImagesAs,
    format: Option<ImageFormat>,
    quality: u8,
    /// A quality was asked for that no format has.
    idle_quality: bool,
    max_bytes: Option<u64>,
    picture_url: bool,
    bucket: Option<Bucket>,
}

impl Plan {
    /// Whether the answer is to hold the files as they are.
    pub fn is_inline(&self) -> bool {
        self.form == ReturnImagesAs::Base64 && self.format.is_none()
    }

    /// Files stay where the graph wrote them, as it wrote them, whatever is configured.
    pub fn as_written() -> Self {
        Self {
            form: ReturnImagesAs::Metadata,
            format: None,
            quality: 0,
            idle_quality: false,
            max_bytes: None,
            picture_url: false,
            bucket: None,
        }
    }
}

/// Brings results back.
#[derive(Debug)]
pub struct Results {
    files: Files,
    safety: Option<SafetyChecker>,
    settings: DeliverySettings,
}

impl Results {
    /// The results of jobs on these ComfyUIs. `safety` judges pictures, where that is configured.
    pub fn new(comfy: impl Into<Comfys>, settings: DeliverySettings, safety: Option<SafetyChecker>) -> Arc<Self> {
        Arc::new(Self {
            files: Files::new(comfy.into()),
            safety,
            settings,
        })
    }

    /// Where work on pictures is done.
    pub(crate) fn cores(&self) -> &Cores {
        &self.files.cores
    }

    /// Whether a result can go back as its request asks for, as far as that can be told before the job runs. A bucket that the
    /// request names is looked at, and what its name resolves to now, so that the user is told at once.
    pub async fn check(&self, asked: &Delivery) -> Result<(), JobError> {
        self.plan(asked)?;
        let Some(access) = &asked.bucket else { return Ok(()) };
        let judged = Bucket::check_of_request(access, &self.settings.guard);
        match tokio::time::timeout(NAME_TIMEOUT, judged).await {
            Ok(judged) => judged.map_err(|error| invalid_bucket(&error)),
            // It is judged again when it is used.
            Err(_) => Ok(()),
        }
    }

    /// The format that a request's pictures come in; [`None`]: as they were written.
    pub fn format(&self, asked: &Delivery) -> Option<ImageFormat> {
        asked.output_format.or(self.settings.output_format)
    }

    /// What a request asks for, and for the rest what is configured. Fails when the request's bucket cannot be used.
    pub fn plan(&self, asked: &Delivery) -> Result<Plan, JobError> {
        let settings = &self.settings;
        let configured = settings.bucket.as_ref();
        let own = match &asked.bucket {
            Some(access) => {
                let bucket = Bucket::of_request(access, configured, &settings.guard);
                Some(bucket.map_err(|error| invalid_bucket(&error))?)
            }
            None => None,
        };
        let form = match asked.return_images_as {
            None | Some(ReturnImagesAs::Auto) if own.is_some() => ReturnImagesAs::S3Url,
            None | Some(ReturnImagesAs::Auto) => settings.form,
            Some(form) => form,
        };
        let format = self.format(asked);
        Ok(Plan {
            form,
            format,
            idle_quality: asked.quality.is_some() && matches!(format, None | Some(ImageFormat::Png)),
            quality: asked.quality.unwrap_or(settings.quality),
            max_bytes: asked
                .max_bytes
                .or(settings.max_bytes)
                .map(|limit| room(limit, asked.picture_url)),
            picture_url: asked.picture_url,
            bucket: own.or_else(|| configured.cloned()),
        })
    }

    /// Judges the pictures of an outcome; says in it whether that was done. Fails where they may not be handed out, and removes
    /// those that the job `has_made`.
    pub async fn check_safety(&self, outcome: &mut Outcome, has_made: impl Fn(&Path) -> bool) -> Result<(), JobError> {
        if let Some(checker) = &self.safety {
            return checker.judge(&self.files, outcome, has_made).await;
        }
        let warning = "the pictures were not checked for safety: SAFETY_CHECK_URL is not set";
        outcome.warnings.push(warning.to_owned());
        Ok(())
    }

    /// Converts the images, uploads the files under the `id` by which the job's owner knows it, or sees to it that they fit
    /// into the answer. `wrote` is told of what is written for that.
    pub async fn deliver(
        &self,
        id: &str,
        mut outcome: Outcome,
        mut plan: Plan,
        wrote: &Wrote,
    ) -> Result<Outcome, JobError> {
        let can_write = self.files.comfy.folders().is_some();
        if plan.picture_url && plan.form == ReturnImagesAs::Metadata && !can_write {
            // What is converted can be written nowhere, and is made again as it is read.
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
            if plan.form == ReturnImagesAs::Metadata && !can_write {
                outcome.warnings.push(format!(
                    "images stay as they are, not {}: the worker cannot write where this ComfyUI (COMFYUI_URL) does; ask for \
                     return_images_as base64 or s3_url",
                    format.as_str()
                ));
            } else {
                recode::convert(&self.files, &mut outcome, (format, plan.quality), wrote).await;
            }
        }
        // Why the files are in no bucket, although they should be.
        let reason = match (plan.form, &plan.bucket) {
            (ReturnImagesAs::Auto | ReturnImagesAs::Metadata, _) => return Ok(outcome),
            (ReturnImagesAs::Base64, _) => None,
            (ReturnImagesAs::S3Url, Some(bucket)) => match self.upload(bucket, id, &mut outcome).await? {
                Uploaded::Yes => return Ok(outcome),
                Uploaded::No(reason) => Some(reason),
            },
            (ReturnImagesAs::S3Url, None) => {
                Some("there is no bucket for s3_url (BUCKET_ENDPOINT_URL, or s3Config beside input)".to_owned())
            }
        };
        if let Some(reason) = &reason {
            outcome
                .warnings
                .push(format!("the files are in the answer, in base64: {reason}"));
        }
        outcome.inline = true;
        if let Some(limit) = plan.max_bytes {
            // A bucket that has refused them is not asked again.
            let bucket = plan.bucket.as_ref().filter(|_| reason.is_none());
            self.limit(id, &mut outcome, limit, bucket, reason, Some(wrote)).await?;
        }
        Ok(outcome)
    }

    /// Has an answer that would hold its files take at most `limit` bytes: with its files in the bucket, else with its images
    /// made smaller. `reason` tells why the files are in no bucket, where one was tried. Without `wrote` nothing is written,
    /// and what was made smaller is in the outcome.
    async fn limit(
        &self,
        id: &str,
        outcome: &mut Outcome,
        limit: u64,
        bucket: Option<&Bucket>,
        mut reason: Option<String>,
        wrote: Option<&Wrote>,
    ) -> Result<(), JobError> {
        let lengths = size_limit::measure(&self.files, outcome).await?;
        if lengths.total() <= limit {
            return Ok(());
        }
        if let Some(bucket) = bucket {
            match self.upload(bucket, id, outcome).await? {
                Uploaded::Yes => {
                    outcome.warnings.push(format!(
                        "the answer would have {} with its files in base64 and may have {}, so they are in the bucket",
                        Size(lengths.total()),
                        Size(limit)
                    ));
                    return Ok(());
                }
                Uploaded::No(error) => {
                    outcome
                        .warnings
                        .push(format!("the answer is too large for base64, and {error}"));
                    reason = Some(error);
                }
            }
        }
        let made = size_limit::shrink(&self.files, outcome, &lengths, limit, reason.as_deref()).await?;
        outcome.warnings.push(size_limit::warning(&lengths, limit, &made));
        recode::keep(&self.files, outcome, made, wrote).await
    }

    /// The finished job with a smaller result, of at most so many bytes, since its receiver refused it for its size: in the
    /// configured bucket, or with its images made smaller; the reason ([`ErrorKind::Undeliverable`]) where neither does. It
    /// holds its files where [`Outcome::inline`] says so; what is stored of the job stays as it is. Its owner knows the job
    /// by `name`.
    pub async fn shrunk(&self, name: &str, mut view: JobView, max_bytes: u64) -> JobView {
        if let Some(Ok(outcome)) = view.result {
            view.result = Some(self.shrink(name, outcome, max_bytes).await.map_err(Arc::new));
        }
        view
    }

    async fn shrink(&self, id: &str, outcome: Arc<Outcome>, max_bytes: u64) -> Result<Arc<Outcome>, JobError> {
        if !outcome.inline {
            let message = "The result was refused for its size, and holds no files that could go elsewhere";
            return Err(JobError::new(ErrorKind::Undeliverable, message).hint("Have the graph make less text."));
        }
        let mut outcome = Arc::unwrap_or_clone(outcome);
        let limit = room(max_bytes, outcome.picture_url);
        let bucket = self.settings.bucket.as_ref();
        self.limit(id, &mut outcome, limit, bucket, None, None).await?;
        self.filled(Arc::new(outcome)).await
    }

    /// Fills the files into a finished job's outcome, where its answer is to hold them: each is read once and encoded once.
    pub async fn inlined(&self, mut view: JobView) -> JobView {
        if let Some(Ok(outcome)) = view.result {
            view.result = Some(self.filled(outcome).await.map_err(Arc::new));
        }
        view
    }

    async fn filled(&self, outcome: Arc<Outcome>) -> Result<Arc<Outcome>, JobError> {
        if !outcome.inline {
            return Ok(outcome);
        }
        let mut filled = Arc::unwrap_or_clone(outcome);
        let empty = filled.wanted_mut().filter(|file| file.base64.is_none());
        try_join_all(empty.map(|file| async move {
            file.base64 = Some(self.files.base64(file).await?);
            Ok::<_, JobError>(())
        }))
        .await?;
        Ok(Arc::new(filled))
    }

    /// Fills the pictures into a finished job's outcome, whatever its form. Whoever asks has their addresses too, so one
    /// that cannot be read is left out.
    pub async fn with_pictures(&self, mut view: JobView) -> JobView {
        let Some(Ok(outcome)) = view.result else { return view };
        let mut filled = Arc::unwrap_or_clone(outcome);
        let pictures = filled.wanted_mut();
        let empty = pictures.filter(|file| file.kind == FileKind::Image && file.base64.is_none());
        join_all(empty.map(|file| async move {
            match self.files.base64(file).await {
                Ok(text) => file.base64 = Some(text),
                Err(error) => tracing::warn!("a picture is answered by its address alone: {}", error.full_text()),
            }
        }))
        .await;
        view.result = Some(Ok(Arc::new(filled)));
        view
    }

    /// The base64 of a file that was written just now is at hand.
    pub async fn is_at_hand(&self, file: &OutputFile, base64: Bytes) {
        self.files.is_at_hand(file, base64).await;
    }

    /// The content of a file as it is returned, wherever ComfyUI is.
    pub async fn content(&self, file: &OutputFile) -> Result<Bytes, JobError> {
        self.files.content(file).await
    }

    /// Its length in bytes.
    pub async fn length(&self, file: &OutputFile) -> Result<u64, JobError> {
        self.files.length(file).await
    }

    /// Uploads the wanted files.
    async fn upload(&self, bucket: &Bucket, id: &str, outcome: &mut Outcome) -> Result<Uploaded, JobError> {
        let uploads = outcome.wanted().map(|file| async move {
            let content = match self.files.path(file, &file.filename)? {
                Some(path) => Content::File(path),
                None => Content::Bytes(self.files.remote(file).await?),
            };
            Ok::<_, JobError>(Upload {
                subfolder: file.subfolder.clone(),
                filename: file.filename.clone(),
                content,
            })
        });
        let uploads = try_join_all(uploads).await?;
        if uploads.is_empty() {
            return Ok(Uploaded::Yes);
        }
        match bucket.upload(id, uploads).await {
            Ok(urls) => {
                for (file, url) in outcome.wanted_mut().zip(urls) {
                    file.url = Some(url);
                    file.base64 = None;
                }
                outcome.inline = false;
                Ok(Uploaded::Yes)
            }
            Err(error) => {
                tracing::warn!(%error, "the files could not be uploaded");
                let reason = JobError::from(error).full_text();
                Ok(Uploaded::No(format!("the files could not be uploaded: {reason}")))
            }
        }
    }
}

fn invalid_bucket(error: &BucketError) -> JobError {
    JobError::invalid(format!("Invalid request: s3Config: {error}")).hint(error.hint())
}

/// Whether the files are in the bucket.
enum Uploaded {
    Yes,
    /// It did not take them, for this reason.
    No(String),
}

/// How many bytes of an answer its files may take once. A picture may be there a second time, as a data URI.
fn room(limit: u64, picture_url: bool) -> u64 {
    if picture_url { limit / 2 } else { limit }
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod limit_tests;
#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
