//! Spans as they are given to the SDK.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, Span, SpanData};
use parking_lot::Mutex;

use super::*;

const JOB: &str = "0190a5f2-7c1e-7b3a-9d1f-3c5e7a9b1d2f";
const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Keeps what it is given.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn traces(sampler: Sampler) -> (Traces, Kept) {
    let kept = Kept::default();
    (Traces::new(Box::new(kept.clone()), Box::new(sampler)), kept)
}

fn by_parent() -> Sampler {
    Sampler::ParentBased(Box::new(Sampler::AlwaysOn))
}

#[test]
fn a_job_is_below_what_its_request_named_and_its_stages_are_below_it() {
    let (traces, kept) = traces(by_parent());
    let created = SystemTime::now();
    let job = traces.job(JOB, created, Some(GIVEN));
    let stage = (created + Duration::from_secs(1), created + Duration::from_secs(2));
    job.stage_to(&traces, Stage::Run, stage.0, stage.1);
    job.ended_to(&traces, vec![KeyValue::new("a", "b")], Some("node_failed"));
    let spans = kept.0.lock();
    let [run, ended] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&*run.name, &*ended.name), ("run", "job"));
    assert_eq!(
        ended.span_context.trace_id().to_string(),
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    assert_eq!(ended.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert!(ended.parent_span_is_remote && !run.parent_span_is_remote);
    assert_eq!(run.parent_span_id, ended.span_context.span_id());
    assert_eq!(run.span_context.trace_id(), ended.span_context.trace_id());
    assert_eq!((run.start_time, run.end_time), stage);
    assert_eq!(ended.start_time, created);
    assert!(ended.attributes.contains(&KeyValue::new("error.type", "node_failed")));
    let told = job.traceparent();
    assert_eq!(
        told,
        format!(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01",
            ended.span_context.span_id()
        )
    );
}

#[test]
fn a_job_has_its_span_again_after_a_restart_and_another_one_when_it_is_run_again() {
    let (traces, _) = traces(by_parent());
    let created = UNIX_EPOCH + Duration::from_nanos(1_790_000_000_123_456_789);
    let stored = UNIX_EPOCH + Duration::from_micros(1_790_000_000_123_456);
    let told = |created| traces.job(JOB, created, None).traceparent();
    assert_eq!(told(created), told(stored));
    assert_ne!(told(created), told(created + Duration::from_secs(1)));
    let trace = JOB.replace('-', "");
    assert!(told(created).starts_with(&format!("00-{trace}-")), "{}", told(created));
}

#[test]
fn what_is_not_sampled_goes_nowhere_and_says_so() {
    for (sampler, given) in [
        (by_parent(), Some(GIVEN.replace("-01", "-00"))),
        (Sampler::AlwaysOff, None),
        (Sampler::TraceIdRatioBased(0.0), Some(GIVEN.to_owned())),
    ] {
        let (traces, kept) = traces(sampler);
        let job = traces.job(JOB, SystemTime::now(), given.as_deref());
        job.stage_to(&traces, Stage::Queue, SystemTime::now(), SystemTime::now());
        job.ended_to(&traces, Vec::new(), None);
        assert!(kept.0.lock().is_empty());
        assert!(job.traceparent().ends_with("-00"));
    }
}

#[test]
fn a_header_that_is_wrong_names_nothing() {
    let (traces, kept) = traces(by_parent());
    let job = traces.job(JOB, SystemTime::now(), Some("00-rubbish"));
    job.ended_to(&traces, Vec::new(), None);
    let spans = kept.0.lock();
    assert_eq!(spans[0].parent_span_id, SpanId::INVALID);
    assert!(!spans[0].parent_span_is_remote);
}

#[test]
fn a_share_of_the_jobs_is_a_share_and_a_trace_is_never_nil() {
    let (traces, _) = traces(Sampler::TraceIdRatioBased(0.1));
    let is_sampled = |_: &i32| {
        let id = uuid::Uuid::now_v7().to_string();
        traces.job(&id, SystemTime::now(), None).is_sampled()
    };
    let sampled = (0..4_000).filter(is_sampled).count();
    assert!((250..550).contains(&sampled), "{sampled} of 4000");
    let nil = uuid::Uuid::nil().to_string();
    assert_ne!(trace_of(&nil), TraceId::INVALID);
}
