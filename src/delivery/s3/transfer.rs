//! One file on its way to a bucket, whole or in parts when it is large; or one object on its way from there.

use std::error::Error;
use std::io;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;

use super::client::Patience;
use super::error::{BucketError, Place};
use super::{Content, REQUESTS_AT_ONCE, Upload};
use crate::display::error_chain;

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

/// What the transfers of one job share.
#[derive(Debug)]
pub(super) struct Transfers<'a> {
    pub(super) client: &'a Client,
    pub(super) place: Place,
    pub(super) sizes: Sizes,
    pub(super) patience: Patience,
    pub(super) requests: &'a Semaphore,
}

impl Transfers<'_> {
    /// Uploads one file.
    pub(super) async fn send(&self, key: &str, upload: Upload) -> Result<(), BucketError> {
        let Upload { filename, content, .. } = upload;
        let unreadable = |error| BucketError::File(filename.clone(), error);
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
        request.send().await.map_err(|error| self.failed(&error))?;
        Ok(())
    }

    async fn in_parts(&self, file: File<'_>, size: u64) -> Result<(), BucketError> {
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.place.bucket)
            .key(file.key);
        let begun = request.content_type(content_type(file.filename)).send().await;
        let begun = begun.map_err(|error| self.failed(&error))?;
        let no_id = || BucketError::Other(self.place.clone(), "it gave no id for an upload in parts".to_owned());
        let id = begun.upload_id.ok_or_else(no_id)?;
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
        request.send().await.map_err(|error| self.failed(&error))?;
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
        let sent = request.send().await.map_err(|error| self.failed(&error))?;
        Ok(CompletedPart::builder()
            .set_e_tag(sent.e_tag)
            .part_number(number)
            .build())
    }

    /// Reads one object; [`None`]: it has more than `limit` bytes. The caller limits the time.
    pub(super) async fn get(&self, key: &str, limit: usize) -> Result<Option<Bytes>, BucketError> {
        let request = self.client.get_object().bucket(&self.place.bucket).key(key);
        let object = request.send().await.map_err(|error| match &error {
            SdkError::ServiceError(answer)
                if answer.err().is_no_such_key() || answer.err().code() == Some("NoSuchKey") =>
            {
                BucketError::NoObject(self.place.clone(), key.to_owned())
            }
            _ => self.failed(&error),
        })?;
        let fits = |length: i64| usize::try_from(length).is_ok_and(|length| length <= limit);
        if object.content_length.is_some_and(|length| !fits(length)) {
            return Ok(None);
        }
        let mut body = object.body;
        let mut whole = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| {
                let reason = format!("the object broke off: {}", error_chain(&error));
                BucketError::Unreachable(self.place.clone(), reason)
            })?;
            if whole.len() + piece.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.freeze()))
    }

    /// Removes one object; that there is none is as good.
    pub(super) async fn remove(&self, key: &str) -> Result<(), BucketError> {
        let request = self.client.delete_object().bucket(&self.place.bucket).key(key);
        request.send().await.map_err(|error| self.failed(&error))?;
        Ok(())
    }

    fn failed<E: Error + ProvideErrorMetadata + 'static>(&self, error: &SdkError<E, HttpResponse>) -> BucketError {
        BucketError::of(error, &self.place)
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
        let unreadable = |error| BucketError::File(self.filename.to_owned(), error);
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

/// What a file is, by its ending (iana.org/assignments/media-types, and MDN's "Common media types" for what is not
/// registered).
fn content_type(filename: &str) -> &'static str {
    let ending = filename.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "apng" => "image/apng",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "avif" => "image/avif",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "svg" => "image/svg+xml",
        "exr" => "image/x-exr",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "mkv" => "video/x-matroska",
        "avi" => "video/x-msvideo",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "ogg" | "opus" => "audio/ogg",
        "m4a" => "audio/mp4",
        "aac" => "audio/aac",
        "glb" => "model/gltf-binary",
        "gltf" => "model/gltf+json",
        "obj" => "model/obj",
        "stl" => "model/stl",
        "json" => "application/json",
        "txt" | "log" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "srt" => "application/x-subrip",
        "vtt" => "text/vtt",
        "zip" => "application/zip",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
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

    #[test]
    fn by_ending_in_any_case() {
        for (name, expected) in [
            ("a.png", "image/png"),
            ("a.b.PNG", "image/png"),
            ("a.jpg", "image/jpeg"),
            ("a.mp4", "video/mp4"),
            ("a.opus", "audio/ogg"),
            ("a.glb", "model/gltf-binary"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.safetensors", "application/octet-stream"),
            ("png", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), expected, "{name}");
        }
    }
}
