//! Stage: ComfyUI runs the graph.
//!
//! The websocket tells how far it is; whether it is over is read from `/history`, which is written just before the
//! last message. When the websocket breaks or is silent, `/history` and `/queue` are asked instead, so a prompt that
//! ended in the gap is found and never waited for. When ComfyUI dies, or forgets the prompt, the graph is run again
//! as often as the settings say.

use std::future::pending;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::comfy::client::{ClientError, HistoryEntry, PromptEnd, PromptReply, PromptRequest, QueuePlace};
use crate::comfy::message::Message;
use crate::comfy::socket::{ComfySocket, SocketError};
use crate::comfy::{Comfy, Connection};
use crate::error::{ErrorKind, JobError};
use crate::workflow::Graph;

use super::{Settings, Watcher, failure};

/// The silence after which `/history` and `/queue` are asked although the websocket is open. A node may be silent for
/// longer; then the answers say that the prompt still runs.
const SILENCE: Duration = Duration::from_secs(5);
/// Time between two looks at `/history` while there is no websocket.
const POLL: Duration = Duration::from_millis(250);
/// Looks in a row that must fail before a ComfyUI that we do not supervise counts as gone.
const FAILED_LOOKS: u32 = 20;
/// Looks in a row that must not find the prompt before it counts as forgotten: it is in neither list for a moment
/// while it goes from the queue into the history.
const EMPTY_LOOKS: u32 = 3;

/// One graph on its way through ComfyUI.
pub(super) struct Run<'a> {
    pub(super) comfy: &'a Comfy,
    pub(super) settings: &'a Settings,
    pub(super) extra_data: &'a Value,
}

/// Why one attempt did not end with a history entry.
enum Lost {
    /// ComfyUI died or forgot the prompt; another attempt may succeed.
    Again(JobError),
    /// Another attempt would end the same way.
    Final(JobError),
}

impl From<ClientError> for Lost {
    fn from(error: ClientError) -> Self {
        Self::Again(error.into())
    }
}

impl Run<'_> {
    /// Runs the graph to its end, on another start of ComfyUI if the first one dies.
    pub(super) async fn to_end(
        &self,
        connection: &Connection,
        graph: &Graph,
        watcher: &mut Watcher,
    ) -> Result<HistoryEntry, JobError> {
        let mut connection = connection.clone();
        let mut attempt = 0;
        loop {
            let error = match self.attempt(&connection, graph, watcher).await {
                Ok(entry) => return ended(entry, graph),
                Err(Lost::Final(error)) => return Err(error),
                Err(Lost::Again(error)) => connection.death_behind(&error).await.unwrap_or(error),
            };
            if attempt >= self.settings.retries {
                return Err(error);
            }
            attempt += 1;
            tracing::warn!(attempt, "the job is run again: {}", error.message);
            // When ComfyUI does not come back, what it said last is the better answer.
            connection = self
                .comfy
                .connection()
                .await
                .map_err(|gone| if gone.kind == ErrorKind::Internal { error } else { gone })?;
        }
    }

    async fn attempt(
        &self,
        connection: &Connection,
        graph: &Graph,
        watcher: &mut Watcher,
    ) -> Result<HistoryEntry, Lost> {
        let mut socket = match ComfySocket::connect(&connection.client, self.settings.websocket_trace).await {
            Ok(socket) => Some(socket),
            Err(error) => {
                log_loss(&error);
                None
            }
        };
        let prompt_id = uuid::Uuid::new_v4().to_string();
        let nobody = uuid::Uuid::new_v4().simple().to_string();
        let client_id = socket
            .as_ref()
            .map_or(nobody.as_str(), ComfySocket::client_id)
            .to_owned();
        let request = PromptRequest {
            prompt: graph,
            prompt_id: &prompt_id,
            client_id: &client_id,
            extra_data: self.extra_data,
        };
        self.submit(connection, &request).await?;
        watcher.change(|tracker| tracker.begin(Instant::now()));
        let mut follow = Follow::new(self, connection, &prompt_id, socket.take());
        tokio::select! {
            entry = follow.until_over(watcher) => entry,
            death = connection.death() => Err(died(death)),
        }
    }

    /// Puts the prompt into ComfyUI's queue. A lost answer leaves open whether it is there, so it is looked for.
    async fn submit(&self, connection: &Connection, request: &PromptRequest<'_>) -> Result<(), Lost> {
        let sent = tokio::select! {
            sent = connection.client.submit(request) => sent,
            death = connection.death() => return Err(died(death)),
        };
        match sent {
            Ok(PromptReply::Queued) => Ok(()),
            Ok(PromptReply::Rejected(rejection)) => {
                // With 200 and errors, the valid outputs are in the queue already.
                let _ = connection.client.dequeue(request.prompt_id).await;
                let _ = connection.client.interrupt(request.prompt_id).await;
                Err(Lost::Final(failure::rejected(&rejection, request.prompt)))
            }
            Err(error @ ClientError::Status { status, .. }) if (400..500).contains(&status) || status == 500 => {
                // 500 is ComfyUI's answer to a graph that its own checks stumble over.
                Err(Lost::Final(JobError::new(
                    ErrorKind::InvalidWorkflow,
                    format!("{}: {error}", crate::workflow::INVALID_WORKFLOW),
                )))
            }
            Err(error) => {
                tracing::warn!(%error, "the answer to a prompt was lost; looking for the prompt");
                let known = connection.client.history(request.prompt_id).await?.is_some()
                    || connection.client.queue_place(request.prompt_id).await? != QueuePlace::Unknown;
                if known { Ok(()) } else { Err(error.into()) }
            }
        }
    }
}

