//! A Space of Hugging Face with Gradio 5 or newer, of the form of Qwen/Qwen-Image: its `/infer` by its queue, which tells of the
//! place in it, of each step and of the quota. What a Space takes is read from it before each job, since Spaces change.
//!
//! A job has a session of its own. It cannot be found again for certain: Gradio drops what it knows of a session once its
//! stream has ended.

mod events;
mod space;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::images::{STEM, picture_of, prefix_of};
use super::meaning::{refused, unreadable};
use super::rest::Cause;
use super::terms::{Named, Sizes, Terms};
use super::{Refusal, Web};
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, AskedWork, Failed, Link, Made};
use crate::net::segment;

use events::{Completed, Event, Events, Fault};
use space::Space;

/// The aspect ratios of the Space, with what it makes of them (`get_image_size` in its `app.py`).
const SIZES: &[Named] = &[
    named("1:1", (1328, 1328)),
    named("16:9", (1664, 928)),
    named("9:16", (928, 1664)),
    named("4:3", (1472, 1140)),
    named("3:4", (1140, 1472)),
    named("3:2", (1584, 1056)),
    named("2:3", (1056, 1584)),
];
/// What it takes: a prompt, a seed (`MAX_SEED` of its `app.py`), and no images.
pub(super) const TERMS: Terms = Terms {
    makes: true,
    most_images: 0,
    longest_prompt: usize::MAX,
    longest_negative: None,
    largest_seed: Some((1 << 31) - 1),
    steps: Some((1, 100)),
    cfg: Some((0.0, 20.0)),
    most_pictures: 1,
    sizes: Sizes::Named(SIZES),
};
/// The longest that it may take to answer.
const ANSWERS: Duration = Duration::from_mins(1);
/// The longest that a stream may be silent: Gradio tells every 15 s that it is there.
const SILENCE: Duration = Duration::from_mins(1);
/// How long a job that was cancelled may take to end.
const ENDS: Duration = Duration::from_secs(15);
/// What splits the parts of a job's id.
const SPLIT: char = '/';

const fn named(ratio: &'static str, pixels: (u32, u32)) -> Named {
    Named {
        name: ratio,
        ratio,
        pixels: Some(pixels),
    }
}

/// A job in the queue of a Space.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Queued {
    session: String,
    event: String,
    /// The number of `/infer` among the functions of the Space.
    function: u64,
    /// What the paths of its API begin with.
    prefix: String,
}

/// How the following of a job ended, where it did not by an error.
enum Followed {
    /// With this output.
    Ended(Value),
    /// It was taken back before anybody had begun with it.
    TakenBack,
}

impl Web {
    /// Has a picture made.
    pub(super) async fn run_at_space(&self, ask: Ask, link: &mut Link<'_>) -> Result<Made, Failed> {
        let AskedWork::Prompt(prompt) = ask.work else {
            return Err(JobError::internal("a Space runs no graphs").into());
        };
        let name = self.spec().name.clone();
        let space = self
            .space()
            .await
            .map_err(|refusal| self.common.refused(link.name(), refusal))?;
        let fitted = TERMS.fit(&name, &prompt);
        let data = space.arguments(&prompt.asked.prompt, &fitted);
        let data = data.map_err(|why| {
            let message = format!("engine `{name}` cannot do the job: {why}");
            Failed::elsewhere(JobError::new(ErrorKind::InvalidRequest, message))
        })?;
        let queued = self.join(&space, data, link).await?;
        let mut made = self
            .made_in_queue(&queued, link, &prefix_of(&prompt, link.name()))
            .await?;
        made.seed = made.seed.or(fitted.seed);
        made.warnings = fitted.warnings;
        Ok(made)
    }

    /// The same of a job that a previous run of the worker put into its queue.
    pub(super) async fn queue_asked_again(&self, id: &str, link: &mut Link<'_>) -> Result<Made, Failed> {
        let Some(queued) = Queued::read(id) else {
            return Err(JobError::internal("what was put down of the job is no place in a queue").into());
        };
        tracing::info!(
            "engine `{}` is asked again for the job {}",
            self.spec().name,
            queued.event
        );
        link.is_taken();
        self.made_in_queue(&queued, link, STEM).await
    }

