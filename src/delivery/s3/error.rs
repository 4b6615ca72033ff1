//! Why a bucket cannot be used, or an upload failed, and what its owner can do.

use std::error::Error;
use std::fmt;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::config::EndpointMistake;
use crate::display::error_chain;
use crate::error::{ErrorKind, JobError};
use crate::net::guard::Refused;

/// The most of a server's message that is quoted, in characters.
const MOST_SHOWN: usize = 300;

/// Who named a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration of the worker.
    Configuration,
    /// A request.
    Request,
}

/// Which bucket an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The host of its endpoint, with the port where it is unusual.
    pub host: String,
    /// Its name.
    pub bucket: String,
    /// Whether somebody named it; else it is called after the month.
    pub named: bool,
    /// Who named it.
    pub origin: Origin,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bucket `{}` at {}", self.bucket, self.host)
    }
}

/// Why a bucket cannot be used, or an upload failed. No message holds a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// What is known of the bucket is no endpoint of one; who is to mend it.
    #[error("{0}")]
    Endpoint(EndpointMistake, Origin),
    /// The guard refuses a request's endpoint, which has this host.
    #[error("the bucket's endpoint {0} is refused: {1}")]
    Refused(String, Refused),
    /// The keys are wrong, or may not do this, with the server's code.
    #[error("{0} refuses the keys ({1})")]
    Keys(Place, String),
    /// There is no such bucket.
    #[error("{0} does not exist")]
    NoBucket(Place),
    /// There is no object of this key in the bucket.
    #[error("{0} has no object `{1}`")]
    NoObject(Place, String),
    /// The bucket is in another region, by what the server said.
    #[error("{0} is in another region: {1}")]
    Region(Place, String),
    /// The endpoint does not answer, and why.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(Place, String),
    /// A file of this name cannot be read.
    #[error("the file `{0}` cannot be read for the upload: {1}")]
    File(String, #[source] std::io::Error),
    /// Anything else, in the words of who said it.
    #[error("{0} did not do as asked: {1}")]
    Other(Place, String),
}

impl BucketError {
    /// What came of a request after its last attempt.
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>, place: &Place) -> Self
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let place = place.clone();
        if let Some(refused) = Refused::within(error) {
            return Self::Refused(place.host, refused.clone());
        }
        match error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                Self::answered(place, status, answer.err().code(), answer.err().message())
            }
            SdkError::TimeoutError(_) => Self::Unreachable(place, "it did not answer in time".to_owned()),
            SdkError::DispatchFailure(failure) => {
                let error = failure.as_connector_error();
                Self::Unreachable(place, error.map_or_else(String::new, |error| error_chain(error)))
            }
            other => Self::Other(place, error_chain(other)),
        }
    }

    /// Sorts an answer by its code (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), and by its status
    /// where it has none.
    fn answered(place: Place, status: u16, code: Option<&str>, message: Option<&str>) -> Self {
        let code = code.unwrap_or_default();
        let reason = || {
            let message: String = message.unwrap_or("no message").chars().take(MOST_SHOWN).collect();
            let code = if code.is_empty() {
                String::new()
            } else {
                format!(" {code}")
            };
            format!("status {status}{code}, {}", message.escape_debug())
        };
        match (code, status) {
            ("NoSuchBucket", _) | ("", 404) => Self::NoBucket(place),
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "InvalidRegionName", _)
            | ("", 300..=399) => Self::Region(place, reason()),
            // A clock that is wrong is no matter of keys.
            ("RequestTimeTooSkewed", _) => Self::Other(place, reason()),
            ("", 401 | 403) => Self::Keys(place, format!("status {status}")),
            (_, 401 | 403) | ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken", _) => {
                Self::Keys(place, code.to_owned())
            }
            _ => Self::Other(place, reason()),
        }
    }

    /// The next step of whoever can mend it.
    pub fn hint(&self) -> String {
        match self {
            Self::Endpoint(_, Origin::Configuration) => "Mend BUCKET_ENDPOINT_URL or BUCKET_NAME.".to_owned(),
            Self::Endpoint(_, Origin::Request) => "Mend `endpointUrl` or `bucketName` of `s3Config`.".to_owned(),
            Self::Refused(..) => "Name an endpoint that is public in `endpointUrl` of `s3Config`.".to_owned(),
            Self::Keys(place, _) => {
                let keys = place.said(
                    "BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY",
                    "`accessId` and `accessSecret` of `s3Config`",
                );
                format!("Check {keys}, and that the key may put and get objects in this bucket.")
            }
            Self::NoBucket(place) => {
                let name = place.said("BUCKET_NAME", "`bucketName` of `s3Config`");
                if place.named {
                    format!("Create the bucket, or name another one in {name}.")
                } else {
                    format!("Name the bucket in {name}; none is named, so the one of this month was looked for.")
                }
            }
            Self::NoObject(..) => "See that the key is right; it is written as it is, without escapes.".to_owned(),
            Self::Region(place, _) => place
                .said(
                    "Set BUCKET_REGION to the bucket's region.",
                    "Name the host of the bucket's own region in `endpointUrl` of `s3Config`.",
                )
                .to_owned(),
            Self::Unreachable(place, _) => {
                let endpoint = place.said("BUCKET_ENDPOINT_URL", "`endpointUrl` of `s3Config`");
                format!("Check {endpoint} and whether this machine reaches it, then send the job again.")
            }
            Self::File(..) => "Look at the worker's disk, then send the job again.".to_owned(),
            Self::Other(place, _) => {
                let all = place.said("the BUCKET_ variables", "`s3Config`");
                format!("Check {all} and the bucket's settings, then send the job again.")
            }
        }
    }
}

