//! What an S3 endpoint's URL says, in the forms in which people write it.
//!
//! ```text
//! https://s3.eu-central-1.amazonaws.com            the service alone
//! https://my-bucket.s3.eu-central-1.amazonaws.com  the bucket in the host (virtual-host style)
//! https://minio.example.com/my-bucket              the bucket in the path (path style)
//! ```
//!
//! The region is part of each signature, so it is guessed where a provider's hosts show it.

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::variable::Secret;

/// A bucket and the keys to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketAccess {
    /// The S3 endpoint, with the bucket in its host or path or without.
    pub endpoint: Url,
    /// The key's id.
    pub access_key_id: String,
    /// The key.
    #[serde(with = "super::variable::in_the_open")]
    pub secret_access_key: Secret,
    /// The bucket, where the endpoint does not name it.
    pub name: Option<String>,
    /// The region; [`None`]: guessed from the endpoint.
    pub region: Option<String>,
}

/// The region where nothing says otherwise: what S3-compatible servers are set to by default.
const DEFAULT_REGION: &str = "us-east-1";

/// How the hosts of a provider are made, before the provider's domain.
#[derive(Debug, Clone, Copy)]
enum Hosts {
    /// `s3.REGION`, `s3-REGION` or `s3`, and the bucket before it.
    Named,
    /// `REGION`, and the bucket before it.
    Regional,
    /// `s3api-REGION`. No bucket (docs.runpod.io, S3-compatible API).
    RunPod,
    /// `ACCOUNT`, perhaps with a jurisdiction after it, and the bucket before it. The region is `auto`
    /// (developers.cloudflare.com/r2/api/s3/api).
    R2,
    /// Nothing, and the bucket before it. The region is `auto` (cloud.google.com/storage/docs/interoperability).
    Google,
}

/// Providers by the domain of their endpoints, and where the hosts below it have bucket and region. A host without a
/// region is in [`DEFAULT_REGION`].
const PROVIDERS: &[(&str, Hosts)] = &[
    ("amazonaws.com", Hosts::Named),
    ("amazonaws.com.cn", Hosts::Named),
    ("backblazeb2.com", Hosts::Named),
    ("wasabisys.com", Hosts::Named),
    ("scw.cloud", Hosts::Named),
    ("io.cloud.ovh.net", Hosts::Named),
    ("digitaloceanspaces.com", Hosts::Regional),
    ("linodeobjects.com", Hosts::Regional),
    ("vultrobjects.com", Hosts::Regional),
    ("your-objectstorage.com", Hosts::Regional),
    ("runpod.io", Hosts::RunPod),
    ("r2.cloudflarestorage.com", Hosts::R2),
    ("storage.googleapis.com", Hosts::Google),
];

/// Where a bucket is, as a client needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Endpoint {
    /// The service, without the bucket.
    pub service: Url,
    /// The bucket; [`None`]: nothing names one.
    pub bucket: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// Whether the bucket goes into the path rather than the host.
    pub path_style: bool,
}

/// Why an endpoint's URL or a bucket's name cannot be used. Each message ends with what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message names its parts")]
pub enum EndpointMistake {
    /// It is no http URL with a host.
    #[error(
        "the bucket's endpoint is no http or https URL with a host; write it as https://s3.us-east-1.amazonaws.com"
    )]
    NoUrl,
    /// It, of this host, has a user name, a query or a fragment.
    #[error("the bucket's endpoint {0} has a user name, a query or a fragment; leave them out")]
    Extras(String),
    /// It has the bucket in its host, and a path.
    #[error("the endpoint {host} has the bucket `{bucket}` in its host and a path as well; leave the path out")]
    HostAndPath { host: String, bucket: String },
    /// Its path, on this host, is too long to be a bucket.
    #[error("the endpoint {0} has a path of several parts, of which none is known as the bucket; name the bucket")]
    LongPath(String),
    /// It names another bucket than the name that was given.
    #[error(
        "the endpoint {host} names the bucket `{found}`, but the bucket's name is given as `{given}`; leave one of them out"
    )]
    TwoBuckets { host: String, found: String, given: String },
    /// No bucket can have this name.
    #[error("`{0}` is no name of a bucket; it has letters, digits, hyphens, dots and underscores, at most 255")]
    Name(String),
}

