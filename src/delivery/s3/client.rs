//! The AWS SDK's client, set up for any server that speaks S3.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};

use crate::config::{BucketAccess, S3Endpoint};
use crate::net::guard::AddressGuard;

/// The longest that a name's look-up and a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The slowest that a body may go, in bytes a second: 0.5 Mbit/s for each of the requests that run at once.
const SLOWEST: u64 = 64 * 1024;
/// The wait after the first attempt is up to this; later ones are doubled.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// No wait is longer.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How long, and how often, a bucket is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The longest that a body under way may stand still.
    stall: Duration,
    /// The longest that a request without a body of note may take.
    small_request: Duration,
    /// How often a request is made, the first included.
    attempts: u32,
    /// The longest that all attempts of a request without a body of note may take.
    all_attempts: Option<Duration>,
}

impl Patience {
    /// With the operator's own bucket.
    pub(super) const CONFIGURED: Self = Self {
        stall: Duration::from_secs(20),
        small_request: Duration::from_mins(1),
        attempts: 5,
        all_attempts: None,
    };
    /// With a bucket that a request names: nobody knows whether it is there at all, and the job waits for it.
    pub(super) const OF_REQUEST: Self = Self {
        stall: Duration::from_secs(10),
        small_request: Duration::from_secs(15),
        attempts: 2,
        all_attempts: Some(Duration::from_secs(25)),
    };

    fn timeouts(self, bytes: u64) -> TimeoutConfig {
        let for_body = Duration::from_secs(bytes / SLOWEST);
        let mut timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(self.small_request + for_body);
        if let Some(all) = self.all_attempts {
            timeouts = timeouts.operation_timeout(all + for_body);
        }
        timeouts.build()
    }

    /// The settings of one request with a body of this many bytes.
    pub(super) fn for_body(self, bytes: u64) -> Builder {
        Config::builder().timeout_config(self.timeouts(bytes))
    }
}

/// Makes a client. It reads the machine's certificates, which takes some milliseconds.
pub(super) fn client(
    endpoint: &S3Endpoint,
    access: &BucketAccess,
    guard: Option<&AddressGuard>,
    patience: Patience,
) -> Client {
    // Without a proxy of the environment: it would look names up and dial by itself, behind the guard's back.
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    let http = match guard {
        Some(guard) => http.build_with_resolver(GuardedNames(guard.clone())),
        None => http.build_https(),
    };
    let keys = Credentials::new(
        &access.access_key_id,
        access.secret_access_key.reveal(),
        None,
        None,
        "bucket",
    );
    let retries = RetryConfig::standard()
        .with_max_attempts(patience.attempts)
        .with_initial_backoff(FIRST_DELAY)
        .with_max_backoff(LONGEST_DELAY);
    // All clients of a process share one budget of retries by default; a dead endpoint would use up the others'.
    let budget = TokenBucket::builder().refill_rate(1.0).build();
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint.service.as_str())
        .region(Region::new(endpoint.region.clone()))
        .force_path_style(endpoint.path_style)
        .credentials_provider(keys)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .http_client(http)
        .retry_config(retries)
        .retry_partition(RetryPartition::custom("bucket").token_bucket(budget).build())
        .timeout_config(patience.timeouts(0))
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(patience.stall)
                .build(),
        )
        .build();
    Client::from_conf(config)
}

/// Looks names up through the guard.
#[derive(Debug, Clone)]
struct GuardedNames(AddressGuard);

impl ResolveDns for GuardedNames {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let found = self.0.look_up_name(name).await.map_err(ResolveDnsError::new)?;
            Ok(found.into_iter().map(|socket| socket.ip()).collect())
        })
    }
}
