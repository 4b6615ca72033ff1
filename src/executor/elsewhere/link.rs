//! What an engine elsewhere tells of a job, and what it hears.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Prompt;
use crate::comfy::message::Message;
use crate::comfy::relay::Frame;
use crate::error::{ErrorKind, JobError};
use crate::executor::control::{Event, ProgressSink, cancelled};
use crate::executor::told::Passing;
use crate::job::JobId;
use crate::job::progress::{Report, Stage};

/// A job that an engine elsewhere has, as that one sees it.
pub struct Link<'a> {
    pub(in crate::executor) sink: ProgressSink<'a>,
    id: JobId,
    passing: Option<Passing>,
    asked_before: Option<Prompt>,
}

impl<'a> Link<'a> {
    pub(super) fn new(id: &JobId, sink: ProgressSink<'a>, asked_before: Option<Prompt>) -> Self {
        let passing = Passing::of(sink.owner.told.as_ref(), &sink.relay, id.as_str(), None);
        Self {
            sink,
            id: id.clone(),
            passing,
            asked_before,
        }
    }

    /// The job's own id.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The id by which the job's owner knows it.
    pub fn name(&self) -> &str {
        &self.sink.owner.name
    }

    /// Cancelled when the job is.
    pub fn stop(&self) -> &'a CancellationToken {
        &self.sink.owner.stop
    }

    /// What comes of it, unless the job is cancelled first.
    pub async fn unless_cancelled<T, E: From<JobError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            () = self.stop().cancelled() => Err(cancelled().into()),
            done = work => done,
        }
    }

    /// The picture that was asked for, of a job that a previous run of the worker has put down.
    pub fn asked_before(&mut self) -> Option<Prompt> {
        self.asked_before.take()
    }

    /// Whether another engine could do it too, and is not resting.
    pub fn has_others(&self) -> bool {
        self.sink.owner.has_others
    }

    /// The longest that its execution may take.
    pub fn timeout(&self) -> Duration {
        self.sink.owner.timeout
    }

    /// The `traceparent` of what is asked for it.
    pub fn traceparent(&self) -> Option<String> {
        self.sink.owner.watch.traceparent()
    }

    /// What a previous run of the worker put down with [`Self::is_sent_as`].
    pub fn put_down(&self) -> Option<&'a str> {
        self.sink.owner.resume.as_deref()
    }

    /// Puts down what is about to be sent, or by which id the engine knows it. Says whether that is kept: what is not must not
    /// be sent.
    pub async fn is_sent_as(&mut self, ticket: &str) -> Result<(), JobError> {
        let kept = self.sink.owner.submitting(ticket).await;
        if self.sink.owner.stop.is_cancelled() {
            return Err(cancelled());
        }
        if kept {
            return Ok(());
        }
        let error = JobError::new(
            ErrorKind::StoreUnavailable,
            "That the job is sent to an engine could not be stored",
        );
        Err(error.hint("It was not sent. Free some space in DATA_DIR, and send it again."))
    }

    /// The engine has it.
    pub fn is_taken(&mut self) {
        self.sink.owner.tell(Event::Submitted);
        self.sink.stage(Stage::Waiting);
    }

    /// The engine is at it; called as often as that is seen.
    pub fn has_begun(&mut self) {
        if !self.sink.has_begun() {
            self.sink.begun();
            self.tell("execution_start", json!({}));
        }
    }

    /// The engine is done with it: it has room for another, and the time of the job's execution is over.
    pub fn is_done_there(&mut self) {
        self.sink.owner.tell(Event::ComfyFree);
        self.sink.stage(Stage::Collecting);
    }

    /// The engine is so far.
    pub fn report(&mut self, mut report: Report) {
        if !self.sink.has_begun() {
            return;
        }
        if let Some((media_type, image)) = report.preview.take() {
            self.preview(&media_type, image);
        }
        if let Some(node) = &report.node_id {
            self.tell("executing", json!({"node": node, "display_node": node}));
            if let Some((done, all)) = report.step {
                self.tell("progress", json!({"value": done, "max": all, "node": node}));
            }
        }
        self.sink.change(|tracker| tracker.told(report));
    }

    fn preview(&mut self, media_type: &str, image: Bytes) {
        if let Some(passing) = &self.passing {
            // ComfyUI's older form, which every client reads: event, format, picture (`send_image` in its `server.py`).
            let format: u32 = if media_type == "image/png" { 2 } else { 1 };
            let frame = [&1_u32.to_be_bytes()[..], &format.to_be_bytes(), &image].concat();
            let frame = Bytes::from(frame);
            passing.nameless(&Message::from_binary(&frame), &Frame::Binary(frame));
        }
        self.sink
            .change(|tracker| tracker.preview(media_type, image, Instant::now()));
    }

    /// A node has made this, in ComfyUI's words.
    pub(super) fn executed(&mut self, node: &String, output: &Value) {
        self.sink.executed(node, output);
        self.tell(
            "executed",
            json!({"node": node, "display_node": node, "output": output}),
        );
    }

    /// Tells clients of ComfyUI's own API.
    fn tell(&mut self, kind: &str, mut data: Value) {
        let Some(passing) = &mut self.passing else { return };
        data["prompt_id"] = self.id.as_str().into();
        let text = json!({"type": kind, "data": data}).to_string();
        let message = Message::from_text(&text);
        passing.named(&message, &Frame::Text(text.into()));
    }
}
