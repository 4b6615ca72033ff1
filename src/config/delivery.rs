//! How results go back, and the bucket that they go to.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::endpoint::{BucketAccess, EndpointMistake, S3Endpoint};
use super::variable::{Reader, Secret, Variable, parsed, seconds, secret, text, web_address, whole};

/// The form in which a result names or holds its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReturnImagesAs {
    /// What suits the way the job came in, and the bucket where there is one.
    Auto,
    /// File names, to be fetched from `/view`.
    Metadata,
    /// The bytes themselves.
    Base64,
    /// Addresses in a bucket.
    S3Url,
}

impl ReturnImagesAs {
    /// The names that requests and the environment use.
    pub const NAMES: [&'static str; 4] = ["auto", "metadata", "base64", "s3_url"];

    /// The name in [`Self::NAMES`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Metadata => "metadata",
            Self::Base64 => "base64",
            Self::S3Url => "s3_url",
        }
    }

    /// Reads one of [`Self::NAMES`].
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Auto, Self::Metadata, Self::Base64, Self::S3Url];
        all.into_iter().find(|form| name.eq_ignore_ascii_case(form.as_str()))
    }
}

/// A format that images can be returned in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Without loss.
    Png,
    /// With loss, without transparency.
    Jpeg,
    /// With loss, with transparency.
    Webp,
}

impl ImageFormat {
    /// The names that requests and the environment use.
    pub const NAMES: [&'static str; 3] = ["png", "jpeg", "webp"];

    /// The name in [`Self::NAMES`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
        }
    }

    /// The ending of a file of this format.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png | Self::Webp => self.as_str(),
        }
    }

    /// Reads one of [`Self::NAMES`], or `jpg`.
    pub fn parse(name: &str) -> Option<Self> {
        let is = |known| name.eq_ignore_ascii_case(known);
        let all = [Self::Png, Self::Jpeg, Self::Webp];
        all.into_iter()
            .find(|format| is(format.as_str()) || is(format.ending()))
    }
}

/// How results go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// The form of a result, unless the request says otherwise.
    pub return_images_as: ReturnImagesAs,
    /// The format of images, unless the request says otherwise; [`None`]: as the graph wrote them.
    pub output_format: Option<ImageFormat>,
    /// The quality of JPEG and WebP, 1 to 100, unless the request says otherwise.
    pub quality: u8,
    /// The most bytes of an answer; [`None`]: what the platform takes.
    pub result_max_bytes: Option<u64>,
    /// Where `s3_url` results go.
    pub bucket: Option<BucketConfig>,
}

/// The longest that a presigned URL can be good, in seconds: seven days
/// (docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html, `X-Amz-Expires`).
const LONGEST_EXPIRY_S: u64 = 604_800;

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

