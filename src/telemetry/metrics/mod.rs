//! What the worker measures of itself, for Prometheus. There is one set of metrics in a process, as there is one log: whoever
//! has something to count does it where it happens.
//!
//! What is as it is now (jobs that wait, whether the worker is ready) is looked up when somebody asks. For the rest there are
//! handles, so that a count is an addition.

mod busy;
mod declared;
mod words;

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
pub use words::{ImageSource, ModelSource, Phase, Restart, WebhookResult};

use words::{IMAGE_SOURCES, JOB_STATES, MODEL_SOURCES, PHASES, RESTARTS, WEBHOOK_RESULTS};

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

    /// The template's name, where there is such a one: what a request says otherwise is told nobody.
    pub fn known(&self, name: &str) -> SharedString {
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
#[path = "tests.rs"]
mod tests;