    /// Puts a job into the queue.
    async fn join(&self, space: &Space, data: Vec<Value>, link: &mut Link<'_>) -> Result<Queued, Failed> {
        let (name, job) = (self.spec().name.clone(), link.name().to_owned());
        let session = Uuid::new_v4().simple().to_string();
        let body = json!({
            "data": data, "fn_index": space.function, "session_hash": session, "event_data": null, "trigger_id": null,
        });
        let request = self.sends.post(self.in_space(&space.prefix, "queue/join")).json(&body);
        link.is_sent_as(&self.common.ticket(None).text()).await?;
        let sent = Instant::now();
        let answer = self.send(request, ANSWERS).await;
        let answer = answer.map_err(|refusal| self.common.refused(&job, refusal))?;
        let object = answer.object();
        let detail = object.as_ref().and_then(|object| object.get("detail"));
        let error = |kind, what: &str| {
            let words = detail.and_then(Value::as_str).map(|words| format!(": {words}"));
            JobError::new(kind, format!("engine `{name}` {what}{}", words.unwrap_or_default()))
        };
        let refusal = match answer.status.as_u16() {
            200 => None,
            // In Gradio's own words; a proxy's are a page.
            503 if detail.is_some() => Some(Refusal::Rests(
                Cause::Limited(None),
                error(ErrorKind::Busy, "has a full queue"),
            )),
            422 => {
                return Err(Failed::elsewhere(error(
                    ErrorKind::InvalidRequest,
                    "does not take what `/infer` was asked with",
                )));
            }
            _ => Some(refused(&name, &answer)),
        };
        if let Some(refusal) = refusal {
            return Err(self.common.refused(&job, refusal));
        }
        let event = object.as_ref().and_then(|object| object.get("event_id")?.as_str());
        let event = event.filter(|id| !id.contains(SPLIT) && super::runpod::is_id(id));
        let Some(event) = event else {
            return Err(self.common.refused(&job, Refusal::Unknown(unreadable(&name, &answer))));
        };
        let queued = Queued {
            session,
            event: event.to_owned(),
            function: space.function,
            prefix: space.prefix.clone(),
        };
        self.is_known_as(&queued.text(), sent, link).await;
        Ok(queued)
    }

    async fn made_in_queue(&self, queued: &Queued, link: &mut Link<'_>, prefix: &str) -> Result<Made, Failed> {
        let (name, job) = (&self.spec().name, link.name().to_owned());
        let output = match self.follow_in_queue(queued, link).await? {
            Followed::Ended(output) => output,
            Followed::TakenBack => {
                let message = format!("engine `{name}` had not begun with the job in its time");
                return Err(self.common.over(JobError::new(ErrorKind::Busy, message)));
            }
        };
        link.is_done_there();
        let stop = link.stop();
        self.fetching(&job, stop, async {
            let data = output
                .get("data")
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            let mut made = Made {
                seed: data.iter().find_map(seed_of),
                ..Made::default()
            };
            let pictures = data.iter().map(|value| self.pictures(value, queued));
            let pictures = pictures.into_iter().find(|pictures| !pictures.is_empty());
            for picture in pictures.ok_or_else(|| self.undeliverable(&job, "holds no picture"))? {
                let content = self.content_of(&picture, &job).await?;
                made.files.push(picture_of(content, prefix));
            }
            Ok(made)
        })
        .await
    }

