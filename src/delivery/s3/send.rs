//! One file on its way to the bucket: whole, or in parts when it is large.

use std::io;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;

use super::client::Patience;
use super::content_type::content_type;
use super::error::{BucketError, Place};
use super::{Content, REQUESTS_AT_ONCE, Upload};

/// How much of a file is read at once, in bytes.
const READ_SIZE: usize = 256 * 1024;
/// The most parts of one upload (docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
const MOST_PARTS: u64 = 10_000;

/// Where the parts of a large file begin and end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// The largest file that goes in one request, in bytes.
    pub(super) whole: u64,
    /// The size of a part, in bytes. S3 wants 5 MiB at least, and R2 wants all but the last alike.
    pub(super) part: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            whole: 64 * 1024 * 1024,
            part: 16 * 1024 * 1024,
        }
    }
}

impl Sizes {
    /// Offset and length of each part of a file; larger parts where there would be too many.
    fn parts(self, size: u64) -> Vec<(u64, u64)> {
        let length = self.part.max(size.div_ceil(MOST_PARTS));
        let part = |index| (index * length, length.min(size - index * length));
        (0..size.div_ceil(length)).map(part).collect()
    }
}

/// What the uploads of one job share.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    pub(super) client: &'a Client,
    pub(super) place: Place,
    pub(super) sizes: Sizes,
    pub(super) patience: Patience,
    pub(super) requests: &'a Semaphore,
}

impl Sender<'_> {
    /// Uploads one file.
    pub(super) async fn send(&self, key: &str, upload: Upload) -> Result<(), BucketError> {
        let Upload { filename, content, .. } = upload;
        let unreadable = |source| BucketError::File {
            filename: filename.clone(),
            source,
        };
        let size = content.size().await.map_err(unreadable)?;
        let file = File {
            key,
            filename: &filename,
            content: &content,
        };
        if size <= self.sizes.whole {
            self.whole(file, size).await
        } else {
            self.in_parts(file, size).await
        }
    }

    async fn whole(&self, file: File<'_>, size: u64) -> Result<(), BucketError> {
        let _turn = self.turn().await;
        let body = file.body(0, size).await?;
        let request = self.client.put_object().bucket(&self.place.bucket).key(file.key);
        let request = request.content_type(content_type(file.filename)).body(body);
        let request = request
            .customize()
            .config_override(self.patience.for_body(size))
            .disable_payload_signing();
        request
            .send()
            .await
            .map_err(|error| BucketError::of(&error, &self.place))?;
        Ok(())
    }

    async fn in_parts(&self, file: File<'_>, size: u64) -> Result<(), BucketError> {
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.place.bucket)
            .key(file.key);
        let begun = request.content_type(content_type(file.filename)).send().await;
        let begun = begun.map_err(|error| BucketError::of(&error, &self.place))?;
        let id = begun.upload_id.ok_or_else(|| BucketError::Other {
            place: self.place.clone(),
            reason: "it gave no id for an upload in parts".to_owned(),
        })?;
        let mut unfinished = Unfinished(Some(Begun {
            client: self.client.clone(),
            bucket: self.place.bucket.clone(),
            key: file.key.to_owned(),
            id: id.clone(),
        }));
        let sent = self.parts(file, &id, size).await;
        if let (Err(_), Some(begun)) = (&sent, &unfinished.0) {
            begun.abort().await;
        }
        unfinished.0 = None;
        sent
    }

    async fn parts(&self, file: File<'_>, id: &str, size: u64) -> Result<(), BucketError> {
        let parts = self.sizes.parts(size);
        let parts: Vec<_> = (1..)
            .zip(parts)
            .map(|(number, part)| self.part(file, id, number, part))
            .collect();
        let mut sent: Vec<CompletedPart> = stream::iter(parts)
            .buffer_unordered(REQUESTS_AT_ONCE)
            .try_collect()
            .await?;
        sent.sort_unstable_by_key(CompletedPart::part_number);
        let whole = CompletedMultipartUpload::builder().set_parts(Some(sent)).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.place.bucket)
            .key(file.key);
        let request = request.upload_id(id).multipart_upload(whole);
        // Amazon's server may put the parts together for minutes before it answers.
        let request = request.customize().config_override(self.patience.for_body(size));
        request
            .send()
            .await
            .map_err(|error| BucketError::of(&error, &self.place))?;
        Ok(())
    }

    async fn part(
        &self,
        file: File<'_>,
        id: &str,
        number: i32,
        (offset, length): (u64, u64),
    ) -> Result<CompletedPart, BucketError> {
        let _turn = self.turn().await;
        let body = file.body(offset, length).await?;
        let request = self.client.upload_part().bucket(&self.place.bucket).key(file.key);
        let request = request.upload_id(id).part_number(number).body(body);
        let request = request
            .customize()
            .config_override(self.patience.for_body(length))
            .disable_payload_signing();
        let sent = request
            .send()
            .await
            .map_err(|error| BucketError::of(&error, &self.place))?;
        Ok(CompletedPart::builder()
            .set_e_tag(sent.e_tag)
            .part_number(number)
            .build())
    }

    /// Waits until a request with a body may run; it may until the turn is dropped.
    async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        // Nobody closes it.
        self.requests.acquire().await.ok()
    }
}

/// A file and its key.
#[derive(Debug, Clone, Copy)]
struct File<'a> {
    key: &'a str,
    filename: &'a str,
    content: &'a Content,
}

impl File<'_> {
    /// A part of the content, which can be read again for another attempt.
    async fn body(&self, offset: u64, length: u64) -> Result<ByteStream, BucketError> {
        let unreadable = |source| BucketError::File {
            filename: self.filename.to_owned(),
            source,
        };
        match self.content {
            Content::Bytes(bytes) => {
                let at = |place| usize::try_from(place).map_err(|error| unreadable(io::Error::other(error)));
                Ok(bytes.slice(at(offset)?..at(offset + length)?).into())
            }
            Content::File(path) => {
                let stream = ByteStream::read_from().path(path).buffer_size(READ_SIZE);
                let stream = stream.offset(offset).length(Length::Exact(length)).build().await;
                stream.map_err(|error| unreadable(io::Error::other(error)))
            }
        }
    }
}

impl Content {
    async fn size(&self) -> io::Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => Ok(tokio::fs::metadata(path).await?.len()),
        }
    }
}

/// An upload in parts that was begun. Its parts cost money until it is finished or aborted.
#[derive(Debug)]
struct Begun {
    client: Client,
    bucket: String,
    key: String,
    id: String,
}

impl Begun {
    async fn abort(&self) {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key);
        if let Err(error) = request.upload_id(&self.id).send().await {
            let error = aws_sdk_s3::error::DisplayErrorContext(error);
            tracing::warn!(
                key = self.key,
                "the parts of a failed upload may be left in the bucket: {error}"
            );
        }
    }
}

/// Aborts what was begun when the upload is dropped in the middle.
#[derive(Debug)]
struct Unfinished(Option<Begun>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(begun) = self.0.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Whoever dropped the upload does not wait; the task ends by itself, and says what fails.
            runtime.spawn(async move { begun.abort().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_file() {
        let sizes = Sizes { whole: 10, part: 10 };
        assert_eq!(sizes.parts(25), [(0, 10), (10, 10), (20, 5)]);
        assert_eq!(sizes.parts(20), [(0, 10), (10, 10)]);
        let parts = sizes.parts(1_000_001);
        assert_eq!(parts.len(), 9_901);
        assert_eq!(parts.iter().map(|(_, length)| length).sum::<u64>(), 1_000_001);
        assert_eq!(parts[1], (101, 101));
    }
}
