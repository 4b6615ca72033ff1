//! Log lines, on standard error: standard output belongs to results.

use std::io::{self, IsTerminal as _, Write};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Begins to log. `filter` is as `LOG_LEVEL` has it. Progress bars on `bars` make room for each line.
pub fn init(filter: &str, bars: MultiProgress) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(BesideBars(bars))
        .finish();
    // A second call, as tests may make, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
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
        // A log that cannot be written must not end the worker.
        self.bars.suspend(|| drop(io::stderr().write_all(&self.text)));
    }
}