/// A prompt that was submitted, and all the ways to learn of its end.
struct Follow<'a> {
    run: &'a Run<'a>,
    connection: &'a Connection,
    prompt_id: &'a str,
    socket: Option<ComfySocket>,
    /// Attempts to connect again that are left.
    attempts: u32,
    reconnect_at: TokioInstant,
    look_at: TokioInstant,
    failed_looks: u32,
    empty_looks: u32,
}

impl<'a> Follow<'a> {
    fn new(run: &'a Run<'a>, connection: &'a Connection, prompt_id: &'a str, socket: Option<ComfySocket>) -> Self {
        let now = TokioInstant::now();
        let look_at = now + if socket.is_some() { SILENCE } else { POLL };
        let attempts = run.settings.reconnect_attempts;
        Self {
            run,
            connection,
            prompt_id,
            socket,
            attempts,
            reconnect_at: now,
            look_at,
            failed_looks: 0,
            empty_looks: 0,
        }
    }

    async fn until_over(&mut self, watcher: &mut Watcher) -> Result<HistoryEntry, Lost> {
        loop {
            let look = tokio::select! {
                message = next_message(self.socket.as_mut()) => self.heard(message, watcher),
                () = sleep_until(self.look_at) => true,
                () = sleep_until(self.reconnect_at), if self.socket.is_none() && self.attempts > 0 => {
                    self.reconnect().await;
                    // What was missed in the gap is in the history.
                    true
                }
            };
            if look && let Some(entry) = self.look().await? {
                return Ok(entry);
            }
        }
    }

