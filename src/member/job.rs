//! One job of the fleet, from its message to its end.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{self, AckKind};
use async_nats::{Request, client::RequestErrorKind};
use futures_util::StreamExt as _;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Has, Shared};
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::fleet::{
    Bound, Entry, Look, Made, MadeObject, Message, News, State, Trouble, Unreadable, ask_worker, look_at, progress_of,
};
use crate::job::progress::Progress;
use crate::job::{JobId, JobState, JobView, Outcome, Policy, payload};

/// What a worker answers that has a job.
pub(super) const HAS_IT: &str = "yes";
/// How long a worker is waited for that is asked whether it has a job. One that is frozen does not answer at all.
const ASK: Duration = Duration::from_secs(1);
/// How often one is asked that is not there: a connection that broke is made anew within two seconds.
const ASKS: u32 = 4;
/// How often a message may be handed out. What was lost is counted in the entry; this is for one that no worker gets so far with.
const MOST_DELIVERIES: i64 = 1_000;
/// The shortest time between two words about how far a job is.
const NEWS_EVERY: Duration = Duration::from_millis(300);
/// The time between two tries of what the broker did not take.
const AGAIN: Duration = Duration::from_secs(1);
/// Looks at an entry that others change at the same time, before the message is left for later.
const LOOKS: u32 = 10;

/// A job that was handed out, and what its message is answered by.
struct Handed {
    shared: Arc<Shared>,
    bound: Bound,
    message: Message,
    acker: Arc<Acker>,
}

/// A job that this worker has taken.
struct Taken {
    handed: Handed,
    /// Which one it is of those who have taken it.
    attempt: u32,
    _has: Has,
}

/// How a job went here.
enum Went {
    /// It has ended.
    Ended(Box<JobView>),
    /// It is somebody else's by now, or is over.
    NotOurs(Option<Entry>),
    /// This worker stops before its end.
    Left,
}

/// Looks at a message, and sees its job through, which goes on when this returns.
pub(super) async fn hand_out(shared: &Arc<Shared>, bound: &Bound, message: jetstream::Message) {
    let deliveries = message.info().map_or(0, |info| info.delivered);
    let (message, acker) = message.split();
    let read = match Message::read(&message.payload) {
        Ok(read) if deliveries <= MOST_DELIVERIES && JobId::parse(&read.job).is_some() => Ok(read),
        Ok(read) => Err((format!("it was handed out {deliveries} times"), Some(read.job))),
        Err(unreadable @ Unreadable::Strange(_)) => Err((unreadable.to_string(), None)),
        Err(Unreadable::Version { version, job }) => {
            let told = Unreadable::Version { version, job: None }.to_string();
            Err((told, job))
        }
    };
    let message = match read {
        Ok(message) => message,
        Err((why, job)) => return remove(bound, &acker, job, &why).await,
    };
    let handed = Handed {
        shared: Arc::clone(shared),
        bound: bound.clone(),
        message,
        acker: Arc::new(acker),
    };
    // The engine is taken before the next message is asked for.
    let Some(has) = shared.begins_with(&handed.message.job) else {
        return handed.later(handed.bound.numbers.ack_wait() / 2).await;
    };
    shared.tasks.spawn(async move {
        if let Some(taken) = handed.take(has).await {
            taken.see_through().await;
        }
    });
}

/// Removes a message that cannot be used, so that others go on; fails its job, where it names one.
async fn remove(bound: &Bound, acker: &Acker, job: Option<String>, why: &str) {
    let named = job.as_deref().map(cut).unwrap_or_default();
    tracing::error!("a message of the fleet is removed (job `{named}`): {why}");
    if let Some(job) = job.filter(|job| JobId::parse(job).is_some()) {
        let message = format!("The job's message cannot be used: {why}");
        let error = JobError::internal(message);
        let failed = |entry: &Entry| {
            let is_open = !entry.state.is_over();
            is_open.then(|| entry.ended(State::Failed, None, Some(error.clone())))
        };
        if let Err(Trouble(why)) = bound.change(&job, failed).await {
            tracing::warn!("its front is not told: {why}");
            return;
        }
    }
    let _ = acker.ack_with(AckKind::Term).await;
}

impl Handed {
    fn job(&self) -> &str {
        &self.message.job
    }

    /// It is handed out again after a while.
    async fn later(&self, wait: Duration) {
        let _ = self.acker.ack_with(AckKind::Nak(Some(wait))).await;
    }

