//! Stage: models that the graph names and ComfyUI lacks are fetched, where the manifest knows them.

use crate::comfy::Connection;
use crate::error::JobError;
use crate::models::Held;
use crate::workflow::Graph;

use super::inputs::Uploads;
use super::{Event, Executor, Watcher};

impl Executor {
    /// Checks the graph; when nothing is wrong with it but missing models that can be had, has them fetched and checks
    /// again. The models that were fetched stay as long as the answer does.
    pub(super) async fn check_or_provide(
        &self,
        connection: &mut Connection,
        graph: &mut Graph,
        uploads: &Uploads,
        watcher: &mut Watcher<'_>,
    ) -> Result<Held, JobError> {
        let Err(failure) = self.check(connection, graph, uploads).await else {
            return Ok(Held::default());
        };
        let Some(files) = self.models.obtainable(&failure.missing) else {
            return Err(failure.into());
        };
        let names: Vec<String> = files.iter().map(crate::config::ModelFile::target).collect();
        tracing::info!("models that the graph needs are fetched: {}", names.join(", "));
        watcher.owner.tell(Event::Downloading);
        let provided = self.models.provide(&files, |download| {
            watcher.change(|tracker| tracker.download(download));
        });
        let held = provided.await?;
        watcher.stage(crate::job::progress::Stage::Preparing);
        // The download may have taken longer than ComfyUI lived.
        *connection = self.comfy.available(watcher.owner.patience).await?;
        self.check(connection, graph, uploads).await?;
        Ok(held)
    }
}