    /// Takes a message in, and says whether to look into the history now.
    fn heard(&mut self, message: Result<Message, SocketError>, watcher: &mut Watcher) -> bool {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                log_loss(&error);
                self.socket = None;
                self.reconnect_at = TokioInstant::now();
                return true;
            }
        };
        if message.prompt_id().is_some_and(|id| id != self.prompt_id) {
            return false;
        }
        let now = Instant::now();
        match message {
            Message::Executing { node: Some(node), .. } => watcher.change(|tracker| tracker.node(&node, now)),
            Message::Executing {
                prompt_id: Some(_),
                node: None,
            } => return true,
            Message::ExecutionCached { nodes, .. } => {
                watcher.change(|tracker| tracker.cached(nodes.iter().map(String::as_str), now));
            }
            Message::ProgressState { nodes, .. } => watcher.change(|tracker| {
                for (id, node) in &nodes {
                    tracker.at(id, node.value, node.max, node.state == "finished", now);
                }
            }),
            // The prompt may have been submitted under another connection; a change of the queue may be its end.
            Message::Status { .. } => return self.attempts < self.run.settings.reconnect_attempts,
            _ => {}
        }
        self.look_at = TokioInstant::now() + SILENCE;
        false
    }

    async fn reconnect(&mut self) {
        self.attempts -= 1;
        self.reconnect_at = TokioInstant::now() + self.run.settings.reconnect_delay;
        match ComfySocket::connect(&self.connection.client, self.run.settings.websocket_trace).await {
            Ok(socket) => {
                tracing::info!("the websocket of ComfyUI is open again");
                self.socket = Some(socket);
            }
            Err(error) => log_loss(&error),
        }
    }

    /// Asks `/history`, then `/queue`.
    async fn look(&mut self) -> Result<Option<HistoryEntry>, Lost> {
        // Events of this prompt go to the first connection only; on a later one silence says nothing.
        let hears = self.socket.is_some() && self.attempts == self.run.settings.reconnect_attempts;
        self.look_at = TokioInstant::now() + if hears { SILENCE } else { POLL };
        match self.look_once().await {
            Ok(Some(entry)) => Ok(Some(entry)),
            Ok(None) if self.empty_looks >= EMPTY_LOOKS => {
                let message = "ComfyUI no longer knows the job's prompt: its queue was cleared, or it was started anew";
                Err(Lost::Again(
                    JobError::new(ErrorKind::ComfyUnavailable, message).hint("Send the job again."),
                ))
            }
            Ok(None) => {
                self.failed_looks = 0;
                Ok(None)
            }
            Err(error) => {
                self.failed_looks += 1;
                tracing::warn!(%error, looks = self.failed_looks, "ComfyUI was asked for the prompt and did not answer");
                // A supervised process is watched by its exit; a slow answer is no death.
                if self.failed_looks >= FAILED_LOOKS && !self.run.comfy.is_supervised() {
                    Err(error.into())
                } else {
                    Ok(None)
                }
            }
        }
    }

    async fn look_once(&mut self) -> Result<Option<HistoryEntry>, ClientError> {
        let client = &self.connection.client;
        if let Some(entry) = client.history(self.prompt_id).await? {
            return Ok(Some(entry));
        }
        if client.queue_place(self.prompt_id).await? == QueuePlace::Unknown {
            self.empty_looks += 1;
            self.look_at = TokioInstant::now() + POLL;
        } else {
            self.empty_looks = 0;
        }
        Ok(None)
    }
}

/// A ComfyUI that was stopped for good does not come back.
fn died(death: JobError) -> Lost {
    if death.kind == ErrorKind::Interrupted {
        Lost::Final(death)
    } else {
        Lost::Again(death)
    }
}

async fn next_message(socket: Option<&mut ComfySocket>) -> Result<Message, SocketError> {
    match socket {
        Some(socket) => socket.next().await,
        None => pending().await,
    }
}

fn ended(entry: HistoryEntry, graph: &Graph) -> Result<HistoryEntry, JobError> {
    match &entry.end {
        PromptEnd::Success => Ok(entry),
        PromptEnd::Error(error) => Err(failure::raised(error, graph)),
        PromptEnd::Interrupted => Err(failure::interrupted()),
    }
}

fn log_loss(error: &SocketError) {
    use std::error::Error as _;
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    tracing::warn!("{error}{cause}; the result is looked for in ComfyUI's history");
}