    /// The message is done with.
    async fn is_over(&self) {
        if let Err(error) = self.acker.double_ack().await {
            // It is handed out again, and its entry tells that it is over.
            tracing::debug!("a message of the fleet is not removed yet: {error}");
        }
    }

    /// Takes the job, where it may be had.
    async fn take(self, has: Has) -> Option<Taken> {
        let me = self.shared.id.clone();
        for _ in 0..LOOKS {
            let (entry, revision) = match self.bound.entry(self.job()).await {
                Ok(Some(found)) => found,
                Ok(None) => {
                    remove(&self.bound, &self.acker, None, "its job has no entry").await;
                    return None;
                }
                Err(Trouble(why)) => {
                    tracing::warn!("a job of the fleet is left for later: {why}");
                    self.later(AGAIN).await;
                    return None;
                }
            };
            let is_lost = match entry.look(self.message.round) {
                Look::Drop => {
                    self.is_over().await;
                    return None;
                }
                Look::Take => false,
                // Before this was known here: nothing runs.
                Look::Ask(worker) if worker == me => false,
                Look::Ask(worker) => {
                    if self.is_with(&worker).await {
                        self.later(self.bound.numbers.ack_wait() / 2).await;
                        return None;
                    }
                    tracing::warn!(
                        job.id = self.job(),
                        "the worker {worker} of the fleet is lost; its job is taken over"
                    );
                    true
                }
            };
            let taken = entry.taken(&me, is_lost);
            let retries = self.bound.numbers.retries;
            let next = if taken.lost > retries {
                let times = taken.lost;
                let error = JobError::new(ErrorKind::Internal, format!("The workers that had the job were lost {times} times"))
                    .hint("Send it again; the logs of the workers tell why they were ended. JOB_RETRIES of the front says how often it is tried.");
                taken.ended(State::Failed, None, Some(error))
            } else {
                taken
            };
            match self.bound.update(self.job(), &next, revision).await {
                Ok(Some(_)) if next.state == State::Failed => {
                    tracing::error!(
                        job.id = self.job(),
                        "a job of the fleet is given up: its workers were lost"
                    );
                    self.news(true, None).await;
                    self.is_over().await;
                    return None;
                }
                Ok(Some(_)) => {
                    let attempt = next.attempt;
                    return Some(Taken {
                        handed: self,
                        attempt,
                        _has: has,
                    });
                }
                // Somebody was quicker.
                Ok(None) => {}
                // It may have been taken all the same: the next look tells.
                Err(Trouble(why)) => {
                    tracing::warn!("a job of the fleet is not taken yet: {why}");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        self.later(AGAIN).await;
        None
    }

    /// Whether a worker has it, in its own words. One that nobody hears of may be connecting anew, after the broker was away.
    async fn is_with(&self, worker: &str) -> bool {
        let _beats = self.heartbeat();
        for _ in 0..ASKS {
            let request = Request::new().payload(self.job().to_owned().into()).timeout(Some(ASK));
            let client = self.bound.broker.client();
            match client.send_request(ask_worker(worker), request).await {
                Ok(answer) => return answer.payload.as_ref() == HAS_IT.as_bytes(),
                Err(error) if error.kind() == RequestErrorKind::NoResponders => tokio::time::sleep(ASK).await,
                // It is frozen.
                Err(_) => return false,
            }
        }
        false
    }

    async fn news(&self, has_changed: bool, progress: Option<&Progress>) {
        let news = News {
            has_changed,
            ..progress.map(News::of).unwrap_or_default()
        };
        let text = serde_json::to_vec(&news).unwrap_or_default();
        self.bound.tell(progress_of(self.job()), text).await;
    }

    /// Says that somebody is at it, until the guard is dropped.
    fn heartbeat(&self) -> DropGuard {
        let (stop, acker) = (CancellationToken::new(), Arc::clone(&self.acker));
        let pause = self.bound.numbers.heartbeat();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let _ = acker.ack_with(AckKind::Progress).await;
                tokio::time::sleep(pause).await;
            }
        }));
        stop.drop_guard()
    }
}

