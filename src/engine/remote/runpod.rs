//! A RunPod endpoint by its public API (docs.runpod.io, serverless, endpoints, operation reference): `/run`, `/status`, `/cancel`.
//! `/runsync` is not used: its results are gone after a minute, and a worker that is started again must still find them.

use std::time::Duration;

use base64::Engine as _;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::follow::{Lost, is_id};
use super::meaning::unreadable;
use super::status::{Status, read_status};
use super::{Refusal, Web};
use crate::delivery::s3::{Content, Lent, Upload};
use crate::disk::apart;
use crate::display::error_chain;
use crate::echo::cut;
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
/// The waits between two questions. The first one is asked at once.
pub(super) const POLLS: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(100),
    factor: 1.3,
    longest: Duration::from_secs(2),
    jitter: 0.1,
    attempts: None,
};
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
        // Where nothing else is, of this job or of any: they are removed.
        let subfolder = format!("inputs/{}", Uuid::now_v7());
        let upload = |file: &AskedFile| Upload {
            subfolder: subfolder.clone(),
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
    pub(super) fn cancel_later(&self, id: &str) {
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

    pub(super) async fn status(&self, id: &str) -> Result<Status, Lost> {
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
        if let Some(other) = object
            .value
            .get("id")
            .and_then(Value::as_str)
            .filter(|other| *other != id)
        {
            return Err(Lost::OfAnother(cut(other)));
        }
        read_status(object).ok_or_else(|| Lost::Unanswered("it tells no state of the job".to_owned()))
    }
}

/// Another engine may take more.
fn too_large(message: String) -> Failed {
    let error = JobError::new(ErrorKind::TooLarge, message);
    Failed::elsewhere(
        error.hint("Set BUCKET_ENDPOINT_URL and its keys, by which larger files travel, or send smaller ones."),
    )
}

/// A file in the body of a request.
fn inline(file: &AskedFile) -> Value {
    let medium = Medium::of(&file.content).map(|medium| medium.media_type);
    let media_type = medium.or_else(|| ImageHeader::read(&file.content).ok().map(|header| header.media_type));
    let media_type = media_type.unwrap_or("application/octet-stream");
    let content = STANDARD.encode(&file.content);
    json!({"name": file.name, "image": format!("data:{media_type};base64,{content}")})
}
