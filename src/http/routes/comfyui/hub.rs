//! What the clients of ComfyUI's own API are told that no prompt's own websocket brings: how many jobs there are, how their prompts
//! ended, what ComfyUI and its node packs send to everybody, and what it logs.
//!
//! A prompt's end is told once it is stored: who hears of it and asks `/history` finds it there. What ComfyUI sends to everybody is
//! heard on one websocket of ours, which is open while a client is.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::comfy::message::Message;
use crate::comfy::socket::ComfySocket;
use crate::comfy::{Comfy, Comfys, Connection, Frame, Listener, Relay};
use crate::dialect::comfyui::frames;
use crate::display::error_chain;
use crate::job::{Dialect, JobId, JobView, Policy};
use crate::queue::{Change, Queue};

/// Time between two attempts to hear what ComfyUI sends to everybody.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// For how long it is heard on without a client: a page that is loaded anew is away for a moment.
const WITHOUT_CLIENTS: Duration = if cfg!(test) {
    Duration::from_millis(500)
} else {
    Duration::from_secs(10)
};
/// The longest silence before the websocket is opened anew: the other side of one may be gone without a word.
const LONGEST_SILENCE: Duration = Duration::from_mins(10);
/// The longest that a client waits for ComfyUI's flags.
const FLAGS_TIME: Duration = Duration::from_secs(1);
/// How soon they are asked for again, where ComfyUI did not tell.
const FLAGS_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Tells clients what is for all of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    comfy: Comfys,
    queue: Queue,
    /// The prompts of clients that ComfyUI has begun with, by job.
    running: Mutex<HashMap<JobId, Running>>,
    flags: tokio::sync::Mutex<Option<Flags>>,
    /// Who reads what ComfyUI logs.
    log_readers: watch::Sender<HashSet<Listener>>,
}

/// A client's prompt that runs.
#[derive(Debug)]
struct Running {
    who: Listener,
    job: watch::Receiver<JobView>,
}

/// What ComfyUI said that it can do.
#[derive(Debug)]
struct Flags {
    /// Of which of its starts.
    generation: u64,
    /// [`None`]: it did not say, at that time.
    said: Result<Value, Instant>,
}

impl Hub {
    /// A hub that tells of this queue's jobs until `ending`.
    pub fn start(queue: &Queue, comfy: &Comfys, ending: &CancellationToken, tasks: &TaskTracker) -> Self {
        let hub = Self(Arc::new(Inner {
            comfy: comfy.clone(),
            queue: queue.clone(),
            running: Mutex::default(),
            flags: tokio::sync::Mutex::default(),
            log_readers: watch::Sender::default(),
        }));
        let telling = hub.clone();
        let changes = queue.changes();
        tasks.spawn(
            ending
                .clone()
                .run_until_cancelled_owned(async move { telling.tell_of(changes).await }),
        );
        for comfy in comfy.all() {
            let (hearing, comfy) = (hub.clone(), comfy.clone());
            tasks.spawn(
                ending
                    .clone()
                    .run_until_cancelled_owned(async move { hearing.hear(&comfy).await }),
            );
        }
        hub
    }

    pub(super) fn relay(&self) -> &Relay {
        self.0.comfy.relay()
    }

    /// How many jobs wait or run, as a client's first message has it, or as all are told.
    pub(super) fn status(&self, sid: Option<&str>) -> Frame {
        let counts = self.0.queue.counts();
        frames::status(counts.in_queue + counts.in_progress, sid)
    }

    /// The node at work in a client's prompt, while one runs.
    pub(super) fn node_at_work(&self, who: &Listener) -> Option<String> {
        let running = self.0.running.lock();
        let mut own = running.values().filter(|running| running.who == *who);
        own.find_map(|running| running.job.borrow().progress.node_id.clone())
    }

    async fn tell_of(&self, mut changes: mpsc::UnboundedReceiver<Change>) {
        loop {
            // Something may wait for the end of an earlier prompt that does not come.
            let late_in = self.relay().late_in();
            let mut next = tokio::select! {
                change = changes.recv() => change,
                () = sleep(late_in.unwrap_or_default()), if late_in.is_some() => {
                    self.relay().release_late();
                    continue;
                }
            };
            if next.is_none() {
                return;
            }
            let mut is_owed = false;
            // Of changes that come at once the last number tells all.
            while let Some(change) = next {
                is_owed = self.tell(change).await;
                next = changes.try_recv().ok();
            }
            if is_owed {
                self.relay().tell_all(&self.status(None));
            }
        }
    }

