//! Puts the parts together. Everything else receives what it needs and reads no globals.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::boot::{self, BootError};
use crate::comfy::Comfy;
use crate::config::{Config, ReturnImagesAs};
use crate::executor::{Executor, Settings};
use crate::http;
use crate::queue::Queue;
use crate::telemetry::report::SharedReporter;
use crate::workflow::models::CatalogError;
use crate::workflow::template::TemplateError;
use crate::workflow::{ModelCatalog, Templates};

/// The worker's parts, built and running.
#[derive(Debug)]
pub struct App {
    /// Jobs in hand.
    pub queue: Queue,
    /// The ComfyUI they run on.
    pub comfy: Comfy,
    /// What every result warns of.
    pub warnings: Vec<String>,
    api_keys: http::auth::ApiKeys,
    max_body_bytes: usize,
}

/// Why the worker cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// ComfyUI cannot be started as configured.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The folder of templates cannot be read.
    #[error("the templates in {folder} cannot be read (WORKFLOWS_DIR)")]
    TemplateFolder {
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A template is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The model manifest is wrong.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl App {
    /// Builds every part, and begins to start ComfyUI. Takes milliseconds; ComfyUI gets ready in the background.
    /// Must be called in a runtime.
    pub fn build(config: &Config, reporter: SharedReporter) -> Result<Self, BuildError> {
        let templates = templates(config.paths.workflows_dir.as_deref())?;
        let catalog = ModelCatalog::builtin()?;
        let plan = boot::plan(config)?;
        let warnings = plan.warnings();
        let comfy = boot::start(plan, reporter)?;
        let return_images_as = match config.delivery.return_images_as {
            ReturnImagesAs::Auto => ReturnImagesAs::Metadata,
            form => form,
        };
        let settings = Settings {
            retries: config.jobs.retries,
            return_images_as,
            org_api_key: config.comfy.org_api_key.clone(),
            reconnect_attempts: config.comfy.reconnect_attempts,
            reconnect_delay: config.comfy.reconnect_delay,
            websocket_trace: config.comfy.websocket_trace,
            warnings: warnings.clone(),
        };
        let executor = Executor::new(comfy.clone(), templates, catalog, settings);
        let queue = Queue::new(executor, config.jobs.queue_limit);
        Ok(Self {
            queue,
            comfy,
            warnings,
            api_keys: http::auth::ApiKeys::new(&config.http.api_keys),
            max_body_bytes: config.http.max_body_bytes,
        })
    }

    /// The HTTP server's routes.
    pub fn router(&self) -> axum::Router {
        http::router(Arc::new(http::State {
            queue: self.queue.clone(),
            comfy: self.comfy.clone(),
            api_keys: self.api_keys.clone(),
            max_body_bytes: self.max_body_bytes,
            warnings: self.warnings.clone(),
        }))
    }

    /// Waits for the jobs in hand, at most `grace`, then ends ComfyUI.
    pub async fn stop(&self, grace: std::time::Duration) {
        if tokio::time::timeout(grace, self.queue.drain()).await.is_err() {
            tracing::warn!(
                jobs = self.queue.counts().in_progress,
                "the grace is over; jobs in hand are given up"
            );
        }
        self.comfy.stop().await;
    }
}

/// The embedded templates, and those of the user's folder.
fn templates(folder: Option<&Path>) -> Result<Templates, BuildError> {
    let mut files = BTreeMap::new();
    if let Some(folder) = folder {
        let failed = |source| BuildError::TemplateFolder {
            folder: folder.display().to_string(),
            source,
        };
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default()
                .to_owned();
            if path.is_file()
                && path
                    .extension()
                    .is_some_and(|ending| ending == "json" || ending == "toml")
            {
                files.insert(name, std::fs::read_to_string(&path).map_err(failed)?);
            }
        }
    }
    Ok(Templates::load(&files)?)
}
