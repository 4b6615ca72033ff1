//! What is measured: each metric once, with its type, its unit and its labels. What `/metrics` answers, the documentation, and
//! the checks of the dashboard and the alerts follow from it.

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is to Prometheus.
    pub kind: Kind,
    /// What its numbers count.
    pub unit: &'static str,
    /// Its labels. What they may be is bounded: never a word of a user's.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It only rises, from 0 at the start of the worker.
    Counter,
    /// It is as it is now.
    Gauge,
    /// How many observations came to no more than each of these, in the metric's unit.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As Prometheus writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// From a job that came from ComfyUI's cache to the download of a model.
const SECONDS: Kind = Kind::Histogram(&[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
]);
/// From a prompt to a film.
const BYTES: Kind = Kind::Histogram(&[1e3, 1e4, 1e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2e7, 5e7, 1e8, 1e9]);

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        labels,
        help,
    }
}

pub(super) const BUILD_INFO: Metric = metric(
    "qwen_image_worker_build_info",
    Kind::Gauge,
    "",
    &["version"],
    "Always 1; the label is the worker's version.",
);
pub(super) const UPTIME: Metric = metric(
    "qwen_image_worker_uptime_seconds",
    Kind::Gauge,
    "seconds",
    &[],
    "How long ago the process began.",
);
pub(super) const READY: Metric = metric(
    "qwen_image_worker_ready",
    Kind::Gauge,
    "",
    &[],
    "1 while the health check answers 200, which means that jobs can run; else 0.",
);
pub(super) const JOBS: Metric = metric(
    "qwen_image_worker_jobs",
    Kind::Gauge,
    "jobs",
    &["state"],
    "Jobs at the moment: `waiting` for their turn, or `running`.",
);
pub(super) const QUEUE_LIMIT: Metric = metric(
    "qwen_image_worker_queue_limit",
    Kind::Gauge,
    "jobs",
    &[],
    "Jobs that may wait or run at once (`QUEUE_LIMIT`).",
);
pub(super) const JOBS_ENDED: Metric = metric(
    "qwen_image_worker_jobs_ended_total",
    Kind::Counter,
    "jobs",
    &["dialect", "template", "engine", "outcome", "error"],
    "Jobs that ended. `template` is a template of this worker, `workflow` for graphs, or `unknown` where a job ended before its template was known; \
     `outcome` is `completed`, `failed`, `cancelled` or `timed_out`; `error` is the kind of error of one that failed, else empty.",
);
pub(super) const PHASE: Metric = metric(
    "qwen_image_worker_job_phase_seconds",
    SECONDS,
    "seconds",
    &["engine", "phase"],
    "How long jobs were in a phase. `queue`: from their coming until the engine began with them, whatever they waited for; `download`: input \
     images fetched ahead, or models that were missing, each by itself; `run`: the graph ran; `deliver`: results were collected, made ready and uploaded. A job's `queue` is told when it \
     ends, and of one that never began not at all.",
);
pub(super) const BUSY: Metric = metric(
    "qwen_image_worker_engine_busy_seconds_total",
    Kind::Counter,
    "seconds",
    &["engine"],
    "How long the engine ran graphs: the GPU was at work, or would have been.",
);
pub(super) const REQUEST_BYTES: Metric = metric(
    "qwen_image_worker_request_bytes",
    BYTES,
    "bytes",
    &["dialect"],
    "Sizes of the requests of jobs as they are kept, with the images that they bring and without those that they name by URL.",
);
pub(super) const RESULT_BYTES: Metric = metric(
    "qwen_image_worker_result_bytes",
    BYTES,
    "bytes",
    &["dialect"],
    "Sizes of all files of a completed job together, where the worker sees ComfyUI's folders.",
);
pub(super) const RESTARTS: Metric = metric(
    "qwen_image_worker_comfyui_restarts_total",
    Kind::Counter,
    "restarts",
    &["reason"],
    "Times that ComfyUI's process ended while the worker goes on. `crashed`: by itself; `out_of_memory`: the kernel killed it; `no_answer`: it did not \
     get ready; ended by the worker: `stalled`, `gpu_failed`, `interrupt_ignored`. `revived`: it had been given up, and was started again for a job.",
);
pub(super) const MODEL_BYTES: Metric = metric(
    "qwen_image_worker_model_download_bytes_total",
    Kind::Counter,
    "bytes",
    &["source"],
    "Bytes of models that came over the network: from the `hub` (Hugging Face, or its mirror), or from another `url`.",
);
pub(super) const IMAGE_BYTES: Metric = metric(
    "qwen_image_worker_image_download_bytes_total",
    Kind::Counter,
    "bytes",
    &["source"],
    "Bytes of input images and other files that requests named: from the `web`, or from a `bucket`.",
);
pub(super) const WEBHOOKS: Metric = metric(
    "qwen_image_worker_webhook_attempts_total",
    Kind::Counter,
    "attempts",
    &["result"],
    "Attempts to deliver a webhook: `delivered`, `failed` (it is tried again), or `given_up`.",
);

