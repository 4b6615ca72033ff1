//! How results go back.

use serde::{Deserialize, Serialize};

use super::bucket::{self, BucketConfig};
use super::variable::{Reader, Variable, integer};

/// The form in which a result names or holds its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        match name.to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "metadata" => Some(Self::Metadata),
            "base64" => Some(Self::Base64),
            "s3_url" => Some(Self::S3Url),
            _ => None,
        }
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
        match name.to_ascii_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpeg" | "jpg" => Some(Self::Jpeg),
            "webp" => Some(Self::Webp),
            _ => None,
        }
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

const RETURN_IMAGES_AS: Variable = Variable {
    name: "RETURN_IMAGES_AS",
    kind: "auto, metadata, base64 or s3_url",
    default: Some("auto"),
    example: "base64",
    meaning: "`metadata`: file names for `/view`; `base64`: the bytes in the answer; `s3_url`: addresses in the bucket; `auto`: the bucket if there is one, else base64 on RunPod and metadata elsewhere. `input.return_images_as` overrides it.",
    secret: false,
};
const OUTPUT_FORMAT: Variable = Variable {
    name: "OUTPUT_FORMAT",
    kind: "png, jpeg or webp",
    default: None,
    example: "webp",
    meaning: "Format of returned images; not set: as the graph wrote them. `input.output_format` overrides it.",
    secret: false,
};
const OUTPUT_QUALITY: Variable = Variable {
    name: "OUTPUT_QUALITY",
    kind: "number, 1 to 100",
    default: Some("90"),
    example: "80",
    meaning: "Quality of images returned as JPEG or WebP. `input.quality` overrides it.",
    secret: false,
};
const RESULT_MAX_BYTES: Variable = Variable {
    name: "RESULT_MAX_BYTES",
    kind: "bytes, 10000 to 1000000000",
    default: None,
    example: "8000000",
    meaning: "Most bytes of an answer. A larger one goes to the bucket if there is one, else its images are made smaller. Not set: what RunPod takes (10 MB for `/run`, 20 MB for `/runsync`, 30 MB on a load-balancing endpoint), and no limit elsewhere.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&RETURN_IMAGES_AS, &OUTPUT_FORMAT, &OUTPUT_QUALITY, &RESULT_MAX_BYTES];

#[derive(Deserialize, Default)]
struct Raw {
    return_images_as: Option<String>,
    output_format: Option<String>,
    output_quality: Option<String>,
    result_max_bytes: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<DeliveryConfig> {
    let raw: Raw = reader.raw(vars);
    let return_images_as = reader.value(&RETURN_IMAGES_AS, raw.return_images_as, |text| {
        ReturnImagesAs::parse(text).ok_or_else(|| format!("is none of {}", ReturnImagesAs::NAMES.join(", ")))
    });
    let output_format = reader.optional(&OUTPUT_FORMAT, raw.output_format, |text| {
        ImageFormat::parse(text).ok_or_else(|| format!("is none of {}", ImageFormat::NAMES.join(", ")))
    });
    let quality = reader.value(&OUTPUT_QUALITY, raw.output_quality, integer(1..=100_u8));
    let result_max_bytes = reader.optional(
        &RESULT_MAX_BYTES,
        raw.result_max_bytes,
        integer(10_000..=1_000_000_000_u64),
    );
    let bucket = bucket::read(reader, vars);
    Some(DeliveryConfig {
        return_images_as: return_images_as?,
        output_format: output_format?,
        quality: quality?,
        result_max_bytes: result_max_bytes?,
        bucket: bucket?,
    })
}