impl Place {
    fn said<'a>(&self, configured: &'a str, requested: &'a str) -> &'a str {
        match self.origin {
            Origin::Configuration => configured,
            Origin::Request => requested,
        }
    }
}

impl From<BucketError> for JobError {
    fn from(error: BucketError) -> Self {
        let kind = match &error {
            BucketError::Refused(..) | BucketError::NoObject(..) | BucketError::Endpoint(_, Origin::Request) => {
                ErrorKind::InvalidRequest
            }
            _ => ErrorKind::Undeliverable,
        };
        Self::new(kind, error.to_string()).hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(origin: Origin, named: bool) -> Place {
        Place {
            host: "s3.example.com".to_owned(),
            bucket: "results".to_owned(),
            named,
            origin,
        }
    }

    fn answered(status: u16, code: Option<&str>) -> BucketError {
        BucketError::answered(place(Origin::Configuration, true), status, code, Some("what\nit said"))
    }

    #[test]
    fn answers_are_sorted_by_code_and_status() {
        for code in [
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "AccessDenied",
            "Unauthorized",
        ] {
            assert!(matches!(answered(403, Some(code)), BucketError::Keys { .. }), "{code}");
        }
        for status in [401, 403] {
            assert!(matches!(answered(status, None), BucketError::Keys { .. }), "{status}");
        }
        assert!(matches!(
            answered(404, Some("NoSuchBucket")),
            BucketError::NoBucket { .. }
        ));
        assert!(matches!(answered(404, None), BucketError::NoBucket { .. }));
        assert!(matches!(answered(301, None), BucketError::Region { .. }));
        assert!(matches!(
            answered(301, Some("PermanentRedirect")),
            BucketError::Region { .. }
        ));
        assert!(matches!(
            answered(403, Some("RequestTimeTooSkewed")),
            BucketError::Other { .. }
        ));
        assert!(matches!(answered(503, Some("SlowDown")), BucketError::Other { .. }));
    }

    #[test]
    fn messages_say_where_and_what_to_do() {
        let (configured, requested) = (place(Origin::Configuration, true), place(Origin::Request, true));
        let errors = [
            answered(403, Some("AccessDenied")),
            BucketError::Keys(requested.clone(), "AccessDenied".to_owned()),
            BucketError::NoBucket(configured),
            BucketError::NoBucket(place(Origin::Configuration, false)),
            answered(400, Some("AuthorizationHeaderMalformed")),
            BucketError::Unreachable(requested, "connection refused".to_owned()),
            answered(500, Some("InternalError")),
        ];
        let texts: Vec<String> = errors
            .into_iter()
            .map(|error| JobError::from(error).full_text())
            .collect();
        insta::assert_snapshot!(texts.join("\n"), @r"
        the bucket `results` at s3.example.com refuses the keys (AccessDenied). Check BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY, and that the key may put and get objects in this bucket.
        the bucket `results` at s3.example.com refuses the keys (AccessDenied). Check `accessId` and `accessSecret` of `s3Config`, and that the key may put and get objects in this bucket.
        the bucket `results` at s3.example.com does not exist. Create the bucket, or name another one in BUCKET_NAME.
        the bucket `results` at s3.example.com does not exist. Name the bucket in BUCKET_NAME; none is named, so the one of this month was looked for.
        the bucket `results` at s3.example.com is in another region: status 400 AuthorizationHeaderMalformed, what\nit said. Set BUCKET_REGION to the bucket's region.
        the bucket `results` at s3.example.com cannot be reached: connection refused. Check `endpointUrl` of `s3Config` and whether this machine reaches it, then send the job again.
        the bucket `results` at s3.example.com did not do as asked: status 500 InternalError, what\nit said. Check the BUCKET_ variables and the bucket's settings, then send the job again.
        ");
    }

    #[test]
    fn a_request_s_own_mistake_is_an_invalid_request() {
        let refused = BucketError::Refused("10.0.0.1".to_owned(), Refused::NoHost);
        assert_eq!(JobError::from(refused).kind, ErrorKind::InvalidRequest);
        for (origin, kind) in [
            (Origin::Request, ErrorKind::InvalidRequest),
            (Origin::Configuration, ErrorKind::Undeliverable),
        ] {
            let mistake = EndpointMistake::NoUrl;
            assert_eq!(JobError::from(BucketError::Endpoint(mistake, origin)).kind, kind);
        }
        assert_eq!(JobError::from(answered(403, None)).kind, ErrorKind::Undeliverable);
    }
}
