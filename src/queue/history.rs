//! What the owners of prompts of ComfyUI's own API take out of their history.

use std::sync::Arc;

use super::Queue;
use crate::error::JobError;
use crate::job::JobId;

/// Jobs that the store notes this of at once.
const HIDDEN_AT_ONCE: usize = 1_000;

impl Queue {
    /// Has jobs that have ended shown in the history no more. They and their files stay for their time.
    pub async fn hide(&self, ids: Vec<JobId>) -> Result<(), JobError> {
        let core = Arc::clone(&self.0);
        self.whole(async move {
            // The store is there for others in between.
            for ids in ids.chunks(HIDDEN_AT_ONCE) {
                for id in ids {
                    core.store_what_is_left(id).await?;
                }
                core.store.hide(ids.to_vec()).await?;
                for id in ids {
                    core.live.lock().forget(id);
                }
            }
            Ok(())
        })
        .await
    }
}
