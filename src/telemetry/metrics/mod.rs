//! What the worker measures of itself, for Prometheus. There is one set of metrics in a process, as there is one log: whoever
//! has something to count does it where it happens.
//!
//! What is as it is now (jobs that wait, whether the worker is ready) is looked up when somebody asks. For the rest there are
//! handles, so that a count is an addition.

mod busy;
mod declared;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use busy::{Busy, BusyGuard};
pub use declared::{Kind, METRICS, Metric, PREFIX};

/// The media type of the text that Prometheus reads.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The engine that jobs run on where nobody says another one: the worker's own ComfyUI.
pub const LOCAL: &str = "local";
/// The template of a job whose request is a graph.
pub const WORKFLOW: &str = "workflow";
/// The template of a job that ended before it was known.
const UNKNOWN: &str = "unknown";

/// How often observations are put into their buckets, where nobody asks for them: they would fill the memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

/// What a job is doing, as far as time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits until its engine begins with it.
    Queue,
    /// Images or models come.
    Download,
    /// Its graph runs.
    Run,
    /// Its results are made ready.
    Deliver,
}

/// Why ComfyUI was started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It ended by itself.
    Crashed,
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// It did not get ready.
    NoAnswer,
    /// It did nothing any more.
    Stalled,
    /// Its GPU refuses everything.
    GpuFailed,
    /// A node ignored an interrupt.
    InterruptIgnored,
    /// It had been given up, and a job came.
    Revived,
}

/// Where the bytes of models come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSource {
    /// The Hugging Face Hub.
    Hub,
    /// Another server.
    Url,
}

/// Where the bytes of input images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSource {
    /// A web server.
    Web,
    /// A bucket.
    Bucket,
}

/// What came of an attempt to deliver a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookResult {
    /// The receiver has it.
    Delivered,
    /// It is tried again.
    Failed,
    /// It is not.
    GivenUp,
}

/// The words of an enum, in the order of its variants.
const PHASES: [&str; 4] = ["queue", "download", "run", "deliver"];
const RESTARTS: [&str; 7] = [
    "crashed",
    "out_of_memory",
    "no_answer",
    "stalled",
    "gpu_failed",
    "interrupt_ignored",
    "revived",
];
const MODEL_SOURCES: [&str; 2] = ["hub", "url"];
const IMAGE_SOURCES: [&str; 2] = ["web", "bucket"];
const WEBHOOK_RESULTS: [&str; 3] = ["delivered", "failed", "given_up"];
const JOB_STATES: [&str; 2] = ["waiting", "running"];

/// How a job ended, in words that are bounded.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// The API that it came by.
    pub dialect: &'static str,
    /// Its template, or [`WORKFLOW`]; [`None`]: it is not known.
    pub template: Option<&'a str>,
    /// The state that it ended in.
    pub outcome: &'static str,
    /// The kind of its error, where it failed.
    pub error: &'static str,
}

/// What is looked up when somebody asks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs that run.
    pub running: u64,
    /// The most of both.
    pub limit: usize,
    /// Whether jobs can run.
    pub ready: bool,
    /// The age of the process.
    pub uptime: Duration,
}

/// All metrics, with a handle for each that has few labels.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    jobs: [Gauge; 2],
    queue_limit: Gauge,
    ready: Gauge,
    uptime: Gauge,
    restarts: [Counter; 7],
    model_bytes: [Counter; 2],
    image_bytes: [Counter; 2],
    webhooks: [Counter; 3],
    /// By names.
    engines: Mutex<BTreeMap<SharedString, Arc<EngineMetrics>>>,
    /// The names of templates that there are.
    templates: OnceLock<Vec<String>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What is measured of one engine.
#[derive(Debug)]
pub struct EngineMetrics {
    name: SharedString,
    phases: [Histogram; 4],
    busy: Arc<Busy>,
    /// How long it was busy, as it is written.
    busy_seconds: Gauge,
}

impl EngineMetrics {
    /// A job was in a phase for so long.
    pub fn phase(&self, phase: Phase, time: Duration) {
        self.phases[phase as usize].record(time.as_secs_f64());
    }

