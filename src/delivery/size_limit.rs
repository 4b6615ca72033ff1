//! The most bytes that an answer which holds its files may have, and images made smaller for that.

use futures_util::future::try_join_all;

use super::encode::Picture;
use super::files::Files;
use crate::config::ImageFormat;
use crate::display::Size;
use crate::error::{ErrorKind, JobError};
use crate::job::{FileKind, Outcome, OutputFile};

/// The qualities that images are made with until the answer fits, best first.
const QUALITIES: [u8; 6] = [90, 80, 70, 60, 50, 40];
/// The bytes of an answer around its output, and of a warning that is still to come.
const AROUND: u64 = 2_048;
/// The bytes by which the entry of one file may grow when it gets another name.
const RENAMING: u64 = 64;

/// Bytes of an answer that holds its files.
pub(super) struct Lengths {
    /// Everything but the files; at most so many.
    around: u64,
    /// Each wanted file, in base64.
    files: Vec<u64>,
}

impl Lengths {
    pub(super) fn total(&self) -> u64 {
        self.around + self.files.iter().sum::<u64>()
    }
}

/// An image, made smaller.
pub(super) struct Smaller {
    /// Its place among the wanted files.
    pub(super) at: usize,
    pub(super) format: ImageFormat,
    pub(super) quality: u8,
    pub(super) content: Vec<u8>,
}

/// The length of this many bytes in base64.
fn in_base64(bytes: u64) -> u64 {
    bytes.div_ceil(3).saturating_mul(4)
}

/// How long the answer is when it holds its files.
pub(super) async fn measure(files: &Files, outcome: &Outcome) -> Result<Lengths, JobError> {
    let lengths = outcome.wanted().map(|file| async move {
        match &file.base64 {
            Some(text) => Ok(text.len() as u64),
            None => files.length(file).await.map(in_base64),
        }
    });
    Ok(Lengths {
        around: around(outcome),
        files: try_join_all(lengths).await?,
    })
}

/// The most bytes of the answer without its files' content. The stored form of an outcome has all that the answer has;
/// an image is named twice there, under `images` and `files`.
fn around(outcome: &Outcome) -> u64 {
    let length = |json: serde_json::Result<Vec<u8>>| json.map_or(0, |json| json.len() as u64);
    let files = outcome.files.len() as u64;
    AROUND + files * 2 * RENAMING + length(serde_json::to_vec(outcome)) + length(serde_json::to_vec(&outcome.files))
}

/// An image that can be made smaller.
struct Candidate<'a> {
    at: usize,
    file: &'a OutputFile,
    /// It has this quality already.
    below: u8,
    /// In base64.
    length: u64,
    made: Option<Smaller>,
}

