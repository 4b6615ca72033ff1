//! Traces as a collector gets them: the real protobuf, over a real socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::binary::Served;
use crate::support::{graph, http, shared, text, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

/// A collector, which takes webhooks too.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    /// The services that spans were of, and the keys that came with them.
    senders: Arc<Mutex<Vec<(String, String)>>>,
    /// What webhooks brought as `traceparent`.
    hooks: Arc<Mutex<Vec<Option<String>>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let new = Self {
            url,
            spans: Arc::default(),
            senders: Arc::default(),
            hooks: Arc::default(),
        };
        let (came, sent, hooked) = (Arc::clone(&new.spans), Arc::clone(&new.senders), Arc::clone(&new.hooks));
        let take = async move |headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            let key = headers["x-collector-key"].to_str().expect("a text").to_owned();
            let batch = ExportTraceServiceRequest::decode(body).expect("protobuf");
            for resource in batch.resource_spans {
                let attributes = resource.resource.expect("a resource").attributes;
                let name = attributes.iter().find(|pair| pair.key == "service.name");
                let name = format!("{:?}", name.expect("a name").value);
                sent.lock().expect("no panic").push((name, key.clone()));
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                came.lock().expect("no panic").extend(spans);
            }
        };
        let hook = async move |headers: HeaderMap| {
            let named = headers.get("traceparent").and_then(|named| named.to_str().ok());
            hooked.lock().expect("no panic").push(named.map(str::to_owned));
        };
        let router = axum::Router::new()
            .route("/v1/traces", post(take))
            .route("/hook", post(hook));
        tokio::spawn(async move { axum::serve(listener, router).await });
        new
    }

    /// The spans of a trace, as soon as that of the job is among them.
    async fn trace(&self, id: &str) -> Vec<Span> {
        let mut found = Vec::new();
        until("the trace came", async || {
            let spans = self.spans.lock().expect("no panic");
            let spans = spans.iter().filter(|span| hex::encode(&span.trace_id) == id);
            found = spans.cloned().collect();
            found.iter().any(|span| span.name == "job")
        })
        .await;
        found
    }
}

