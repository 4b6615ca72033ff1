//! Times a job and the stages of its execution, and counts its end. A warm-up is not watched: nobody asked for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::progress::Stage;
use super::{Dialect, JobRequest, JobState, Policy, Work};
use crate::error::ErrorKind;
use crate::telemetry::metrics::{self, BusyGuard, Ended, EngineMetrics, Phase, WORKFLOW, metrics};

/// Watches one job, for those who see parts of it. Clones watch the same; the default one watches nothing.
#[derive(Debug, Clone, Default)]
pub struct JobWatch(Option<Arc<Watched>>);

#[derive(Debug)]
struct Watched {
    dialect: Dialect,
    /// Its template, or [`WORKFLOW`], once that is known.
    template: Mutex<Option<Box<str>>>,
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
    /// Watches a job that is handled so.
    pub fn of(policy: &Policy) -> Self {
        if policy.warm_up {
            return Self::default();
        }
        Self(Some(Arc::new(Watched {
            dialect: policy.dialect,
            template: Mutex::default(),
            engine: Mutex::new(metrics().engine(metrics::LOCAL)),
        })))
    }

    /// The request is taken in, and kept as so many bytes.
    pub fn asked(&self, request: &JobRequest, bytes: usize) {
        let Some(watched) = &self.0 else { return };
        metrics().requested(watched.dialect.as_str(), bytes);
        self.works(&request.work);
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
            *watched.template.lock() = Some(name.into());
        }
    }

    /// This engine has it from now on.
    pub fn engine(&self, name: &str) {
        if let Some(watched) = &self.0 {
            *watched.engine.lock() = metrics().engine(name);
        }
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
}

/// A job's images are being fetched.
#[derive(Debug)]
pub struct Fetches {
    watched: Arc<Watched>,
    since: Instant,
}

impl Drop for Fetches {
    fn drop(&mut self) {
        self.watched.engine().phase(Phase::Download, self.since.elapsed());
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
            Stage::Downloading => watched.engine().phase(Phase::Download, time),
            Stage::Running => *self.run.get_or_insert_default() += time,
            Stage::Collecting | Stage::Delivering => *self.deliver.get_or_insert_default() += time,
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
