//! What the owners of prompts of ComfyUI's own API take out of their history.

use std::sync::Arc;

use super::Queue;
use crate::error::JobError;
use crate::job::JobId;

impl Queue {
    /// Has jobs that have ended shown in the history no more. They and their files stay for their time.
    pub async fn hide(&self, ids: Vec<JobId>) -> Result<(), JobError> {
        let core = Arc::clone(&self.0);
        self.whole(async move {
            for id in &ids {
                core.store_what_is_left(id).await?;
            }
            core.store.hide(ids.clone()).await?;
            for id in &ids {
                core.live.lock().forget(id);
            }
            Ok(())
        })
        .await
    }
}
