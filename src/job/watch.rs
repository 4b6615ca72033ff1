//! Times a job and the stages of its execution, and counts its end. A warm-up is not watched: nobody asked for it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::metrics::SharedString;
use opentelemetry::KeyValue;
use parking_lot::Mutex;

use super::progress::Stage;
use super::{Dialect, JobId, JobRequest, JobState, Policy, Work};
use crate::error::ErrorKind;
use crate::telemetry::metrics::{self, BusyGuard, Ended, EngineMetrics, Phase, WORKFLOW, metrics};
use crate::telemetry::traces::{self, JobSpan, traces};

/// Watches one job, for those who see parts of it. Clones watch the same; the default one watches nothing.
#[derive(Debug, Clone, Default)]
pub struct JobWatch(Option<Arc<Watched>>);

#[derive(Debug)]
struct Watched {
    id: JobId,
    created: SystemTime,
    dialect: Dialect,
    /// Its span, where it is traced.
    span: Option<JobSpan>,
    /// What its request brought for those whom we call.
    given: Option<String>,
    /// Its template, where there is one of that name, or [`WORKFLOW`], once that is known.
    template: Mutex<Option<SharedString>>,
    /// The engine that runs it, or ran it last.
    engine: Mutex<Arc<EngineMetrics>>,
}

/// What came of a job.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// The state that it ended in.
    pub state: JobState,
    /// The kind of its error, if it ended with one.
    pub error: Option<ErrorKind>,
    /// The time from its coming to the begin of its execution; [`None`]: its execution has not begun.
    pub delay: Option<Duration>,
    /// Bytes of the files that it made, as far as that is known.
    pub bytes: u64,
}

impl JobWatch {
    /// Watches a job that came at this time and is handled so.
    pub fn of(id: &JobId, policy: &Policy, created: SystemTime) -> Self {
        if policy.warm_up {
            return Self::default();
        }
        let given = policy.traceparent.as_deref();
        let span = traces().map(|traces| traces.job(id.as_str(), created, given));
        Self(Some(Arc::new(Watched {
            id: id.clone(),
            created,
            span,
            given: policy.traceparent.clone(),
            dialect: policy.dialect,
            template: Mutex::default(),
            engine: Mutex::new(metrics().engine(metrics::LOCAL)),
        })))
    }

    /// Its request is taken in, and kept as so many bytes.
    pub fn taken_in(&self, bytes: usize) {
        if let Some(watched) = &self.0 {
            metrics().requested(watched.dialect.as_str(), bytes);
        }
    }

    /// This is the work, as far as its request says.
    pub fn works(&self, work: &Work) {
        match work {
            Work::Workflow(_) | Work::Saved(_) => self.template(WORKFLOW),
            Work::Template(request) => {
                if let Some(template) = &request.template {
                    self.template(template);
                }
            }
        }
    }

    /// This template is filled.
    pub fn template(&self, name: &str) {
        if let Some(watched) = &self.0 {
            let known = if name == WORKFLOW {
                WORKFLOW.into()
            } else {
                metrics().known(name)
            };
            *watched.template.lock() = Some(known);
        }
    }

    /// This engine has it from now on.
    pub fn engine(&self, name: &str) {
        if let Some(watched) = &self.0 {
            *watched.engine.lock() = metrics().engine(name);
        }
    }

    /// The header `traceparent` of what is called for the job: its span, or where nothing is traced what its request brought.
    pub fn traceparent(&self) -> Option<String> {
        let watched = self.0.as_ref()?;
        let span = watched.span.as_ref().map(JobSpan::traceparent);
        span.or_else(|| watched.given.clone())
    }

    /// The images that its request names are fetched, if there are some, until what this gives is dropped.
    #[must_use]
    pub fn fetches(&self, request: &JobRequest) -> Option<Fetches> {
        let watched = self.0.clone().filter(|_| request.has_images_to_fetch())?;
        Some(Fetches {
            watched,
            since: Instant::now(),
        })
    }

    /// Its execution, from now on.
    pub fn execution(&self) -> Execution {
        Execution {
            watched: self.0.clone(),
            stage: Stage::default(),
            since: Instant::now(),
            run: None,
            deliver: None,
            busy: None,
        }
    }