    /// Tells of one change; says whether `status` is still to be told.
    pub(super) async fn tell(&self, change: Change) -> bool {
        match change {
            Change::Came(id) => {
                self.relay().comes(id.as_str());
                true
            }
            Change::Began(id) => {
                if let Ok(job) = self.0.queue.watch(id.as_str()).await {
                    let who = listener(&job.borrow().policy);
                    // Told late, it may be of one whose end was told.
                    if let Some(who) = who.filter(|_| !job.borrow().state.is_final()) {
                        self.0.running.lock().insert(id, Running { who, job });
                    }
                }
                true
            }
            Change::Ended(view) => {
                self.0.running.lock().remove(&view.id);
                let Some(who) = listener(&view.policy) else { return true };
                let end = frames::end(&view);
                let words = [&end.result, &end.over];
                let status = self.status(None);
                !self
                    .relay()
                    .end_in_turn(&who, view.id.as_str(), words, &status, end.due)
            }
        }
    }

    /// Hears what ComfyUI sends to everybody, while anybody listens.
    async fn hear(&self, comfy: &Comfy) {
        let mut clients = self.relay().count();
        loop {
            if clients.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            if let Some(connection) = comfy.connection_now() {
                self.hear_of(&connection, &mut clients).await;
                // It may be another one, or have other flags, when it is there again.
                *self.0.flags.lock().await = None;
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn hear_of(&self, connection: &Connection, clients: &mut watch::Receiver<usize>) {
        let mut socket = match ComfySocket::connect(&connection.client, false).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!("what ComfyUI sends to everybody is not heard: {}", error_chain(&error));
                return;
            }
        };
        let mut readers = self.0.log_readers.subscribe();
        let mut logs = false;
        // One for all that is heard meanwhile.
        let mut deserted = pin!(deserted(clients));
        loop {
            // Those who are gone read nothing, and say nothing.
            let wanted = readers.borrow_and_update().iter().any(|who| self.relay().is_open(who));
            if wanted != logs {
                let asked = connection.client.subscribe_to_logs(socket.client_id(), wanted);
                if let Err(error) = asked.await {
                    tracing::debug!("ComfyUI does not tell what it logs: {}", error_chain(&error));
                }
                logs = wanted;
            }
            tokio::select! {
                heard = timeout(LONGEST_SILENCE, socket.next()) => match heard {
                    Ok(Ok((message, frame))) => self.pass_on(&message, &frame),
                    _ => return,
                },
                _ = readers.changed() => {}
                () = &mut deserted => return,
            }
        }
    }

    /// Passes on what is for everybody: not what is about a prompt, which the executor hears, nor about this websocket.
    fn pass_on(&self, message: &Message, frame: &Frame) {
        match message {
            Message::Unknown { kind, .. } if kind == "logs" => {
                for who in self.0.log_readers.borrow().iter() {
                    self.relay().tell(who, frame);
                }
            }
            Message::Unknown { kind, .. } if kind == "feature_flags" => {}
            Message::Status {} | Message::Executing { .. } => {}
            message if message.prompt_id().is_some() => {}
            // It says not of which prompt, and is that one's client's alone.
            message if message.is_of_a_running_node() => {}
            _ => self.relay().tell_broadcast(frame),
        }
    }

    /// Whether a client wants to read what ComfyUI logs.
    pub(super) fn read_logs(&self, who: Listener, enabled: bool) {
        self.0.log_readers.send_modify(|readers| {
            readers.retain(|who| self.relay().is_open(who));
            if enabled && self.relay().is_open(&who) {
                readers.insert(who);
            } else {
                readers.remove(&who);
            }
        });
    }

    /// What ComfyUI can do, as it says itself; what it usually can where it is not there.
    pub(super) async fn flags(&self) -> Value {
        let Some(connection) = self.0.comfy.connection_now() else {
            return frames::usual_flags();
        };
        let generation = connection.generation();
        // Who comes meanwhile waits for this answer, and asks nothing.
        let mut known = self.0.flags.lock().await;
        match known.as_ref().filter(|flags| flags.generation == generation) {
            Some(Flags { said: Ok(flags), .. }) => return flags.clone(),
            Some(Flags { said: Err(at), .. }) if at.elapsed() < FLAGS_AGAIN_AFTER => return frames::usual_flags(),
            _ => {}
        }
        let said = match timeout(FLAGS_TIME, connection.client.features()).await {
            Ok(Ok(flags)) if flags.is_object() => Ok(flags),
            _ => Err(Instant::now()),
        };
        let flags = said.clone().unwrap_or_else(|_| frames::usual_flags());
        *known = Some(Flags { generation, said });
        flags
    }
}

/// Resolves when no client has been there for a while.
async fn deserted(clients: &mut watch::Receiver<usize>) {
    loop {
        if clients.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        let again = async { clients.wait_for(|count| *count > 0).await.is_ok() };
        if !timeout(WITHOUT_CLIENTS, again).await.unwrap_or(false) {
            return;
        }
    }
}

/// The client that a job's events go to.
fn listener(policy: &Policy) -> Option<Listener> {
    let owner = policy.prompt.as_ref().filter(|_| policy.dialect == Dialect::Comfyui)?;
    Some(Listener {
        key: owner.key.clone(),
        client_id: owner.client_id.clone()?,
    })
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
