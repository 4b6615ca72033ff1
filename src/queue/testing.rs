//! A queue for tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use super::store::{Store, StoreOptions};
use crate::config::{Fallback, JobsConfig};
use crate::engine::Pool;
use crate::executor::Executor;
use crate::job::{Delivery, JobRequest, Work};
use crate::workflow::Graph;

/// As many jobs as [`settings`] let wait.
pub(crate) const LIMIT: usize = 6;

/// Settings without much patience.
pub(crate) fn settings() -> JobsConfig {
    JobsConfig {
        queue_limit: LIMIT,
        prefetch: 1,
        retries: 1,
        cancel_grace: Duration::from_secs(1),
        timeout: Duration::from_mins(1),
        chosen_timeout: None,
        queue_ttl: Duration::from_hours(1),
        stall_timeout: Duration::from_secs(10),
        result_ttl: Duration::from_hours(1),
        output_max_bytes: 0,
        fallback: Fallback::default(),
    }
}

/// A queue on the store in a folder.
pub(crate) async fn queue(executor: Arc<Executor>, data: &Path, settings: JobsConfig) -> Queue {
    let options = StoreOptions {
        patience: Duration::from_millis(50),
        ..StoreOptions::default()
    };
    let (store, unfinished) = Store::open(data, options).await.unwrap();
    let engines = Pool::new([Arc::clone(&executor) as _]);
    Queue::start(executor, engines, store, unfinished, settings).await
}

/// A request of one node.
pub(crate) fn request() -> JobRequest {
    let graph = serde_json::json!({"1": {"class_type": "SaveImage", "inputs": {}}});
    JobRequest {
        work: Work::Workflow(Graph::parse(&graph).unwrap()),
        images: Vec::new(),
        delivery: Delivery::default(),
        org_api_key: None,
        extra_data: serde_json::Map::new(),
        warnings: Vec::new(),
    }
}
