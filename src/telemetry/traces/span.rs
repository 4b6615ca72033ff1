//! The span of a job, and those of its stages.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceState};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Traces, traceparent, traces};

/// The name of a job's span.
pub(super) const NAME: &str = "job";

/// A stage of a job that has a span of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits until its engine begins with it.
    Queue,
    /// Its images come.
    Fetch,
    /// Its models come.
    Models,
    /// Its graph runs.
    Run,
    /// Its results are made ready.
    Deliver,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Fetch => "fetch",
            Self::Models => "models",
            Self::Run => "run",
            Self::Deliver => "deliver",
        }
    }
}

/// The span of a job that has not ended.
#[derive(Debug, Clone)]
pub struct JobSpan {
    context: SpanContext,
    /// The span that its request named.
    parent: Option<SpanId>,
    /// When it came.
    created: SystemTime,
}

impl JobSpan {
    pub(super) fn new(context: SpanContext, parent: Option<SpanId>, created: SystemTime) -> Self {
        Self {
            context,
            parent,
            created,
        }
    }

    /// The header of what is done for the job elsewhere.
    pub fn traceparent(&self) -> String {
        traceparent::written(&self.context)
    }

    /// Whether it goes anywhere.
    pub fn is_sampled(&self) -> bool {
        self.context.is_sampled()
    }

    /// A stage is over.
    pub fn stage(&self, stage: Stage, begun: SystemTime, ended: SystemTime) {
        if let Some(traces) = traces() {
            self.stage_to(traces, stage, begun, ended);
        }
    }

    pub(super) fn stage_to(&self, traces: &Traces, stage: Stage, begun: SystemTime, ended: SystemTime) {
        if !self.is_sampled() {
            return;
        }
        let id = SpanId::from(uuid::Uuid::new_v4().as_u64_pair().1);
        let (trace, flags) = (self.context.trace_id(), self.context.trace_flags());
        let context = SpanContext::new(trace, id, flags, false, TraceState::NONE);
        traces.processor.on_end(SpanData {
            parent_span_id: self.context.span_id(),
            span_kind: SpanKind::Internal,
            ..data(traces, context, stage.name(), (begun, ended))
        });
    }

    /// The job ended now; with an error of this kind, if it failed.
    pub fn ended(&self, attributes: Vec<KeyValue>, error: Option<&'static str>) {
        if let Some(traces) = traces() {
            self.ended_to(traces, attributes, error);
        }
    }

    pub(super) fn ended_to(&self, traces: &Traces, mut attributes: Vec<KeyValue>, error: Option<&'static str>) {
        if !self.is_sampled() {
            return;
        }
        let status = match error {
            None => Status::Unset,
            Some(kind) => {
                attributes.push(KeyValue::new("error.type", kind));
                Status::error(kind)
            }
        };
        traces.processor.on_end(SpanData {
            parent_span_id: self.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: SpanKind::Server,
            attributes,
            status,
            ..data(traces, self.context.clone(), NAME, (self.created, SystemTime::now()))
        });
    }
}

fn data(
    traces: &Traces,
    context: SpanContext,
    name: &'static str,
    (begun, ended): (SystemTime, SystemTime),
) -> SpanData {
    SpanData {
        span_context: context,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: begun,
        end_time: ended.max(begun),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: traces.scope.clone(),
    }
}
