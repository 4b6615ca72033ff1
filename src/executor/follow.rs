//! Follows a prompt to its end.
//!
//! The websocket tells how far it is; whether it is over is read from `/history`, which is written just before the
//! last message. When the websocket breaks or is silent, `/history` and `/queue` are asked instead, so a prompt that
//! ended in the gap is found and never waited for.

mod looks;

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::comfy::client::{ClientError, HistoryEntry};
use crate::comfy::message::Message;
use crate::comfy::socket::{ComfySocket, SocketError};
use crate::comfy::{Connection, Frame};
use crate::display::error_chain;
use crate::error::JobError;

use super::Settings;
use super::control::ProgressSink;
use super::pictures::Pictures;
use super::quiet::Quiet;
use super::told::{Passing, Told};

/// The silence after which `/history` and `/queue` are asked although the websocket is open. A node may be silent for
/// longer; then the answers say that the prompt still runs.
const SILENCE: Duration = Duration::from_secs(5);
/// Time between two looks at `/history` while there is no websocket.
const POLL: Duration = Duration::from_millis(250);

/// Why one attempt did not end with a history entry.
pub(super) enum AttemptError {
    /// ComfyUI died or forgot the prompt; another attempt may succeed.
    Again(JobError),
    /// ComfyUI cannot be reached. Whether it has the prompt is seen when it can be.
    Away(JobError),
    /// ComfyUI lives and does nothing; it must be restarted first. `own_fault`: by this prompt's doing.
    Stalled { error: JobError, own_fault: bool },
    /// The prompt sleeps and ComfyUI does not: it must be restarted. What it waited for may have cost money, so
    /// nobody has it run again unasked.
    Asleep(JobError),
    /// Another attempt would end the same way.
    Final(JobError),
}

impl From<ClientError> for AttemptError {
    fn from(error: ClientError) -> Self {
        if error.is_answer() {
            Self::Final(error.into())
        } else {
            Self::Away(error.into())
        }
    }
}

/// A prompt that was submitted, and all the ways to learn of its end.
pub(super) struct Follow<'a> {
    settings: &'a Settings,
    connection: &'a Connection,
    prompt_id: &'a str,
    socket: Option<ComfySocket>,
    /// Whether the prompt's events come: only on the first connection.
    hears: bool,
    /// The end is expected.
    hurries: bool,
    /// Passes them on, where somebody listens.
    passing: Option<Passing>,
    /// Attempts to connect again that are left.
    attempts: u32,
    reconnect_at: TokioInstant,
    look_at: TokioInstant,
    failed_looks: u32,
    senseless_looks: u32,
    empty_looks: u32,
    stuck_since: Option<Instant>,
    /// Begins with the first look after an event.
    quiet: Option<Quiet>,
    /// Results that come over the websocket.
    pictures: Pictures,
}

