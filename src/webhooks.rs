//! Joins what waits in the store with what delivers it: the end of a job goes to the webhook of its request.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::delivery::links::FileLinks;
use crate::delivery::outbox::{self, Due, Outbox, Pending, Tried};
use crate::delivery::webhook::WebhookSender;
use crate::dialect::links::Links;
use crate::dialect::{kie, runpod};
use crate::error::JobError;
use crate::job::Dialect;
use crate::net::guard::AddressGuard;
use crate::queue::Queue;
use crate::queue::store::{DueWebhook, StoreError};

/// How long a stop waits for deliveries in flight; what is left is delivered after the next start.
const GRACE: Duration = Duration::from_secs(5);

/// The task that delivers webhooks until `stop`.
pub fn deliver(
    config: &Config,
    queue: Queue,
    links: FileLinks,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + use<>, reqwest::Error> {
    let guard = AddressGuard::new(config.private_urls.clone());
    let sender = WebhookSender::new(&guard, &config.webhook)?;
    Ok(outbox::run(
        Arc::new(StoredWebhooks { queue, links }),
        sender,
        stop,
        GRACE,
    ))
}

/// The webhooks that the store keeps.
struct StoredWebhooks {
    queue: Queue,
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
            now: due.into_iter().map(pending).collect(),
            next: next.map(|at| at.duration_since(now).unwrap_or_default()),
        })
    }

    /// The job's final answer, in the words of the API it came through. It is made now, since it is stored already.
    async fn body(&self, id: &str) -> Result<Option<Bytes>, StoreError> {
        let Some(job) = self.queue.store().webhook_job(id).await? else {
            return Ok(None);
        };
        match self.queue.stored_view(&job).await {
            Ok(view) if view.policy.dialect == Dialect::Kie => {
                // Its request told it.
                let Some(base) = &view.policy.base else { return Ok(None) };
                let links = Links {
                    files: &self.links,
                    base,
                    lifetime: kie::LINKS_WORK,
                };
                Ok(Some(kie::call_back(&view, &links).to_vec().into()))
            }
            Ok(view) => {
                // Its request told it, unless it came from before links were made.
                let base = view.policy.base.clone();
                let links = base.as_ref().map(|base| Links {
                    files: &self.links,
                    base,
                    lifetime: runpod::LINKS_WORK,
                });
                let answer = runpod::status(&self.queue.inlined(view).await, links.as_ref());
                Ok(Some(answer.to_vec().into()))
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
        let (next_at, reason) = match outcome {
            Tried::Delivered => (None, None),
            Tried::GivenUp { reason } => (None, Some(reason.as_str())),
            Tried::Again { wait, reason } => (Some(SystemTime::now() + *wait), Some(reason.as_str())),
        };
        self.queue.store().webhook_tried(id, next_at, reason).await
    }

    async fn wait_for_change(&self) {
        self.queue.webhook_due().await;
    }
}

fn pending(due: DueWebhook) -> Pending {
    Pending {
        id: due.webhook.id,
        url: due.webhook.url,
        attempts: due.attempts,
    }
}
