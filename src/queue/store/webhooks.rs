//! The store as the outbox of webhooks.

use std::time::SystemTime;

use super::{DueWebhook, Store, StoreError, WebhookRow, outbox};
use crate::job::JobId;

impl Store {
    /// Webhooks whose time has come, the longest due first: one for each receiver ([`host`](crate::delivery::outbox::host))
    /// that is not `busy`, at most `limit`.
    pub async fn due_webhooks(
        &self,
        now: SystemTime,
        busy: &[String],
        limit: usize,
    ) -> Result<Vec<DueWebhook>, StoreError> {
        let busy = busy.to_vec();
        let rows = self
            .read(move |connection| outbox::due(connection, now, &busy, limit))
            .await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(body) = self.load(row.body).await? else {
                tracing::error!(
                    job.id = row.job.as_str(),
                    webhook.id = row.id,
                    "a webhook has lost its body and is given up"
                );
                self.webhook_tried(&row.id, None, None).await?;
                continue;
            };
            due.push(DueWebhook {
                webhook: WebhookRow {
                    id: row.id,
                    url: row.url,
                    body,
                },
                job: row.job,
                attempts: row.attempts,
                last_error: row.last_error,
            });
        }
        Ok(due)
    }

    /// A webhook was tried: it is due again at `next_at`, or never again when it was delivered or given up ([`None`]).
    pub async fn webhook_tried(
        &self,
        id: &str,
        next_at: Option<SystemTime>,
        last_error: Option<&str>,
    ) -> Result<(), StoreError> {
        let (id, last_error) = (id.to_owned(), last_error.map(ToOwned::to_owned));
        let freed = self
            .write(move |connection| outbox::tried(connection, &id, next_at, last_error.as_deref()))
            .await?;
        self.remove_files(freed).await;
        Ok(())
    }

    /// When the next webhook is due of those that are not due at `now` and whose receivers are not `busy`.
    pub async fn next_webhook_after(&self, now: SystemTime, busy: &[String]) -> Result<Option<SystemTime>, StoreError> {
        let busy = busy.to_vec();
        self.read(move |connection| outbox::next_after(connection, now, &busy))
            .await
    }

    /// The job whose end a webhook tells, while the webhook waits.
    pub async fn webhook_job(&self, id: &str) -> Result<Option<JobId>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| outbox::job(connection, &id)).await
    }
}
