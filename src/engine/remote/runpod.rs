//! A RunPod endpoint by its public API (docs.runpod.io, serverless, endpoints, operation reference): `/run`, `/status`, `/cancel`.
//! `/runsync` is not used: its results are gone after a minute, and a worker that is started again must still find them.

use std::time::Duration;

use base64::Engine as _;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kie;
use super::meaning::{Answer, unknown, unreadable};
use super::status::{Fault, Status, read_status};
use super::{EngineKind, Refusal, Web};
use crate::delivery::s3::{Content, Lent, Upload};
use crate::disk::apart;
use crate::display::error_chain;
use crate::echo::{at_most, cut};
use crate::encoding::STANDARD;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, AskedFile, AskedWork, Failed, Link, Made};
use crate::job::{ImageHeader, Medium};
use crate::net::retry::RetryPolicy;
use crate::net::segment;

/// The largest body of `/run`, in bytes.
const LARGEST_REQUEST: usize = 10_000_000;
/// Files of a request that go in its body, in bytes together; base64 is a third longer.
const MOST_INLINE: usize = 7_000_000;
/// The longest that `/run` may take to answer, its body apart.
const RUN_TIMEOUT: Duration = Duration::from_mins(1);
/// The slowest line that a body is sent over, in bytes a second.
const SLOWEST_LINE: u64 = 200_000;
/// The longest that a question about a job may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);
/// The waits between two questions. The first one is asked at once.
const POLLS: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(100),
    factor: 1.3,
    longest: Duration::from_secs(2),
    jitter: 0.1,
    attempts: None,
};
/// How long results are kept there after the end of a job: who cannot ask for longer does not learn it any more.
const RESULTS_KEPT: Duration = Duration::from_mins(30);
/// How long a job may be unknown there, one answer after the other.
const SETTLES: Duration = Duration::from_mins(1);
/// The further wait after a question that was not answered.
const WHEN_LOST: Duration = Duration::from_secs(2);
/// Tries of a `/cancel` while somebody waits, and then, since a job that runs on is paid for: a hundred, for most of a day.
const CANCELS: RetryPolicy = RetryPolicy::fixed(Duration::from_secs(1), 2);
const CANCELS_ON: RetryPolicy = RetryPolicy {
    initial: Duration::from_secs(5),
    factor: 2.0,
    longest: Duration::from_mins(10),
    jitter: 0.25,
    attempts: Some(100),
};
/// The range of `policy.executionTimeout`, in milliseconds.
const EXECUTION_MS: (u64, u64) = (5_000, 604_800_000);
/// How much longer a job may live there than it may take, in milliseconds: what is over its time is taken back by us before.
const TTL_MORE_MS: u64 = 60_000;
/// Characters of what a worker says of a failure that are told.
const LONGEST_WORDS: usize = 1_500;

impl Web {
    /// Has a job done.
    pub(super) async fn run_at_endpoint(&self, ask: Ask, link: &mut Link<'_>) -> Result<Made, Failed> {
        self.has_workers(link).await?;
        let mut lent = None;
        let made = match self.submit(ask, link, &mut lent).await {
            Ok(id) => self.to_its_end(&id, link).await,
            Err(failed) => Err(failed),
        };
        if let Some(lent) = lent {
            tokio::spawn(lent.remove());
        }
        made
    }

    /// The same of a job that a previous run of the worker sent; the endpoint knows it by this id.
    pub(super) async fn asked_again(&self, id: &str, link: &mut Link<'_>) -> Result<Made, Failed> {
        let name = &self.spec().name;
        tracing::info!("engine `{name}` is asked again for the job that it has as {id}");
        link.is_taken();
        self.to_its_end(id, link).await
    }

