//! A fleet as an engine: jobs go to its broker, and its workers take them from there.
//!
//! Nothing is charged, and the entry of a job in the broker says at any time what became of it. So nothing is unknown: a front
//! that was killed asks for the entry, and one whose broker is away waits. But a message that seemed lost may be handed out all the
//! same, so a job that was sent goes to another engine only once its entry says that no worker may take it.

mod asked;
mod foreign;
mod keeper;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::list::FleetSpec;
use super::meaning::Refusal;
use super::rest::Cause;
use super::{Common, EngineSpec};
use crate::config::JobsConfig;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, Failed, Link, Made, MadeFile};
use crate::fleet::{self, Bound, Entry, Message, News, Numbers, State, Trouble};
use crate::job::payload;

/// How often a job's entry is looked at, where nothing is told before.
const POLL: Duration = Duration::from_secs(1);
/// How long a job may wait before it is seen to that the broker still has its message.
const LOOK_FOR_MESSAGE: Duration = Duration::from_mins(1);
/// How long a cancellation is tried that the broker does not take.
const CANCELS: Duration = Duration::from_mins(1);
/// How long what has ended is kept in the broker, where results are kept for longer here.
const ENDED_KEPT: Duration = Duration::from_hours(24);

/// A fleet as an engine.
#[derive(Debug)]
pub(super) struct Fleet {
    common: Arc<Common>,
    /// The broker, since it was first set up.
    bound: watch::Receiver<Option<Bound>>,
    _keeper: DropGuard,
}

/// How a job stands with the broker.
enum Standing {
    /// It is there.
    Is(Box<Entry>, u64),
    /// It is not known there.
    Gone,
}

impl Fleet {
    /// Begins to connect, and to set the broker up.
    pub(super) fn start(common: &Arc<Common>, spec: &FleetSpec, jobs: &JobsConfig) -> Self {
        let numbers = Numbers {
            version: fleet::VERSION,
            ack_wait_ms: u64::try_from(spec.ack_wait.as_millis()).unwrap_or(u64::MAX),
            retries: jobs.retries,
            kept_s: (jobs.queue_ttl + jobs.result_ttl.min(ENDED_KEPT)).as_secs(),
        };
        let (sender, bound) = watch::channel(None);
        let ending = CancellationToken::new();
        let keeping = keeper::keep(Arc::clone(common), spec.clone(), numbers, sender);
        tokio::spawn(ending.clone().run_until_cancelled_owned(keeping));
        Self {
            common: Arc::clone(common),
            bound,
            _keeper: ending.drop_guard(),
        }
    }

    fn spec(&self) -> &EngineSpec {
        &self.common.spec
    }

    /// The broker, where it can be had now.
    pub(super) fn bound(&self) -> Option<Bound> {
        let bound = self.bound.borrow().clone();
        bound.filter(|bound| bound.broker.is_connected())
    }

    /// Has a job done. `is_there`: a previous run of the worker put it in, or was about to.
    pub(super) async fn run(&self, ask: Ask, link: &mut Link<'_>, is_there: bool) -> Result<Made, Failed> {
        let id = link.id().as_str().to_owned();
        if !is_there && self.bound().is_none() {
            return Err(self.rests(link, "it cannot be reached"));
        }
        link.is_sent_as(&self.common.ticket(Some(id.clone())).text()).await?;
        let is_judged = ask.is_judged;
        let text = payload::encode(&asked::request_of(ask, &id)?)?;
        let mut job = Sending {
            fleet: self,
            message: None,
            place: None,
            is_taken: false,
            text,
            is_judged,
            is_there,
            id,
        };
        let made = Box::pin(job.see_through(link)).await;
        if made.is_ok() {
            tracing::debug!(job.id = link.name(), "the fleet's result is here");
        }
        made
    }

    /// The job was not sent, and can be as soon as the broker is there.
    fn rests(&self, link: &Link<'_>, why: &str) -> Failed {
        let message = format!("engine `{}`: {why}", self.spec().name);
        let error = JobError::new(ErrorKind::ComfyUnavailable, message).hint("See that its NATS server runs.");
        self.common
            .refused(link.name(), Refusal::Rests(Cause::Limited(Some(keeper::REST)), error))
    }