impl Taken {
    async fn see_through(self) {
        let _beats = self.handed.heartbeat();
        let (queue, job) = (&self.handed.shared.parts.queue, self.handed.job().to_owned());
        tracing::info!(job.id = job, attempt = self.attempt, "took a job of the fleet");
        match self.run().await {
            Ok(Went::Ended(view)) => self.ended(*view).await,
            Ok(Went::NotOurs(entry)) => {
                tracing::info!(job.id = job, "the job of the fleet is over, or another worker has it");
                // The message is that one's, if so.
                if entry.is_none_or(|entry| entry.state.is_over()) {
                    self.handed.is_over().await;
                }
            }
            Ok(Went::Left) => self.give_back(None).await,
            Err(error) => self.failed(error).await,
        }
        if !queue.is_stopping()
            && queue.view(&job).await.is_ok()
            && let Err(error) = queue.remove(&job).await
        {
            tracing::warn!("what a job of the fleet left is not removed: {}", error.full_text());
        }
    }

    async fn run(&self) -> Result<Went, JobError> {
        let Handed {
            shared, bound, message, ..
        } = &self.handed;
        let queue = &shared.parts.queue;
        let looks = bound.broker.client().subscribe(look_at(&message.job)).await.ok();
        let id = JobId::parse(&message.job).ok_or_else(|| JobError::internal("its id is none"))?;
        let gone =
            || JobError::internal("The job's request is not in the fleet's broker any more").hint("Send it again.");
        let text = loop {
            match bound.unpack(&message.request).await {
                Ok(text) => break text.ok_or_else(gone)?,
                Err(Trouble(why)) => tracing::warn!(job.id = message.job, "the job's request is not here yet: {why}"),
            }
            if shared.leave.is_cancelled() {
                return Ok(Went::Left);
            }
            tokio::time::sleep(AGAIN).await;
        };
        let request = payload::read(text).await?;
        if queue.view(id.as_str()).await.is_ok() {
            // What an attempt of before left here.
            queue.remove(id.as_str()).await?;
        }
        let policy = Policy {
            fleet: true,
            execution_timeout: Some(message.timeout()),
            traceparent: message.traceparent.clone(),
            ..Policy::default()
        };
        queue.submit_as(id.clone(), queue.permit()?, request, policy).await?;
        Ok(self.follow(&id, looks).await)
    }

    /// Follows the job in this worker's queue.
    async fn follow(&self, id: &JobId, mut looks: Option<async_nats::Subscriber>) -> Went {
        let queue = &self.handed.shared.parts.queue;
        let Ok(mut watch) = queue.watch(id.as_str()).await else {
            return Went::Left;
        };
        let mut checks = tokio::time::interval(self.handed.bound.numbers.heartbeat());
        let (mut is_running, mut told) = (false, Instant::now());
        let left = queue.given_back(id);
        tokio::pin!(left);
        loop {
            let view = watch.borrow_and_update().clone();
            if view.state.is_final() {
                return Went::Ended(Box::new(view));
            }
            if view.state == JobState::Running {
                if !is_running {
                    is_running = true;
                    // Whether or not: the next check tells if it is ours no more.
                    let running = |entry: &Entry| self.is_ours(entry).then(|| entry.running());
                    let _ = self.handed.bound.change(self.handed.job(), running).await;
                    self.handed.news(true, None).await;
                }
                if told.elapsed() >= NEWS_EVERY {
                    told = Instant::now();
                    self.handed.news(false, Some(&view.progress)).await;
                }
            }
            let looked = async {
                match looks.as_mut() {
                    Some(looks) => looks.next().await,
                    None => std::future::pending().await,
                }
            };
            let is_due = tokio::select! {
                biased;
                () = &mut left => return Went::Left,
                changed = watch.changed() => {
                    if changed.is_err() {
                        return Went::Left;
                    }
                    false
                }
                looked = looked => {
                    if looked.is_none() {
                        looks = None;
                    }
                    true
                }
                _ = checks.tick() => true,
            };
            if is_due
                && let Ok(found) = self.handed.bound.entry(self.handed.job()).await
                && !found.as_ref().is_some_and(|(entry, _)| self.is_ours(entry))
            {
                return Went::NotOurs(found.map(|(entry, _)| entry));
            }
        }
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        entry.is_of(&self.handed.shared.id, self.handed.message.round, self.attempt)
    }

