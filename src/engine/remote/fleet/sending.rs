//! A job that is put into the broker, and followed there.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Fleet, POLL, foreign};
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Failed, Link, Made, MadeFile};
use crate::fleet::{self, Bound, Entry, Message, News, Parcel, State, Trouble};

/// How long a job may wait before it is seen to that the broker still has its message.
const LOOK_FOR_MESSAGE: Duration = Duration::from_mins(1);

/// How a job stands with the broker.
enum Standing {
    /// It is there.
    Is(Box<Entry>, u64),
    /// It may be: the next look tells.
    Unclear,
    /// Another front has put in a job under its id.
    Theirs,
}

/// A job that is sent and followed.
pub(super) struct Sending<'a> {
    fleet: &'a Fleet,
    id: String,
    /// The request.
    text: Bytes,
    is_judged: bool,
    /// Whether an entry of before may be that of this try.
    is_there: bool,
    /// The request as it travels, once it is packed.
    request: Option<Parcel>,
    /// What was put in.
    message: Option<Message>,
    /// Its place in the stream, once the broker has it.
    place: Option<u64>,
    /// Whether its owner knows that it was taken.
    is_taken: bool,
}

impl<'a> Sending<'a> {
    /// `is_there`: a previous run of the worker put it in, or was about to.
    pub(super) fn new(fleet: &'a Fleet, id: String, text: Bytes, (is_judged, is_there): (bool, bool)) -> Self {
        Self {
            fleet,
            id,
            text,
            is_judged,
            is_there,
            request: None,
            message: None,
            place: None,
            is_taken: false,
        }
    }

    /// Puts the job in, and sees it through to its end.
    pub(super) async fn see_through(&mut self, link: &mut Link<'_>) -> Result<Made, Failed> {
        let stop = link.stop();
        let name = self.fleet.spec().name.clone();
        let mut news = None;
        let (mut silent, mut looked) = (None::<Instant>, Instant::now());
        let (mut queued_since, mut begun) = (Instant::now(), None::<Instant>);
        loop {
            let Some(bound) = self.fleet.bound() else {
                // Away is another thing than silent: then jobs wait.
                (news, silent) = (None, None);
                self.pause(stop, &mut news, link).await?;
                continue;
            };
            if news.is_none() {
                // Before the entry is read, so that no change is missed in between.
                news = bound.broker.client().subscribe(fleet::progress_of(&self.id)).await.ok();
            }
            let standing = match self.look(&bound, link).await {
                Ok(standing) => {
                    if silent.take().is_some() {
                        tracing::info!("engine `{name}` tells of the job again");
                    }
                    standing
                }
                // Nothing is put in yet: no worker can have it.
                Err(Trouble(why)) if !self.is_there => return Err(self.fleet.rests(link, &why)),
                Err(Trouble(why)) => {
                    let limit = self.fleet.spec().queue_timeout;
                    let has_waited = limit.is_some_and(|limit| queued_since.elapsed() > limit);
                    if (self.place.is_none() || has_waited) && self.take_back(&bound).await {
                        return Err(self.fleet.rests(link, &why));
                    }
                    if silent.is_none() {
                        tracing::warn!("engine `{name}` does not tell of the job, and is asked on: {why}");
                    }
                    let limit = self.fleet.spec().timeout;
                    if silent.get_or_insert_with(Instant::now).elapsed() > limit {
                        // It may still wait there, and is over here.
                        self.fleet.cancel_later(&self.id, self.round());
                        return Err(silent_for(&name, limit, &why).into());
                    }
                    self.pause(stop, &mut news, link).await?;
                    continue;
                }
            };
            let (entry, revision) = match standing {
                Standing::Is(entry, revision) => (entry, revision),
                // It is put in with the next look.
                Standing::Unclear => continue,
                Standing::Theirs => {
                    let message = format!(
                        "engine `{name}`: another front of the fleet has taken in a job under the id {}",
                        self.id
                    );
                    return Err(JobError::new(ErrorKind::Conflict, message)
                        .hint("Send it again under another id, or without one.")
                        .into());
                }
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
        let owner = &self.fleet.owner;
        let entered = match bound.entry(&self.id).await? {
            Some((entry, _)) if !entry.is_owned_by(owner) => return Ok(Standing::Theirs),
            Some(found) if self.is_there => Some(found),
            // Its owner wants it again, or it was taken back before.
            Some((entry, revision)) => {
                self.packed(bound).await?;
                let again = entry.again(owner, self.is_judged);
                let updated = bound.update(&self.id, &again, revision).await?;
                updated.map(|revision| (again, revision))
            }
            None => {
                self.packed(bound).await?;
                let entry = Entry::new(owner, self.is_judged);
                let created = bound.create(&self.id, &entry).await?;
                created.map(|revision| (entry, revision))
            }
        };
        // It may be ours of before that came late.
        let Some((entry, revision)) = entered else {
            return Ok(Standing::Unclear);
        };
        // From now on it may be run: until the entry says otherwise it goes nowhere else.
        self.is_there = true;
        if entry.state == State::Queued {
            if self.round() != Some(entry.round) {
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

    /// The round that was put in last.
    fn round(&self) -> Option<u32> {
        self.message.as_ref().map(|message| message.round)
    }

    async fn message_of(&mut self, bound: &Bound, entry: &Entry, link: &Link<'_>) -> Result<Message, Trouble> {
        let timeout = u64::try_from(link.timeout().as_millis()).unwrap_or(u64::MAX);
        Ok(Message {
            version: fleet::VERSION,
            job: self.id.clone(),
            round: entry.round,
            timeout_ms: timeout,
            request: self.packed(bound).await?,
            traceparent: link.traceparent(),
        })
    }

    /// The request as it travels: before the entry, which would otherwise stand without it.
    async fn packed(&mut self, bound: &Bound) -> Result<Parcel, Trouble> {
        if let Some(request) = &self.request {
            return Ok(request.clone());
        }
        // Another front may be about to put in a job of this id.
        let name = format!("{}/{}/request", self.id, self.fleet.owner);
        let request = bound.pack(&name, &self.text).await?;
        self.request = Some(request.clone());
        Ok(request)
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
            // What is older than it may be lost too.
            self.request = None;
            let _ = bound.change(&self.id, again).await;
        }
    }

    /// Takes a job back that no worker has. Says whether none can take it any more.
    async fn withdraw(&self, bound: &Bound, entry: &Entry, revision: u64) -> bool {
        let withdrawn = entry.ended(State::Withdrawn, None, None);
        matches!(bound.update(&self.id, &withdrawn, revision).await, Ok(Some(_)))
    }

    /// The same, whatever the entry was when it was seen last.
    async fn take_back(&self, bound: &Bound) -> bool {
        let owner = &self.fleet.owner;
        let withdrawn = |entry: &Entry| {
            let is_ours = entry.state == State::Queued && entry.is_owned_by(owner);
            is_ours.then(|| entry.ended(State::Withdrawn, None, None))
        };
        let changed = bound.change(&self.id, withdrawn).await;
        changed.is_ok_and(|found| found.is_none_or(|(entry, _)| entry.state == State::Withdrawn))
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
                    self.fleet.cancel(&self.id, self.round()).await;
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
            base64: None,
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

/// The end of a job whose entry the broker can neither read nor write any more.
fn silent_for(name: &str, time: Duration, why: &str) -> JobError {
    let seconds = time.as_secs();
    let message = format!(
        "engine `{name}` has not told of the job for {seconds} s (its `timeout_s`), and it may have run there: {why}"
    );
    JobError::new(ErrorKind::TimedOut, message)
        .hint("See what the log of its NATS server says, and send the job again.")
}
