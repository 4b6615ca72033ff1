//! A Space of Hugging Face with Gradio 5 or newer, of the form of Qwen/Qwen-Image: its `/infer` by its queue, which tells of the
//! place in it, of each step and of the quota. What a Space takes is read from it before each job, since Spaces change.
//!
//! A job has a session of its own. It cannot be found again for certain: Gradio drops what it knows of a session once its
//! stream has ended.

mod events;
mod space;

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::images::{STEM, prefix_of};
use super::meaning::{refused, unreadable};
use super::output::{Output, Text};
use super::rest::Cause;
use super::terms::{Named, Sizes, Terms};
use super::{Refusal, Web};
use crate::display::error_chain;
use crate::echo::at_most;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, AskedWork, Failed, Link, Made, Prompt};
use crate::net::retry::RetryPolicy;
use crate::net::segment;

use events::{Completed, Event, Events, Fault, Heard, LONGEST_WORDS, Lost};
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
/// The waits between two tries.
const RECONNECTS: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(500),
    factor: 2.0,
    longest: Duration::from_secs(15),
    jitter: 0.1,
    attempts: None,
};
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

impl Web {
    /// Has a picture made.
    pub(super) async fn run_at_space(&self, ask: Ask, link: &mut Link<'_>) -> Result<Made, Failed> {
        let AskedWork::Prompt(prompt) = ask.work else {
            return Err(JobError::internal("a Space runs no graphs").into());
        };
        let name = self.spec().name.clone();
        let space = async {
            self.space()
                .await
                .map_err(|refusal| self.common.refused(link.name(), refusal))
        };
        let space = link.unless_cancelled(space).await?;
        let fitted = TERMS.fit(&name, &prompt);
        let data = space.arguments(&prompt.asked.prompt, &fitted);
        let data = data.map_err(|why| {
            let message = format!("engine `{name}` cannot do the job: {why}");
            Failed::elsewhere(JobError::new(ErrorKind::InvalidRequest, message))
        })?;
        let queued = self.join(&space, data, link).await?;
        self.made_in_queue(&queued, link, Some(&prompt), false).await
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
        let prompt = link.asked_before();
        self.made_in_queue(&queued, link, prompt.as_ref(), true).await
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
            let words = detail.map(|words| words.as_str().map_or_else(|| words.to_string(), str::to_owned));
            let words = words.map(|words| format!(": {}", at_most(words, LONGEST_WORDS)));
            let message = format!("engine `{name}` {what}{}", words.unwrap_or_default());
            self.common.blanked(JobError::new(kind, message))
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
        let event = event.filter(|id| !id.contains(SPLIT) && super::follow::is_id(id));
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

    /// Follows a job to its end, and fetches what it made. `was_cut`: what was told of it may be lost in part.
    async fn made_in_queue(
        &self,
        queued: &Queued,
        link: &mut Link<'_>,
        prompt: Option<&Prompt>,
        was_cut: bool,
    ) -> Result<Made, Failed> {
        let (name, job) = (&self.spec().name, link.name().to_owned());
        let mut output = self.follow_in_queue(queued, link, was_cut).await?;
        link.is_done_there();
        let fitted = prompt.map(|prompt| TERMS.fit(name, prompt)).unwrap_or_default();
        self.fetching(&job, link.stop(), async {
            let data = match output.value.get_mut("data").map(Value::take) {
                Some(Value::Array(values)) => values,
                _ => Vec::new(),
            };
            let seed = data.iter().find_map(seed_of).or(fitted.seed);
            let mut pictures = data.into_iter().map(|value| self.pictures(&output, value, queued));
            let pictures = pictures.find(|pictures| !pictures.is_empty());
            let pictures = pictures.ok_or_else(|| self.undeliverable(&job, "holds no picture"))?;
            let prefix = prompt.map_or_else(|| STEM.to_owned(), |prompt| prefix_of(prompt, &job));
            Ok(Made {
                files: self.pictures_at(pictures, &prefix, &job).await?,
                takes_no_seed: seed.is_none(),
                seed,
                warnings: fitted.warnings,
                ..Made::default()
            })
        })
        .await
    }

    /// Follows a job to its end; gives its output.
    async fn follow_in_queue(&self, queued: &Queued, link: &mut Link<'_>, was_cut: bool) -> Result<Output, Failed> {
        let (name, job, stop) = (self.spec().name.clone(), link.name().to_owned(), link.stop());
        let (begun, mut waits) = (Instant::now(), RECONNECTS.delays());
        let mut heard = Heard::new(was_cut, begun);
        let (mut was_cut, mut has_begun, mut was_cancelled) = (was_cut, false, false);
        let in_queue = self.spec().queue_timeout.unwrap_or(self.spec().timeout);
        let mut deadline = begun + in_queue.min(self.spec().timeout);
        let mut events = None::<Events>;
        let too_late = || {
            JobError::new(
                ErrorKind::TimedOut,
                format!("engine `{name}` was not done with the job in its time"),
            )
        };
        loop {
            let next = async {
                let stream = match &mut events {
                    Some(stream) => stream,
                    none => none.insert(self.events(queued).await?),
                };
                let event = tokio::time::timeout(SILENCE, stream.next(&queued.event)).await;
                event.unwrap_or_else(|_| Err(Lost::Broken("it is silent".to_owned())))
            };
            let mut next = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.cancel_in_queue(queued).await;
                    return Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled").into());
                }
                () = tokio::time::sleep_until(deadline) => None,
                next = next => Some(next),
            };
            if let Some(Ok(event)) = &next {
                waits.reset();
                heard.hears(event, Instant::now());
                if heard.is_over(Instant::now()) {
                    next = Some(Err(Lost::Gone("its stream tells of nothing".to_owned())));
                }
            }
            match next {
                None if was_cancelled => return Err(self.common.unknown(&job, &too_late())),
                None => {
                    // What nobody has begun with is then dropped; what is begun may end well all the same.
                    was_cancelled = true;
                    deadline = Instant::now() + ENDS;
                    self.cancel_in_queue(queued).await;
                }
                Some(Ok(Event::Lives | Event::Waits)) => {}
                Some(Ok(event @ (Event::Begins | Event::Steps(_)))) => {
                    if !std::mem::replace(&mut has_begun, true) && !was_cancelled {
                        deadline = begun + self.spec().timeout;
                    }
                    link.has_begun();
                    if let Event::Steps(report) = event {
                        link.report(report);
                    }
                }
                Some(Ok(Event::Completed(Completed::Well(output)))) => {
                    // It may have been too quick for us.
                    link.has_begun();
                    return Ok(output);
                }
                Some(Ok(Event::Completed(_))) if was_cancelled => {
                    // What was told before the stream broke is not known.
                    if has_begun || was_cut {
                        return Err(self.common.unknown(&job, &too_late()));
                    }
                    let message = format!("engine `{name}` had not begun with the job in its time");
                    return Err(self.common.over(JobError::new(ErrorKind::Busy, message)));
                }
                Some(Ok(Event::Completed(Completed::Cancelled))) => {
                    let message = format!("the job was cancelled at engine `{name}`");
                    let error = JobError::new(ErrorKind::Interrupted, message);
                    return Err(error.hint("Send it again if you want it.").into());
                }
                Some(Ok(Event::Completed(Completed::Failed(fault)))) => return Err(self.failed_in_space(&job, &fault)),
                Some(Err(lost)) => {
                    (was_cut, events) = (true, None);
                    heard.is_cut();
                    let (is_gone, why) = match lost {
                        Lost::Gone(why) => (true, why),
                        Lost::Broken(why) => (false, why),
                    };
                    let message = format!("engine `{name}` does not tell of the job any more: {why}");
                    if is_gone || heard.is_over(Instant::now()) {
                        self.cancel_in_queue(queued).await;
                        return Err(self.common.unknown(&job, &JobError::internal(message)));
                    }
                    tracing::warn!(
                        "{}; it is asked again",
                        self.common.blanked(JobError::internal(message)).message
                    );
                    let pause = waits.next().unwrap_or(RECONNECTS.longest);
                    tokio::select! {
                        biased;
                        // The next turn hears it.
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
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

    async fn events(&self, queued: &Queued) -> Result<Events, Lost> {
        let path = format!("queue/data?session_hash={}", segment(&queued.session));
        let request = self.authorized(self.http.get(self.in_space(&queued.prefix, &path)));
        let response = tokio::time::timeout(ANSWERS, request.header("accept", "text/event-stream").send()).await;
        let response = response.map_err(|_| Lost::Broken("it does not answer".to_owned()))?;
        let response = response.map_err(|error| Lost::Broken(error_chain(&error.without_url())))?;
        match response.status() {
            status if status.is_success() => Ok(Events::new(response)),
            status @ StatusCode::NOT_FOUND => Err(Lost::Gone(format!("it answered {status}"))),
            status => Err(Lost::Broken(format!("it answered {status}"))),
        }
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
    fn pictures(&self, output: &Output, value: Value, queued: &Queued) -> Vec<Text> {
        match value {
            Value::String(text) => {
                let text = output.text(text);
                let begins = [&b"data:image/"[..], b"http://", b"https://"];
                let is_picture = begins.iter().any(|begin| text.as_bytes().starts_with(begin));
                is_picture.then_some(text).into_iter().collect()
            }
            Value::Object(mut file) => {
                if let Some(inner) = file.remove("image") {
                    return self.pictures(output, inner, queued);
                }
                let text = |field: &str| file.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
                // Its own address may be one that only its proxy knows.
                let path = text("path").filter(|_| text("url").is_none_or(|url| url.contains("file=")));
                let own = path.map(|path| self.in_space(&queued.prefix, &format!("file={}", segment_path(path))));
                let address = own.or_else(|| text("url").map(str::to_owned));
                address.into_iter().map(|address| output.text(address)).collect()
            }
            Value::Array(gallery) => {
                let pictures = gallery.into_iter().map(|item| self.pictures(output, item, queued));
                pictures.flatten().collect()
            }
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
