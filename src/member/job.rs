//! One job of the fleet, from its message to its end.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{self, AckKind};
use async_nats::{Request, client::RequestErrorKind};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::taken::Taken;
use super::{Has, Shared};
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::fleet::{Bound, Entry, Look, Message, News, State, Trouble, Unreadable, ask_worker, progress_of};
use crate::job::JobId;

/// What a worker answers that has a job.
pub(super) const HAS_IT: &str = "yes";
/// How long a worker is waited for that is asked whether it has a job. One that is frozen does not answer at all.
const ASK: Duration = Duration::from_secs(1);
/// How often one is asked that is not there: a connection that broke is made anew within two seconds.
const ASKS: u32 = 4;
/// How often a message may be handed out. What was lost is counted in the entry; this is for one that no worker gets so far with.
const MOST_DELIVERIES: i64 = 1_000;
/// The time between two tries of what the broker did not take.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// Looks at an entry that others change at the same time, before the message is left for later.
const LOOKS: u32 = 10;

/// A job that was handed out, and what its message is answered by.
pub(super) struct Handed {
    pub(super) shared: Arc<Shared>,
    pub(super) bound: Bound,
    pub(super) message: Message,
    pub(super) acker: Arc<Acker>,
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
            Box::pin(taken.see_through()).await;
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
    pub(super) fn job(&self) -> &str {
        &self.message.job
    }

    /// It is handed out again after a while.
    async fn later(&self, wait: Duration) {
        let _ = self.acker.ack_with(AckKind::Nak(Some(wait))).await;
    }

    /// The message is done with.
    pub(super) async fn is_over(&self) {
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
                    self.has_changed().await;
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

    /// Tells that the entry has changed.
    pub(super) async fn has_changed(&self) {
        let news = News {
            has_changed: true,
            ..News::default()
        };
        self.tell(&news).await;
    }

    /// Tells how far it is.
    pub(super) async fn tell(&self, news: &News) {
        let text = serde_json::to_vec(news).unwrap_or_default();
        self.bound.tell(progress_of(self.job()), text).await;
    }

    /// Says that somebody is at it, until the guard is dropped.
    pub(super) fn heartbeat(&self) -> DropGuard {
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