    /// It ended. Called once for each life of a job.
    pub fn ended(&self, end: End) {
        let Some(watched) = &self.0 else { return };
        let engine = watched.engine();
        if let Some(delay) = end.delay {
            engine.phase(Phase::Queue, delay);
        }
        let dialect = watched.dialect.as_str();
        watched.trace_end(end, engine.name());
        if end.state == JobState::Completed && end.bytes > 0 {
            metrics().made(dialect, end.bytes);
        }
        let failure = end.error.filter(|_| end.state == JobState::Failed);
        metrics().ended(
            &engine,
            Ended {
                dialect,
                template: watched.template.lock().as_deref(),
                outcome: end.state.as_str(),
                error: failure.map_or("", ErrorKind::as_str),
            },
        );
    }
}

impl Watched {
    fn engine(&self) -> Arc<EngineMetrics> {
        Arc::clone(&self.engine.lock())
    }

    /// A stage has just ended that took so long.
    fn trace(&self, stage: traces::Stage, time: Duration) {
        let Some(span) = self.span.as_ref().filter(|span| span.is_sampled()) else {
            return;
        };
        let now = SystemTime::now();
        span.stage(stage, now.checked_sub(time).unwrap_or(now), now);
    }

    fn trace_end(&self, end: End, engine: &str) {
        let Some(span) = self.span.as_ref().filter(|span| span.is_sampled()) else {
            return;
        };
        if let Some(delay) = end.delay {
            span.stage(traces::Stage::Queue, self.created, self.created + delay);
        }
        let mut attributes = vec![
            KeyValue::new("job.id", self.id.as_str().to_owned()),
            KeyValue::new("job.dialect", self.dialect.as_str()),
            KeyValue::new("job.engine", engine.to_owned()),
            KeyValue::new("job.outcome", end.state.as_str()),
            KeyValue::new("gen_ai.operation.name", "generate_content"),
            KeyValue::new("gen_ai.provider.name", "comfyui"),
        ];
        if let Some(template) = self.template.lock().as_deref() {
            attributes.push(KeyValue::new("job.template", template.to_owned()));
            if template != WORKFLOW {
                attributes.push(KeyValue::new("gen_ai.request.model", template.to_owned()));
                attributes.push(KeyValue::new("gen_ai.output.type", "image"));
            }
        }
        let error = end.error.filter(|_| end.state != JobState::Cancelled);
        span.ended(attributes, error.map(ErrorKind::as_str));
    }
}

/// A job's images are being fetched.
#[derive(Debug)]
pub struct Fetches {
    watched: Arc<Watched>,
    since: Instant,
}

impl Drop for Fetches {
    fn drop(&mut self) {
        let time = self.since.elapsed();
        self.watched.engine().phase(Phase::Download, time);
        self.watched.trace(traces::Stage::Fetch, time);
    }
}

/// Follows the stages of one execution. With it the execution is over.
#[derive(Debug)]
pub struct Execution {
    watched: Option<Arc<Watched>>,
    stage: Stage,
    /// When that began.
    since: Instant,
    /// How long its graph ran, all attempts together, once it has.
    run: Option<Duration>,
    /// How long results were made ready.
    deliver: Option<Duration>,
    /// Its engine is at work.
    busy: Option<BusyGuard>,
}

