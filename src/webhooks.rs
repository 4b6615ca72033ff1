//! Joins what waits in the store with what delivers it: the end of a job goes to the webhook of its request.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::delivery::Results;
use crate::delivery::links::FileLinks;
use crate::delivery::outbox::{self, Body, Due, Outbox, Tried};
use crate::delivery::webhook::WebhookSender;
use crate::dialect::links::Links;
use crate::dialect::{kie, runpod};
use crate::error::JobError;
use crate::job::{Dialect, JobView};
use crate::net::guard::AddressGuard;
use crate::queue::Queue;
use crate::queue::store::StoreError;
use crate::telemetry::traces;

/// How long a stop waits for deliveries in flight; what is left is delivered after the next start.
const GRACE: Duration = Duration::from_secs(5);

/// The task that delivers webhooks until `stop`.
pub fn deliver(
    config: &Config,
    queue: Queue,
    results: Arc<Results>,
    links: FileLinks,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + use<>, reqwest::Error> {
    let guard = AddressGuard::new(config.private_urls.clone());
    let sender = WebhookSender::new(&guard, &config.webhook)?;
    Ok(outbox::run(
        Arc::new(StoredWebhooks { queue, results, links }),
        sender,
        outbox::schedule(&config.webhook),
        stop,
        GRACE,
    ))
}

/// The webhooks that the store keeps.
struct StoredWebhooks {
    queue: Queue,
    results: Arc<Results>,
    /// Makes links to files.
    links: FileLinks,
}

impl Outbox for StoredWebhooks {
    type Error = StoreError;

    async fn due(&self, busy: &[String], room: usize) -> Result<Due, StoreError> {
        let now = SystemTime::now();
        let store = self.queue.store();
        let due = store.due_webhooks(now, busy, room).await?;
        let next = store.next_webhook_after(now, busy).await?;
        Ok(Due {
            now: due,
            next: next.map(|at| at.duration_since(now).unwrap_or_default()),
        })
    }

    /// The job's final answer, in the words of the API it came through. It is made now, since it is stored already.
    async fn body(&self, id: &str) -> Result<Option<Body>, StoreError> {
        let Some(job) = self.queue.store().webhook_job(id).await? else {
            return Ok(None);
        };
        let view = self.queue.stored_view(&job).await;
        let body = |traceparent: Option<String>, json: Vec<u8>| {
            let json = json.into();
            Ok(Some(Body { json, traceparent }))
        };
        match view {
            Ok(view) if view.policy.dialect == Dialect::Kie => {
                // Its request told it.
                let Some(base) = &view.policy.base else { return Ok(None) };
                let links = Links {
                    files: &self.links,
                    base,
                    lifetime: kie::LINKS_WORK,
                };
                body(traceparent(&view), kie::call_back(&view, &links).to_vec())
            }
            Ok(view) => {
                // Its request told it, unless it came from before links were made.
                let (base, traceparent) = (view.policy.base.clone(), traceparent(&view));
                let links = base.as_ref().map(|base| Links {
                    files: &self.links,
                    base,
                    lifetime: runpod::LINKS_WORK,
                });
                let answer = runpod::status(&self.results.inlined(view).await, links.as_ref());
                body(traceparent, answer.to_vec())
            }
            Err(error) => {
                tracing::warn!(
                    job.id = job.as_str(),
                    "the job of a webhook is gone: {}",
                    JobError::full_text(&error)
                );
                Ok(None)
            }
        }
    }

    async fn tried(&self, id: &str, outcome: &Tried) -> Result<(), StoreError> {
        let next_at = match outcome {
            Tried::Delivered | Tried::GivenUp(_) => None,
            Tried::Again { wait, .. } => Some(SystemTime::now() + *wait),
        };
        self.queue.store().webhook_tried(id, next_at).await
    }

    async fn wait_for_change(&self) {
        self.queue.webhook_due().await;
    }
}

/// The trace that the webhook of a job belongs to.
fn traceparent(view: &JobView) -> Option<String> {
    traces::traceparent_of(view.id.as_str(), view.created, view.policy.traceparent.as_deref())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::executor::testing::executor;
    use crate::job::{JobState, Outcome, Policy};
    use crate::queue::store::{Finished, WebhookRow};
    use crate::queue::testing::{queue, request, settings};

    #[tokio::test]
    async fn a_webhook_tells_the_end_that_is_stored_and_not_shown_yet() {
        let data = tempfile::tempdir().unwrap();
        let (executor, _boot) = executor(data.path());
        let results = Arc::clone(&executor.results);
        let queue = queue(executor, data.path(), settings()).await;
        let policy = Policy {
            webhook: Some("https://a.example.com/".parse().unwrap()),
            ..Policy::default()
        };
        let id = queue.submit(queue.permit().unwrap(), request(), policy).await.unwrap();
        let end = Finished {
            state: JobState::Completed,
            at: SystemTime::now(),
            delay: Duration::ZERO,
            execution: Duration::from_secs(1),
            attempts: 1,
            result: json!({"outcome": Outcome::default()}).to_string().into(),
            keeps_payload: false,
            files: Vec::new(),
            outputs: Vec::new(),
            webhook: Some(WebhookRow {
                id: "m".to_owned(),
                url: "https://a.example.com/".parse().unwrap(),
            }),
            unreported: false,
        };
        assert!(queue.store().finish(&id, end).await.unwrap());
        assert!(!queue.view(id.as_str()).await.unwrap().state.is_final());
        let links = FileLinks::open(data.path(), Duration::from_hours(1)).unwrap();
        let outbox = StoredWebhooks { queue, results, links };
        let body: Value = serde_json::from_slice(&outbox.body("m").await.unwrap().unwrap().json).unwrap();
        assert_eq!(
            (body["status"].as_str(), body["executionTime"].as_u64()),
            (Some("COMPLETED"), Some(1000))
        );
    }
}
