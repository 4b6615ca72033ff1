//! Stage: ComfyUI runs the graph.
//!
//! A prompt is submitted under an id of ours and followed to its end ([`Follow`]). When ComfyUI dies under it, forgets
//! it or stops answering, the graph is run again as often as the settings say; while ComfyUI is away it is waited for,
//! and that is no attempt. When the job's owner cancels it, ComfyUI is told to stop this prompt and no other; one that
//! ignores that is restarted.

use std::time::Duration;

use serde_json::Value;

use crate::comfy::client::{ClientError, HistoryEntry, PromptEnd, PromptReply, PromptRequest, QueuePlace};
use crate::comfy::process::{GPU_FAILED, INTERRUPT_IGNORED};
use crate::comfy::socket::ComfySocket;
use crate::comfy::{Comfy, Connection};
use crate::error::{ErrorKind, JobError};
use crate::net::retry::RetryPolicy;
use crate::workflow::Graph;

use super::control::{Event, JobControl, ProgressSink, cancelled};
use super::follow::{AttemptError, Follow, log_loss};
use super::losses::{Order, Tries};
use super::pictures::Pictures;
use super::quiet::{Quiet, Unanswered};
use super::{Executor, Settings, failure};

/// Time between two requests to interrupt a prompt: one that arrives just before the prompt begins is lost.
const INTERRUPT_EVERY: Duration = Duration::from_millis(500);

/// Looks for the prompt of a previous run of the worker, and the time between two of them.
const RESUME_LOOKS: u32 = 10;
const RESUME_LOOK_EVERY: Duration = Duration::from_millis(100);

/// The longest that an interrupt may take to be answered when ComfyUI is restarted anyway.
const LAST_WORD: Duration = Duration::from_secs(2);

/// The waits before ComfyUI is asked again after it could not be reached, where it seems to be there.
const AGAIN: RetryPolicy = RetryPolicy::doubling(Duration::from_millis(100), Duration::from_secs(5));

/// One graph on its way through ComfyUI.
pub(super) struct Run<'a> {
    pub(super) comfy: &'a Comfy,
    pub(super) order: &'a Order,
    pub(super) settings: &'a Settings,
    pub(super) owner: &'a JobControl,
    pub(super) extra_data: &'a Value,
}

impl Executor {
    /// Takes prompts out of ComfyUI's queue, or interrupts them, that a previous run of the worker submitted for jobs
    /// which are over. A ComfyUI of ours ended with that run.
    pub async fn cancel_earlier(&self, prompt_ids: &[String]) {
        if self.comfy.is_supervised() {
            return;
        }
        // The request of a worker that was killed may still be on its way into the queue, so once is not enough.
        let asked = async {
            let client = self.comfy.connection().await?.client;
            for _ in 0..RESUME_LOOKS {
                for prompt_id in prompt_ids {
                    client.dequeue(prompt_id).await?;
                    client.interrupt(prompt_id).await?;
                }
                tokio::time::sleep(RESUME_LOOK_EVERY).await;
            }
            Ok::<_, JobError>(())
        };
        if let Err(error) = asked.await {
            tracing::warn!("prompts of jobs that are over may still run: {}", error.full_text());
        }
    }
}