    async fn to_its_end(&self, id: &str, link: &mut Link<'_>) -> Result<Made, Failed> {
        let output = self.follow(id, link).await?;
        link.is_done_there();
        let job = link.name().to_owned();
        self.fetching(&job, link.stop(), self.made(output, &job)).await
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

    /// Gives the endpoint's id of it, and what was put into the bucket for it.
    async fn submit(&self, ask: Ask, link: &mut Link<'_>, lent: &mut Option<Lent>) -> Result<String, Failed> {
        let body = self.body(ask, link, lent).await?;
        let longest = RUN_TIMEOUT + Duration::from_secs(body.len() as u64 / SLOWEST_LINE);
        let mut request = self
            .sends
            .post(self.at("run"))
            .header("content-type", "application/json")
            .body(body);
        if let Some(traceparent) = link.traceparent() {
            request = request.header("traceparent", traceparent);
        }
        link.is_sent_as(&self.common.ticket(None).text()).await?;
        let sent = Instant::now();
        // Not given up when the job is cancelled: it may be taken, and is cancelled there then.
        let answer = self
            .send(request, longest)
            .await
            .map_err(|refusal| self.common.refused(link.name(), refusal))?;
        let (name, job) = (&self.spec().name, link.name().to_owned());
        if !answer.status.is_success() {
            return Err(self.common.refused(&job, super::meaning::refused(name, &answer)));
        }
        let id = answer
            .object()
            .and_then(|object| Some(object.get("id")?.as_str()?.to_owned()));
        let Some(id) = id.filter(|id| is_id(id)) else {
            return Err(self.common.refused(&job, Refusal::Unknown(unreadable(name, &answer))));
        };
        self.is_known_as(&id, sent, link).await;
        Ok(id)
    }

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

    /// The body of `/run`.
    async fn body(&self, ask: Ask, link: &Link<'_>, lent: &mut Option<Lent>) -> Result<Vec<u8>, Failed> {
        let Ask {
            work,
            files,
            org_api_key,
            ..
        } = ask;
        let mut input = Map::new();
        match work {
            AskedWork::Graph(graph) => {
                let graph = serde_json::to_value(&graph).map_err(|error| JobError::internal(error.to_string()))?;
                input.insert("workflow".to_owned(), graph);
            }
            AskedWork::Saved(saved) => {
                let workflow = serde_json::to_value(&saved.workflow);
                let workflow = workflow.map_err(|error| JobError::internal(error.to_string()))?;
                input.insert("workflow".to_owned(), workflow);
                if !saved.inputs.is_empty() {
                    input.insert("inputs".to_owned(), Value::Object(saved.inputs));
                }
                if let Some(seed) = saved.seed {
                    input.insert("seed".to_owned(), seed.into());
                }
            }
            AskedWork::Prompt(_) => return Err(JobError::internal("an endpoint runs graphs").into()),
        }
        if let Some(key) = org_api_key {
            input.insert("comfy_org_api_key".to_owned(), key.reveal().into());
        }
        let bytes: usize = files.iter().map(|file| file.content.len()).sum();
        let images: Vec<Value> = if bytes <= MOST_INLINE {
            apart(bytes, move || files.iter().map(inline).collect()).await
        } else {
            let (uploaded, addresses) = self.uploaded(link.name(), &files, bytes).await?;
            *lent = Some(uploaded);
            let named = files.iter().zip(addresses);
            named
                .map(|(file, url)| json!({"name": file.name, "image": url}))
                .collect()
        };
        if !images.is_empty() {
            input.insert("images".to_owned(), images.into());
        }
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let execution = milliseconds(link.timeout().min(self.spec().timeout));
        let execution = execution.clamp(EXECUTION_MS.0, EXECUTION_MS.1);
        let ttl = (milliseconds(self.spec().timeout) + TTL_MORE_MS).min(EXECUTION_MS.1);
        let policy = json!({"executionTimeout": execution, "ttl": ttl});
        let body = apart(bytes, move || json!({"input": input, "policy": policy}).to_string()).await;
        if body.len() > LARGEST_REQUEST {
            let message = format!(
                "the job has {} bytes for engine `{}`, whose limit is {LARGEST_REQUEST}",
                body.len(),
                self.spec().name
            );
            return Err(too_large(message));
        }
        Ok(body.into_bytes())
    }

    /// Puts files into the configured bucket; gives their addresses.
    pub(super) async fn uploaded(
        &self,
        job: &str,
        files: &[AskedFile],
        bytes: usize,
    ) -> Result<(Lent, Vec<String>), Failed> {
        let Some(bucket) = &self.bucket else {
            let message = format!(
                "the files of the job have {bytes} bytes; engine `{}` takes {MOST_INLINE} in a request",
                self.spec().name
            );
            return Err(too_large(message));
        };
        let upload = |file: &AskedFile| Upload {
            subfolder: "inputs".to_owned(),
            filename: file.name.clone(),
            content: Content::Bytes(file.content.clone()),
        };
        let lent = bucket.lend(job, files.iter().map(upload).collect()).await;
        let lent = lent.map_err(|error| {
            let message = format!(
                "the job's files cannot be put into the bucket for the engine: {}",
                error_chain(&error)
            );
            JobError::new(ErrorKind::Undeliverable, message).hint(error.hint())
        })?;
        Ok(lent)
    }

    /// Follows a job to its end; gives its output.
    pub(super) async fn follow(&self, id: &str, link: &mut Link<'_>) -> Result<Value, Failed> {
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
            _ => POLLS,
        }
    }