    /// Follows a job to its end.
    async fn follow_in_queue(&self, queued: &Queued, link: &mut Link<'_>) -> Result<Followed, Failed> {
        let (name, job, stop) = (self.spec().name.clone(), link.name().to_owned(), link.stop());
        let begun = Instant::now();
        let (mut has_begun, mut was_cancelled, mut is_second) = (false, false, false);
        let mut deadline = begun
            + self
                .spec()
                .queue_timeout
                .unwrap_or(self.spec().timeout)
                .min(self.spec().timeout);
        let mut events = None::<Events>;
        loop {
            let next = async {
                let stream = match &mut events {
                    Some(stream) => stream,
                    none => none.insert(self.events(queued).await?),
                };
                let event = tokio::time::timeout(SILENCE, stream.next(&queued.event)).await;
                event.unwrap_or_else(|_| Err("it is silent".to_owned()))
            };
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.cancel_in_queue(queued).await;
                    return Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled").into());
                }
                () = tokio::time::sleep_until(deadline) => None,
                next = next => Some(next),
            };
            match next {
                None if was_cancelled => {
                    let message = format!("engine `{name}` was not done with the job in its time");
                    return Err(self.common.unknown(&job, &JobError::new(ErrorKind::TimedOut, message)));
                }
                None => {
                    // What nobody has begun with is then dropped; what is begun may end well all the same.
                    was_cancelled = true;
                    deadline = Instant::now() + ENDS;
                    self.cancel_in_queue(queued).await;
                }
                Some(Ok(Event::Begins)) => {
                    if !std::mem::replace(&mut has_begun, true) && !was_cancelled {
                        deadline = begun + self.spec().timeout;
                    }
                    link.has_begun();
                }
                Some(Ok(Event::Steps(report))) => link.report(report),
                Some(Ok(Event::Waits)) => {}
                Some(Ok(Event::Completed(Completed::Well(output)))) => {
                    // It may have been too quick for us.
                    link.has_begun();
                    return Ok(Followed::Ended(output));
                }
                Some(Ok(Event::Completed(Completed::Cancelled))) if was_cancelled && !has_begun => {
                    return Ok(Followed::TakenBack);
                }
                Some(Ok(Event::Completed(Completed::Cancelled))) if was_cancelled => {
                    let message = format!("engine `{name}` was not done with the job in its time");
                    return Err(self.common.unknown(&job, &JobError::new(ErrorKind::TimedOut, message)));
                }
                Some(Ok(Event::Completed(Completed::Cancelled))) => {
                    let message = format!("the job was cancelled at engine `{name}`");
                    return Err(JobError::new(ErrorKind::Interrupted, message)
                        .hint("Send it again if you want it.")
                        .into());
                }
                Some(Ok(Event::Completed(Completed::Failed(fault)))) => return Err(self.failed_in_space(&job, &fault)),
                Some(Err(why)) => {
                    let message = format!("engine `{name}` does not tell of the job any more: {why}");
                    if is_second {
                        return Err(self.common.unknown(&job, &JobError::internal(message)));
                    }
                    tracing::warn!("{message}; it is asked once more");
                    (is_second, events) = (true, None);
                }
            }
        }
    }

    /// What a failure in the words of a Space means.
    fn failed_in_space(&self, job: &str, fault: &Fault) -> Failed {
        let error = |kind| {
            let message = format!("engine `{}`: {}", self.spec().name, fault.text());
            self.common.blanked(JobError::new(kind, message))
        };
        match fault {
            Fault::Quota { wait, .. } => self
                .common
                .refused(job, Refusal::Rests(Cause::Limited(*wait), error(ErrorKind::Busy))),
            Fault::NoGpu(_) => self.common.refused(job, Refusal::Faulty(error(ErrorKind::Busy))),
            Fault::OfEngine(_) => self.common.over(error(ErrorKind::GpuFailed)),
            // Its function has other parameters than it says.
            Fault::OfValues(_) => Failed::elsewhere(error(ErrorKind::InvalidRequest)),
            Fault::OfJob(_) => error(ErrorKind::NodeFailed).into(),
        }
    }

    async fn events(&self, queued: &Queued) -> Result<Events, String> {
        let path = format!("queue/data?session_hash={}", segment(&queued.session));
        let request = self.authorized(self.http.get(self.in_space(&queued.prefix, &path)));
        let response = tokio::time::timeout(ANSWERS, request.header("accept", "text/event-stream").send()).await;
        let response = response.map_err(|_| "it does not answer".to_owned())?;
        let response = response.map_err(|error| crate::display::error_chain(&error.without_url()))?;
        if !response.status().is_success() {
            return Err(format!("it answered {}", response.status()));
        }
        Ok(Events::new(response))
    }

    /// Has a job cancelled, as Gradio's own clients do.
    async fn cancel_in_queue(&self, queued: &Queued) {
        let Queued {
            session,
            event,
            function,
            prefix,
        } = queued;
        let bodies = [
            (
                "cancel",
                json!({"event_id": event, "session_hash": session, "fn_index": function}),
            ),
            ("reset", json!({ "event_id": event })),
        ];
        for (operation, body) in bodies {
            if let Err(error) = self
                .asked(self.http.post(self.in_space(prefix, operation)).json(&body))
                .await
            {
                tracing::warn!("the job {event} may run on: {}", error.message);
            }
        }
    }

    /// The same of a job that a previous run of the worker put into its queue.
    pub(super) async fn cancel_queued(&self, id: &str) {
        if let Some(queued) = Queued::read(id) {
            self.cancel_in_queue(&queued).await;
        }
    }

    fn in_space(&self, prefix: &str, operation: &str) -> String {
        self.at(format!("{prefix}/{operation}").trim_start_matches('/'))
    }

    /// The pictures that a value of an output holds, as addresses or data URIs: one, or those of a gallery.
    fn pictures(&self, value: &Value, queued: &Queued) -> Vec<String> {
        match value {
            Value::String(text)
                if ["data:image/", "http://", "https://"]
                    .iter()
                    .any(|begin| text.starts_with(begin)) =>
            {
                vec![text.clone()]
            }
            Value::Object(file) => {
                if let Some(inner) = file.get("image") {
                    return self.pictures(inner, queued);
                }
                let text = |field: &str| file.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
                // Its own address may be one that only its proxy knows.
                let path = text("path").filter(|_| text("url").is_none_or(|url| url.contains("file=")));
                let own = path.map(|path| self.in_space(&queued.prefix, &format!("file={}", segment_path(path))));
                own.or_else(|| text("url").map(str::to_owned)).into_iter().collect()
            }
            Value::Array(gallery) => gallery.iter().flat_map(|item| self.pictures(item, queued)).collect(),
            _ => Vec::new(),
        }
    }
}