/// Every metric, as the documentation lists them.
pub const METRICS: &[Metric] = &[
    BUILD_INFO,
    UPTIME,
    READY,
    JOBS,
    QUEUE_LIMIT,
    JOBS_ENDED,
    PHASE,
    BUSY,
    REQUEST_BYTES,
    RESULT_BYTES,
    RESTARTS,
    MODEL_BYTES,
    IMAGE_BYTES,
    WEBHOOKS,
];

/// What the name of each begins with.
pub const PREFIX: &str = "qwen_image_worker_";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in METRICS {
            let name = metric.name;
            assert!(name.starts_with(PREFIX), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            let base = name.trim_end_matches("_total");
            for unit in ["seconds", "bytes"] {
                assert_eq!(base.ends_with(unit), metric.unit == unit, "{name}");
            }
            let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(
                is_plain(name) && metric.labels.iter().all(|label| is_plain(label)),
                "{name}"
            );
        }
    }

    /// The metrics as a Markdown table, as the documentation has them.
    fn markdown() -> String {
        use std::fmt::Write as _;
        let mut text = String::from("| metric | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n");
        let or_none = |text: &str| {
            if text.is_empty() {
                "–".to_owned()
            } else {
                text.to_owned()
            }
        };
        for metric in METRICS {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, unit, labels) = (metric.kind.as_str(), or_none(metric.unit), or_none(&labels.join(", ")));
            let _ = writeln!(
                text,
                "| `{}` | {kind} | {unit} | {labels} | {} |",
                metric.name, metric.help
            );
        }
        text
    }

    #[test]
    fn the_documentation_lists_every_metric() {
        let page = std::fs::read_to_string(root("docs/metrics.md")).unwrap_or_default();
        assert!(
            page.contains(&markdown()),
            "docs/metrics.md is out of date; its table must read:\n{}",
            markdown()
        );
    }

    fn root(path: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    /// What a text says that begins as our metrics do.
    fn named(text: &str) -> Vec<&str> {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let begins = memchr::memmem::find_iter(text.as_bytes(), PREFIX.as_bytes());
        begins
            .map(|begin| {
                let rest = &text[begin..];
                &rest[..rest.bytes().take_while(|byte| is_part(byte)).count()]
            })
            .collect()
    }

    #[test]
    fn what_dashboard_and_alerts_name_is_measured() {
        for file in ["deploy/grafana/dashboard.json", "deploy/prometheus/alerts.yml"] {
            let text = std::fs::read_to_string(root(file)).unwrap();
            let names = named(&text);
            assert!(names.len() > 5, "{file}: {names:?}");
            for name in names {
                let is_known = METRICS.iter().any(|metric| match metric.kind {
                    Kind::Histogram(_) => ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|part| name.strip_suffix(part) == Some(metric.name)),
                    Kind::Counter | Kind::Gauge => name == metric.name,
                });
                assert!(is_known, "{file} names {name}, which is no metric");
            }
        }
    }
}
