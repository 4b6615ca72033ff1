//! Follows a prompt to its end.
//!
//! The websocket tells how far it is; whether it is over is read from `/history`, which is written just before the
//! last message. When the websocket breaks or is silent, `/history` and `/queue` are asked instead, so a prompt that
//! ended in the gap is found and never waited for.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::comfy::Connection;
use crate::comfy::client::{ClientError, HistoryEntry, QueuePlace};
use crate::comfy::message::Message;
use crate::comfy::socket::{ComfySocket, SocketError};
use crate::display::error_chain;
use crate::error::{ErrorKind, JobError};

use super::Settings;
use super::control::ProgressSink;
use super::pictures::Pictures;
use super::quiet::Quiet;

/// The silence after which `/history` and `/queue` are asked although the websocket is open. A node may be silent for
/// longer; then the answers say that the prompt still runs.
const SILENCE: Duration = Duration::from_secs(5);
/// Time between two looks at `/history` while there is no websocket.
const POLL: Duration = Duration::from_millis(250);
/// Messages after which a prompt's entry is about to be written.
const ENDS: [&str; 3] = ["execution_success", "execution_error", "execution_interrupted"];
/// The longest that one look may take. Shorter than what ComfyUI has otherwise, since nothing else is heard meanwhile.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Looks in a row that must fail before a ComfyUI that we do not supervise counts as gone.
const FAILED_LOOKS: u32 = 20;
/// Looks in a row that must not find the prompt before it counts as forgotten: it is in neither list for a moment
/// while it goes from the queue into the history.
const EMPTY_LOOKS: u32 = 3;
/// For how long a prompt may wait while nothing runs: ComfyUI's worker thread is dead then.
const LONGEST_STUCK: Duration = Duration::from_secs(15);