/// Makes the still images of an answer smaller until it fits: all with the same quality, the best that does it. An
/// image that would become larger stays as it is. One decoded picture is in memory at a time: ComfyUI needs the rest.
/// Fails with [`ErrorKind::Undeliverable`] where that does not suffice; `bucket` tells why the files are in no bucket,
/// where one was tried.
pub(super) async fn shrink(
    files: &Files,
    outcome: &Outcome,
    lengths: &Lengths,
    limit: u64,
    bucket: Option<&str>,
) -> Result<Vec<Smaller>, JobError> {
    let length = lengths.total();
    let images = outcome.wanted().zip(&lengths.files).enumerate();
    let images = images.filter(|(_, (file, _))| file.kind == FileKind::Image);
    let mut candidates: Vec<_> = images
        .map(|(at, (file, length))| Candidate {
            at,
            file,
            below: quality_of(file),
            length: *length,
            made: None,
        })
        .collect();
    let sum = |candidates: &[Candidate<'_>]| candidates.iter().map(|image| image.length).sum::<u64>();
    let mut fixed = length - sum(&candidates);
    if fixed > limit {
        return Err(too_large(length, limit, fixed, bucket));
    }
    let format = match outcome.output_format {
        Some(ImageFormat::Jpeg) => ImageFormat::Jpeg,
        _ => ImageFormat::Webp,
    };
    for quality in QUALITIES {
        let is_last = quality == QUALITIES[QUALITIES.len() - 1];
        let mut at = 0;
        let mut tried = 0;
        while let Some(image) = candidates.get_mut(at) {
            if quality < image.below && !make(files, image, format, quality).await? {
                // What cannot be decoded stays as it is.
                fixed += image.length;
                candidates.remove(at);
                continue;
            }
            tried += image.length;
            at += 1;
            // Those that follow need not be tried with a quality that is too good already.
            if fixed + tried > limit && !is_last {
                break;
            }
        }
        if fixed + sum(&candidates) <= limit {
            return Ok(candidates.into_iter().filter_map(|image| image.made).collect());
        }
    }
    Err(too_large(length, limit, fixed + sum(&candidates), bucket))
}

/// The quality that a file has where we made it, or more than any.
fn quality_of(file: &OutputFile) -> u8 {
    match &file.recoded {
        Some(recoded) if recoded.format != ImageFormat::Png => recoded.quality,
        _ => u8::MAX,
    }
}

/// Makes one image with this quality, if that is smaller. False: it cannot be decoded.
async fn make(files: &Files, image: &mut Candidate<'_>, format: ImageFormat, quality: u8) -> Result<bool, JobError> {
    let Ok(content) = files.original(image.file).await else {
        return Ok(false);
    };
    let made = files
        .cores
        .run(move || Picture::decode(&content).map(|picture| picture.encode(format, quality)));
    let made = match made.await? {
        Ok(made) => made,
        Err(error) => {
            tracing::debug!(%error, "`{}` is not made smaller", image.file.filename);
            return Ok(false);
        }
    };
    // What the format cannot hold stays as it is.
    let Ok(content) = made else { return Ok(true) };
    let length = in_base64(content.len() as u64);
    if length < image.length {
        image.length = length;
        image.made = Some(Smaller {
            at: image.at,
            format,
            quality,
            content,
        });
    }
    Ok(true)
}

/// What a result says whose images were made smaller.
pub(super) fn warning(lengths: &Lengths, limit: u64, made: &[Smaller]) -> String {
    let before: u64 = made.iter().filter_map(|image| lengths.files.get(image.at)).sum();
    let after: u64 = made.iter().map(|image| in_base64(image.content.len() as u64)).sum();
    let least = made.iter().min_by_key(|image| image.quality);
    let form = least.map(|image| format!("{} of quality {}", image.format.as_str(), image.quality));
    format!(
        "the answer would have {} and may have {}, so its images ({}) were made into {}: {} of base64 became {}. A bucket \
         (BUCKET_ENDPOINT_URL, or s3Config beside input) returns them as they are; RESULT_MAX_BYTES is the limit",
        Size(lengths.total()),
        Size(limit),
        made.len(),
        form.unwrap_or_default(),
        Size(before),
        Size(after)
    )
}

/// `least` is its length with the images as small as they are made.
fn too_large(length: u64, limit: u64, least: u64, bucket: Option<&str>) -> JobError {
    let smaller = if least < length {
        format!("; with its images made smaller it would have {}", Size(least))
    } else {
        String::new()
    };
    let message = format!(
        "The result is too large: with its files in base64 the answer would have {}, and it may have {}{smaller}{}",
        Size(length),
        Size(limit),
        bucket.map(|reason| format!("; {reason}")).unwrap_or_default()
    );
    JobError::new(ErrorKind::Undeliverable, message).hint(
        "Give the worker a bucket (BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY) or send s3Config \
         beside input; or ask for less (batch_size, width and height, length); or for return_images_as metadata, \
         where /view can be reached.",
    )
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn base64_is_as_long_as_expected() {
        for length in 0..40 {
            let encoded = STANDARD.encode(vec![0; length]);
            assert_eq!(in_base64(length as u64), encoded.len() as u64, "{length}");
        }
    }
}
