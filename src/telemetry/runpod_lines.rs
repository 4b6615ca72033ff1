//! Log lines as RunPod collects them: one JSON object a line on standard output, by which the console shows the lines
//! of one request. The form is that of runpod-python's `serverless/modules/rp_logger.py` (1.12.0).

use std::fmt::{self, Write as _};
use std::io::Write;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::rate::{Passage, RateLimit, Worth};
use crate::display::error_chain;

/// The most characters of a message (`MAX_MESSAGE_LENGTH`).
const LONGEST: usize = 4096;
/// The field, of an event or of a span, that names the job.
pub(super) const JOB: &str = "job.id";

/// Writes each event as one line of JSON, and leaves out what would be too much.
pub struct RunpodLines<W> {
    clock: Clock,
    out: Mutex<(RateLimit, W)>,
}

/// The time since the log began.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

impl<W: Write + Send + 'static> RunpodLines<W> {
    /// Lines for `writer`.
    pub fn new(writer: W) -> Self {
        let begun = Instant::now();
        Self::timed_by(Box::new(move || begun.elapsed()), writer)
    }

    fn timed_by(clock: Clock, writer: W) -> Self {
        Self {
            clock,
            out: Mutex::new((RateLimit::default(), writer)),
        }
    }
}

/// Whether a span names a job. Such spans must be seen whatever the level of the log is.
pub(super) fn names_a_job(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.fields().field(JOB).is_some()
}

impl<W, S> Layer<S> for RunpodLines<W>
where
    W: Write + Send + 'static,
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        keep_job(fields, id, &context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        keep_job(fields, id, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut out = self.out.lock();
        let (limit, writer) = &mut *out;
        let left_out = match limit.line(worth(event.metadata()), (self.clock)()) {
            Passage::LeftOut => return,
            Passage::Passes { left_out } => left_out,
        };
        let mut text = left_out.map_or_else(Vec::new, |lines| {
            let message = format!("{lines} log lines were left out: RunPod drops lines when there are too many");
            line(None, &message, "WARN")
        });
        let mut fields = Fields::default();
        event.record(&mut fields);
        let job = fields.job.take().or_else(|| {
            let mut spans = context.event_scope(event).into_iter().flatten();
            spans.find_map(|span| span.extensions().get::<JobId>().map(|id| id.0.clone()))
        });
        text.extend(line(job.as_deref(), &fields.text(), event.metadata().level().as_str()));
        // A log that cannot be written must not end the worker.
        let _ = writer.write_all(&text).and_then(|()| writer.flush());
    }
}

/// The job that a span is of.
struct JobId(String);

fn keep_job<S: Subscriber + for<'a> LookupSpan<'a>>(fields: Fields, id: &Id, context: &Context<'_, S>) {
    if let (Some(job), Some(span)) = (fields.job, context.span(id)) {
        span.extensions_mut().replace(JobId(job));
    }
}

fn worth(metadata: &Metadata<'_>) -> Worth {
    if *metadata.level() <= Level::WARN {
        Worth::Always
    } else if *metadata.level() >= Level::DEBUG || metadata.target().split("::").next() == Some("comfyui") {
        Worth::Minor
    } else {
        Worth::Usual
    }
}

/// One line, with its end.
fn line(job: Option<&str>, message: &str, level: &str) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        request_id: Option<&'a str>,
        message: &'a str,
        level: &'a str,
    }
    let line = Line {
        request_id: job,
        message: &shortened(message),
        level,
    };
    // Text alone cannot fail to become JSON.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// At most [`LONGEST`] characters, without those in the middle, and the SDK's words about that in their place.
fn shortened(message: &str) -> std::borrow::Cow<'_, str> {
    // A character has at least one byte.
    let length = if message.len() <= LONGEST {
        0
    } else {
        message.chars().count()
    };
    if length <= LONGEST {
        return message.into();
    }
    let at = |index: usize| message.char_indices().nth(index).map_or(message.len(), |(at, _)| at);
    let (head, tail) = (&message[..at(LONGEST / 2)], &message[at(length - LONGEST / 2)..]);
    let left_out = length - LONGEST;
    format!("{head}\n...TRUNCATED {left_out} CHARACTERS...\n{tail}").into()
}

/// What an event or a span says.
#[derive(Default)]
struct Fields {
    job: Option<String>,
    message: String,
    /// ` key=value`, one after the other.
    others: String,
}

impl Fields {
    fn text(mut self) -> String {
        self.message.push_str(&self.others);
        self.message.trim_start().to_owned()
    }

