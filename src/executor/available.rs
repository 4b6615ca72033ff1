//! Which models the templates need and ComfyUI lacks, for those who choose one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Executor;
use crate::comfy::{ComfyState, Connection};
use crate::config::JobsConfig;
use crate::error::JobError;
use crate::workflow::{self, Lacking, MissingModel, Schemas, Template, Templates};

/// How long ComfyUI is asked: somebody waits for a page.
const PATIENCE: Duration = Duration::from_millis(200);

/// The memory of the first device that `/system_stats` names, where that is an NVIDIA card.
fn card_mib(stats: &Value) -> Option<u64> {
    let device = stats.get("devices")?.get(0)?;
    let is_card = device.get("type").is_some_and(|kind| kind == "cuda");
    let bytes = device.get("vram_total").filter(|_| is_card)?.as_u64()?;
    Some(bytes / (1024 * 1024))
}

impl Executor {
    /// How jobs are run here.
    pub fn jobs(&self) -> &JobsConfig {
        &self.settings.jobs
    }

    /// The templates.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// What each template lacks, by its name, and the memory of ComfyUI's NVIDIA card in MiB; nothing where ComfyUI could not
    /// be asked, or has no such card.
    pub async fn available(self: &Arc<Self>) -> (HashMap<String, Lacking>, Option<u64>) {
        if !matches!(self.comfy.state().await, ComfyState::Ready { .. }) {
            return Default::default();
        }
        let Ok(connection) = self.comfy.connection().await else {
            return Default::default();
        };
        let stats = tokio::time::timeout(PATIENCE, connection.client.system_stats());
        // What comes too late is there for whoever asks next.
        let (this, its) = (Arc::clone(self), connection.clone());
        let lacking = tokio::spawn(async move { this.lacking_in(&its).await });
        let (lacking, stats) = tokio::join!(tokio::time::timeout(PATIENCE, lacking), stats);
        let card = stats.ok().and_then(Result::ok).as_ref().and_then(card_mib);
        let lacking = lacking.ok().and_then(Result::ok).and_then(Result::ok);
        (lacking.unwrap_or_default(), card)
    }

    async fn lacking_in(&self, connection: &Connection) -> Result<HashMap<String, Lacking>, JobError> {
        let (mut missing, mut too_old) = (HashMap::new(), HashMap::new());
        for template in self.templates.iter() {
            let lacks = if let Some(why) = self.too_old(connection, template).await? {
                too_old.insert(template.name(), why);
                Vec::new()
            } else {
                self.missing_for(connection, template).await?
            };
            missing.insert(template.name(), lacks);
        }
        // Files may have come since the loaders were described. All of them are asked once.
        let lacks = |template: &&Template| missing.get(template.name()).is_some_and(|missing| !missing.is_empty());
        let lacking: Vec<&Template> = self.templates.iter().filter(lacks).collect();
        let loaders = lacking.iter().flat_map(|template| {
            let names = missing.get(template.name()).into_iter().flatten();
            names.flat_map(|missing| template.graph().classes_that_name(&missing.name))
        });
        let classes: BTreeSet<&str> = loaders.collect();
        let classes = classes.into_iter().map(str::to_owned).collect();
        self.schemas.fetch(connection, classes, &mut Schemas::default()).await?;
        for template in lacking {
            missing.insert(template.name(), self.missing_for(connection, template).await?);
        }
        let told = missing.into_iter().map(|(name, missing)| {
            let obtainable = self.can_have(&missing);
            let models = missing.into_iter().map(|missing| missing.name).collect();
            let too_old = too_old.remove(name);
            let lacking = Lacking {
                models,
                obtainable,
                too_old,
            };
            (name.to_owned(), lacking)
        });
        Ok(told.collect())
    }

    /// The models that ComfyUI lacks for a template, by what is known of its loaders.
    async fn missing_for(&self, connection: &Connection, template: &Template) -> Result<Vec<MissingModel>, JobError> {
        let schemas = self.schemas.schemas_of(connection, template.graph()).await?;
        let checked = workflow::check(template.graph(), &schemas, self.models.catalog());
        Ok(checked.map_or_else(|failure| failure.missing.into_vec(), |()| Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_card_is_the_first_device_where_that_is_one() {
        // As ComfyUI 0.30.0 tells an H200, and a machine without a card, whose memory is no card's.
        let of = |kind: &str| json!({"devices": [{"name": "x", "type": kind, "index": 0, "vram_total": 150_121_545_728_u64}]});
        assert_eq!(card_mib(&of("cuda")), Some(143_167));
        assert_eq!(card_mib(&of("cpu")), None);
        assert_eq!(card_mib(&json!({"devices": []})), None);
    }
}
