//! Stage: files that stand in the graph in place of their names, in inputs of which only ComfyUI's description of the class
//! tells that they take one. Those of the loaders that are known anyway were taken when the request was read, and are
//! fetched by now with its images.

use crate::config::BucketAccess;
use crate::error::JobError;
use crate::job::{self, InputImage, Takes};
use crate::workflow::{Graph, Schemas, may_hold_contents};

use super::Executor;
use super::control::JobControl;
use super::losses::Preparations;

impl Executor {
    /// Takes them out of the graph into the job's images, and fetches those that are at a URL, as [`Self::fetch`] does; `own`
    /// is the bucket that the request brings. A prompt of ComfyUI's own API stays as it is: ComfyUI takes names alone, and
    /// its nodes may read addresses by themselves.
    pub(super) async fn take_contents(
        &self,
        graph: &mut Graph,
        images: &mut Vec<InputImage>,
        own: Option<&BucketAccess>,
        owner: &JobControl,
    ) -> Result<(), JobError> {
        if owner.told.is_some() || !may_hold_contents(graph) {
            return Ok(());
        }
        let schemas = self.described(graph, owner).await?;
        job::take_contents(graph, Some(&schemas), images)?;
        if images.iter().any(|image| image.url().is_some()) {
            let fetcher = &self.settings.fetcher;
            *images = fetcher.fetch_images(std::mem::take(images), own, Takes::Media).await?;
        }
        Ok(())
    }

    /// What ComfyUI says of the graph's classes.
    pub(super) async fn described(&self, graph: &Graph, owner: &JobControl) -> Result<Schemas, JobError> {
        let mut preparations = Preparations::default();
        loop {
            let connection = self.comfy.available(owner.patience).await?;
            match self.schemas.schemas_of(&connection, graph).await {
                Err(error) if preparations.is_lost(self, &connection, &error).await => {}
                described => return described,
            }
        }
    }
}
