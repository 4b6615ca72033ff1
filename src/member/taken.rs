//! A job of the fleet that this worker has taken: it runs in the queue here, and its end goes back to the broker.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::Has;
use super::job::{AGAIN, Handed};
use crate::error::{ErrorKind, JobError};
use crate::fleet::{Entry, Made, MadeObject, News, Parcel, State, Trouble, look_at};
use crate::job::{JobId, JobState, JobView, Outcome, Policy, payload};

/// The shortest time between two words about how far a job is.
const NEWS_EVERY: Duration = Duration::from_millis(300);

/// How long the broker is tried with what became of a job.
const INSISTS: Duration = Duration::from_mins(15);

/// A job that this worker has taken.
pub(super) struct Taken {
    pub(super) handed: Handed,
    /// Which one it is of those who have taken it.
    pub(super) attempt: u32,
    pub(super) _has: Has,
}

/// How a job went here.
enum Went {
    /// It has ended.
    Ended(Box<JobView>),
    /// It is somebody else's by now, or is over.
    NotOurs(Option<Box<Entry>>),
    /// This worker stops before its end.
    Left,
}

impl Taken {
    pub(super) async fn see_through(self) {
        let _beats = self.handed.heartbeat();
        let (queue, job) = (&self.handed.shared.parts.queue, self.handed.job().to_owned());
        tracing::info!(job.id = job, attempt = self.attempt, "took a job of the fleet");
        match Box::pin(self.run()).await {
            Ok(Went::Ended(view)) => self.ended(*view).await,
            Ok(Went::NotOurs(entry)) => {
                tracing::info!(job.id = job, "the job of the fleet is over, or another worker has it");
                // The message is that one's, if so; and one whose entry cannot be seen is not done with.
                if entry.is_some_and(|entry| entry.state.is_over()) {
                    self.handed.is_over().await;
                }
            }
            Ok(Went::Left) => self.give_back(None).await,
            Err(error) => self.failed(error).await,
        }
        if !queue.is_stopping()
            && queue.view(&job).await.is_ok_and(|view| view.policy.fleet)
            && let Err(error) = queue.remove(&job).await
        {
            tracing::warn!("what a job of the fleet left is not removed: {}", error.full_text());
        }
    }

    async fn run(&self) -> Result<Went, JobError> {
        let Handed { shared, message, .. } = &self.handed;
        let mut bound = self.handed.bound.clone();
        let queue = &shared.parts.queue;
        let looks = bound.broker.client().subscribe(look_at(&message.job)).await.ok();
        let id = JobId::parse(&message.job).ok_or_else(|| JobError::internal("its id is none"))?;
        let gone =
            || JobError::internal("The job's request is not in the fleet's broker any more").hint("Send it again.");
        let begun = Instant::now();
        let text = loop {
            match bound.unpack(&message.request).await {
                Ok(text) => break text.ok_or_else(gone)?,
                Err(Trouble(why)) => tracing::warn!(job.id = message.job, "the job's request is not here yet: {why}"),
            }
            // Another worker may be able to have it.
            if shared.leave.is_cancelled() || begun.elapsed() > INSISTS {
                return Ok(Went::Left);
            }
            tokio::time::sleep(AGAIN).await;
            if let Ok(found) = bound.entry(&message.job).await
                && !found.as_ref().is_some_and(|(entry, _)| self.is_ours(entry))
            {
                return Ok(Went::NotOurs(found.map(|(entry, _)| Box::new(entry))));
            }
            // A front of another release may have set it up otherwise since.
            if let Ok(anew) = bound.broker.bind().await {
                bound = anew;
            }
        };
        let request = payload::read(text).await?;
        match queue.view(id.as_str()).await {
            // What an attempt of before left here.
            Ok(view) if view.policy.fleet => queue.remove(id.as_str()).await?,
            Ok(_) => {
                let message = "A job of another client has its id at the worker that took it";
                return Err(JobError::new(ErrorKind::Conflict, message).hint("Send it under another id."));
            }
            Err(_) => {}
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
        let (mut is_running, mut told, mut shown) = (false, Instant::now(), 0);
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
                    self.handed.has_changed().await;
                }
                if told.elapsed() >= NEWS_EVERY {
                    told = Instant::now();
                    self.handed.tell(&News::of(&view.progress, shown)).await;
                    shown = view.progress.preview.as_ref().map_or(shown, |preview| preview.number);
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
                return Went::NotOurs(found.map(|(entry, _)| Box::new(entry)));
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
                        .await;
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
    async fn keep(&self, outcome: &Outcome) -> Result<Option<Parcel>, JobError> {
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
                    .await;
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
        self.handed.has_changed().await;
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
        self.handed.has_changed().await;
        if entry.is_none_or(|(entry, _)| entry.state.is_over()) {
            self.handed.is_over().await;
        } else {
            tracing::warn!(
                job.id = self.handed.job(),
                "another worker of the fleet has the job by now: what was made here is dropped"
            );
        }
    }

    /// Tries until the broker takes it. [`None`]: the process ends, or the broker has not taken it for so long that another worker
    /// is to have the job: nobody says any more that this one is at it.
    async fn insist<T, F: Future<Output = Result<T, Trouble>>>(&self, work: impl Fn() -> F) -> Option<T> {
        let (mut has_failed, begun) = (false, Instant::now());
        while begun.elapsed() < INSISTS {
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
        tracing::error!(
            job.id = self.handed.job(),
            "the fleet's broker did not take what became of the job"
        );
        None
    }
}