    /// Whether a job that was taken can be cancelled.
    fn can_cancel(&self) -> bool {
        !matches!(self.spec().kind, EngineKind::Kie { .. })
    }

    /// Has a job cancelled. Says whether it is certain that it does not run; where it is not, it is asked for on.
    pub(super) async fn cancel(&self, id: &str) -> bool {
        if !self.can_cancel() {
            tracing::info!(
                "the job {id} at engine `{}` runs on: it cannot be cancelled there",
                self.spec().name
            );
            return false;
        }
        let mut waits = CANCELS.delays();
        let why = loop {
            let why = match self.try_cancel(id).await {
                Ok(is_cancelled) => return is_cancelled,
                Err(why) => why,
            };
            if !waits.wait().await {
                break why;
            }
        };
        let name = &self.spec().name;
        tracing::warn!("the job {id} at engine `{name}` may run on, and is cancelled again later: {why}");
        self.cancel_later(id);
        false
    }

    /// Has a job cancelled that nobody waits for any more, however long that takes to be heard.
    fn cancel_later(&self, id: &str) {
        if !self.can_cancel() {
            return;
        }
        let (me, id) = (self.me.clone(), id.to_owned());
        tokio::spawn(async move {
            let mut waits = CANCELS_ON.delays();
            while waits.wait().await {
                let Some(engine) = me.upgrade() else { return };
                if engine.try_cancel(&id).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Whether a job is cancelled; false: it had ended, or is not known there. Fails where the endpoint does not say.
    async fn try_cancel(&self, id: &str) -> Result<bool, String> {
        let request = self.http.post(self.at(&format!("cancel/{}", segment(id)))).body("{}");
        let answer = self.asked(request.header("content-type", "application/json")).await;
        let answer = answer.map_err(|error| error.message)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let object = answer.object().filter(|_| answer.status.is_success());
        match object.as_ref().and_then(|object| object.get("status")?.as_str()) {
            Some("CANCELLED") => Ok(true),
            Some("COMPLETED" | "FAILED" | "TIMED_OUT") => Ok(false),
            _ => Err(format!("it answered {}", answer.status)),
        }
    }

    async fn status(&self, id: &str) -> Result<Status, Lost> {
        let answer = self
            .asked(self.http.get(self.at(&format!("status/{}", segment(id)))))
            .await;
        let answer = answer.map_err(|error| match error.kind {
            ErrorKind::Undeliverable => Lost::TooLarge(error.message),
            _ => Lost::Unanswered(error.message),
        })?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(Lost::Gone);
        }
        let object = answer.whole_object().await;
        let Some(object) = object.filter(|_| answer.status.is_success()) else {
            return Err(Lost::Unanswered(format!("it answered {}", answer.status)));
        };
        if let Some(other) = object.get("id").and_then(Value::as_str).filter(|other| *other != id) {
            return Err(Lost::OfAnother(cut(other)));
        }
        read_status(object).ok_or_else(|| Lost::Unanswered("it tells no state of the job".to_owned()))
    }

    pub(super) async fn asked(&self, request: reqwest::RequestBuilder) -> Result<Answer, JobError> {
        self.send(request, ASK_TIMEOUT).await.map_err(Refusal::into_error)
    }
}

/// Another engine may take more.
fn too_large(message: String) -> Failed {
    let error = JobError::new(ErrorKind::TooLarge, message);
    Failed::elsewhere(
        error.hint("Set BUCKET_ENDPOINT_URL and its keys, by which larger files travel, or send smaller ones."),
    )
}

/// Whether it may be an engine's id of a job.
pub(super) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 200 && id.bytes().all(|byte| byte.is_ascii_graphic())
}

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

/// A file in the body of a request.
fn inline(file: &AskedFile) -> Value {
    let medium = Medium::of(&file.content).map(|medium| medium.media_type);
    let media_type = medium.or_else(|| ImageHeader::read(&file.content).ok().map(|header| header.media_type));
    let media_type = media_type.unwrap_or("application/octet-stream");
    let content = STANDARD.encode(&file.content);
    json!({"name": file.name, "image": format!("data:{media_type};base64,{content}")})
}
