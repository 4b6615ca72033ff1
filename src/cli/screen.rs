//! What a command shows while it works: on a terminal progress below and what is said above it, elsewhere log lines.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::telemetry::report::{LogReporter, Meter, Reporter, SharedReporter, Unit};

/// The reporter for a command that shows a bar for each step, where it is run at a terminal.
pub(super) fn reporter(bars: &MultiProgress) -> SharedReporter {
    Screen::on(bars.clone(), false).reporter()
}

/// Standard error as a command uses it. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    bars: MultiProgress,
    manner: Manner,
    /// The steps under way, in the order of their claim to the one bar.
    steps: Arc<Mutex<Vec<ProgressBar>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Log lines, no bars: there is no terminal, or a dumb one.
    Lines,
    /// Log lines, and a bar for each step below them.
    LinesAndBars,
    /// Warnings, and one bar below them.
    OneBar,
}

impl Screen {
    /// `quiet`: without log lines, if it is a terminal.
    pub(super) fn new(quiet: bool) -> Self {
        Self::on(MultiProgress::new(), quiet)
    }

    fn on(bars: MultiProgress, quiet: bool) -> Self {
        let manner = match (bars.is_hidden(), quiet) {
            (true, _) => Manner::Lines,
            (false, false) => Manner::LinesAndBars,
            (false, true) => Manner::OneBar,
        };
        Self {
            bars,
            manner,
            steps: Arc::default(),
        }
    }

    /// Whether warnings are all of the log that is shown.
    pub(super) fn is_quiet(&self) -> bool {
        self.manner == Manner::OneBar
    }

    /// What log lines must make room for themselves on.
    pub(super) fn bars(&self) -> MultiProgress {
        self.bars.clone()
    }

    /// The reporter of long work.
    pub(super) fn reporter(&self) -> SharedReporter {
        match self.manner {
            Manner::Lines => Arc::new(LogReporter::default()),
            Manner::LinesAndBars | Manner::OneBar => Arc::new(self.clone()),
        }
    }

    /// Tells how the work came out, or what people must know beside its progress.
    pub(super) fn say(&self, line: &str) {
        if self.is_quiet() {
            self.bars.suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
        } else {
            tracing::info!("{line}");
        }
    }

    /// The job's bar, of a hundred percent, where there are bars. Steps of other work come before it.
    pub(super) fn job(&self) -> Option<Step> {
        let bar = bar(Some(100), "[{bar:30}] {pos:>3} % {wide_msg}");
        (self.manner != Manner::Lines).then(|| self.add(bar, usize::MAX))
    }

    fn add(&self, bar: ProgressBar, position: usize) -> Step {
        let mut steps = self.steps.lock();
        let position = position.min(steps.len());
        steps.insert(position, bar.clone());
        self.arrange(&steps);
        Step {
            bar,
            screen: self.clone(),
        }
    }

    /// Draws those that are to be seen, and no others.
    fn arrange(&self, steps: &[ProgressBar]) {
        let shown = if self.is_quiet() { 1 } else { steps.len() };
        let (shown, hidden) = steps.split_at(shown.min(steps.len()));
        // First, since nothing is drawn by it.
        for bar in hidden {
            self.bars.remove(bar);
        }
        for bar in shown.iter().filter(|bar| bar.is_hidden()) {
            self.bars.add(bar.clone()).force_draw();
        }
    }
}

/// A bar that is not drawn yet. The template is one of ours and parses.
fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.with_style(style.progress_chars("=> "))
}

impl Reporter for Screen {
    fn begin(&self, title: &str, total: Option<u64>, unit: Unit) -> Box<dyn Meter> {
        let template = match (total, unit) {
            (Some(_), Unit::Bytes) => "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}",
            (Some(_), Unit::Items) => "{prefix} [{bar:30}] {pos}/{len} {wide_msg}",
            (None, Unit::Bytes) => "{spinner} {prefix} {bytes} {elapsed} {wide_msg}",
            (None, Unit::Items) => "{spinner} {prefix} {elapsed} {wide_msg}",
        };
        Box::new(self.add(bar(total, template).with_prefix(title.to_owned()), 0))
    }

    fn note(&self, line: &str) {
        self.say(line);
    }
}

/// A step under way; over when it is dropped.
#[derive(Debug)]
pub(super) struct Step {
    bar: ProgressBar,
    screen: Screen,
}

impl Meter for Step {
    fn position(&mut self, position: u64) {
        self.bar.set_position(position);
    }

    fn detail(&mut self, detail: &str) {
        self.bar.set_message(detail.to_owned());
    }

    fn finish(self: Box<Self>, summary: &str) {
        let title = self.bar.prefix();
        drop(self);
        tracing::info!("{title}: {summary}");
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.screen.bars.remove(&self.bar);
        let mut steps = self.screen.steps.lock();
        steps.retain(|bar| !bar.is_finished());
        self.screen.arrange(&steps);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that keeps the text of its last frame, and of the one that is being drawn.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<(String, String)>>);

    impl Terminal {
        fn shown(&self) -> String {
            self.0.lock().0.clone()
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().1.push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            let mut frames = self.0.lock();
            frames.0 = std::mem::take(&mut frames.1);
            Ok(())
        }
    }

    fn screen(quiet: bool) -> (Screen, Terminal) {
        let terminal = Terminal::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        (Screen::on(MultiProgress::with_draw_target(target), quiet), terminal)
    }

    #[test]
    fn one_bar_is_shown_and_the_jobs_last() {
        let (screen, terminal) = screen(true);
        let shows = |title: &str| {
            let shown = terminal.shown();
            ["packages", "model", "the job"]
                .iter()
                .all(|other| shown.contains(other) == (*other == title))
        };
        let packages = screen.begin("packages", Some(10), Unit::Items);
        assert!(shows("packages"));
        let mut job = screen.job().unwrap();
        job.detail("the job");
        assert!(shows("packages"));
        let model = screen.begin("model", Some(10), Unit::Bytes);
        assert!(shows("model"));
        drop(packages);
        assert!(shows("model"));
        model.finish("fetched");
        assert!(shows("the job"));
        drop(job);
        assert!(shows("nothing"));
    }

    #[test]
    fn with_log_lines_each_step_has_its_bar() {
        let (screen, terminal) = screen(false);
        let _steps = [
            screen.begin("packages", None, Unit::Items),
            screen.begin("model", None, Unit::Bytes),
        ];
        let shown = terminal.shown();
        assert!(shown.contains("packages") && shown.contains("model"), "{shown}");
    }

    #[test]
    fn without_a_terminal_there_are_no_bars() {
        let hidden = || MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        for quiet in [true, false] {
            let screen = Screen::on(hidden(), quiet);
            assert!(!screen.is_quiet() && screen.job().is_none());
        }
    }
}