impl Queued {
    fn text(&self) -> String {
        let Self {
            session,
            event,
            function,
            prefix,
        } = self;
        format!("{session}{SPLIT}{event}{SPLIT}{function}{SPLIT}{prefix}")
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, SPLIT);
        Some(Self {
            session: parts.next()?.to_owned(),
            event: parts.next()?.to_owned(),
            function: parts.next()?.parse().ok()?,
            prefix: parts.next()?.to_owned(),
        })
    }
}

/// A path in an address; its slashes stay.
fn segment_path(path: &str) -> String {
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// A seed as a Space tells it: a whole number, also with a point.
fn seed_of(value: &Value) -> Option<u64> {
    let whole = |number: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number below 2^53"
        )]
        (number >= 0.0 && number.fract() == 0.0 && number < 9e15).then_some(number as u64)
    };
    value.as_u64().or_else(|| whole(value.as_f64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_queue_is_read_back() {
        for prefix in ["/gradio_api", ""] {
            let queued = Queued {
                session: "abc".to_owned(),
                event: "0123-45".to_owned(),
                function: 7,
                prefix: prefix.to_owned(),
            };
            assert_eq!(Queued::read(&queued.text()), Some(queued));
        }
        assert_eq!(Queued::read("abc/def"), None);
    }

    #[test]
    fn a_seed_is_a_whole_number() {
        for (value, expected) in [
            (json!(42), Some(42)),
            (json!(42.0), Some(42)),
            (json!(4.5), None),
            (json!(-1), None),
            (json!("42"), None),
        ] {
            assert_eq!(seed_of(&value), expected, "{value}");
        }
    }
}
