//! How far the start of this process has come, and when: what `/health`, the log and the benchmark tell of a cold start.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

/// Something that a start comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The worker's parts are built, and ComfyUI is seen to.
    Process,
    /// ComfyUI, its custom nodes and the files for this run are there.
    InstallCheck,
    /// ComfyUI answers.
    Comfyui,
    /// The models that are wanted from the start are there.
    ModelsPresent,
    /// All of them, and the warm-up's, have been read into memory.
    ModelsCached,
    /// The first job, or the warm-up, is begun. Until then nobody waited for a picture.
    FirstJob,
    /// A sampler has done its first step.
    FirstStep,
    /// A job has made its first file.
    FirstPicture,
}

/// How long after its beginning a start came to each phase, in seconds; absent until it has. Phases overlap: models are read
/// and fetched while ComfyUI starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct StartHealth {
    /// The worker's parts were built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_s: Option<f64>,
    /// ComfyUI was found, or installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_check_s: Option<f64>,
    /// ComfyUI answered: its imports were over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comfyui_s: Option<f64>,
    /// The models that are wanted from the start were there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models_present_s: Option<f64>,
    /// All models wanted from the start, and the warm-up's, were read into memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models_cached_s: Option<f64>,
    /// The first job, or the warm-up, was begun; until then nobody waited for a picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_job_s: Option<f64>,
    /// A sampler had done its first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_step_s: Option<f64>,
    /// The first picture, or other file, was made; the warm-up's counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_picture_s: Option<f64>,
}

impl StartHealth {
    fn place(&mut self, phase: Phase) -> &mut Option<f64> {
        match phase {
            Phase::Process => &mut self.process_s,
            Phase::InstallCheck => &mut self.install_check_s,
            Phase::Comfyui => &mut self.comfyui_s,
            Phase::ModelsPresent => &mut self.models_present_s,
            Phase::ModelsCached => &mut self.models_cached_s,
            Phase::FirstJob => &mut self.first_job_s,
            Phase::FirstStep => &mut self.first_step_s,
            Phase::FirstPicture => &mut self.first_picture_s,
        }
    }
}

impl fmt::Display for StartHealth {
    /// `parts 0.02, install check 0.11, ComfyUI 8.10, first job 8.12, first picture 41.20`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phases = [
            ("parts", self.process_s),
            ("install check", self.install_check_s),
            ("ComfyUI", self.comfyui_s),
            ("models there", self.models_present_s),
            ("models in memory", self.models_cached_s),
            ("first job", self.first_job_s),
            ("first step", self.first_step_s),
            ("first picture", self.first_picture_s),
        ];
        let mut separator = "";
        for (name, seconds) in phases {
            if let Some(seconds) = seconds {
                write!(f, "{separator}{name} {seconds:.2}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// Notes when a start comes to its phases. Clones are the same.
#[derive(Debug, Clone)]
pub struct StartClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// When it was made, and how old the process was.
    made: Instant,
    age: Duration,
    reached: Mutex<StartHealth>,
}

impl Default for StartClock {
    /// One that counts from the start of this process.
    fn default() -> Self {
        Self(Arc::new(Inner {
            made: Instant::now(),
            age: age_of_this_process().unwrap_or_default(),
            reached: Mutex::default(),
        }))
    }
}

impl StartClock {
    /// The start has come so far. Of several times the first counts. With the first picture, all are told in the log.
    pub fn reach(&self, phase: Phase) {
        let mut reached = self.0.reached.lock();
        // Of a sampler with one step ComfyUI tells nothing while it runs; a later job's is no part of the start.
        if phase == Phase::FirstStep && reached.first_picture_s.is_some() {
            return;
        }
        let place = reached.place(phase);
        if place.is_some() {
            return;
        }
        let seconds = self.elapsed().as_secs_f64();
        // Milliseconds are enough for a figure that people read.
        *place = Some((seconds * 1e3).round() / 1e3);
        let told = (phase == Phase::FirstPicture).then_some(*reached);
        drop(reached);
        if let Some(told) = told {
            tracing::info!("seconds from the start of the process: {told}");
        }
    }

    /// How long ago the process began.
    pub fn elapsed(&self) -> Duration {
        self.0.age + self.0.made.elapsed()
    }

    /// How far it has come.
    pub fn health(&self) -> StartHealth {
        *self.0.reached.lock()
    }
}

/// How many of these make a second in `/proc` (`USER_HZ`), on each machine that this runs on.
const TICKS: f64 = 100.0;

/// How long ago the kernel started this process (proc(5)).
fn age_of_this_process() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    age(&stat, &uptime)
}

/// `stat` has the start in ticks since the machine's as its 22nd field; the second may hold anything in parentheses.
fn age(stat: &str, uptime: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let started: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime - started / TICKS).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_process_is_read() {
        let stat = "12 (a ) b) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4200 2 3";
        let seconds = age(stat, "50.25 90.00").unwrap().as_secs_f64();
        assert!((seconds - 8.25).abs() < 1e-6, "{seconds}");
        assert_eq!(age(stat, "40.0 1"), None, "the clock cannot say that");
        assert_eq!(age("", "1 2"), None);
        assert!(age_of_this_process().is_some_and(|age| age < Duration::from_hours(1)));
    }

    #[test]
    fn the_first_time_counts_and_what_was_not_reached_is_not_told() {
        let clock = StartClock::default();
        assert_eq!(clock.health(), StartHealth::default());
        clock.reach(Phase::Comfyui);
        let first = clock.health().comfyui_s.unwrap();
        std::thread::sleep(Duration::from_millis(5));
        clock.reach(Phase::Comfyui);
        clock.reach(Phase::FirstPicture);
        let health = clock.health();
        assert_eq!(health.comfyui_s, Some(first));
        assert!(health.first_picture_s.unwrap() >= first + 0.004);
        assert_eq!(health.first_step_s, None);
        let told = health.to_string();
        assert!(
            told.starts_with("ComfyUI ") && told.contains(", first picture "),
            "{told}"
        );
    }
}
