//! Follows a job by the id that its engine has given it: a RunPod endpoint, or KIE. It is asked until it is over, or nobody can tell.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::meaning::{Answer, unknown};
use super::output::Output;
use super::status::{Fault, Status};
use super::{EngineKind, Refusal, Web, kie, runpod};
use crate::echo::at_most;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Failed, Link, Made};
use crate::net::retry::RetryPolicy;

/// The longest that a question about a job may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long results are kept there after the end of a job: who cannot ask for longer does not learn it any more.
const RESULTS_KEPT: Duration = Duration::from_mins(30);
/// How long a job may be unknown there, one answer after the other.
const SETTLES: Duration = Duration::from_mins(1);
/// The further wait after a question that was not answered.
const WHEN_LOST: Duration = Duration::from_secs(2);
/// Characters of what a worker says of a failure that are told.
const LONGEST_WORDS: usize = 1_500;

/// Why it is not known how a job stands.
pub(super) enum Lost {
    /// The endpoint does not know it.
    Gone,
    /// The endpoint tells of another one.
    OfAnother(String),
    /// Its result is larger than we take.
    TooLarge(String),
    /// It is asked again.
    Unanswered(String),
}

/// Whether it may be an engine's id of a job.
pub(super) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 200 && id.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Web {
    /// The engine has taken a job that was sent at this time, and calls it so.
    pub(super) async fn is_known_as(&self, id: &str, sent: Instant, link: &mut Link<'_>) {
        self.common.rest.took(sent);
        if let Err(error) = link.is_sent_as(&self.common.ticket(Some(id.to_owned())).text()).await
            && error.kind != ErrorKind::Cancelled
        {
            tracing::error!(
                "the id {id} of the job at engine `{}` could not be stored; should this worker be ended now, it will not know how the job went",
                self.spec().name
            );
        }
        link.is_taken();
    }

    /// Follows a job to its end; gives its output.
    pub(super) async fn follow(&self, id: &str, link: &mut Link<'_>) -> Result<Output, Failed> {
        let polls = self.polls();
        let (name, job, stop) = (self.spec().name.clone(), link.name().to_owned(), link.stop());
        let (begun, mut answered, mut waits) = (Instant::now(), Instant::now(), polls.delays());
        let (mut has_begun, mut is_lost, mut was_cancelled_by_us) = (false, false, false);
        let mut gone_since: Option<Instant> = None;
        let mut queue_limit = self.spec().queue_timeout;
        let mut limit = Some(self.spec().timeout);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.cancel(id).await;
                    return Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled").into());
                }
                () = tokio::time::sleep(pause) => {}
            }
            pause = waits.next().unwrap_or(polls.longest);
            let status = match &self.spec().kind {
                EngineKind::Kie { .. } => self.status_of_task(id).await,
                _ => self.status(id).await,
            };
            let status = match status {
                Ok(status) => {
                    if std::mem::take(&mut is_lost) {
                        tracing::info!("engine `{name}` tells of the job again");
                    }
                    (answered, gone_since) = (Instant::now(), None);
                    status
                }
                // A gateway may say so while the job runs.
                Err(Lost::Gone) if gone_since.get_or_insert_with(Instant::now).elapsed() < SETTLES => continue,
                Err(Lost::Gone) => {
                    let message = format!("engine `{name}` does not know the job {id} any more");
                    self.cancel_later(id);
                    return Err(unknown(&name, &job, &JobError::new(ErrorKind::Internal, message)).into());
                }
                Err(Lost::OfAnother(other)) => {
                    let message = format!("engine `{name}` was asked for the job {id} and told of {other}");
                    let error = self.common.blanked(JobError::new(ErrorKind::Undeliverable, message));
                    return Err(unknown(&name, &job, &error).into());
                }
                Err(Lost::TooLarge(why)) => {
                    let message = format!("the result of the job {id} at engine `{name}` cannot be taken: {why}");
                    let error = JobError::new(ErrorKind::Undeliverable, message);
                    return Err(error
                        .hint("Have it put its files into a bucket (BUCKET_ENDPOINT_URL there).")
                        .into());
                }
                Err(Lost::Unanswered(why)) => {
                    if !std::mem::replace(&mut is_lost, true) {
                        tracing::warn!("engine `{name}` does not tell of the job {id}, and is asked on: {why}");
                    }
                    if answered.elapsed() > RESULTS_KEPT {
                        self.cancel_later(id);
                        let message = format!(
                            "engine `{name}` has not told of the job {id} for {} s: {why}",
                            RESULTS_KEPT.as_secs()
                        );
                        return Err(unknown(&name, &job, &JobError::new(ErrorKind::Internal, message)).into());
                    }
                    tokio::time::sleep(WHEN_LOST).await;
                    continue;
                }
            };
            match status {
                Status::Queued => {
                    if !has_begun && let Some(most) = queue_limit.filter(|most| begun.elapsed() > *most) {
                        queue_limit = None;
                        was_cancelled_by_us = true;
                        if self.cancel(id).await {
                            let message = format!("engine `{name}` had not begun with the job in {} s", most.as_secs());
                            return Err(self.common.over(JobError::new(ErrorKind::Busy, message)));
                        }
                    }
                }
                Status::Running(report) => {
                    if !has_begun {
                        waits.reset();
                    }
                    has_begun = true;
                    link.has_begun();
                    link.report(report);
                }
                Status::Completed(output) => {
                    // It may have been too quick for us.
                    link.has_begun();
                    return Ok(output);
                }
                Status::Failed(fault) => return Err(self.failed(fault)),
                // It was heard after all.
                Status::Cancelled if was_cancelled_by_us => {
                    let message = format!("engine `{name}` was not done with the job in its time");
                    return Err(self.common.over(JobError::new(ErrorKind::TimedOut, message)));
                }
                Status::Cancelled => {
                    let message = format!("the job was cancelled at engine `{name}`");
                    return Err(JobError::new(ErrorKind::Interrupted, message)
                        .hint("Send it again if you want it.")
                        .into());
                }
                Status::TimedOut { ran } if has_begun || ran => {
                    let message = format!("the job took longer than it may at engine `{name}`");
                    return Err(JobError::new(ErrorKind::TimedOut, message).into());
                }
                Status::TimedOut { .. } => {
                    let message = format!("engine `{name}` did not begin with the job in its time");
                    return Err(self.common.over(JobError::new(ErrorKind::TimedOut, message)));
                }
            }
            if let Some(most) = limit.filter(|most| begun.elapsed() > *most) {
                limit = None;
                was_cancelled_by_us = true;
                let message = format!(
                    "engine `{name}` had the job for longer than {} s (its `timeout_s`)",
                    most.as_secs()
                );
                let error = JobError::new(ErrorKind::TimedOut, message);
                if self.cancel(id).await {
                    return Err(self.common.over(error));
                }
                if !self.can_cancel() {
                    return Err(self.common.unknown(&job, &error));
                }
            }
        }
    }

    /// Has a result fetched, for as long as the job may take, or until it is cancelled.
    pub(super) async fn fetching(
        &self,
        job: &str,
        stop: &CancellationToken,
        made: impl Future<Output = Result<Made, Failed>>,
    ) -> Result<Made, Failed> {
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled").into()),
            made = tokio::time::timeout(self.spec().timeout, made) => made.unwrap_or_else(|_| {
                Err(self.undeliverable(job, "takes longer to fetch than the job may take (`timeout_s`)").into())
            }),
        }
    }

    /// What a failed job means.
    fn failed(&self, fault: Fault) -> Failed {
        let shown = at_most(fault.words, LONGEST_WORDS);
        let error = self.common.blanked(JobError::new(
            fault.kind,
            format!("engine `{}`: {shown}", self.spec().name),
        ));
        match fault.kind {
            _ if fault.is_of_job => error.into(),
            // That is as much the job's doing: others are not to wait for it.
            ErrorKind::OutOfMemory => Failed::elsewhere(error),
            _ => self.common.over(error),
        }
    }

    /// The waits between two questions.
    fn polls(&self) -> RetryPolicy {
        match self.spec().kind {
            EngineKind::Kie { .. } => kie::POLLS,
            _ => runpod::POLLS,
        }
    }

    /// Whether a job that was taken can be cancelled.
    pub(super) fn can_cancel(&self) -> bool {
        !matches!(self.spec().kind, EngineKind::Kie { .. })
    }

    /// Asks an engine something that has nothing done.
    pub(super) async fn asked(&self, request: reqwest::RequestBuilder) -> Result<Answer, JobError> {
        self.send(request, ASK_TIMEOUT).await.map_err(Refusal::into_error)
    }
}
