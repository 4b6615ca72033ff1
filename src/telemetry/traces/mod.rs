//! Traces by OTLP: a span for each job, and one below it for each of its stages. Off unless an endpoint is configured; then
//! nothing of it is done. There is one place that they go to in a process, as there is one log.
//!
//! ```text
//!  traceparent of the request ─► policy ─► span of the job ─► traceparent of webhooks and calls
//!                                             │ stages
//!                                             ▼
//!                             batches, on a thread of their own ─► POST ENDPOINT/v1/traces
//! ```
//!
//! Spans are made when they end, by their times: none is held while a job runs, and a job that outlives its worker has its span
//! from the next one, under the same id, which follows from the job's.

mod export;
mod span;
mod traceparent;

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Config, SamplingDecision, ShouldSample, SpanProcessor};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::disk::blocking;

pub use span::{JobSpan, Stage};
pub use traceparent::{HEADER, carried, current, parse, within};

/// How long a stop waits for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(3);

static TRACES: OnceLock<Traces> = OnceLock::new();

/// Where the spans of this process go, where they go anywhere.
pub fn traces() -> Option<&'static Traces> {
    TRACES.get()
}

/// Begins to trace, where there is an endpoint. `service_name` goes before what the environment says of it. Called once, in the runtime.
pub fn begin(endpoint: Option<&Url>, service_name: Option<&str>) {
    let Some(endpoint) = endpoint else { return };
    let begun = export::exporter(endpoint).map(|exporter| {
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&export::resource(service_name));
        // The SDK reads OTEL_TRACES_SAMPLER.
        Traces::new(Box::new(processor), Config::default().sampler)
    });
    match begun {
        Ok(traces) => {
            let _ = TRACES.set(traces);
            tracing::info!("traces go to {}", crate::display::redacted(endpoint));
        }
        Err(error) => tracing::warn!("there are no traces: {error}"),
    }
}

/// Sends what is left, within a few seconds. Nothing is traced afterwards.
pub async fn end() {
    if let Some(traces) = traces() {
        // It waits for the thread that sends.
        blocking(|| drop(traces.processor.shutdown_with_timeout(LAST_SPANS))).await;
    }
}

/// Where spans go, and which of them.
pub struct Traces {
    processor: Box<dyn SpanProcessor>,
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").finish_non_exhaustive()
    }
}

impl Traces {
    fn new(processor: Box<dyn SpanProcessor>, sampler: Box<dyn ShouldSample>) -> Self {
        Self {
            processor,
            sampler,
            scope: InstrumentationScope::builder("qwen-image-worker")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }

    /// The span of a job that came at this time, below the one that its request named.
    pub fn job(&self, id: &str, created: SystemTime, parent: Option<&str>) -> JobSpan {
        let parent = parent.and_then(traceparent::context_of);
        let trace = parent.as_ref().map_or_else(|| trace_of(id), SpanContext::trace_id);
        let cx = Context::new();
        let cx = match &parent {
            Some(parent) => cx.with_remote_span_context(parent.clone()),
            None => cx,
        };
        // The share is taken by the lower digits of the trace's id, which in a UUID are not spread evenly.
        let spread = if parent.is_some() {
            trace
        } else {
            TraceId::from_bytes(digest_of(id))
        };
        let sampled = self
            .sampler
            .should_sample(Some(&cx), spread, span::NAME, &SpanKind::Server, &[], &[]);
        let is_sampled = sampled.decision == SamplingDecision::RecordAndSample;
        let flags = TraceFlags::default().with_sampled(is_sampled);
        let context = SpanContext::new(trace, span_of(id, created), flags, false, TraceState::NONE);
        JobSpan::new(context, parent.map(|parent| parent.span_id()), created)
    }
}

/// What the calls and webhooks of a job carry: that its span, which follows from its id, is above theirs; or, where nothing is
/// traced here, what its request brought.
pub fn traceparent_of(id: &str, created: SystemTime, given: Option<&str>) -> Option<String> {
    match traces() {
        Some(traces) => Some(traces.job(id, created, given).traceparent()),
        None => given.map(str::to_owned),
    }
}

/// The trace of a job whose request names none: the digits of the job's id, by which it is found.
fn trace_of(id: &str) -> TraceId {
    let id_of_job = uuid::Uuid::try_parse(id).ok().filter(|id| !id.is_nil());
    let trace = id_of_job.map(|id| TraceId::from(id.as_u128()));
    // A client may have chosen one that names no trace.
    trace.unwrap_or_else(|| TraceId::from_bytes(digest_of(id)))
}

fn digest_of(id: &str) -> [u8; 16] {
    let digest = Sha256::digest(id);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes
}

/// The span of a job. One that is run again comes again, at another time.
fn span_of(id: &str, created: SystemTime) -> SpanId {
    // The store has it to the microsecond.
    let created = created.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let digest = Sha256::new()
        .chain_update(id)
        .chain_update(created.to_be_bytes())
        .finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    SpanId::from_bytes(bytes)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
