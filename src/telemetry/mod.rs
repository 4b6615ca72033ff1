//! Logs, progress, metrics and traces: what the process tells people while it works.
//!
//! Log lines are text on standard error, since standard output belongs to results; on a RunPod endpoint JSON on standard
//! output, as the platform collects it.

pub mod metrics;
mod rate;
pub mod report;
pub mod runpod_lines;
pub mod start;
pub mod traces;
pub mod warnings;

use std::io::{self, IsTerminal as _, Write};

use indicatif::MultiProgress;
use tracing::Subscriber;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::runpod_lines::{RunpodLines, names_a_job};

/// Begins to log. `filter` is as `LOG_LEVEL` has it. Progress bars on `bars` make room for each line.
pub fn init(filter: &str, bars: MultiProgress) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(parsed(filter))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(BesideBars(bars))
        .finish();
    // A second call, as tests may make, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Begins to log in RunPod's form, on standard output.
pub fn init_runpod(filter: &str) {
    let _ = tracing::subscriber::set_global_default(runpod_subscriber(filter, io::stdout()));
}

fn runpod_subscriber(filter: &str, writer: impl Write + Send + 'static) -> impl Subscriber + Send + Sync {
    // A job's lines bear its id even where the level hides the span.
    let filter = parsed(filter).or(filter_fn(names_a_job));
    tracing_subscriber::registry().with(RunpodLines::new(writer).with_filter(filter))
}

fn parsed(filter: &str) -> EnvFilter {
    EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Writes whole lines between the redraws of progress bars.
#[derive(Debug, Clone)]
struct BesideBars(MultiProgress);

struct Line {
    bars: MultiProgress,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for BesideBars {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            bars: self.0.clone(),
            text: Vec::with_capacity(256),
        }
    }
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = one_entry(&self.text);
        // A log that cannot be written must not end the worker.
        self.bars.suspend(|| drop(io::stderr().write_all(&text)));
    }
}

/// The lines of one event, all but the first set in: what a request or a node says cannot look like an entry of its own.
fn one_entry(text: &[u8]) -> Vec<u8> {
    let (text, end) = match text.strip_suffix(b"\n") {
        Some(text) => (text, &b"\n"[..]),
        None => (text, &b""[..]),
    };
    let mut entry = Vec::with_capacity(text.len() + 64);
    for &byte in text {
        match byte {
            b'\n' => entry.extend_from_slice(b"\n    "),
            // It would go back to the line's begin.
            b'\r' => entry.extend_from_slice(b"\\r"),
            _ => entry.push(byte),
        }
    }
    entry.extend_from_slice(end);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_forges_an_entry() {
        let forged = "2026-11-29 WARN a job failed: node 1\n2026-11-29 ERROR forged\rERROR too\n";
        assert_eq!(
            String::from_utf8(one_entry(forged.as_bytes())).unwrap(),
            "2026-11-29 WARN a job failed: node 1\n    2026-11-29 ERROR forged\\rERROR too\n"
        );
        assert_eq!(one_entry(b"no end"), b"no end");
    }
}