    /// Has a job cancelled, whoever has it; with a `round` only as it was put in then: its owner may want it again by now.
    pub(super) async fn cancel(&self, id: &str, round: Option<u32>) {
        let begun = Instant::now();
        loop {
            let why = match self.bound() {
                None => "the broker is away".to_owned(),
                Some(bound) => {
                    let cancelled = |entry: &Entry| {
                        let is_meant = round.is_none_or(|round| entry.round == round);
                        let is_open = is_meant && !entry.state.is_over();
                        is_open.then(|| entry.ended(State::Cancelled, None, None))
                    };
                    match bound.change(id, cancelled).await {
                        Ok(_) => return bound.tell(fleet::look_at(id), "").await,
                        Err(Trouble(why)) => why,
                    }
                }
            };
            if begun.elapsed() > CANCELS {
                let name = &self.spec().name;
                tracing::warn!("the job {id} at engine `{name}` may run on: {why}");
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A job that is sent and followed.
struct Sending<'a> {
    fleet: &'a Fleet,
    id: String,
    /// The request.
    text: bytes::Bytes,
    is_judged: bool,
    /// Whether an entry of before may be that of this try.
    is_there: bool,
    /// What was put in.
    message: Option<Message>,
    /// Its place in the stream, once the broker has it.
    place: Option<u64>,
    /// Whether its owner knows that it was taken.
    is_taken: bool,
}

impl Sending<'_> {
    async fn see_through(&mut self, link: &mut Link<'_>) -> Result<Made, Failed> {
        let stop = link.stop();
        let name = self.fleet.spec().name.clone();
        let mut news = None;
        let (mut is_away, mut looked) = (false, Instant::now());
        let (mut queued_since, mut begun) = (Instant::now(), None::<Instant>);
        loop {
            let Some(bound) = self.fleet.bound() else {
                news = None;
                self.pause(stop, &mut news, link).await?;
                continue;
            };
            if news.is_none() {
                // Before the entry is read, so that no change is missed in between.
                news = bound.broker.client().subscribe(fleet::progress_of(&self.id)).await.ok();
            }
            let standing = match self.look(&bound, link).await {
                Ok(standing) => {
                    if std::mem::take(&mut is_away) {
                        tracing::info!("engine `{name}` tells of the job again");
                    }
                    standing
                }
                // Nothing is put in yet: no worker can have it.
                Err(Trouble(why)) if !self.is_there => return Err(self.fleet.rests(link, &why)),
                Err(Trouble(why)) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!("engine `{name}` does not tell of the job, and is asked on: {why}");
                    }
                    self.pause(stop, &mut news, link).await?;
                    continue;
                }
            };
            let Standing::Is(entry, revision) = standing else {
                // It is put in with the next look.
                continue;
            };
            match entry.state {
                State::Queued => {
                    begun = None;
                    if looked.elapsed() > LOOK_FOR_MESSAGE {
                        looked = Instant::now();
                        self.see_to_message(&bound).await;
                    }
                    let limit = self.fleet.spec().queue_timeout;
                    if limit.is_some_and(|limit| queued_since.elapsed() > limit)
                        && self.withdraw(&bound, &entry, revision).await
                    {
                        let seconds = queued_since.elapsed().as_secs();
                        let message = format!("no worker of engine `{name}` had begun with the job in {seconds} s");
                        return Err(self.fleet.common.over(JobError::new(ErrorKind::Busy, message)));
                    }
                }
                State::Taken => queued_since = Instant::now(),
                State::Running => {
                    queued_since = Instant::now();
                    link.has_begun();
                    let limit = self.fleet.spec().timeout;
                    if begun.get_or_insert_with(Instant::now).elapsed() > limit {
                        self.fleet.cancel(&self.id, Some(entry.round)).await;
                        let message = format!(
                            "engine `{name}` had the job for longer than {} s (its `timeout_s`)",
                            limit.as_secs()
                        );
                        return Err(self.fleet.common.over(JobError::new(ErrorKind::TimedOut, message)));
                    }
                }
                State::Done => {
                    link.has_begun();
                    return self.made(&bound, &entry, stop).await;
                }
                State::Failed => return Err(self.failed(*entry)),
                State::Cancelled => return Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled").into()),
                // By a front of before, which meant to send it elsewhere.
                State::Withdrawn => {
                    self.is_there = false;
                    continue;
                }
            }
            self.pause(stop, &mut news, link).await?;
        }
    }

    /// Reads the entry; puts the job in, where it is not there yet.
    async fn look(&mut self, bound: &Bound, link: &mut Link<'_>) -> Result<Standing, Trouble> {
        let entered = match bound.entry(&self.id).await? {
            Some(found) if self.is_there => Some(found),
            // Its owner wants it again, or it was taken back before.
            Some((entry, revision)) => {
                let again = entry.again();
                let updated = bound.update(&self.id, &again, revision).await?;
                updated.map(|revision| (again, revision))
            }
            None => {
                let entry = Entry::new(self.is_judged);
                let created = bound.create(&self.id, &entry).await?;
                created.map(|revision| (entry, revision))
            }
        };
        // It may be ours of before that came late: the next look tells.
        let Some((entry, revision)) = entered else {
            return Ok(Standing::Gone);
        };
        // From now on it may be run: until the entry says otherwise it goes nowhere else.
        self.is_there = true;
        if entry.state == State::Queued {
            if self.message.as_ref().is_none_or(|message| message.round != entry.round) {
                self.message = Some(self.message_of(bound, &entry, link).await?);
                self.place = None;
            }
            if let (None, Some(message)) = (self.place, &self.message) {
                self.place = Some(bound.send(message).await?);
                self.fleet.common.rest.took(Instant::now());
            }
        }
        if !std::mem::replace(&mut self.is_taken, true) {
            link.is_taken();
        }
        Ok(Standing::Is(Box::new(entry), revision))
    }

