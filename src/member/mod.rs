//! A worker of a fleet: it takes jobs from the broker, one for each engine that has nothing to do, and gives their results back.
//!
//! ```text
//!  stream ──pull, one──► [intake] ──► [job]: look, take by revision ──► [taken]: queue ──► ComfyUI
//!  bucket ◄──────────── running, done, or given back, by revision ◄────┘  │
//!  object store ◄────── files of the result, before that ◄────────────────┘
//! ```
//!
//! A job of the fleet runs in the queue of this worker under its own id, and is removed from there when the broker has its result. One
//! that was cut short by the end of this process is not gone on with: by then another worker may have it.

mod described;
mod intake;
mod job;
mod taken;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use crate::comfy::Comfys;
use crate::config::BrokerAddress;
use crate::delivery::Results;
use crate::models::{Models, ModelsState};
use crate::queue::Queue;
use crate::warm_up::Warming;

/// How long jobs that go back to the broker may take for that, when this process ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a worker of a fleet needs.
#[derive(Debug)]
pub struct Parts {
    /// Runs the jobs.
    pub queue: Queue,
    /// Reads what they made.
    pub results: Arc<Results>,
    /// The engines.
    pub comfy: Comfys,
    /// What they need.
    pub models: Models,
    /// Whether they are being warmed up.
    pub warming: Warming,
}

/// A worker that takes part in a fleet. Clones are the same.
#[derive(Debug, Clone)]
pub struct Member(Arc<Shared>);

/// How a worker stands with its fleet, for `/health`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FleetHealth {
    /// `connected`; `waiting` for a front to set the broker up, or for one of the same version; `away` while the broker cannot be
    /// reached.
    pub state: &'static str,
    /// The broker.
    pub broker: String,
    /// This worker, as the broker knows it.
    pub worker: String,
    /// The jobs that it has from there.
    pub jobs: usize,
    /// Why it takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Connected,
    Waiting(String),
    Away(String),
}

#[derive(Debug)]
struct Shared {
    parts: Parts,
    address: BrokerAddress,
    /// Another one after each start: what a process had that is gone, nobody has.
    id: String,
    standing: Mutex<Standing>,
    /// What the fleet was told of its node classes.
    told: described::Told,
    /// The jobs that it has, by their ids.
    has: Mutex<HashSet<String>>,
    /// Told when it has one less.
    freed: Notify,
    /// No more jobs are taken.
    leave: CancellationToken,
    /// The process ends: what the broker does not take now it does not hear.
    give_up: CancellationToken,
    tasks: TaskTracker,
}

impl Member {
    /// Begins to take jobs.
    pub fn start(address: BrokerAddress, parts: Parts) -> Self {
        let shared = Arc::new(Shared {
            parts,
            address,
            id: uuid::Uuid::new_v4().simple().to_string(),
            standing: Mutex::new(Standing::Away("it is being connected to".to_owned())),
            told: described::Told::default(),
            has: Mutex::default(),
            freed: Notify::new(),
            leave: CancellationToken::new(),
            give_up: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(intake::take_part(Arc::clone(&shared)));
        Self(shared)
    }

    /// Takes no more jobs.
    pub fn leave(&self) {
        self.0.leave.cancel();
        self.0.tasks.close();
    }

    /// Waits until the broker knows what became of the jobs. Called when none runs any more, or none is waited for.
    pub async fn finish(&self) {
        self.leave();
        if tokio::time::timeout(LAST_WORDS, self.0.tasks.wait()).await.is_err() {
            let jobs = self.0.has.lock().len();
            tracing::warn!(
                jobs,
                "the broker does not hear of jobs of the fleet; others get them after its ack wait"
            );
        }
        self.0.give_up.cancel();
    }

    /// How it stands.
    pub fn health(&self) -> FleetHealth {
        let (state, reason) = match self.0.standing.lock().clone() {
            Standing::Connected => ("connected", None),
            Standing::Waiting(reason) => ("waiting", Some(reason)),
            Standing::Away(reason) => ("away", Some(reason)),
        };
        FleetHealth {
            state,
            broker: self.0.address.to_string(),
            worker: self.0.id.clone(),
            jobs: self.0.has.lock().len(),
            reason,
        }
    }
}

impl Shared {
    fn stands(&self, standing: Standing) {
        let mut before = self.standing.lock();
        if *before == standing {
            return;
        }
        match &standing {
            Standing::Connected => tracing::info!("taking jobs of the fleet at {} as {}", self.address, self.id),
            Standing::Waiting(why) | Standing::Away(why) => {
                tracing::warn!("no jobs are taken of the fleet at {}: {why}", self.address);
            }
        }
        *before = standing;
    }

    /// Whether an engine has nothing to do.
    fn has_room(&self) -> bool {
        let parts = &self.parts;
        if parts.warming.is_on() || parts.models.health().state != ModelsState::Ready || parts.queue.trouble().is_some()
        {
            return false;
        }
        let counts = parts.queue.counts();
        // Its own clients come first; and a result that the broker does not have yet keeps its engine.
        let busy = counts.in_queue + counts.in_progress;
        let busy = usize::try_from(busy).unwrap_or(usize::MAX).max(self.has.lock().len());
        busy < parts.comfy.ready()
    }

    /// It has this job from now on; [`None`]: it has it already.
    fn begins_with(self: &Arc<Self>, job: &str) -> Option<Has> {
        self.has.lock().insert(job.to_owned()).then(|| Has {
            shared: Arc::clone(self),
            job: job.to_owned(),
        })
    }
}

/// A job that this worker has, until it is dropped.
struct Has {
    shared: Arc<Shared>,
    job: String,
}

impl Drop for Has {
    fn drop(&mut self) {
        self.shared.has.lock().remove(&self.job);
        self.shared.freed.notify_one();
    }
}
