//! The bucket that results go to.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::endpoint::{BucketAccess, EndpointMistake, S3Endpoint};
use super::secret::Secret;
use super::variable::{Reader, Variable, integer, text, web_address};

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

const BUCKET_ENDPOINT_URL: Variable = Variable {
    name: "BUCKET_ENDPOINT_URL",
    kind: "URL",
    default: None,
    example: "https://my-bucket.s3.us-east-1.amazonaws.com",
    meaning: "S3 endpoint of the bucket for results: of the service (`https://s3.eu-central-1.amazonaws.com`), with the bucket in the host, or with the bucket in the path (`https://ACCOUNT.r2.cloudflarestorage.com/my-bucket`). Not set: no bucket.",
    secret: false,
};
const BUCKET_ACCESS_KEY_ID: Variable = Variable {
    name: "BUCKET_ACCESS_KEY_ID",
    kind: "text",
    default: None,
    example: "AKIAIOSFODNN7EXAMPLE",
    meaning: "The bucket's access key id. Needed with `BUCKET_ENDPOINT_URL`.",
    secret: false,
};
const BUCKET_SECRET_ACCESS_KEY: Variable = Variable {
    name: "BUCKET_SECRET_ACCESS_KEY",
    kind: "secret",
    default: None,
    example: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    meaning: "The bucket's secret access key. It must be allowed to put and to get objects. Needed with `BUCKET_ENDPOINT_URL`.",
    secret: true,
};
const BUCKET_NAME: Variable = Variable {
    name: "BUCKET_NAME",
    kind: "text",
    default: None,
    example: "my-bucket",
    meaning: "The bucket, where `BUCKET_ENDPOINT_URL` does not name it. Named by neither: month and year of the upload, as RunPod's own upload does (`11-26`).",
    secret: false,
};
const BUCKET_REGION: Variable = Variable {
    name: "BUCKET_REGION",
    kind: "text",
    default: None,
    example: "eu-central-1",
    meaning: "The bucket's region. Not set: what `BUCKET_ENDPOINT_URL` shows, `auto` for Cloudflare R2 and Google Cloud Storage, else `us-east-1`.",
    secret: false,
};
const BUCKET_PREFIX: Variable = Variable {
    name: "BUCKET_PREFIX",
    kind: "text with `{job_id}`, `{date}`, `{filename}`",
    default: Some(BucketConfig::DEFAULT_PREFIX),
    example: "images/{date}/{job_id}",
    meaning: "Folder of each object in the bucket. `{date}` is the day of the upload in UTC (`2026-11-21`). With `{filename}` it is the whole name of the object, else `/` and the file's name follow. Without `{job_id}`, files of later jobs replace those of the same name.",
    secret: false,
};
const BUCKET_URL_EXPIRY_S: Variable = Variable {
    name: "BUCKET_URL_EXPIRY_S",
    kind: "seconds, 1 to 604800",
    default: Some("604800"),
    example: "3600",
    meaning: "How long the addresses of results are good. Seven days is the most that S3 allows.",
    secret: false,
};
const BUCKET_PUBLIC_URL: Variable = Variable {
    name: "BUCKET_PUBLIC_URL",
    kind: "URL",
    default: None,
    example: "https://cdn.example.com/results",
    meaning: "The address under which the bucket's objects are public. Results then have lasting addresses below it instead of presigned ones.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &BUCKET_ENDPOINT_URL,
    &BUCKET_ACCESS_KEY_ID,
    &BUCKET_SECRET_ACCESS_KEY,
    &BUCKET_NAME,
    &BUCKET_REGION,
    &BUCKET_PREFIX,
    &BUCKET_URL_EXPIRY_S,
    &BUCKET_PUBLIC_URL,
];

#[derive(Deserialize, Default)]
#[expect(clippy::struct_field_names, reason = "they are the variables' names")]
struct Raw {
    bucket_endpoint_url: Option<String>,
    bucket_access_key_id: Option<String>,
    bucket_secret_access_key: Option<String>,
    bucket_name: Option<String>,
    bucket_region: Option<String>,
    bucket_prefix: Option<String>,
    bucket_url_expiry_s: Option<String>,
    bucket_public_url: Option<String>,
}

