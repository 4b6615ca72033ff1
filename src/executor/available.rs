//! Which models the templates need and ComfyUI lacks, for those who choose one.

use std::collections::HashMap;
use std::time::Duration;

use super::Executor;
use crate::comfy::{ComfyState, Connection};
use crate::error::JobError;
use crate::workflow::{self, Lacking, MissingModel, Template, Templates};

/// How long ComfyUI is asked: somebody waits for a page.
const PATIENCE: Duration = Duration::from_secs(1);

impl Executor {
    /// The templates.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// What each template lacks, by its name; nothing of those that ComfyUI could not be asked about.
    pub async fn lacking(&self) -> HashMap<String, Lacking> {
        let mut lacking = HashMap::new();
        let asking = async {
            if !matches!(self.comfy.state().await, ComfyState::Ready { .. }) {
                return;
            }
            let Ok(connection) = self.comfy.connection().await else {
                return;
            };
            for template in self.templates.iter() {
                if let Ok(found) = self.lacking_of(&connection, template).await {
                    lacking.insert(template.name().to_owned(), found);
                }
            }
        };
        // What is known by then is told.
        let _ = tokio::time::timeout(PATIENCE, asking).await;
        lacking
    }

    async fn lacking_of(&self, connection: &Connection, template: &Template) -> Result<Lacking, JobError> {
        let graph = template.graph();
        let mut missing = Vec::new();
        // Files may have come since the loaders were described.
        for renew in [false, true] {
            if renew {
                self.schemas.renew(connection, graph).await?;
            }
            let schemas = self.schemas.schemas_of(connection, graph).await?;
            let checked = workflow::check(graph, &schemas, self.models.catalog());
            missing = checked.map_or_else(|failure| failure.missing.into_vec(), |()| Vec::new());
            if missing.is_empty() {
                break;
            }
        }
        let obtainable = self.models.obtainable(&missing).is_some();
        let models = missing.into_iter().map(|missing: MissingModel| missing.name).collect();
        Ok(Lacking { models, obtainable })
    }
}