impl Execution {
    /// It is at this stage now; called as often as anything changes.
    pub fn at(&mut self, stage: Stage) {
        if stage == self.stage {
            return;
        }
        let Some(watched) = &self.watched else { return };
        let time = self.since.elapsed();
        match self.stage {
            Stage::Downloading => {
                watched.engine().phase(Phase::Download, time);
                watched.trace(traces::Stage::Models, time);
            }
            Stage::Running => {
                *self.run.get_or_insert_default() += time;
                watched.trace(traces::Stage::Run, time);
            }
            Stage::Collecting | Stage::Delivering => {
                *self.deliver.get_or_insert_default() += time;
                watched.trace(traces::Stage::Deliver, time);
            }
            Stage::Waiting | Stage::Preparing | Stage::Done => {}
        }
        self.busy = (stage == Stage::Running).then(|| watched.engine().busy());
        self.stage = stage;
        self.since = Instant::now();
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.at(Stage::Done);
        let Some(watched) = &self.watched else { return };
        let engine = watched.engine();
        for (phase, time) in [(Phase::Run, self.run), (Phase::Deliver, self.deliver)] {
            if let Some(time) = time {
                engine.phase(phase, time);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Now;

    /// The value of a metric of the engine with this name, as it is written; nothing where there is none.
    fn value(engine: &str, name: &str, labels: &str) -> String {
        let now = Now {
            waiting: 0,
            running: 0,
            limit: 1,
            ready: true,
            uptime: Duration::ZERO,
        };
        let text = metrics().text(now);
        let line = text.lines().find(|line| {
            let (begin, rest) = line.split_once('{').unwrap_or_default();
            begin == format!("qwen_image_worker_{name}")
                && rest.contains(&format!("engine=\"{engine}\""))
                && rest.contains(labels)
        });
        let number = line.and_then(|line| line.rsplit(' ').next());
        number.unwrap_or_default().to_owned()
    }

    fn watch(engine: &str, policy: &Policy) -> JobWatch {
        let watch = JobWatch::of(&JobId::new(), policy, SystemTime::now());
        watch.engine(engine);
        watch
    }

    #[test]
    fn a_job_is_measured_by_its_stages_and_counted_at_its_end() {
        const ENGINE: &str = "of-the-test-of-stages";
        let watch = watch(ENGINE, &Policy::default());
        let count = |phase: &str| value(ENGINE, "job_phase_seconds_count", &format!("phase=\"{phase}\""));
        let mut execution = watch.execution();
        let wait = || std::thread::sleep(Duration::from_millis(10));
        for stage in [
            Stage::Preparing,
            Stage::Downloading,
            Stage::Preparing,
            Stage::Running,
            Stage::Waiting,
            Stage::Running,
            Stage::Running,
            Stage::Collecting,
            Stage::Delivering,
        ] {
            execution.at(stage);
            wait();
        }
        // Both attempts, and nothing of the time between them.
        let busy: f64 = value(ENGINE, "engine_busy_seconds_total", "").parse().unwrap();
        assert!((0.03..0.3).contains(&busy), "{busy}");
        assert_eq!(["download", "run", "deliver"].map(count), ["1", "0", "0"]);
        drop(execution);
        let end = End {
            state: JobState::Failed,
            error: Some(ErrorKind::NodeFailed),
            delay: Some(Duration::from_secs(2)),
            bytes: 0,
        };
        watch.ended(end);
        let phases = ["queue", "download", "run", "deliver"].map(count);
        assert_eq!(phases, ["1", "1", "1", "1"]);
        let ran: f64 = value(ENGINE, "job_phase_seconds_sum", "phase=\"run\"").parse().unwrap();
        assert!((ran - busy).abs() < 0.01, "{ran} {busy}");
        assert_eq!(value(ENGINE, "jobs_ended_total", "error=\"node_failed\""), "1");
    }

    #[test]
    fn a_warm_up_is_counted_nowhere() {
        const ENGINE: &str = "of-the-test-of-warm-ups";
        let policy = Policy {
            warm_up: true,
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            ..Policy::default()
        };
        let watch = watch(ENGINE, &policy);
        let mut execution = watch.execution();
        execution.at(Stage::Running);
        drop(execution);
        watch.ended(End {
            state: JobState::Completed,
            error: None,
            delay: Some(Duration::from_secs(2)),
            bytes: 1,
        });
        assert!(watch.traceparent().is_none());
        for name in [
            "job_phase_seconds_count",
            "jobs_ended_total",
            "engine_busy_seconds_total",
        ] {
            let value = value(ENGINE, name, "");
            assert!(["", "0"].contains(&&*value), "{name} is {value}");
        }
    }

    #[test]
    fn what_a_request_brought_is_passed_on_where_nothing_is_traced() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let policy = Policy {
            traceparent: Some(given.to_owned()),
            ..Policy::default()
        };
        let watch = JobWatch::of(&JobId::new(), &policy, SystemTime::now());
        assert_eq!(watch.traceparent().as_deref(), Some(given));
    }
}
