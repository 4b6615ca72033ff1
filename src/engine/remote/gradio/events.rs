//! What the queue of a Space tells of a job: server-sent events, of which Gradio uses only the lines of data.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use reqwest::Response;
use serde_json::Value;
use tokio::time::Instant;

use crate::display::error_chain;
use crate::echo::at_most;
use crate::engine::remote::output::Output;
use crate::engine::remote::status::is_of_engine;
use crate::engine::remote::web::LARGEST_ANSWER;
use crate::job::progress::Report;

/// The longest of a Space's own words, in bytes.
pub(super) const LONGEST_WORDS: usize = 500;
/// How long a Space of which nothing is heard is asked for a job: what it tells meanwhile it keeps.
const KEEPS: Duration = Duration::from_mins(2);
/// How a line of data begins.
const DATA: &[u8] = b"data:";
/// What it says where it says nothing.
const NOTHING: &str = "it failed, and says nothing of why";

/// The stream of a session.
#[derive(Debug)]
pub(super) struct Events {
    response: Response,
    read: BytesMut,
}

/// Something that is told of a job.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// The Space is there, which says nothing of the job.
    Lives,
    /// It waits, or nothing has changed.
    Waits,
    /// It has begun.
    Begins,
    /// It is so far.
    Steps(Report),
    /// It is over.
    Completed(Completed),
}

/// How a job ended.
#[derive(Debug, PartialEq)]
pub(super) enum Completed {
    /// With this output.
    Well(Output),
    /// Without one, as after a cancel.
    Cancelled,
    Failed(Fault),
}

/// Why a job failed, with the Space's own words.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// The quota of whoever asks does not do for it; it comes back after so long.
    Quota { words: String, wait: Option<Duration> },
    /// No GPU was free.
    NoGpu(String),
    /// It broke down.
    OfEngine(String),
    /// It does not take the values that it was asked with.
    OfValues(String),
    /// It would not do the job.
    OfJob(String),
}

/// Why nothing is told of a job.
#[derive(Debug, PartialEq)]
pub(super) enum Lost {
    /// The Space does not know its session any more.
    Gone(String),
    /// The stream broke, and may be had again.
    Broken(String),
}

/// When something was last heard of a job.
///
/// Gradio drops the events of a session whose stream has ended, but not always what it keeps of the session: then a new
/// stream beats for ever and tells of nothing. So after a cut a Space is heard only where it tells of the job.
#[derive(Debug)]
pub(super) struct Heard {
    at: Instant,
    was_cut: bool,
}

impl Heard {
    /// `was_cut`: an earlier stream has ended.
    pub(super) fn new(was_cut: bool, now: Instant) -> Self {
        Self { at: now, was_cut }
    }

    pub(super) fn hears(&mut self, event: &Event, now: Instant) {
        if !self.was_cut || *event != Event::Lives {
            *self = Self::new(false, now);
        }
    }

    pub(super) fn is_cut(&mut self) {
        self.was_cut = true;
    }

    /// Whether the job is given up.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.was_cut && now.duration_since(self.at) > KEEPS
    }
}

impl Events {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            read: BytesMut::new(),
        }
    }

    /// What is told next of a job. Fails where the stream ends, or the session is not known.
    pub(super) async fn next(&mut self, event: &str) -> Result<Event, Lost> {
        loop {
            let mut line = self.line().await?;
            // Keep-alives, and lines that only separate.
            if !line.starts_with(DATA) {
                continue;
            }
            line.advance(DATA.len());
            // Not handed on to another thread: what waits here may be dropped, and this is not told again.
            let message = Output::read(line.freeze());
            let message = message.ok_or_else(|| Lost::Broken("it tells what is no JSON".to_owned()))?;
            if let Some(told) = read(message, event)? {
                return Ok(told);
            }
        }
    }

    async fn line(&mut self) -> Result<BytesMut, Lost> {
        let mut looked_at = 0;
        loop {
            if let Some(end) = self.read[looked_at..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(looked_at + end);
                self.read.advance(1);
                return Ok(line);
            }
            looked_at = self.read.len();
            if looked_at > LARGEST_ANSWER {
                return Err(Lost::Gone(format!("it tells more than {LARGEST_ANSWER} bytes at once")));
            }
            match self.response.chunk().await {
                Ok(Some(piece)) => self.read.extend_from_slice(&piece),
                Ok(None) => return Err(Lost::Broken("the stream ended".to_owned())),
                Err(error) => return Err(Lost::Broken(error_chain(&error.without_url()))),
            }
        }
    }
}