fn vars(data: &tempfile::TempDir, comfy: &str, collector: &str) -> BTreeMap<String, String> {
    let vars = [
        ("DATA_DIR", data.path().display().to_string()),
        ("COMFYUI_URL", comfy.to_owned()),
        ("PORT", "0".to_owned()),
        ("EDIT_PORT", "none".to_owned()),
        ("COMFY_REGISTRY_URL", NOWHERE.to_owned()),
        ("ALLOW_PRIVATE_URLS", "127.0.0.1".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=4711".to_owned()),
        // The SDK reads it.
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ];
    let vars = vars.into_iter();
    vars.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Takes a job in that belongs to a trace; gives its id.
async fn accept(worker: &Served, body: &Value, traceparent: &str) -> String {
    let request = http().post(format!("{}/run", worker.url)).json(body);
    let answer = request
        .header("traceparent", traceparent)
        .send()
        .await
        .expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    text(&answer, "id").to_owned()
}

fn shown(text: &str) -> Value {
    json!({"workflow": {"1": {"class_type": "ShowText", "inputs": {"text": text}}}})
}

fn attribute(span: &Span, key: &str) -> String {
    let pair = span.attributes.iter().find(|pair| pair.key == key);
    let value = pair.and_then(|pair| pair.value.as_ref());
    format!("{:?}", value.and_then(|value| value.value.as_ref()))
}

#[tokio::test]
async fn a_job_is_a_span_with_its_stages_below_that_of_its_request() {
    let comfy = shared().await;
    let (data, collector) = (tempfile::tempdir().expect("a folder"), Collector::start().await);
    let mut worker = Served::start(&vars(&data, &comfy.comfy_url().await, &collector.url)).await;
    let body = json!({"input": shown("traced"), "webhook": format!("{}/hook", collector.url)});
    let id = accept(&worker, &body, &format!("00-{TRACE}-{PARENT}-01")).await;
    assert_eq!(worker.end(&id).await.body["status"], "COMPLETED");
    let spans = collector.trace(TRACE).await;
    let job = spans.iter().find(|span| span.name == "job").expect("a span");
    assert_eq!(hex::encode(&job.parent_span_id), PARENT);
    for (key, value) in [
        ("job.id", &*id),
        ("job.dialect", "runpod"),
        ("job.template", "workflow"),
        ("job.engine", "local"),
        ("job.outcome", "completed"),
        ("gen_ai.operation.name", "generate_content"),
    ] {
        assert!(attribute(job, key).contains(value), "{key}: {job:#?}");
    }
    let mut stages: Vec<_> = spans.iter().filter(|span| span.parent_span_id == job.span_id).collect();
    stages.sort_by_key(|span| span.start_time_unix_nano);
    let names: Vec<_> = stages.iter().map(|span| span.name.as_str()).collect();
    assert!(names.starts_with(&["queue", "run", "deliver"]), "{names:?}");
    for stage in stages {
        let is_within = job.start_time_unix_nano <= stage.start_time_unix_nano
            && stage.start_time_unix_nano <= stage.end_time_unix_nano
            && stage.end_time_unix_nano <= job.end_time_unix_nano;
        assert!(is_within, "{stage:#?} {job:#?}");
    }
    let (service, key) = collector.senders.lock().expect("no panic")[0].clone();
    assert!(
        service.contains("qwen-image-worker") && key == "4711",
        "{service} {key}"
    );
    let told = format!("00-{TRACE}-{}-01", hex::encode(&job.span_id));
    until("the webhook came", async || {
        !collector.hooks.lock().expect("no panic").is_empty()
    })
    .await;
    assert_eq!(collector.hooks.lock().expect("no panic")[0].as_deref(), Some(&*told));

    // One that fails, of a request that names no trace: it is found by the job's id. It is sent although the worker ends.
    let body = json!({"input": {"workflow": graph("Raise", json!({"message": "boom"}))}});
    let failed = worker.send(Method::POST, "/runsync", body.to_string()).await.body;
    let failed = text(&failed, "id").to_owned();
    worker.terminate();
    assert_eq!(worker.exit_code().await, Some(0));
    let spans = collector.trace(&failed.replace('-', "")).await;
    let job = spans.iter().find(|span| span.name == "job").expect("a span");
    let status = job.status.as_ref().expect("a status");
    assert_eq!(status.code(), StatusCode::Error);
    assert!(attribute(job, "error.type").contains("node_failed"), "{job:#?}");
    assert!(job.parent_span_id.is_empty());
}

#[tokio::test]
async fn a_job_belongs_to_its_trace_after_its_worker_was_killed_and_a_collector_that_is_away_holds_nothing() {
    let comfy = shared().await;
    let (data, collector) = (tempfile::tempdir().expect("a folder"), Collector::start().await);
    let trace = TRACE.replace("4b", "5c");
    // It waits: there is no ComfyUI.
    let worker = Served::start(&vars(&data, NOWHERE, NOWHERE)).await;
    let id = accept(
        &worker,
        &json!({"input": shown("kept")}),
        &format!("00-{trace}-{PARENT}-01"),
    )
    .await;
    let wrong = accept(&worker, &json!({"input": shown("kept too")}), "00-rubbish").await;
    worker.kill().await;
    let worker = Served::start(&vars(&data, &comfy.comfy_url().await, &collector.url)).await;
    for id in [&id, &wrong] {
        assert_eq!(worker.end(id).await.body["status"], "COMPLETED");
    }
    let spans = collector.trace(&trace).await;
    let job = spans.iter().find(|span| span.name == "job").expect("a span");
    assert_eq!(hex::encode(&job.parent_span_id), PARENT);
    collector.trace(&wrong.replace('-', "")).await;
    worker.kill().await;

    let mut worker = Served::start(&vars(&data, &comfy.comfy_url().await, NOWHERE)).await;
    let body = json!({"input": shown("untraced")}).to_string();
    let done = worker.send(Method::POST, "/runsync", body).await;
    assert_eq!(done.body["status"], "COMPLETED");
    let begun = Instant::now();
    worker.terminate();
    assert_eq!(worker.exit_code().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
