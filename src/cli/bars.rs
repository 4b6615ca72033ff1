//! Progress bars on a terminal; elsewhere a line every few seconds.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::telemetry::report::{LogReporter, Meter, Reporter, SharedReporter, Unit};

/// The reporter that suits standard error.
pub(super) fn reporter(bars: &MultiProgress) -> SharedReporter {
    if std::io::stderr().is_terminal() {
        Arc::new(Bars(bars.clone()))
    } else {
        Arc::new(LogReporter::default())
    }
}

/// A bar with the given template, which is one of ours and parses.
pub(super) fn bar(bars: &MultiProgress, total: Option<u64>, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bars
        .add(total.map_or_else(ProgressBar::new_spinner, ProgressBar::new))
        .with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[derive(Debug)]
struct Bars(MultiProgress);

impl Reporter for Bars {
    fn begin(&self, title: &str, total: Option<u64>, unit: Unit) -> Box<dyn Meter> {
        let template = match (total, unit) {
            (Some(_), Unit::Bytes) => "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}",
            (Some(_), Unit::Items) => "{prefix} [{bar:30}] {pos}/{len} {msg}",
            (None, Unit::Bytes) => "{spinner} {prefix} {bytes} {elapsed} {msg}",
            (None, Unit::Items) => "{spinner} {prefix} {elapsed} {msg}",
        };
        Box::new(bar(&self.0, total, template).with_prefix(title.to_owned()))
    }

    fn note(&self, line: &str) {
        tracing::info!("{line}");
    }
}

impl Meter for ProgressBar {
    fn position(&mut self, position: u64) {
        self.set_position(position);
    }

    fn detail(&mut self, detail: &str) {
        self.set_message(detail.to_owned());
    }

    fn finish(self: Box<Self>, summary: &str) {
        let title = self.prefix();
        self.finish_and_clear();
        tracing::info!("{title}: {summary}");
    }
}