/// Reads a message; [`None`]: it is of another job.
fn read(mut whole: Output, event: &str) -> Result<Option<Event>, Lost> {
    let message = &whole.value;
    let of = message.get("event_id").and_then(Value::as_str);
    let is_of_another = of.is_some_and(|of| of != event);
    Ok(match message.get("msg").and_then(Value::as_str).unwrap_or_default() {
        _ if is_of_another => None,
        "process_starts" => Some(Event::Begins),
        "progress" => Some(steps(message).map_or(Event::Waits, Event::Steps)),
        "process_completed" => {
            let output = whole.value.get_mut("output").map(Value::take).unwrap_or_default();
            let is_well = whole.value.get("success").and_then(Value::as_bool).unwrap_or_default();
            Some(Event::Completed(completed(whole.part(output), is_well)))
        }
        "heartbeat" => Some(Event::Lives),
        "close_stream" => return Err(Lost::Broken("the stream ended".to_owned())),
        "unexpected_error" => {
            let words = message.get("message").and_then(Value::as_str).unwrap_or("an error");
            return Err(Lost::Gone(at_most(words.to_owned(), LONGEST_WORDS)));
        }
        _ => Some(Event::Waits),
    })
}

fn steps(message: &Value) -> Option<Report> {
    let bar = message.get("progress_data")?.as_array()?.first()?;
    let number = |field: &str| bar.get(field)?.as_u64()?.try_into().ok();
    Some(Report {
        step: number("index").zip(number("length")),
        ..Report::default()
    })
}

fn completed(output: Output, is_well: bool) -> Completed {
    if is_well {
        let has_data = output.value.get("data").is_some_and(Value::is_array);
        return if has_data {
            Completed::Well(output)
        } else {
            Completed::Cancelled
        };
    }
    let words = ["title", "error"]
        .iter()
        .filter_map(|field| output.value.get(field)?.as_str());
    let words = words.filter(|text| !text.trim().is_empty() && *text != "Error");
    Completed::Failed(Fault::of(&words.collect::<Vec<_>>().join(": ")))
}

impl Fault {
    fn of(words: &str) -> Self {
        let lower = words.to_ascii_lowercase();
        let is_of = |known: &[&str]| known.iter().any(|known| lower.contains(known));
        let words = at_most(words.to_owned(), LONGEST_WORDS);
        if is_of(&["gpu quota", "quota exceeded"]) {
            let wait = wait_of(&lower);
            return Self::Quota { words, wait };
        }
        if is_of(&["no gpu is currently available", "no gpu was available"]) {
            return Self::NoGpu(words);
        }
        if is_of(&[
            "in the list of choices",
            "is greater than maximum",
            "is less than minimum",
            "needed:",
        ]) {
            return Self::OfValues(words);
        }
        if words.is_empty() {
            return Self::OfEngine(NOTHING.to_owned());
        }
        if is_of_engine(&words) || is_of(&["gpu task aborted", "worker error", "is stopping"]) {
            return Self::OfEngine(words);
        }
        Self::OfJob(words)
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Quota { words, .. }
            | Self::NoGpu(words)
            | Self::OfEngine(words)
            | Self::OfValues(words)
            | Self::OfJob(words) => words,
        }
    }
}