/// The outer [`None`] only after a mistake.
#[expect(clippy::option_option, reason = "a mistake and an absent bucket are two things")]
pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<Option<BucketConfig>> {
    let raw: Raw = reader.raw(vars);
    let endpoint = reader.optional(&BUCKET_ENDPOINT_URL, raw.bucket_endpoint_url, web_address);
    let id = reader.optional(&BUCKET_ACCESS_KEY_ID, raw.bucket_access_key_id, text);
    let key = reader.optional(&BUCKET_SECRET_ACCESS_KEY, raw.bucket_secret_access_key, |key| {
        Ok(Secret::new(key))
    });
    let name = reader.optional(&BUCKET_NAME, raw.bucket_name, text);
    let region = reader.optional(&BUCKET_REGION, raw.bucket_region, region);
    let prefix = reader.value(&BUCKET_PREFIX, raw.bucket_prefix, prefix);
    let expiry = reader.value(
        &BUCKET_URL_EXPIRY_S,
        raw.bucket_url_expiry_s,
        integer(1..=LONGEST_EXPIRY_S),
    );
    let public_url = reader.optional(&BUCKET_PUBLIC_URL, raw.bucket_public_url, web_address);
    let (endpoint, id, key) = (endpoint?, id?, key?);
    for (variable, is_set) in [
        (&BUCKET_ACCESS_KEY_ID, id.is_some()),
        (&BUCKET_SECRET_ACCESS_KEY, key.is_some()),
    ] {
        let wrong = match (&endpoint, is_set) {
            (Some(_), false) => "is not set, and BUCKET_ENDPOINT_URL is",
            (None, true) => "is set, and BUCKET_ENDPOINT_URL is not",
            _ => continue,
        };
        reader.mistake(variable, format!("{wrong}; set both, or neither"));
    }
    let (name, region, prefix, expiry, public_url) = (name?, region?, prefix?, expiry?, public_url?);
    let Some(endpoint) = endpoint else {
        return (id.is_none() && key.is_none()).then_some(None);
    };
    let access = BucketAccess {
        endpoint,
        access_key_id: id?,
        secret_access_key: key?,
        name,
        region,
    };
    match S3Endpoint::resolve(&access) {
        Ok(resolved) => reader.computed(&BUCKET_REGION, resolved.region),
        Err(mistake) => {
            let about_name = access.name.is_some()
                && matches!(
                    mistake,
                    EndpointMistake::TwoBuckets { .. } | EndpointMistake::Name { .. }
                );
            let variable = if about_name { &BUCKET_NAME } else { &BUCKET_ENDPOINT_URL };
            reader.mistake(variable, mistake.to_string());
            return None;
        }
    }
    Some(Some(BucketConfig {
        access,
        prefix,
        url_expiry: Duration::from_secs(expiry),
        public_url,
    }))
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
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError};

    const WHOLE: [(&str, &str); 3] = [
        ("BUCKET_ENDPOINT_URL", "https://s3.eu-central-1.amazonaws.com"),
        ("BUCKET_ACCESS_KEY_ID", "id"),
        ("BUCKET_SECRET_ACCESS_KEY", "key-4711"),
    ];

    fn bucket(vars: &[(&str, &str)]) -> Result<Option<BucketConfig>, ConfigError> {
        let vars = vars
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_vars(vars).map(|config| config.delivery.bucket)
    }

    fn mistakes(vars: &[(&str, &str)]) -> String {
        bucket(vars).unwrap_err().to_string()
    }

    #[test]
    fn there_is_none_by_default() {
        assert_eq!(bucket(&[]), Ok(None));
        assert_eq!(bucket(&[("BUCKET_NAME", "b"), ("BUCKET_PREFIX", "x")]), Ok(None));
    }

    #[test]
    fn an_endpoint_and_keys_are_enough() {
        let config = bucket(&WHOLE).unwrap().unwrap();
        assert_eq!(config.prefix, "{job_id}");
        assert_eq!(config.url_expiry, Duration::from_hours(7 * 24));
        assert_eq!((config.access.name, config.public_url), (None, None));
        assert_eq!(config.access.secret_access_key.reveal(), "key-4711");
    }

    #[test]
    fn the_rest_is_read_too() {
        let more = [
            ("BUCKET_NAME", "b"),
            ("BUCKET_REGION", "moon-1"),
            ("BUCKET_PREFIX", "/images/{date}/{job_id}-{filename}/"),
            ("BUCKET_URL_EXPIRY_S", "3600"),
            ("BUCKET_PUBLIC_URL", "https://cdn.example.com/results"),
        ];
        let config = bucket(&[&WHOLE[..], &more].concat()).unwrap().unwrap();
        assert_eq!(config.access.name.as_deref(), Some("b"));
        assert_eq!(config.access.region.as_deref(), Some("moon-1"));
        assert_eq!(config.prefix, "images/{date}/{job_id}-{filename}");
        assert_eq!(config.url_expiry, Duration::from_hours(1));
        assert_eq!(config.public_url.unwrap().as_str(), "https://cdn.example.com/results");
    }

    #[test]
    fn check_shows_the_guessed_region_and_no_secret() {
        let vars = WHOLE.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_vars(vars).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("4711"), "{shown}");
        let region = config.resolved.iter().find(|resolved| resolved.name == "BUCKET_REGION");
        assert_eq!(region.unwrap().value.as_deref(), Some("eu-central-1"));
    }

    #[test]
    fn mistakes_by_name() {
        insta::assert_snapshot!(mistakes(&WHOLE[..1]), @"
        the configuration has 2 mistake(s):
          BUCKET_ACCESS_KEY_ID: is not set, and BUCKET_ENDPOINT_URL is; set both, or neither
          BUCKET_SECRET_ACCESS_KEY: is not set, and BUCKET_ENDPOINT_URL is; set both, or neither
        ");
        insta::assert_snapshot!(mistakes(&WHOLE[1..]), @"
        the configuration has 2 mistake(s):
          BUCKET_ACCESS_KEY_ID: is set, and BUCKET_ENDPOINT_URL is not; set both, or neither
          BUCKET_SECRET_ACCESS_KEY: is set, and BUCKET_ENDPOINT_URL is not; set both, or neither
        ");
        insta::assert_snapshot!(mistakes(&[
            ("BUCKET_ENDPOINT_URL", "s3.amazonaws.com"),
            ("BUCKET_REGION", "a/b"),
            ("BUCKET_PREFIX", "{jobid}"),
            ("BUCKET_URL_EXPIRY_S", "604801"),
            ("BUCKET_PUBLIC_URL", "cdn"),
        ]), @"
        the configuration has 5 mistake(s):
          BUCKET_ENDPOINT_URL: `s3.amazonaws.com` is no http or https URL; for example BUCKET_ENDPOINT_URL=https://my-bucket.s3.us-east-1.amazonaws.com
          BUCKET_REGION: `a/b` is no region: it has more than letters, digits and hyphens; for example BUCKET_REGION=eu-central-1
          BUCKET_PREFIX: `{jobid}` has braces around something other than {job_id}, {date}, {filename}; for example BUCKET_PREFIX=images/{date}/{job_id}
          BUCKET_URL_EXPIRY_S: `604801` is no whole number from 1 to 604800; for example BUCKET_URL_EXPIRY_S=3600
          BUCKET_PUBLIC_URL: `cdn` is no http or https URL; for example BUCKET_PUBLIC_URL=https://cdn.example.com/results
        ");
        let host = [
            ("BUCKET_ENDPOINT_URL", "https://a.s3.amazonaws.com"),
            ("BUCKET_NAME", "b"),
        ];
        insta::assert_snapshot!(mistakes(&[&host[..], &WHOLE[1..]].concat()), @"
        the configuration has 1 mistake(s):
          BUCKET_NAME: the endpoint a.s3.amazonaws.com names the bucket `a`, but the bucket's name is given as `b`; leave one of them out
        ");
        let path = [("BUCKET_ENDPOINT_URL", "https://minio/a/b")];
        insta::assert_snapshot!(mistakes(&[&path[..], &WHOLE[1..]].concat()), @"
        the configuration has 1 mistake(s):
          BUCKET_ENDPOINT_URL: the endpoint minio has a path of several parts, of which none is known as the bucket; name the bucket
        ");
    }

    #[test]
    fn a_prefix_leads_nowhere_else() {
        for wrong in ["a//b", "../a", "a/./b", "a\u{7}b", "{date", "{{date}}"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
        assert_eq!(prefix("{filename}"), Ok("{filename}".to_owned()));
    }
}
