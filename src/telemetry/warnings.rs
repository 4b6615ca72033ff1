//! Warnings and errors as a command says them to the person who runs it, in place of log lines.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write as _};

use indicatif::MultiProgress;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{EnvFilter, Layer};

use super::runpod_lines::JOB;
use crate::display::error_chain;

/// Begins to show warnings and errors on standard error, and nothing else of the log. Progress bars on `bars` make room for
/// each.
pub fn init(bars: MultiProgress) {
    let colours = has_colours();
    let warnings = Warnings(move |level, text: &str| {
        let label = label(level, colours);
        // One that cannot be written must not end the work.
        bars.suspend(|| drop(writeln!(io::stderr(), "{label}: {text}")));
    });
    let subscriber = tracing_subscriber::registry().with(warnings.with_filter(EnvFilter::new("warn,comfyui=off")));
    // A second call, as tests may make, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Whether standard error is shown in colours.
pub(crate) fn has_colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What stands before a warning or an error.
pub(crate) fn label(level: Level, colours: bool) -> &'static str {
    match (level, colours) {
        (Level::ERROR, true) => "\x1b[1;31merror\x1b[0m",
        (Level::ERROR, false) => "error",
        (_, true) => "\x1b[1;33mwarning\x1b[0m",
        (_, false) => "warning",
    }
}

/// Gives each event as text: without the time, the place in the code, and figures for those who search logs.
struct Warnings<F>(F);

impl<S: Subscriber, F: Fn(Level, &str) + 'static> Layer<S> for Warnings<F> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut warning = Warning::default();
        event.record(&mut warning);
        if !warning.is_of_a_job {
            let text = format!("{}{}", warning.message, warning.cause);
            (self.0)(*event.metadata().level(), &set_in(&text));
        }
    }
}

#[derive(Default)]
struct Warning {
    message: String,
    /// `: ` and the error, if there is one.
    cause: String,
    /// A command tells itself what became of its job.
    is_of_a_job: bool,
}

impl Visit for Warning {
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{}", error_chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A value whose own formatting fails leaves what it wrote.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "error" => write!(self.cause, ": {value:?}"),
            name => {
                self.is_of_a_job |= name == JOB;
                Ok(())
            }
        };
    }
}

/// The lines after the first set in, and nothing that moves the cursor: what a request or a node says cannot look like a
/// warning of its own.
fn set_in(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\n    "),
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn warnings_say_what_people_need_and_forge_none() {
        let shown: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&shown);
        let warnings = Warnings(move |level, text: &str| kept.lock().push(format!("{}: {text}", label(level, false))));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(warnings), || {
            tracing::warn!(looks = 3, "ComfyUI did not answer");
            let error = io::Error::other("the disk is gone");
            tracing::error!(%error, file.path = "/a", "the file {} stays", "a.png");
            tracing::warn!(error = &error as &(dyn std::error::Error + 'static), "it stays");
            tracing::warn!(job.id = "1", "job FAILED");
            tracing::warn!("node 1\nerror: forged\r\x1b[2J");
        });
        assert_eq!(
            *shown.lock(),
            [
                "warning: ComfyUI did not answer",
                "error: the file a.png stays: the disk is gone",
                "warning: it stays: the disk is gone",
                "warning: node 1\n    error: forged\\r\\u{1b}[2J",
            ]
        );
    }
}