impl<'a> Follow<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        connection: &'a Connection,
        prompt_id: &'a str,
        socket: Option<ComfySocket>,
        pictures: Pictures,
    ) -> Self {
        let now = TokioInstant::now();
        let hears = socket.is_some();
        Self {
            settings,
            connection,
            prompt_id,
            socket,
            hears,
            hurries: false,
            passing: None,
            attempts: settings.comfy.reconnect_attempts,
            reconnect_at: now,
            look_at: now + if hears { SILENCE } else { POLL },
            failed_looks: 0,
            senseless_looks: 0,
            empty_looks: 0,
            stuck_since: None,
            quiet: None,
            pictures,
        }
    }

    /// From now on the prompt's events go to its client too.
    pub(super) fn pass_on(&mut self, told: Option<&Told>, sink: &ProgressSink<'_>) {
        self.passing = Passing::of(told, &sink.relay, self.prompt_id, sink.name.as_deref());
    }

    /// From now on looks often, since the end is expected.
    pub(super) fn hurry(&mut self) {
        self.hurries = true;
        self.look_at = TokioInstant::now();
    }

    /// Whether words of the prompt may be waited for.
    fn is_patient(&self) -> bool {
        self.hears && !self.hurries
    }

    pub(super) async fn until_over(&mut self, sink: &mut ProgressSink<'_>) -> Result<HistoryEntry, AttemptError> {
        loop {
            let look = tokio::select! {
                message = next_message(self.socket.as_mut()) => self.heard(message, sink),
                () = sleep_until(self.look_at) => true,
                () = sleep_until(self.reconnect_at), if self.socket.is_none() && self.attempts > 0 => {
                    self.reconnect().await;
                    // What was missed in the gap is in the history.
                    true
                }
            };
            self.keep_pictures(sink).await;
            if look && let Some(mut entry) = self.look(sink).await? {
                sink.begun();
                if !self.pictures.is_idle() || self.passing.is_some() {
                    self.hear_out(sink).await;
                }
                let rest = std::mem::take(&mut entry.rest);
                if let Some(told) = &sink.owner.told {
                    told.over(rest, &entry.outputs, self.prompt_id, &sink.secrets);
                }
                if !self.pictures.is_idle() {
                    self.pictures.hand_over(&mut entry, &mut sink.warnings);
                }
                return Ok(entry);
            }
        }
    }

    /// The prompt is over: takes in what it still has to say, since its pictures, and whatever its client is to hear, come before
    /// its last message.
    async fn hear_out(&mut self, sink: &mut ProgressSink<'_>) {
        // However much others have to say on the same connection.
        let deadline = TokioInstant::now() + SILENCE;
        while self.hears && !self.pictures.is_complete() {
            let Ok(message) = tokio::time::timeout_at(deadline, next_message(self.socket.as_mut())).await else {
                break;
            };
            let is_broken = message.is_err();
            self.heard(message, sink);
            if is_broken {
                break;
            }
        }
        self.keep_pictures(sink).await;
    }

    async fn keep_pictures(&mut self, sink: &ProgressSink<'_>) {
        let client = &self.connection.client;
        self.pictures.keep(client, self.prompt_id, &sink.ledger).await;
    }

    /// Takes a message in, and says whether to look into the history now.
    fn heard(&mut self, message: Result<(Message, Frame), SocketError>, sink: &mut ProgressSink<'_>) -> bool {
        let (message, frame) = match message {
            Ok(heard) => heard,
            Err(error) => {
                log_loss(&error);
                self.socket = None;
                self.hears = false;
                // The attempts are for each loss. One that comes right after a connection is made waits its time.
                self.attempts = self.settings.comfy.reconnect_attempts;
                self.reconnect_at = self.reconnect_at.max(TokioInstant::now());
                return true;
            }
        };
        // What others send to everybody, such as the load of the machine once a second, tells nothing of the prompt.
        let is_of_prompt = match message.prompt_id() {
            Some(id) if id == self.prompt_id => {
                sink.begun();
                self.quiet = None;
                if let Some(passing) = &mut self.passing {
                    passing.named(&message, &frame);
                }
                true
            }
            Some(_) => return false,
            None => {
                if sink.has_begun() && message.is_of_a_running_node() {
                    self.quiet = None;
                }
                if let Some(passing) = &self.passing {
                    passing.nameless(&message, &frame);
                }
                false
            }
        };
        let now = Instant::now();
        match message {
            Message::Executing { node: Some(node), .. } => {
                self.pictures.executing(&node);
                sink.change(|tracker| tracker.node(&node, now));
            }
            Message::Executing {
                prompt_id: Some(_),
                node: None,
            } => {
                self.pictures.end();
                // Its entry is written; until a look has found that, it is looked for often.
                self.hurry();
                return true;
            }
            Message::Executed { node, output, .. } => {
                sink.ledger.outputs_in_background([(&node, &output)]);
                sink.executed(&node, &output);
            }
            Message::ExecutionCached { nodes, .. } => {
                sink.change(|tracker| tracker.cached(nodes.iter().map(String::as_str), now));
            }
            Message::ProgressState { nodes, .. } => sink.change(|tracker| {
                for (id, node) in &nodes {
                    tracker.at(id, node.value, node.max, node.state == "finished", now);
                }
            }),
            Message::Preview(preview) => {
                if let Some(preview) = self.pictures.take(preview) {
                    sink.preview(preview);
                }
            }
            message if is_of_prompt && message.is_end() => {
                // Versions may differ in what is their last message of a prompt.
                self.look_at = self.look_at.min(TokioInstant::now() + 2 * POLL);
                return false;
            }
            // On a later connection this is all that comes; a change of the queue may be the prompt's end.
            Message::Status { .. } => return !self.is_patient(),
            _ => {}
        }
        if self.is_patient() && is_of_prompt {
            self.look_at = TokioInstant::now() + SILENCE;
        }
        false
    }

    async fn reconnect(&mut self) {
        self.attempts -= 1;
        self.reconnect_at = TokioInstant::now() + self.settings.comfy.reconnect_delay;
        match ComfySocket::connect(&self.connection.client, self.settings.comfy.websocket_trace).await {
            Ok(socket) => {
                tracing::info!("the websocket of ComfyUI is open again");
                self.socket = Some(socket);
            }
            Err(error) => log_loss(&error),
        }
    }
}

async fn next_message(socket: Option<&mut ComfySocket>) -> Result<(Message, Frame), SocketError> {
    match socket {
        Some(socket) => socket.next().await,
        None => pending().await,
    }
}

pub(super) fn log_loss(error: &SocketError) {
    let error = error_chain(error);
    tracing::warn!("{error}; the result is looked for in ComfyUI's history");
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