impl Run<'_> {
    /// Runs the graph to its end, on another start of ComfyUI if the first one dies. `resume` is a prompt that may be
    /// on its way already.
    pub(super) async fn to_end(
        &self,
        connection: &Connection,
        graph: &Graph,
        sink: &mut ProgressSink<'_>,
        resume: Option<String>,
    ) -> Result<HistoryEntry, JobError> {
        let mut connection = connection.clone();
        if resume.is_some()
            && let Some(since) = sink.ledger.since()
        {
            // What the prompt of a previous run of the worker left; ComfyUI ended with it.
            let until = since.checked_add(self.owner.timeout).unwrap_or(since);
            sink.ledger.search_in_background(graph, since, Some(until));
        }
        let mut delays = AGAIN.delays();
        let mut tries = Tries::new(resume);
        loop {
            // Its place among our prompts, until it is known what has become of it.
            let place = self.order.enter(connection.generation());
            let ended = Box::pin(self.attempt(&connection, graph, sink, &mut tries)).await;
            if !matches!(&ended, Ok(entry) if entry.end == PromptEnd::Success) {
                if let Ok(entry) = &ended {
                    sink.ledger.outputs_in_background(&entry.outputs);
                }
                sink.search_left(graph);
            }
            let (error, own_fault) = match ended.map(|entry| ended_with(entry, graph)) {
                Ok(Err(error)) if error.kind == ErrorKind::GpuFailed && self.comfy.is_supervised() => {
                    // Whatever runs on this process from now on fails too.
                    self.comfy.replace(&connection, GPU_FAILED).await;
                    tries.prompt_id = None;
                    (error, true)
                }
                Ok(ended) => return ended,
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::Asleep(error)) => {
                    self.comfy.replace(&connection, &error.message).await;
                    return Err(error);
                }
                Err(AttemptError::Stalled { error, own_fault }) => {
                    self.comfy.replace(&connection, &error.message).await;
                    (error, own_fault)
                }
                Err(AttemptError::Again(error)) => {
                    tries.prompt_id = None;
                    (connection.death_behind(&error).await.unwrap_or(error), false)
                }
                Err(AttemptError::Away(error)) => {
                    let error = connection.death_behind(&error).await.unwrap_or(error);
                    self.comfy.lost(&error);
                    let limit = self.settings.jobs.stall_timeout;
                    if tries.unanswered.for_longer_than(limit, &connection) {
                        self.comfy.replace(&connection, &error.message).await;
                    }
                    (error, false)
                }
            };
            // Of the prompts that waited behind one that crashed ComfyUI none has had its attempt, nor of those that were
            // there when it was restarted for another one's sake.
            let crashed = self.comfy.is_supervised() && connection.is_over() && !connection.was_replaced();
            // Asked in any case: those behind are told by it.
            let was_first = crashed && place.was_first();
            let at_fault = own_fault || sink.has_begun() || was_first;
            if at_fault && error.kind == ErrorKind::OutOfMemory {
                // It would be killed for it again.
                return Err(error);
            }
            tries.lost = Some((error, at_fault));
            drop(place);
            sink.waits();
            let again = async {
                delays.wait().await;
                self.comfy.available(self.owner.patience).await
            };
            connection = self.owner.unless_cancelled(again).await?;
        }
    }

    async fn attempt(
        &self,
        connection: &Connection,
        graph: &Graph,
        sink: &mut ProgressSink<'_>,
        tries: &mut Tries,
    ) -> Result<HistoryEntry, AttemptError> {
        let known = match tries.prompt_id.clone() {
            // Its events went to a connection that is gone; its end is in the history.
            Some(prompt_id) => self.goes_on(connection, &prompt_id).await?.then_some((prompt_id, None)),
            None => None,
        };
        let (prompt_id, socket) = if let Some(known) = known {
            known
        } else {
            // It may have saved something all the same: the word of its begin can die with ComfyUI.
            sink.search_lost(graph);
            tries.another(self.settings.jobs.retries)?;
            sink.another_prompt();
            self.submit_new(connection, graph, tries).await?
        };
        self.owner.tell(Event::Submitted);
        tries.unanswered = Unanswered::default();
        let mut follow = Follow::new(self.settings, connection, &prompt_id, socket, Pictures::of(graph));
        follow.pass_on(self.owner.told.as_ref(), sink);
        let over = tokio::select! {
            over = follow.until_over(sink) => Some(over),
            death = connection.death() => Some(Err(died(death))),
            () = self.owner.stop.cancelled() => None,
        };
        let Some(over) = over else {
            self.cancel(connection, &prompt_id, &mut follow, sink).await;
            return Err(AttemptError::Final(cancelled()));
        };
        if let Err(AttemptError::Stalled { .. } | AttemptError::Asleep(_) | AttemptError::Final(_)) = over {
            // Nobody waits for it any longer.
            let _ = tokio::time::timeout(LAST_WORD, take_back(connection, &prompt_id)).await;
        }
        over
    }

    /// Whether ComfyUI has the prompt, finished or not.
    async fn is_known(&self, connection: &Connection, prompt_id: &str) -> Result<bool, ClientError> {
        Ok(connection.client.history(prompt_id).await?.is_some()
            || connection.client.queue_place(prompt_id).await? != QueuePlace::Unknown)
    }

    /// Whether ComfyUI has the prompt of a previous run of the worker, which was not cancelled there: that is what a
    /// stop does to a prompt that begins just then. The request of a worker that was killed may still be on its way
    /// into the queue of a ComfyUI that lives on, so one look is not enough.
    async fn goes_on(&self, connection: &Connection, prompt_id: &str) -> Result<bool, ClientError> {
        let looks = if connection.pid().is_none() { RESUME_LOOKS } else { 1 };
        for look in 1..=looks {
            if let Some(entry) = connection.client.history(prompt_id).await? {
                return Ok(entry.end != PromptEnd::Interrupted);
            }
            if connection.client.queue_place(prompt_id).await? != QueuePlace::Unknown {
                return Ok(true);
            }
            if look < looks {
                tokio::time::sleep(RESUME_LOOK_EVERY).await;
            }
        }
        Ok(false)
    }

    /// Puts the graph into ComfyUI's queue, with a websocket that gets its events where there is one.
    async fn submit_new(
        &self,
        connection: &Connection,
        graph: &Graph,
        tries: &mut Tries,
    ) -> Result<(String, Option<ComfySocket>), AttemptError> {
        // Its id tells the time, also to a later run of the worker.
        let prompt_id = uuid::Uuid::now_v7().to_string();
        tries.prompt_id = Some(prompt_id.clone());
        // The graph may run again where that is not kept: it costs nothing but time.
        let (socket, _) = tokio::join!(
            ComfySocket::connect(&connection.client, self.settings.comfy.websocket_trace),
            self.owner.submitting(&prompt_id),
        );
        let socket = match socket {
            Ok(socket) => Some(socket),
            Err(error) => {
                log_loss(&error);
                None
            }
        };
        let nobody = uuid::Uuid::new_v4().simple().to_string();
        let request = PromptRequest {
            prompt: graph,
            prompt_id: &prompt_id,
            client_id: socket.as_ref().map_or(nobody.as_str(), ComfySocket::client_id),
            extra_data: self.extra_data,
        };
        let quiet = Quiet::since_now(connection.pid());
        let sent = tokio::select! {
            sent = connection.client.submit(&request) => sent,
            death = connection.death() => return Err(died(death)),
        };
        match sent {
            Ok(PromptReply::Queued) => Ok((prompt_id, socket)),
            Ok(PromptReply::Rejected(rejection)) => {
                // With 200 and errors, the valid outputs are in the queue already.
                take_back(connection, &prompt_id).await;
                Err(AttemptError::Final(failure::rejected(&rejection, graph)))
            }
            Err(error) if error.is_refusal() => {
                let message = format!("{}: {error}", crate::workflow::INVALID_WORKFLOW);
                Err(AttemptError::Final(JobError::new(ErrorKind::InvalidWorkflow, message)))
            }
            Err(ClientError::OwnIds(given)) => {
                take_back_if_it_runs(connection, &given).await;
                // It would number the next one by itself too.
                Err(AttemptError::Final(ClientError::OwnIds(given).into()))
            }
            // A lost answer leaves open whether the prompt is there.
            Err(error) => {
                tracing::warn!(%error, "the answer to a prompt was lost; looking for the prompt");
                match self.is_known(connection, &prompt_id).await {
                    Ok(true) => Ok((prompt_id, socket)),
                    Ok(false) => Err(error.into()),
                    Err(_) if quiet.for_longer_than(self.settings.jobs.stall_timeout) => Err(AttemptError::Stalled {
                        error: error.into(),
                        own_fault: true,
                    }),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Takes the prompt out of ComfyUI's queue or interrupts it, and waits until it is over. A node that looks at no
    /// interrupt is waited for as long as the settings say; then ComfyUI is restarted.
    async fn cancel(
        &self,
        connection: &Connection,
        prompt_id: &str,
        follow: &mut Follow<'_>,
        sink: &mut ProgressSink<'_>,
    ) {
        let ask = async {
            loop {
                take_back(connection, prompt_id).await;
                tokio::time::sleep(INTERRUPT_EVERY).await;
            }
        };
        follow.hurry();
        let over = async {
            tokio::select! {
                over = follow.until_over(sink) => {
                    if let Ok(entry) = &over {
                        sink.ledger.outputs_in_background(&entry.outputs);
                    }
                    !matches!(over, Err(AttemptError::Stalled { .. } | AttemptError::Asleep(_)))
                }
                _ = connection.death() => true,
                () = ask => true,
            }
        };
        let over = tokio::time::timeout(self.settings.jobs.cancel_grace, over).await;
        if !over.unwrap_or(false) {
            self.comfy.replace(connection, INTERRUPT_IGNORED).await;
        }
    }
}

/// Takes a prompt out of ComfyUI's queue or interrupts it, as far as ComfyUI can be reached.
async fn take_back(connection: &Connection, prompt_id: &str) {
    let _ = connection.client.dequeue(prompt_id).await;
    let _ = connection.client.interrupt(prompt_id).await;
}

/// The same in a ComfyUI so old that it interrupts whatever runs.
async fn take_back_if_it_runs(connection: &Connection, prompt_id: &str) {
    let _ = connection.client.dequeue(prompt_id).await;
    if let Ok(QueuePlace::Running) = connection.client.queue_place(prompt_id).await {
        let _ = connection.client.interrupt(prompt_id).await;
    }
}

/// A ComfyUI that was stopped for good does not come back.
fn died(death: JobError) -> AttemptError {
    if death.kind == ErrorKind::Interrupted {
        AttemptError::Final(death)
    } else {
        AttemptError::Again(death)
    }
}

fn ended_with(entry: HistoryEntry, graph: &Graph) -> Result<HistoryEntry, JobError> {
    match &entry.end {
        PromptEnd::Success => Ok(entry),
        PromptEnd::Error(error) => Err(failure::raised(error, graph)),
        PromptEnd::Interrupted => Err(failure::interrupted()),
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