    fn put(&mut self, field: &Field, value: &fmt::Arguments<'_>) {
        // A value whose own formatting fails leaves what it wrote.
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            JOB => write!(self.job.get_or_insert_default(), "{value}"),
            name => write!(self.others, " {name}={value}"),
        };
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = [JOB, "message"].contains(&field.name()) || !value.contains([' ', '\n', '"']);
        if is_plain {
            self.put(field, &format_args!("{value}"));
        } else {
            self.put(field, &format_args!("{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, &format_args!("{}", error_chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::telemetry::runpod_subscriber;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn lines(&self) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    /// The lines that `work` leads to, all of them at one moment.
    fn lines_of(work: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let lines = RunpodLines::timed_by(Box::new(|| Duration::ZERO), written.clone());
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, work);
        written.lines()
    }

    #[test]
    fn an_event_is_one_line_of_the_three_keys_in_order() {
        let text = line(Some("job-1"), "two\nlines \"quoted\" ü", "INFO");
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "{\"requestId\":\"job-1\",\"message\":\"two\\nlines \\\"quoted\\\" ü\",\"level\":\"INFO\"}\n"
        );
    }

    #[test]
    fn fields_and_errors_follow_the_message() {
        #[derive(Debug, thiserror::Error)]
        #[error("the lamp is out")]
        struct Lamp(#[source] fmt::Error);
        let error = Lamp(fmt::Error);
        let lines = lines_of(|| {
            tracing::info!(step = "one two", count = 3, plain = "text", "done");
            tracing::warn!(error = &error as &(dyn std::error::Error + 'static), "failed");
            tracing::error!(%error, kind = ?Some(1), "failed");
            tracing::debug!(only = true);
        });
        let message = format!("failed error=the lamp is out: {}", fmt::Error);
        assert_eq!(
            lines,
            [
                json!({"requestId": null, "message": "done step=\"one two\" count=3 plain=text", "level": "INFO"}),
                json!({"requestId": null, "message": message, "level": "WARN"}),
                json!({"requestId": null, "message": "failed error=the lamp is out kind=Some(1)", "level": "ERROR"}),
                json!({"requestId": null, "message": "only=true", "level": "DEBUG"}),
            ]
        );
    }

    #[test]
    fn the_job_is_the_events_own_or_the_nearest_spans() {
        let lines = lines_of(|| {
            tracing::info!("nobody's");
            let outer = tracing::info_span!("job", job.id = "outer").entered();
            let inner = tracing::info_span!("job", job.id = tracing::field::Empty).entered();
            tracing::info!("the outer one's");
            inner.record("job.id", "inner");
            let request = tracing::info_span!("request", request.id = "r").entered();
            tracing::info!("the inner one's");
            tracing::info!(job.id = "own", "its own");
            tracing::info!(parent: None, "nobody's again");
            drop((request, inner));
            tracing::info!(parent: &outer, "the outer one's again");
        });
        let seen: Vec<_> = lines.iter().map(|line| line["requestId"].as_str()).collect();
        assert_eq!(
            seen,
            [None, Some("outer"), Some("inner"), Some("own"), None, Some("outer")]
        );
    }

    #[test]
    fn a_long_message_loses_its_middle_by_characters() {
        let exact = "ü".repeat(LONGEST);
        assert_eq!(shortened(&exact), exact);
        let long = format!("{}{}{}", "a".repeat(2048), "😀".repeat(7), "ü".repeat(2048));
        assert_eq!(
            shortened(&long),
            format!(
                "{}\n...TRUNCATED 7 CHARACTERS...\n{}",
                "a".repeat(2048),
                "ü".repeat(2048)
            )
        );
    }

    #[test]
    fn comfyuis_lines_and_those_for_debugging_go_first_and_warnings_stay() {
        let lines = lines_of(|| {
            for _ in 0..500 {
                tracing::info!(target: "comfyui", "chatter");
                tracing::debug!("detail");
                tracing::warn!(target: "comfyui", "careful");
            }
        });
        let count = |message: &str| lines.iter().filter(|line| line["message"] == message).count();
        assert_eq!(count("careful"), 500);
        assert_eq!(count("chatter") + count("detail"), 100);
        let said = lines
            .iter()
            .find(|line| line["message"].as_str().is_some_and(|text| text.contains("left out")));
        assert_eq!(said.unwrap()["level"], "WARN");
    }

    #[test]
    fn a_level_that_hides_the_jobs_span_hides_not_its_id() {
        let written = Written::default();
        let subscriber = runpod_subscriber("warn", written.clone());
        tracing::subscriber::with_default(subscriber, || {
            let _job = tracing::info_span!("job", job.id = "job-1").entered();
            tracing::info!("hidden");
            tracing::warn!("shown");
        });
        let expected = json!({"requestId": "job-1", "message": "shown", "level": "WARN"});
        assert_eq!(written.lines(), [expected]);
    }

    #[test]
    fn a_log_that_cannot_be_written_ends_nothing() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        let subscriber = tracing_subscriber::registry().with(RunpodLines::new(Full));
        tracing::subscriber::with_default(subscriber, || tracing::error!("lost"));
    }
}
