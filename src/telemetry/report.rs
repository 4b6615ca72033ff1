//! Progress of long work. The one who works calls [`Reporter`]; the front end decides whether that is a bar on a
//! terminal, a line every few seconds in the log, or nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a [`Meter`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as MB.
    Bytes,
    /// Countable things: files, packages, percent of a graph.
    Items,
}

/// Receives the progress of long work.
pub trait Reporter: Send + Sync {
    /// A step begins. `total` is in `unit`, [`None`] when nobody knows it yet.
    fn begin(&self, title: &str, total: Option<u64>, unit: Unit) -> Box<dyn Meter>;

    /// One line that stands for itself.
    fn note(&self, line: &str);
}

/// The progress of one step. Dropping it without [`Meter::finish`] means the step ended early.
pub trait Meter: Send {
    /// Sets the position, in the unit given to [`Reporter::begin`].
    fn position(&mut self, position: u64);

    /// Says what is being done at the moment.
    fn detail(&mut self, detail: &str);

    /// The step is done; `summary` is its last line.
    fn finish(self: Box<Self>, summary: &str);
}

/// A reporter that several tasks share.
pub type SharedReporter = Arc<dyn Reporter>;

/// Writes progress to the log: the begin, a line every few seconds, the end.
#[derive(Debug, Clone, Copy)]
pub struct LogReporter {
    /// The shortest time between two lines of one step.
    pub every: Duration,
}

impl Default for LogReporter {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(5),
        }
    }
}

impl Reporter for LogReporter {
    fn begin(&self, title: &str, total: Option<u64>, unit: Unit) -> Box<dyn Meter> {
        tracing::info!(step = title, "{title}");
        let now = Instant::now();
        Box::new(LogMeter {
            title: title.to_owned(),
            total,
            unit,
            position: 0,
            detail: String::new(),
            every: self.every,
            last: now,
            began: now,
            first: None,
        })
    }

    fn note(&self, line: &str) {
        tracing::info!("{line}");
    }
}

struct LogMeter {
    title: String,
    total: Option<u64>,
    unit: Unit,
    position: u64,
    detail: String,
    every: Duration,
    last: Instant,
    began: Instant,
    /// The first position, which may be where a previous run left off, and when it was told.
    first: Option<(Instant, u64)>,
}

impl LogMeter {
    fn line_if_due(&mut self) {
        if self.last.elapsed() < self.every {
            return;
        }
        self.last = Instant::now();
        let (title, detail) = (&self.title, &self.detail);
        let progress = describe(self.position, self.total, self.unit);
        let pace = match (self.unit, self.first) {
            (Unit::Bytes, Some((since, first))) => {
                let came = self.position.saturating_sub(first);
                let left = self.total.map(|total| total.saturating_sub(self.position));
                pace(came, since.elapsed(), left)
            }
            _ => String::new(),
        };
        tracing::info!(
            step = title,
            elapsed_s = self.began.elapsed().as_secs(),
            "{title}: {progress}{pace} {detail}"
        );
    }
}

impl Meter for LogMeter {
    fn position(&mut self, position: u64) {
        self.first.get_or_insert((Instant::now(), position));
        self.position = position;
        self.line_if_due();
    }

    fn detail(&mut self, detail: &str) {
        detail.clone_into(&mut self.detail);
        self.line_if_due();
    }

    fn finish(self: Box<Self>, summary: &str) {
        let title = &self.title;
        tracing::info!(
            step = title,
            elapsed_s = self.began.elapsed().as_secs(),
            "{title}: {summary}"
        );
    }
}

/// `, 118.2 MB/s, 42 s left`; nothing before anything came.
fn pace(came: u64, elapsed: Duration, left: Option<u64>) -> String {
    let rate = came as f64 / elapsed.as_secs_f64();
    if came == 0 || !rate.is_finite() {
        return String::new();
    }
    let left = left.map(|left| format!(", {:.0} s left", left as f64 / rate));
    format!(", {:.1} MB/s{}", rate / 1e6, left.unwrap_or_default())
}

/// Bytes for people: `3.2 MB`, `20.43 GB`.
pub fn bytes(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.2} GB", bytes as f64 / 1e9)
    }
}

/// `3.2 MB of 11.9 MB (27 %)`, `4 of 9 (44 %)`, or only the position when the total is unknown.
fn describe(position: u64, total: Option<u64>, unit: Unit) -> String {
    let number = |n: u64| match unit {
        Unit::Bytes => bytes(n),
        Unit::Items => n.to_string(),
    };
    match total {
        Some(total) if total > 0 => format!(
            "{} of {} ({} %)",
            number(position),
            number(total),
            position.min(total) * 100 / total
        ),
        _ => number(position),
    }
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentReporter;

impl Reporter for SilentReporter {
    fn begin(&self, _title: &str, _total: Option<u64>, _unit: Unit) -> Box<dyn Meter> {
        Box::new(Self)
    }

    fn note(&self, _line: &str) {}
}

impl Meter for SilentReporter {
    fn position(&mut self, _position: u64) {}
    fn detail(&mut self, _detail: &str) {}
    fn finish(self: Box<Self>, _summary: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_told_once_something_came() {
        let second = Duration::from_secs(1);
        assert_eq!(pace(0, second, Some(5)), "");
        assert_eq!(pace(50_000_000, second * 2, Some(100_000_000)), ", 25.0 MB/s, 4 s left");
        assert_eq!(pace(50_000_000, second, None), ", 50.0 MB/s");
        assert_eq!(bytes(20_430_000_000), "20.43 GB");
    }

    #[test]
    fn describes_known_and_unknown_totals() {
        assert_eq!(
            describe(3_200_000, Some(12_800_000), Unit::Bytes),
            "3.2 MB of 12.8 MB (25 %)"
        );
        assert_eq!(describe(4, Some(9), Unit::Items), "4 of 9 (44 %)");
        assert_eq!(describe(7, None, Unit::Items), "7");
        assert_eq!(describe(7, Some(0), Unit::Items), "7");
    }
}
