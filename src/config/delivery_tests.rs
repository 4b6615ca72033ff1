use std::time::Duration;

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