    /// The job has ended here.
    async fn ended(&self, view: JobView) {
        match view.result {
            Some(Ok(outcome)) => match self.keep(&outcome).await {
                Ok(Some(made)) => {
                    self.settle(|entry| entry.ended(State::Done, Some(made.clone()), None))
                        .await
                }
                // The process ends.
                Ok(None) => {}
                Err(error) => self.failed(error).await,
            },
            Some(Err(_)) if view.state == JobState::Cancelled => {
                self.settle(|entry| entry.ended(State::Cancelled, None, None)).await;
            }
            Some(Err(error)) => self.failed(JobError::clone(&error)).await,
            None => self.failed(JobError::internal("the job ended without a result")).await,
        }
    }

    /// Puts what it made into the object store. [`None`]: the process ends before that could be done.
    async fn keep(&self, outcome: &Outcome) -> Result<Option<crate::fleet::Parcel>, JobError> {
        let bound = &self.handed.bound;
        let name = |what: &str| {
            format!(
                "{}/{}.{}/{what}",
                self.handed.job(),
                self.handed.message.round,
                self.attempt
            )
        };
        let mut files = Vec::new();
        for (number, file) in outcome.wanted().enumerate() {
            let content = self.handed.shared.parts.results.content(file).await?;
            let object = name(&number.to_string());
            let put = || async { bound.put(&object, &content).await };
            if self.insist(put).await.is_none() {
                return Ok(None);
            }
            files.push(MadeObject {
                bytes: content.len() as u64,
                object,
            });
        }
        let made = Made {
            outcome: outcome.clone(),
            files,
        };
        let text = serde_json::to_vec(&made).map_err(|error| JobError::internal(error.to_string()))?;
        let object = name("result");
        let pack = || async { bound.pack(&object, &text).await };
        Ok(self.insist(pack).await)
    }

    /// A job that did not come to its end here: another worker may have more luck, where this one is at fault.
    async fn failed(&self, error: JobError) {
        match error.kind {
            ErrorKind::Stopping | ErrorKind::Busy => self.give_back(None).await,
            ErrorKind::ComfyUnavailable | ErrorKind::GpuFailed | ErrorKind::StoreUnavailable => {
                self.give_back(Some(error)).await;
            }
            _ => {
                self.settle(|entry| entry.ended(State::Failed, None, Some(error.clone())))
                    .await
            }
        }
    }

    /// Another worker is to have it; `error`: because this one cannot do it, which is the job's end at last.
    async fn give_back(&self, error: Option<JobError>) {
        let retries = self.handed.bound.numbers.retries;
        let back = |entry: &Entry| match &error {
            Some(error) if entry.lost >= retries => entry.ended(State::Failed, None, Some(error.clone())),
            error => entry.given_back(error.is_some()),
        };
        let change = || async {
            let changed = |entry: &Entry| self.is_ours(entry).then(|| back(entry));
            self.handed.bound.change(self.handed.job(), changed).await
        };
        let Some(Some((entry, _))) = self.insist(change).await else {
            return;
        };
        self.handed.news(true, None).await;
        if entry.state.is_over() {
            self.handed.is_over().await;
        } else if entry.state == State::Queued {
            tracing::info!(job.id = self.handed.job(), "the job goes back to the fleet");
            // One that cannot do it would be the first to have it again.
            let wait = error.map(|_| AGAIN);
            let _ = self.handed.acker.ack_with(AckKind::Nak(wait)).await;
        }
    }

    /// Writes the job's end, and removes its message. What is not ours any more is left to those who have it.
    async fn settle(&self, end: impl Fn(&Entry) -> Entry + Send + Sync) {
        let change = || async {
            let ended = |entry: &Entry| self.is_ours(entry).then(|| end(entry));
            self.handed.bound.change(self.handed.job(), ended).await
        };
        let Some(entry) = self.insist(change).await else {
            return;
        };
        self.handed.news(true, None).await;
        if entry.is_none_or(|(entry, _)| entry.state.is_over()) {
            self.handed.is_over().await;
        } else {
            tracing::warn!(
                job.id = self.handed.job(),
                "another worker of the fleet has the job by now: what was made here is dropped"
            );
        }
    }

    /// Tries until the broker takes it. [`None`]: the process ends.
    async fn insist<T, F: Future<Output = Result<T, Trouble>>>(&self, work: impl Fn() -> F) -> Option<T> {
        let mut has_failed = false;
        loop {
            match work().await {
                Ok(done) => return Some(done),
                Err(Trouble(why)) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(job.id = self.handed.job(), "the fleet's broker is tried again: {why}");
                    }
                }
            }
            tokio::select! {
                () = self.handed.shared.give_up.cancelled() => return None,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}