    /// It runs a graph until the guard is dropped.
    pub fn busy(&self) -> BusyGuard {
        Busy::begin(&self.busy)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Metrics {
    fn new() -> Self {
        let recorder = builder().build_recorder();
        for metric in METRICS {
            let (name, help) = (metric.name.into(), metric.help.replace('`', "").into());
            match written(metric) {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        let gauge = |metric: &Metric, labels| recorder.register_gauge(&key(metric, labels), &META);
        gauge(&declared::BUILD_INFO, vec![env!("CARGO_PKG_VERSION").into()]).set(1.0);
        let new = Self {
            handle: recorder.handle(),
            jobs: JOB_STATES.map(|state| gauge(&declared::JOBS, vec![state.into()])),
            queue_limit: gauge(&declared::QUEUE_LIMIT, Vec::new()),
            ready: gauge(&declared::READY, Vec::new()),
            uptime: gauge(&declared::UPTIME, Vec::new()),
            restarts: counters(&recorder, &declared::RESTARTS, RESTARTS),
            model_bytes: counters(&recorder, &declared::MODEL_BYTES, MODEL_SOURCES),
            image_bytes: counters(&recorder, &declared::IMAGE_BYTES, IMAGE_SOURCES),
            webhooks: counters(&recorder, &declared::WEBHOOKS, WEBHOOK_RESULTS),
            engines: Mutex::default(),
            templates: OnceLock::new(),
            recorder,
        };
        new.engine(LOCAL);
        new
    }

    /// The metrics of an engine. Names are those of the worker's own configuration.
    pub fn engine(&self, name: &str) -> Arc<EngineMetrics> {
        let mut engines = self.engines.lock();
        if let Some(engine) = engines.get(name) {
            return Arc::clone(engine);
        }
        let name = SharedString::from_shared(name.into());
        let histogram = |phase: &'static str| {
            let labels = vec![name.clone(), phase.into()];
            self.recorder.register_histogram(&key(&declared::PHASE, labels), &META)
        };
        let busy_seconds = key(&declared::BUSY, vec![name.clone()]);
        let engine = Arc::new(EngineMetrics {
            name: name.clone(),
            phases: PHASES.map(histogram),
            busy: Arc::default(),
            busy_seconds: self.recorder.register_gauge(&busy_seconds, &META),
        });
        engines.insert(name, Arc::clone(&engine));
        engine
    }

    /// These are the templates that there are: others are none.
    pub fn know_templates(&self, names: impl IntoIterator<Item = String>) {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable();
        // A process has one worker; tests, which have several, give all of them the same templates.
        let _ = self.templates.set(names);
    }

    /// A job ended that ran, or would have run, on this engine.
    pub fn ended(&self, engine: &EngineMetrics, job: Ended<'_>) {
        let template = match job.template {
            None => UNKNOWN.into(),
            Some(WORKFLOW) => WORKFLOW.into(),
            Some(name) => self.known(name),
        };
        let labels = vec![
            job.dialect.into(),
            template,
            engine.name.clone(),
            job.outcome.into(),
            job.error.into(),
        ];
        let key = key(&declared::JOBS_ENDED, labels);
        self.recorder.register_counter(&key, &META).increment(1);
    }

    /// The template's name, where there is such a one.
    fn known(&self, name: &str) -> SharedString {
        let templates = self.templates.get().map_or(&[][..], Vec::as_slice);
        match templates.binary_search_by(|known| known.as_str().cmp(name)) {
            Ok(place) => SharedString::from_owned(templates[place].clone()),
            Err(_) => UNKNOWN.into(),
        }
    }

    /// A request of so many bytes became a job.
    pub fn requested(&self, dialect: &'static str, bytes: usize) {
        self.size(&declared::REQUEST_BYTES, dialect, bytes as f64);
    }

    /// A job made files of so many bytes together.
    pub fn made(&self, dialect: &'static str, bytes: u64) {
        self.size(&declared::RESULT_BYTES, dialect, bytes as f64);
    }

    fn size(&self, metric: &Metric, dialect: &'static str, bytes: f64) {
        let key = key(metric, vec![dialect.into()]);
        self.recorder.register_histogram(&key, &META).record(bytes);
    }

    /// ComfyUI ended, and is started again.
    pub fn restarted(&self, reason: Restart) {
        self.restarts[reason as usize].increment(1);
    }

    /// Bytes of a model came.
    pub fn model_came(&self, source: ModelSource, bytes: u64) {
        self.model_bytes[source as usize].increment(bytes);
    }

    /// An input image came, or another file.
    pub fn image_came(&self, source: ImageSource, bytes: usize) {
        self.image_bytes[source as usize].increment(bytes as u64);
    }

    /// A webhook was tried.
    pub fn webhook_tried(&self, result: WebhookResult) {
        self.webhooks[result as usize].increment(1);
    }

    /// All of it as Prometheus reads it.
    pub fn text(&self, now: Now) -> String {
        for (gauge, jobs) in self.jobs.iter().zip([now.waiting, now.running]) {
            gauge.set(jobs as f64);
        }
        self.queue_limit.set(now.limit as f64);
        self.ready.set(f64::from(u8::from(now.ready)));
        self.uptime.set(now.uptime.as_secs_f64());
        for engine in self.engines.lock().values() {
            engine.busy_seconds.set(engine.busy.total(Instant::now()).as_secs_f64());
        }
        let mut text = self.handle.render();
        for metric in METRICS.iter().filter(|metric| written(metric) != metric.kind) {
            let kind = |kind: Kind| format!("# TYPE {} {}\n", metric.name, kind.as_str());
            text = text.replace(&kind(written(metric)), &kind(metric.kind));
        }
        text
    }
}

/// Puts observations into their buckets now and then, until `stop`.
pub async fn upkeep(stop: CancellationToken) {
    let mut times = tokio::time::interval(UPKEEP);
    while stop.run_until_cancelled(times.tick()).await.is_some() {
        metrics().handle.run_upkeep();
    }
}

const META: Metadata<'static> = Metadata::new("qwen_image_worker", Level::INFO, None);

/// What a metric is to the recorder, whose counters are whole numbers: seconds that only rise are a gauge to it.
fn written(metric: &Metric) -> Kind {
    match metric.kind {
        Kind::Counter if metric.unit == "seconds" => Kind::Gauge,
        kind => kind,
    }
}

fn builder() -> PrometheusBuilder {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS {
        if let Kind::Histogram(limits) = metric.kind {
            // It fails where there are no limits, and is given up then.
            let name = Matcher::Full(metric.name.to_owned());
            builder = match builder.set_buckets_for_metric(name, limits) {
                Ok(builder) => builder,
                Err(_) => return PrometheusBuilder::new(),
            };
        }
    }
    builder
}

/// A metric with these values of its labels, in their order.
fn key(metric: &Metric, values: Vec<SharedString>) -> Key {
    let labels: Vec<Label> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| Label::new(*name, value))
        .collect();
    Key::from_parts(metric.name, labels)
}

/// A counter for each value of the one label.
fn counters<const N: usize>(recorder: &PrometheusRecorder, metric: &Metric, values: [&'static str; N]) -> [Counter; N] {
    values.map(|value| recorder.register_counter(&key(metric, vec![value.into()]), &META))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Now {
        Now {
            waiting: 3,
            running: 1,
            limit: 100,
            ready: true,
            uptime: Duration::from_millis(1500),
        }
    }

    fn lines(metrics: &Metrics) -> Vec<String> {
        metrics.text(now()).lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_happens_is_counted_under_its_labels() {
        let metrics = Metrics::new();
        metrics.know_templates(["z".to_owned(), "qwen-image".to_owned()]);
        let engine = metrics.engine(LOCAL);
        for (template, outcome, error) in [
            (Some("qwen-image"), "completed", ""),
            (Some("qwen-image"), "completed", ""),
            (Some("a fox \" in the snow"), "failed", "invalid_request"),
            (Some(WORKFLOW), "cancelled", ""),
            (None, "timed_out", ""),
        ] {
            let dialect = "runpod";
            metrics.ended(
                &engine,
                Ended {
                    dialect,
                    template,
                    outcome,
                    error,
                },
            );
        }
        metrics.engine("gpu-1").phase(Phase::Run, Duration::from_secs(7));
        metrics.restarted(Restart::Revived);
        metrics.model_came(ModelSource::Url, 12);
        metrics.image_came(ImageSource::Bucket, 13);
        metrics.webhook_tried(WebhookResult::GivenUp);
        metrics.requested("kie", 2_000);
        metrics.made("kie", 3_000_000);
        let lines = lines(&metrics);
        let ended = |template: &str, outcome: &str, error: &str, jobs: u32| {
            format!(
                "qwen_image_worker_jobs_ended_total{{dialect=\"runpod\",template=\"{template}\",engine=\"local\",outcome=\"{outcome}\",error=\"{error}\"}} {jobs}"
            )
        };
        for line in [
            &*ended("qwen-image", "completed", "", 2),
            &ended("unknown", "failed", "invalid_request", 1),
            &ended("workflow", "cancelled", "", 1),
            &ended("unknown", "timed_out", "", 1),
            "qwen_image_worker_jobs{state=\"waiting\"} 3",
            "qwen_image_worker_jobs{state=\"running\"} 1",
            "qwen_image_worker_queue_limit 100",
            "qwen_image_worker_ready 1",
            "qwen_image_worker_uptime_seconds 1.5",
            "qwen_image_worker_job_phase_seconds_bucket{engine=\"gpu-1\",phase=\"run\",le=\"5\"} 0",
            "qwen_image_worker_job_phase_seconds_bucket{engine=\"gpu-1\",phase=\"run\",le=\"10\"} 1",
            "qwen_image_worker_job_phase_seconds_sum{engine=\"gpu-1\",phase=\"run\"} 7",
            "qwen_image_worker_comfyui_restarts_total{reason=\"revived\"} 1",
            "qwen_image_worker_comfyui_restarts_total{reason=\"crashed\"} 0",
            "qwen_image_worker_model_download_bytes_total{source=\"url\"} 12",
            "qwen_image_worker_image_download_bytes_total{source=\"bucket\"} 13",
            "qwen_image_worker_webhook_attempts_total{result=\"given_up\"} 1",
            "qwen_image_worker_request_bytes_count{dialect=\"kie\"} 1",
            "qwen_image_worker_result_bytes_sum{dialect=\"kie\"} 3000000",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line} is not in {lines:#?}");
        }
    }

    #[test]
    fn each_metric_is_of_its_type_and_has_the_labels_that_it_should() {
        let metrics = Metrics::new();
        let engine = metrics.engine(LOCAL);
        let ended = Ended {
            dialect: "kie",
            template: None,
            outcome: "completed",
            error: "",
        };
        metrics.ended(&engine, ended);
        engine.phase(Phase::Queue, Duration::ZERO);
        metrics.requested("kie", 1);
        metrics.made("kie", 1);
        let lines = lines(&metrics);
        for metric in METRICS {
            let kind = format!("# TYPE {} {}", metric.name, metric.kind.as_str());
            assert!(lines.contains(&kind), "{kind} is not in {lines:#?}");
            let help = format!("# HELP {} ", metric.name);
            assert!(lines.iter().any(|line| line.starts_with(&help)), "{help}");
        }
        for line in lines.iter().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (name, labels) = line.split_once(['{', ' ']).unwrap();
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| name.strip_suffix(part))
                .unwrap_or(name);
            let metric = METRICS.iter().find(|metric| [name, base].contains(&metric.name));
            let metric = metric.unwrap_or_else(|| panic!("{name} is not declared"));
            let all = metric
                .labels
                .iter()
                .all(|label| labels.contains(&format!("{label}=\"")));
            assert!(all, "{line}");
        }
    }

    #[test]
    fn the_time_of_work_rises_while_it_lasts() {
        let metrics = Metrics::new();
        let guard = metrics.engine(LOCAL).busy();
        std::thread::sleep(Duration::from_millis(20));
        let busy = |metrics: &Metrics| -> f64 {
            let lines = lines(metrics);
            let name = "qwen_image_worker_engine_busy_seconds_total{engine=\"local\"} ";
            let line = lines.iter().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{lines:#?}")).parse().unwrap()
        };
        let first = busy(&metrics);
        assert!(first >= 0.02, "{first}");
        drop(guard);
        let second = busy(&metrics);
        assert!(second >= first);
        assert!((busy(&metrics) - second).abs() < 1e-9);
    }
}
