//! Which models the templates need and ComfyUI lacks, for those who choose one.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::Executor;
use crate::comfy::{ComfyState, Connection};
use crate::error::JobError;
use crate::workflow::{self, Lacking, MissingModel, Schemas, Template, Templates};

/// How long ComfyUI is asked: somebody waits for a page.
const PATIENCE: Duration = Duration::from_millis(200);

impl Executor {
    /// The templates.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// What each template lacks, by its name; nothing where ComfyUI could not be asked.
    pub async fn lacking(&self) -> HashMap<String, Lacking> {
        let asking = async {
            if !matches!(self.comfy.state().await, ComfyState::Ready { .. }) {
                return None;
            }
            let connection = self.comfy.connection().await.ok()?;
            self.lacking_in(&connection).await.ok()
        };
        let told = tokio::time::timeout(PATIENCE, asking).await;
        told.ok().flatten().unwrap_or_default()
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
        let classes: BTreeSet<&str> = lacking.iter().flat_map(|template| template.graph().classes()).collect();
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
