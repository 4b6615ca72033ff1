//! What sends spans: protobuf over HTTP, from a thread of the SDK's, by a client of ours on the runtime. What cannot be sent is
//! dropped, and told in the log now and then.

use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::http::{Request, Response};
use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use parking_lot::Mutex;
use reqwest::redirect::Policy;
use tokio::runtime::Handle;
use url::{Host, Url};

use crate::display::{error_chain, redacted};

/// The longest that a receiver may take for one batch.
const LONGEST: Duration = Duration::from_secs(10);
/// The shortest time between two lines about what cannot be sent.
const TELL_EVERY: Duration = Duration::from_mins(5);
/// Answers are a few bytes; more of one is not read.
const MOST_READ: usize = 64 * 1024;

/// Sends spans to this address. Headers, timeouts and compression are the SDK's to read.
pub(super) fn exporter(endpoint: &Url) -> Result<SpanExporter, String> {
    // A redirect would carry the headers to somebody else.
    let client = reqwest::Client::builder().timeout(LONGEST).redirect(Policy::none());
    let is_here = match endpoint.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let client = if is_here { client.no_proxy() } else { client };
    let client = client.build().map_err(|error| error_chain(&error))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Sender {
            client,
            runtime: Handle::current(),
            endpoint: redacted(endpoint),
            failures: Mutex::default(),
        })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint.as_str())
        .build();
    exporter.map_err(|error| error_chain(&error))
}

/// What the spans are of. The SDK reads `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
pub(super) fn resource(service_name: Option<&str>) -> Resource {
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if let Some(name) = service_name {
        resource = resource.with_service_name(name.to_owned());
    }
    resource.build()
}

/// Sends batches.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
    /// As the log names it.
    endpoint: String,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    told: Option<Instant>,
    since: u64,
}

impl Failures {
    /// One more; how many there were since that was last told, where it is to be told now.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self
            .told
            .is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY)
        {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

impl Sender {
    fn failed(&self, why: &str) {
        if let Some(batches) = self.failures.lock().one_more(Instant::now()) {
            tracing::warn!(
                "traces may be lost ({batches} attempts at sending them failed): {} did not take them: {why}",
                self.endpoint
            );
        }
    }
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Sender {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Sent<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        // The SDK's thread is none of the runtime's.
        let sent = self.runtime.spawn(send(self.client.clone(), request));
        Box::pin(async move {
            let answer = match sent.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    let error = error.without_url();
                    self.failed(&error_chain(&error));
                    return Err(error.into());
                }
                // The runtime ends.
                Err(error) => return Err(error.into()),
            };
            if !answer.status().is_success() {
                self.failed(&format!("it answered {}", answer.status()));
            }
            Ok(answer)
        })
    }
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
    let request: reqwest::Request = request.try_into()?;
    let mut answer = client.execute(request).await?;
    let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        if body.len() + piece.len() > MOST_READ {
            break;
        }
        body.extend_from_slice(&piece);
    }
    let mut whole = Response::new(body.into());
    *whole.status_mut() = status;
    *whole.headers_mut() = headers;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_now_and_then() {
        let mut failures = Failures::default();
        let begun = Instant::now();
        assert_eq!(failures.one_more(begun), Some(1));
        assert_eq!(failures.one_more(begun + Duration::from_secs(1)), None);
        assert_eq!(failures.one_more(begun + Duration::from_secs(2)), None);
        assert_eq!(failures.one_more(begun + TELL_EVERY), Some(3));
    }
}
