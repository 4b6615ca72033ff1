//! A fleet as an engine: jobs go to its broker, and its workers take them from there.
//!
//! Nothing is charged, and the entry of a job in the broker says at any time what became of it. So nothing is unknown: a front
//! that was killed asks for the entry, and one whose broker is away waits. But a message that seemed lost may be handed out all the
//! same, so a job that was sent goes to another engine only once its entry says that no worker may take it.

mod asked;
mod foreign;
mod keeper;
mod sending;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use sending::Sending;

use super::list::FleetSpec;
use super::meaning::Refusal;
use super::rest::Cause;
use super::{Common, EngineSpec};
use crate::config::JobsConfig;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, Failed, Link, Made};
use crate::fleet::{self, Bound, Entry, Numbers, State, Trouble};
use crate::job::payload;

/// How often a job's entry is looked at, where nothing is told before.
const POLL: Duration = Duration::from_secs(1);
/// How long a cancellation is tried that the broker does not take.
const CANCELS: Duration = Duration::from_mins(1);
/// The time between two tries for a job that nobody waits for.
const CANCELS_AGAIN: Duration = Duration::from_secs(5);
/// How long what has ended is kept in the broker, where results are kept for longer here.
const ENDED_KEPT: Duration = Duration::from_hours(24);
/// The shortest time for which the broker keeps anything: what is agreed on is written again before it is over.
const KEPT_AT_LEAST: Duration = Duration::from_mins(10);

/// A fleet as an engine.
#[derive(Debug)]
pub(super) struct Fleet {
    common: Arc<Common>,
    /// By what its entries in the broker are known for this front's: another may have taken in a job under the same id.
    owner: String,
    /// The broker, since it was first set up.
    bound: watch::Receiver<Option<Bound>>,
    /// How long an entry is there.
    kept: Duration,
    _keeper: DropGuard,
}

impl Fleet {
    /// Begins to connect, and to set the broker up.
    pub(super) fn start(common: &Arc<Common>, spec: &FleetSpec, jobs: &JobsConfig, owner: &str) -> Self {
        let numbers = Numbers {
            version: fleet::VERSION,
            ack_wait_ms: u64::try_from(spec.ack_wait.as_millis()).unwrap_or(u64::MAX),
            retries: jobs.retries,
            kept_s: (jobs.queue_ttl + common.spec.timeout.max(jobs.timeout) + jobs.result_ttl.min(ENDED_KEPT))
                .max(KEPT_AT_LEAST)
                .as_secs(),
        };
        let (sender, bound) = watch::channel(None);
        keeper::begin(common);
        let ending = CancellationToken::new();
        let keeping = keeper::keep(Arc::clone(common), spec.clone(), numbers, sender);
        tokio::spawn(ending.clone().run_until_cancelled_owned(keeping));
        Self {
            common: Arc::clone(common),
            owner: owner.to_owned(),
            bound,
            kept: numbers.kept(),
            _keeper: ending.drop_guard(),
        }
    }

    fn spec(&self) -> &EngineSpec {
        &self.common.spec
    }

    /// The broker, where it can be had now.
    pub(super) fn bound(&self) -> Option<Bound> {
        now(&self.bound)
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
        let mut job = Sending::new(self, id, text, (is_judged, is_there));
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

    /// Has a job of this front cancelled that may be in the broker; with a `round` only as it was put in then: its owner may want it
    /// again by now.
    pub(super) async fn cancel(&self, id: &str, round: Option<u32>) {
        let is_meant = |entry: &Entry| entry.is_owned_by(&self.owner) && round.is_none_or(|round| entry.round == round);
        self.end(id, is_meant).await;
    }

    /// The same where the broker does not take it now, and nobody waits for the job any more: for as long as its entry may be there.
    fn cancel_later(&self, id: &str, round: Option<u32>) {
        let (bound, owner, id, kept) = (self.bound.clone(), self.owner.clone(), id.to_owned(), self.kept);
        tokio::spawn(async move {
            let is_meant = |entry: &Entry| entry.is_owned_by(&owner) && round.is_none_or(|round| entry.round == round);
            let begun = Instant::now();
            while begun.elapsed() < kept && try_end(now(&bound), &id, is_meant).await.is_err() {
                tokio::time::sleep(CANCELS_AGAIN).await;
            }
        });
    }

    /// Has a job cancelled, whichever front took it in.
    pub(super) async fn cancel_foreign(&self, id: &str) {
        self.end(id, |_| true).await;
    }

    async fn end(&self, id: &str, is_meant: impl Fn(&Entry) -> bool + Send + Sync) {
        let begun = Instant::now();
        while let Err(Trouble(why)) = try_end(self.bound(), id, &is_meant).await {
            if begun.elapsed() > CANCELS {
                let name = &self.spec().name;
                tracing::warn!("the job {id} at engine `{name}` may run on: {why}");
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The broker, where it can be had now.
fn now(bound: &watch::Receiver<Option<Bound>>) -> Option<Bound> {
    let bound = bound.borrow().clone();
    bound.filter(|bound| bound.broker.is_connected())
}

async fn try_end(
    bound: Option<Bound>,
    id: &str,
    is_meant: impl Fn(&Entry) -> bool + Send + Sync,
) -> Result<(), Trouble> {
    let away = || Trouble("the broker is away".to_owned());
    let bound = bound.ok_or_else(away)?;
    let cancelled = |entry: &Entry| {
        let is_open = is_meant(entry) && !entry.state.is_over();
        is_open.then(|| entry.ended(State::Cancelled, None, None))
    };
    bound.change(id, cancelled).await?;
    bound.tell(fleet::look_at(id), "").await;
    Ok(())
}