/// Looks in a row whose answer cannot be used before the prompt is given up: the same will be answered again.
const SENSELESS_LOOKS: u32 = 3;
/// A prompt that is silent while ComfyUI itself answers may wait for something far away, such as an API that makes a
/// film: it has so many times the usual limit.
const PATIENCE_WITH_SLEEPERS: u32 = 5;

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

    /// From now on looks often, since the end is expected.
    pub(super) fn hurry(&mut self) {
        self.hears = false;
        self.look_at = TokioInstant::now();
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
                if !self.pictures.is_idle() {
                    self.hear_out(sink).await;
                    self.pictures.hand_over(&mut entry, &mut sink.warnings);
                }
                return Ok(entry);
            }
        }
    }

    /// The prompt is over: takes in what it still has to say, since its pictures come before its last message.
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
    fn heard(&mut self, message: Result<Message, SocketError>, sink: &mut ProgressSink<'_>) -> bool {
        let message = match message {
            Ok(message) => message,
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
                true
            }
            Some(_) => return false,
            None => {
                if sink.has_begun() && message.is_of_a_running_node() {
                    self.quiet = None;
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
            Message::Executed { node, output, .. } => sink.ledger.outputs_in_background([(&node, &output)]),
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
            Message::Unknown { kind, .. } if is_of_prompt && ENDS.contains(&kind.as_str()) => {
                // Versions may differ in what is their last message of a prompt.
                self.look_at = self.look_at.min(TokioInstant::now() + 2 * POLL);
                return false;
            }
            // On a later connection this is all that comes; a change of the queue may be the prompt's end.
            Message::Status { .. } => return !self.hears,
            _ => {}
        }
        if self.hears && is_of_prompt {
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

    /// Asks `/history`, then `/queue`.
    async fn look(&mut self, sink: &mut ProgressSink<'_>) -> Result<Option<HistoryEntry>, AttemptError> {
        self.look_at = TokioInstant::now() + if self.hears { SILENCE } else { POLL };
        let pid = self.connection.pid();
        // It begins before the look.
        let quiet = self.quiet.take().unwrap_or_else(|| Quiet::since_now(pid));
        let found = tokio::time::timeout(LOOK_TIMEOUT, self.look_once()).await;
        let failed = match found {
            Ok(Ok(Found::Entry(entry))) => return Ok(Some(*entry)),
            Ok(Ok(Found::Place(place))) => return self.found(place, quiet, sink).map(|()| None),
            // It answers, so that this is no silence.
            Ok(Err(error)) if error.is_answer() => return self.senseless(error.into()).map(|()| None),
            Ok(Err(error)) => JobError::from(error),
            Err(_) => {
                let message = format!("ComfyUI did not answer within {} s", LOOK_TIMEOUT.as_secs());
                JobError::new(ErrorKind::ComfyUnavailable, message).hint("The log has ComfyUI's own lines.")
            }
        };
        self.failed_looks += 1;
        let reason = &failed.message;
        tracing::warn!(
            looks = self.failed_looks,
            "ComfyUI was asked for the prompt and did not answer: {reason}"
        );
        let limit = self.settings.jobs.stall_timeout;
        if quiet.for_longer_than(limit) {
            return Err(stalled(
                &format!(
                    "ComfyUI has not answered for {} s and its process does nothing",
                    limit.as_secs()
                ),
                false,
            ));
        }
        self.quiet = Some(quiet);
        // A supervised process is watched by its exit; a slow answer is no death.
        let gone = self.failed_looks >= FAILED_LOOKS && pid.is_none();
        if gone {
            Err(AttemptError::Away(failed))
        } else {
            Ok(None)
        }
    }

    /// ComfyUI answers, and not what it should.
    fn senseless(&mut self, error: JobError) -> Result<(), AttemptError> {
        self.senseless_looks += 1;
        tracing::warn!(looks = self.senseless_looks, "{}", error.message);
        if self.senseless_looks >= SENSELESS_LOOKS {
            return Err(AttemptError::Final(error));
        }
        self.look_at = TokioInstant::now() + POLL;
        Ok(())
    }

    /// The prompt is there, and not over; `quiet` is from before the look.
    fn found(&mut self, place: QueuePlace, quiet: Quiet, sink: &mut ProgressSink<'_>) -> Result<(), AttemptError> {
        self.failed_looks = 0;
        self.senseless_looks = 0;
        self.empty_looks = if place == QueuePlace::Unknown {
            self.empty_looks + 1
        } else {
            0
        };
        self.stuck_since = (place == QueuePlace::Stuck).then(|| self.stuck_since.unwrap_or_else(Instant::now));
        match place {
            QueuePlace::Running => sink.begun(),
            QueuePlace::Unknown => self.look_at = TokioInstant::now() + POLL,
            QueuePlace::Pending | QueuePlace::Stuck => {}
        }
        if self.empty_looks >= EMPTY_LOOKS {
            let message = "ComfyUI no longer knows the job's prompt: its queue was cleared, or it was restarted";
            return Err(AttemptError::Again(
                JobError::new(ErrorKind::ComfyUnavailable, message).hint("Send the job again."),
            ));
        }
        if self.stuck_since.is_some_and(|since| since.elapsed() > LONGEST_STUCK) {
            // One that we cannot restart has it in its queue for good.
            let own_fault = self.connection.pid().is_none();
            return Err(stalled(
                "ComfyUI takes no prompt from its queue although none runs",
                own_fault,
            ));
        }
        // Only a prompt that runs is owed a word.
        if place != QueuePlace::Running {
            return Ok(());
        }
        let limit = self.settings.jobs.stall_timeout * PATIENCE_WITH_SLEEPERS;
        if quiet.for_longer_than(limit) {
            let message = format!(
                "ComfyUI has told nothing of the job's prompt for {} s and its processes do nothing",
                limit.as_secs()
            );
            let hint = "ComfyUI is restarted. The job is not run again by itself, since its nodes may have paid for something: \
                        send it again.";
            return Err(AttemptError::Asleep(
                JobError::new(ErrorKind::ComfyUnavailable, message).hint(hint),
            ));
        }
        self.quiet = Some(quiet);
        Ok(())
    }

    async fn look_once(&self) -> Result<Found, ClientError> {
        let client = &self.connection.client;
        if let Some(entry) = client.history(self.prompt_id).await? {
            return Ok(Found::Entry(Box::new(entry)));
        }
        Ok(Found::Place(client.queue_place(self.prompt_id).await?))
    }
}

enum Found {
    Entry(Box<HistoryEntry>),
    Place(QueuePlace),
}

fn stalled(message: &str, own_fault: bool) -> AttemptError {
    let error = JobError::new(ErrorKind::ComfyUnavailable, message).hint("It is restarted; send the job again.");
    AttemptError::Stalled { error, own_fault }
}

async fn next_message(socket: Option<&mut ComfySocket>) -> Result<Message, SocketError> {
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