impl S3Endpoint {
    /// Finds service, bucket, region and style in what was configured or asked for.
    pub fn resolve(access: &BucketAccess) -> Result<Self, EndpointMistake> {
        let BucketAccess {
            endpoint, name, region, ..
        } = access;
        let host = match endpoint.host_str() {
            Some(host) if matches!(endpoint.scheme(), "http" | "https") => host.trim_end_matches('.').to_owned(),
            _ => return Err(EndpointMistake::NoUrl),
        };
        let extras = [endpoint.query(), endpoint.fragment(), endpoint.password()];
        if extras.iter().any(Option::is_some) || !endpoint.username().is_empty() {
            return Err(EndpointMistake::Extras(host));
        }
        let name = name.as_deref();
        let found = if let Some(Host::Domain(_)) = endpoint.host() {
            parse_host(&host, name)
        } else {
            Found::default()
        };
        let mut service = endpoint.clone();
        let mut path: Vec<&str> = endpoint.path().split('/').filter(|part| !part.is_empty()).collect();
        let bucket = if let Some((bucket, rest)) = found.bucket {
            if !path.is_empty() {
                return Err(EndpointMistake::HostAndPath { host, bucket });
            }
            // It was a host a moment ago, and the rest of one is one too.
            let _ = service.set_host(Some(&rest));
            Some((bucket, false))
        } else {
            bucket_in_path(&host, &mut path, name)?.map(|bucket| (bucket, true))
        };
        service.set_path(&path.join("/"));
        let (bucket, path_style) = match (bucket, name) {
            (Some((found, _)), Some(given)) if found != given => {
                let given = given.to_owned();
                return Err(EndpointMistake::TwoBuckets { host, found, given });
            }
            (Some((bucket, path_style)), _) => (Some(bucket), path_style),
            (None, name) => (name.map(str::to_owned), true),
        };
        if let Some(name) = bucket.as_ref().filter(|name| !is_bucket_name(name)) {
            return Err(EndpointMistake::Name(name.clone()));
        }
        let region = region
            .clone()
            .or(found.region)
            .unwrap_or_else(|| DEFAULT_REGION.to_owned());
        Ok(Self {
            service,
            bucket,
            region,
            path_style,
        })
    }
}

/// What a host shows.
#[derive(Debug, Default)]
struct Found {
    /// The bucket, and the host without it.
    bucket: Option<(String, String)>,
    region: Option<String>,
}

/// Reads a host by its provider's habit; that of an unknown provider only shows a bucket that is known by name.
fn parse_host(host: &str, name: Option<&str>) -> Found {
    let provider = PROVIDERS
        .iter()
        .find_map(|(domain, hosts)| Some((*hosts, *domain, below(host, domain)?)));
    let Some((hosts, domain, below)) = provider else {
        let rest = name.and_then(|name| Some((name, host.strip_prefix(name)?.strip_prefix('.')?)));
        return Found {
            bucket: rest.map(|(name, rest)| (name.to_owned(), rest.to_owned())),
            region: None,
        };
    };
    let labels: Vec<&str> = below.split('.').filter(|label| !label.is_empty()).collect();
    // How many of the first labels are the bucket, and the region.
    let (bucket, region) = match hosts {
        Hosts::Named => named(&labels),
        Hosts::Regional => (labels.len().saturating_sub(1), labels.last().copied()),
        Hosts::RunPod => (0, labels.last().and_then(|label| label.strip_prefix("s3api-"))),
        Hosts::R2 => {
            let jurisdiction = labels.last().is_some_and(|label| ["eu", "fedramp"].contains(label));
            (labels.len().saturating_sub(1 + usize::from(jurisdiction)), Some("auto"))
        }
        Hosts::Google => (labels.len(), Some("auto")),
    };
    let rest: Vec<&str> = labels[bucket..].iter().copied().chain([domain]).collect();
    Found {
        bucket: (bucket > 0).then(|| (labels[..bucket].join("."), rest.join("."))),
        region: region.map(str::to_owned),
    }
}

/// What stands before a domain; empty for the domain itself.
fn below<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let rest = host.strip_suffix(domain)?;
    (rest.is_empty() || rest.ends_with('.')).then_some(rest)
}

/// `BUCKET.s3.REGION`, where `s3` may also be `s3-REGION` or `s3-fips`, and other words stand around the region
/// (docs.aws.amazon.com/general/latest/gr/s3.html).
fn named<'a>(labels: &[&'a str]) -> (usize, Option<&'a str>) {
    let is_service = |label: &&str| *label == "s3" || label.starts_with("s3-");
    let Some(at) = labels.iter().rposition(is_service) else {
        return (0, None);
    };
    let no_region = ["dualstack", "vpce", "fips", "accelerate", "external-1"];
    let old_form = labels[at].strip_prefix("s3-");
    let region = labels[at + 1..]
        .iter()
        .copied()
        .chain(old_form)
        .find(|label| !no_region.contains(label));
    // The host of a VPC endpoint begins with the word `bucket`, and is the service (AWS PrivateLink for Amazon S3).
    let bucket = if labels.contains(&"vpce") { 0 } else { at };
    (bucket, region)
}

/// Takes the bucket out of a path. A path of several parts belongs to the service, but for a bucket that is known by
/// name at its end.
fn bucket_in_path(host: &str, path: &mut Vec<&str>, name: Option<&str>) -> Result<Option<String>, EndpointMistake> {
    match (path.len(), name) {
        (0, _) => Ok(None),
        (1, _) => Ok(path.pop().map(str::to_owned)),
        (_, Some(name)) => Ok(path.pop_if(|last| *last == name).map(|last| (*last).to_owned())),
        (_, None) => Err(EndpointMistake::LongPath(host.to_owned())),
    }
}

/// Whether a bucket may be called so. Wider than Amazon's rules of today, which its own old buckets and other servers
/// do not keep to, and narrow enough to stand in a path and in a host.
fn is_bucket_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    name.len() <= 255
        && name.bytes().all(allowed)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.contains("..")
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