    async fn message_of(&self, bound: &Bound, entry: &Entry, link: &Link<'_>) -> Result<Message, Trouble> {
        let timeout = u64::try_from(link.timeout().as_millis()).unwrap_or(u64::MAX);
        Ok(Message {
            version: fleet::VERSION,
            job: self.id.clone(),
            round: entry.round,
            timeout_ms: timeout,
            request: bound.pack(&format!("{}/request", self.id), &self.text).await?,
            traceparent: link.traceparent(),
        })
    }

    /// A broker may lose what it took, where its machine does: then it is sent again.
    async fn see_to_message(&mut self, bound: &Bound) {
        if let Some(place) = self.place
            && bound.has(place).await == Ok(false)
        {
            tracing::warn!("the job {} is sent again: the broker has lost it", self.id);
            // The broker may still know its id, and take it for one that it has.
            let again = |entry: &Entry| {
                (entry.state == State::Queued).then(|| Entry {
                    round: entry.round + 1,
                    ..entry.clone()
                })
            };
            let _ = bound.change(&self.id, again).await;
        }
    }

    /// Takes a job back that no worker has. Says whether none can take it any more.
    async fn withdraw(&self, bound: &Bound, entry: &Entry, revision: u64) -> bool {
        let withdrawn = entry.ended(State::Withdrawn, None, None);
        matches!(bound.update(&self.id, &withdrawn, revision).await, Ok(Some(_)))
    }

    /// Waits until it is time to look again. Fails when the job is cancelled.
    async fn pause(
        &self,
        stop: &CancellationToken,
        news: &mut Option<async_nats::Subscriber>,
        link: &mut Link<'_>,
    ) -> Result<(), JobError> {
        let due = Instant::now() + POLL;
        loop {
            let told = async {
                match news.as_mut() {
                    Some(news) => news.next().await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    let round = self.message.as_ref().map(|message| message.round);
                    self.fleet.cancel(&self.id, round).await;
                    return Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled"));
                }
                told = told => told,
                () = tokio::time::sleep_until(due) => return Ok(()),
            };
            let Some(told) = told else {
                *news = None;
                continue;
            };
            // It may be lost, and so may be strange: the entry is the truth.
            let told: News = serde_json::from_slice(&told.payload).unwrap_or_default();
            if told.has_changed {
                return Ok(());
            }
            link.report(told.report());
        }
    }

    /// What a failed job means: a worker that cannot do it may be one that another engine need not be.
    fn failed(&self, entry: Entry) -> Failed {
        let error = entry
            .error
            .unwrap_or_else(|| JobError::internal("it failed, and says nothing of why"));
        let name = &self.fleet.spec().name;
        let error = JobError {
            message: format!("engine `{name}`: {}", error.message),
            ..error
        };
        match error.kind {
            ErrorKind::GpuFailed | ErrorKind::OutOfMemory | ErrorKind::ComfyUnavailable => {
                self.fleet.common.over(error)
            }
            _ => error.into(),
        }
    }

    /// Fetches what a job made. The broker tells of each file whether it is whole.
    async fn made(&self, bound: &Bound, entry: &Entry, stop: &CancellationToken) -> Result<Made, Failed> {
        let fetched = loop {
            let tried = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled").into()),
                tried = foreign::fetched(bound, entry) => tried,
            };
            match tried {
                Ok(fetched) => break fetched,
                // The job is done: it is asked for as long as somebody waits for it.
                Err(Trouble(why)) => tracing::warn!("the result of the job {} is not here yet: {why}", self.id),
            }
            tokio::time::sleep(POLL).await;
        };
        let Some((outcome, contents)) = fetched else {
            let name = &self.fleet.spec().name;
            let message = format!(
                "the result of engine `{name}` for the job {} is gone, or broken",
                self.id
            );
            return Err(JobError::new(ErrorKind::Undeliverable, message)
                .hint("Send the job again.")
                .into());
        };
        let files = outcome.wanted().zip(contents).map(|(file, content)| MadeFile {
            node_id: Some(file.node_id.clone()),
            filename: file.filename.clone(),
            subfolder: file.subfolder.clone(),
            content,
        });
        Ok(Made {
            files: files.collect(),
            texts: outcome.texts.clone(),
            warnings: outcome.warnings.clone(),
            seed: outcome.seed,
            takes_no_seed: false,
            template: outcome.template.clone(),
            workflow: outcome.workflow.clone(),
        })
    }
}
