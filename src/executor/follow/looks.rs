//! Asks ComfyUI where a prompt is.

use std::time::{Duration, Instant};

use tokio::time::Instant as TokioInstant;

use super::{AttemptError, Follow, POLL, SILENCE};
use crate::comfy::client::{ClientError, HistoryEntry, QueuePlace};
use crate::error::{ErrorKind, JobError};
use crate::executor::control::ProgressSink;
use crate::executor::quiet::Quiet;

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

impl Follow<'_> {
    /// Asks `/history`, then `/queue`.
    pub(super) async fn look(&mut self, sink: &mut ProgressSink<'_>) -> Result<Option<HistoryEntry>, AttemptError> {
        self.look_at = TokioInstant::now() + if self.is_patient() { SILENCE } else { POLL };
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