impl BucketConfig {
    /// The prefix where none is configured.
    pub const DEFAULT_PREFIX: &'static str = "{job_id}";
    /// How long a presigned URL is good where nothing is configured.
    pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(LONGEST_EXPIRY_S);
    /// What a prefix may have in braces.
    pub const PLACEHOLDERS: [&'static str; 3] = ["{job_id}", "{date}", "{filename}"];
}

const RETURN_IMAGES_AS: Variable<ReturnImagesAs> =
    parsed("RETURN_IMAGES_AS", "auto, metadata, base64 or s3_url", return_images_as)
        .default_and_example("auto", "base64")
        .meaning("`metadata`: file names for `/view`; `base64`: the bytes in the answer; `s3_url`: addresses in the bucket; `auto`: the bucket if there is one, else base64 on RunPod and metadata elsewhere. `input.return_images_as` overrides it.");
const OUTPUT_FORMAT: Variable<ImageFormat> = parsed("OUTPUT_FORMAT", "png, jpeg or webp", output_format)
    .example("webp")
    .meaning("Format of returned images; not set: as the graph wrote them. `input.output_format` overrides it.");
const OUTPUT_QUALITY: Variable<u8> = whole("OUTPUT_QUALITY", "number", 1..=100)
    .default_and_example("90", "80")
    .meaning("Quality of images returned as JPEG or WebP. `input.quality` overrides it.");
const RESULT_MAX_BYTES: Variable<u64> = whole("RESULT_MAX_BYTES", "bytes", 10_000..=1_000_000_000)
    .example("8000000")
    .meaning("Most bytes of an answer. A larger one goes to the bucket if there is one, else its images are made smaller. Not set: what RunPod takes (10 MB for `/run`, 20 MB for `/runsync`, 30 MB on a load-balancing endpoint), and no limit elsewhere.");

const BUCKET_ENDPOINT_URL: Variable<Url> = parsed("BUCKET_ENDPOINT_URL", "URL", web_address)
    .example("https://my-bucket.s3.us-east-1.amazonaws.com")
    .meaning("S3 endpoint of the bucket for results: of the service (`https://s3.eu-central-1.amazonaws.com`), with the bucket in the host, or with the bucket in the path (`https://ACCOUNT.r2.cloudflarestorage.com/my-bucket`). Not set: no bucket.");
const BUCKET_ACCESS_KEY_ID: Variable<String> = text("BUCKET_ACCESS_KEY_ID", "text")
    .example("AKIAIOSFODNN7EXAMPLE")
    .meaning("The bucket's access key id. Needed with `BUCKET_ENDPOINT_URL`.");
const BUCKET_SECRET_ACCESS_KEY: Variable<Secret> = secret("BUCKET_SECRET_ACCESS_KEY")
    .example("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    .meaning("The bucket's secret access key. It must be allowed to put and to get objects. Needed with `BUCKET_ENDPOINT_URL`.");
const BUCKET_NAME: Variable<String> = text("BUCKET_NAME", "text")
    .example("my-bucket")
    .meaning("The bucket, where `BUCKET_ENDPOINT_URL` does not name it. Named by neither: month and year of the upload, as RunPod's own upload does (`11-26`).");
const BUCKET_REGION: Variable<String> = parsed("BUCKET_REGION", "text", region)
    .example("eu-central-1")
    .meaning("The bucket's region. Not set: what `BUCKET_ENDPOINT_URL` shows, `auto` for Cloudflare R2 and Google Cloud Storage, else `us-east-1`.");
const BUCKET_PREFIX: Variable<String> = parsed("BUCKET_PREFIX", "text with `{job_id}`, `{date}`, `{filename}`", prefix)
    .default_and_example(BucketConfig::DEFAULT_PREFIX, "images/{date}/{job_id}")
    .meaning("Folder of each object in the bucket. `{date}` is the day of the upload in UTC (`2026-11-21`). With `{filename}` it is the whole name of the object, else `/` and the file's name follow. Without `{job_id}`, files of later jobs replace those of the same name.");
const BUCKET_URL_EXPIRY_S: Variable<Duration> = seconds("BUCKET_URL_EXPIRY_S", 1..=LONGEST_EXPIRY_S)
    .default_and_example("604800", "3600")
    .meaning("How long the addresses of results are good. Seven days is the most that S3 allows.");
const BUCKET_PUBLIC_URL: Variable<Url> = parsed("BUCKET_PUBLIC_URL", "URL", web_address)
    .example("https://cdn.example.com/results")
    .meaning("The address under which the bucket's objects are public. Results then have lasting addresses below it instead of presigned ones.");

pub(super) fn read(reader: &mut Reader) -> DeliveryConfig {
    DeliveryConfig {
        return_images_as: reader.value(&RETURN_IMAGES_AS),
        output_format: reader.optional(&OUTPUT_FORMAT),
        quality: reader.value(&OUTPUT_QUALITY),
        result_max_bytes: reader.optional(&RESULT_MAX_BYTES),
        bucket: bucket(reader.section("Bucket for results")),
    }
}

fn bucket(reader: &mut Reader) -> Option<BucketConfig> {
    let endpoint = reader.optional(&BUCKET_ENDPOINT_URL);
    let id = reader.optional(&BUCKET_ACCESS_KEY_ID);
    let key = reader.optional(&BUCKET_SECRET_ACCESS_KEY);
    let name = reader.optional(&BUCKET_NAME);
    let region = reader.optional(&BUCKET_REGION);
    let prefix = reader.value(&BUCKET_PREFIX);
    let url_expiry = reader.value(&BUCKET_URL_EXPIRY_S);
    let public_url = reader.optional(&BUCKET_PUBLIC_URL);
    let wrong = match &endpoint {
        Some(_) => "is not set, and BUCKET_ENDPOINT_URL is; set both, or neither",
        None if reader.is_set(&BUCKET_ENDPOINT_URL) => return None,
        None => "is set, and BUCKET_ENDPOINT_URL is not; set both, or neither",
    };
    if id.is_some() != endpoint.is_some() {
        reader.mistake(&BUCKET_ACCESS_KEY_ID, wrong);
    }
    if key.is_some() != endpoint.is_some() {
        reader.mistake(&BUCKET_SECRET_ACCESS_KEY, wrong);
    }
    let access = BucketAccess {
        endpoint: endpoint?,
        access_key_id: id?,
        secret_access_key: key?,
        name,
        region,
    };
    match S3Endpoint::resolve(&access) {
        Ok(resolved) => reader.computed(&BUCKET_REGION, resolved.region),
        Err(mistake @ (EndpointMistake::TwoBuckets { .. } | EndpointMistake::Name(_))) if access.name.is_some() => {
            reader.mistake(&BUCKET_NAME, mistake.to_string());
        }
        Err(mistake) => reader.mistake(&BUCKET_ENDPOINT_URL, mistake.to_string()),
    }
    Some(BucketConfig {
        access,
        prefix,
        url_expiry,
        public_url,
    })
}

fn return_images_as(text: &str) -> Result<ReturnImagesAs, String> {
    ReturnImagesAs::parse(text).ok_or_else(|| format!("is none of {}", ReturnImagesAs::NAMES.join(", ")))
}

fn output_format(text: &str) -> Result<ImageFormat, String> {
    ImageFormat::parse(text).ok_or_else(|| format!("is none of {}", ImageFormat::NAMES.join(", ")))
}

/// A region stands in the `Authorization` header, between slashes.
fn region(text: &str) -> Result<String, String> {
    let is_region = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_region
        .then(|| text.to_owned())
        .ok_or_else(|| "is no region: it has more than letters, digits and hyphens".to_owned())
}

/// Takes slashes from both ends.
fn prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_matches('/');
    let mut rest = prefix.to_owned();
    for placeholder in BucketConfig::PLACEHOLDERS {
        rest = rest.replace(placeholder, "x");
    }
    if rest.contains(['{', '}']) {
        let known = BucketConfig::PLACEHOLDERS.join(", ");
        return Err(format!("has braces around something other than {known}"));
    }
    if rest.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err("has an empty part, `.` or `..` between its slashes".to_owned());
    }
    if rest.contains(char::is_control) {
        return Err("has a control character".to_owned());
    }
    Ok(prefix.to_owned())
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