/// The time of `Try again in 17:25:53`.
fn wait_of(words: &str) -> Option<Duration> {
    let (_, after) = words.split_once("try again in ")?;
    let time: String = after.chars().take_while(|c| c.is_ascii_digit() || *c == ':').collect();
    let mut parts = time.split(':').map(str::parse::<u64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some(Duration::from_secs(
        hours
            .checked_mul(3600)?
            .checked_add(minutes.checked_mul(60)?)?
            .checked_add(seconds)?,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_read_as_gradio_writes_them() {
        let step = Report {
            step: Some((3, 50)),
            ..Report::default()
        };
        let data = json!({"data": ["data:image/png;base64,AA", 42]});
        for (message, expected) in [
            (
                json!({"msg": "estimation", "event_id": "e", "rank": 1}),
                Some(Event::Waits),
            ),
            (json!({"msg": "process_starts", "event_id": "e"}), Some(Event::Begins)),
            (json!({"msg": "process_starts", "event_id": "f"}), None),
            (json!({"msg": "heartbeat", "event_id": null}), Some(Event::Lives)),
            (
                json!({"msg": "progress", "event_id": "e", "progress_data": [{"index": 3, "length": 50}]}),
                Some(Event::Steps(step)),
            ),
            (
                json!({"msg": "progress", "event_id": "e", "progress_data": [{"progress": 0.5}]}),
                Some(Event::Steps(Report::default())),
            ),
            (
                json!({"msg": "process_completed", "event_id": "e", "success": true, "output": data}),
                Some(Event::Completed(Completed::Well(Output::from(data.clone())))),
            ),
            (
                json!({"msg": "process_completed", "event_id": "e", "success": true, "output": {}}),
                Some(Event::Completed(Completed::Cancelled)),
            ),
        ] {
            assert_eq!(read(Output::from(message.clone()), "e").unwrap(), expected, "{message}");
        }
        let end = json!({"msg": "close_stream", "event_id": null});
        assert!(read(Output::from(end), "e").is_err());
        let lost = json!({"msg": "unexpected_error", "message": "404: Not Found", "session_not_found": true});
        assert_eq!(
            read(Output::from(lost), "e").unwrap_err(),
            Lost::Gone("404: Not Found".to_owned())
        );
    }

    #[test]
    fn a_space_that_only_beats_after_a_cut_has_dropped_the_job() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut heard = Heard::new(false, begun);
        heard.hears(&Event::Lives, at(600));
        assert!(!heard.is_over(at(600)), "a long step may tell of nothing");
        heard.is_cut();
        heard.hears(&Event::Lives, at(660));
        assert!(!heard.is_over(at(720)));
        assert!(heard.is_over(at(721)));
        heard.hears(&Event::Waits, at(700));
        heard.hears(&Event::Lives, at(900));
        assert!(!heard.is_over(at(1500)), "it was found again");
        let mut asked_again = Heard::new(true, begun);
        asked_again.hears(&Event::Lives, at(100));
        assert!(asked_again.is_over(at(121)));
    }

    #[test]
    fn a_failure_is_known_by_its_words() {
        let wait = Some(Duration::from_secs(17 * 3600 + 25 * 60 + 53));
        let quota = "You have exceeded your GPU quota (120s requested vs. 47s left). Try again in 17:25:53";
        let titled = format!("ZeroGPU quota exceeded: {quota}");
        for (output, expected) in [
            (
                json!({"error": quota, "title": "ZeroGPU quota exceeded"}),
                Fault::Quota { words: titled, wait },
            ),
            (
                json!({"error": "No GPU is currently available for you after 60s"}),
                Fault::NoGpu("No GPU is currently available for you after 60s".to_owned()),
            ),
            (json!({"error": null}), Fault::OfEngine(NOTHING.to_owned())),
            (
                json!({"error": "GPU task aborted", "title": "Error"}),
                Fault::OfEngine("GPU task aborted".to_owned()),
            ),
            (
                json!({"error": "Value: 5:4 is not in the list of choices: ['1:1']"}),
                Fault::OfValues("Value: 5:4 is not in the list of choices: ['1:1']".to_owned()),
            ),
            (
                json!({"error": "No foxes here"}),
                Fault::OfJob("No foxes here".to_owned()),
            ),
        ] {
            let told = completed(Output::from(output.clone()), false);
            assert_eq!(told, Completed::Failed(expected), "{output}");
        }
        assert_eq!(wait_of("try again in soon"), None);
    }
}
