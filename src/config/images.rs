//! How input images are fetched.

use std::time::Duration;

use serde::Deserialize;

use super::variable::{Reader, Variable, integer};

/// How input images are fetched that a request names by URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagesConfig {
    /// The most bytes of one image.
    pub max_bytes: usize,
    /// The longest that one image may take, all attempts included.
    pub timeout: Duration,
    /// The buckets that `s3://` may name with the configured keys, beside the one for results.
    pub buckets: Vec<String>,
}

const IMAGE_MAX_BYTES: Variable = Variable {
    name: "IMAGE_MAX_BYTES",
    kind: "bytes, 1000 to 1000000000",
    default: Some("32000000"),
    example: "10000000",
    meaning: "Most bytes of an input image that is fetched from a URL. The images of one job may have four times that together.",
    secret: false,
};
const IMAGE_TIMEOUT_S: Variable = Variable {
    name: "IMAGE_TIMEOUT_S",
    kind: "seconds, 1 to 600",
    default: Some("60"),
    example: "20",
    meaning: "The longest that an input image may take to be fetched from a URL, all attempts included. A server that is silent for a third of that, but 10 seconds at least, is given up sooner. Other jobs go on meanwhile.",
    secret: false,
};
const IMAGE_BUCKETS: Variable = Variable {
    name: "IMAGE_BUCKETS",
    kind: "names, comma-separated",
    default: None,
    example: "uploads,library",
    meaning: "Further buckets from which `s3://BUCKET/KEY` may name input images. They are read with the keys of the bucket for results, which may be named anyway.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&IMAGE_MAX_BYTES, &IMAGE_TIMEOUT_S, &IMAGE_BUCKETS];

#[derive(Deserialize, Default)]
#[expect(clippy::struct_field_names, reason = "they are the variables' names")]
struct Raw {
    image_max_bytes: Option<String>,
    image_timeout_s: Option<String>,
    image_buckets: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<ImagesConfig> {
    let raw: Raw = reader.raw(vars);
    let max_bytes = reader.value(
        &IMAGE_MAX_BYTES,
        raw.image_max_bytes,
        integer(1000..=1_000_000_000_usize),
    );
    let timeout = reader.value(&IMAGE_TIMEOUT_S, raw.image_timeout_s, integer(1..=600_u64));
    let buckets = reader.optional(&IMAGE_BUCKETS, raw.image_buckets, |text| {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(names.map(str::to_owned).collect())
    });
    Some(ImagesConfig {
        max_bytes: max_bytes?,
        timeout: Duration::from_secs(timeout?),
        buckets: buckets?.unwrap_or_default(),
    })
}
