//! Stage: the graph is checked against what is installed, before ComfyUI sees it. Models that it names and ComfyUI lacks are
//! fetched, where the manifest knows them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;

use crate::comfy::nodes::finder::ClassFinder;
use crate::comfy::{ComfyClient, ComfyState, Connection, demo};
use crate::config::ModelFile;
use crate::disk::blocking;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::Stage;
use crate::job::{self, InputImage, JobRequest, Work};
use crate::models::Held;
use crate::workflow::{self, CheckFailure, ClassSpec, Graph, MissingModel, ModelCatalog, Schemas};

use super::Executor;
use super::control::{Event, ProgressSink};
use super::inputs::Uploads;
use super::url_models;

/// Descriptions fetched at once.
pub(super) const FETCHES_AT_ONCE: usize = 8;
/// How long the pack of an absent class is looked for: longer than that takes where a job waits, and where a request does.
pub(super) const FINDERS_PATIENCE: Duration = Duration::from_mins(1);
pub(super) const FINDERS_PATIENCE_AT_ONCE: Duration = Duration::from_millis(700);
/// The longest that a graph may take to be checked before its job is taken in. ComfyUI answers late while a node keeps its
/// process to itself, and a client of ComfyUI's counts on being told at once what is wrong.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// With more classes than this to fetch, the names of all are fetched first: a graph of thousands of classes that do
/// not exist must not cost thousands of requests.
pub(super) const MANY: usize = 64;

/// `/object_info` of the classes that graphs used so far. A class is fetched when a graph first names it, and again
/// when a graph does not pass: files come and go while ComfyUI runs.
#[derive(Debug, Default)]
pub(super) struct SchemaCache {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which start of ComfyUI the descriptions are from.
    generation: u64,
    classes: HashMap<String, Arc<ClassSpec>>,
    /// Classes that templates need of a newer ComfyUI, and that this one does not have.
    absent: HashSet<String>,
    /// Classes that ComfyUI replaces by others; fetched once for each start.
    replaced: Option<Arc<HashSet<String>>>,
}

impl SchemaCache {
    /// The descriptions of the graph's classes, fetched where they are not known yet.
    pub(super) async fn schemas_of(&self, connection: &Connection, graph: &Graph) -> Result<Schemas, JobError> {
        let mut schemas = Schemas::default();
        let classes = graph.classes();
        let mut missing = Vec::new();
        let replaced = {
            let mut known = self.known.lock();
            if known.generation != connection.generation() {
                *known = Known::default();
                known.generation = connection.generation();
            }
            for class in &classes {
                match known.classes.get(*class) {
                    Some(spec) => drop(schemas.classes.insert((*class).to_owned(), Arc::clone(spec))),
                    None => missing.push((*class).to_owned()),
                }
            }
            known.replaced.clone()
        };
        schemas.replaced = if let Some(replaced) = replaced {
            replaced
        } else {
            let replaced = Arc::new(connection.client.replaced_classes().await?);
            self.known.lock().replaced = Some(Arc::clone(&replaced));
            replaced
        };
        if missing.len() > MANY {
            schemas.names = connection.client.class_names().await?;
            let names: HashSet<&str> = schemas.names.iter().map(String::as_str).collect();
            missing.retain(|class| names.contains(class.as_str()));
        }
        self.fetch(connection, missing, &mut schemas).await?;
        if schemas.classes.len() < classes.len() && schemas.names.is_empty() {
            schemas.names = connection.client.class_names().await?;
        }
        Ok(schemas)
    }

    pub(super) async fn fetch(
        &self,
        connection: &Connection,
        classes: Vec<String>,
        schemas: &mut Schemas,
    ) -> Result<(), JobError> {
        let fetch = |class: String| fetch_one(connection.client.clone(), class);
        let mut fetches = futures_util::stream::iter(classes)
            .map(fetch)
            .buffer_unordered(FETCHES_AT_ONCE);
        while let Some(fetched) = fetches.next().await {
            if let (class, Some(spec)) = fetched? {
                self.known.lock().classes.insert(class.clone(), Arc::clone(&spec));
                schemas.classes.insert(class, spec);
            }
        }
        Ok(())
    }

    /// The first of these classes that ComfyUI does not have. For one class that costs less than [`Self::schemas_of`], which
    /// has the names of all fetched when one is absent.
    pub(super) async fn first_absent<'a>(
        &self,
        connection: &Connection,
        classes: &'a [String],
    ) -> Result<Option<&'a str>, JobError> {
        for class in classes {
            let told = {
                let known = self.known.lock();
                let is_there = known.classes.contains_key(class);
                let is_told = is_there || known.absent.contains(class);
                (is_told && known.generation == connection.generation()).then_some(is_there)
            };
            let is_there = match told {
                Some(is_there) => is_there,
                None => connection.client.object_info(class).await?.is_some(),
            };
            if !is_there {
                let mut known = self.known.lock();
                if known.generation == connection.generation() {
                    known.absent.insert(class.clone());
                }
                return Ok(Some(class));
            }
        }
        Ok(None)
    }

    /// Has the graph's classes described again: one of them has turned out to be another by now.
    pub(super) async fn renew(&self, connection: &Connection, graph: &Graph) -> Result<(), JobError> {
        let classes = graph.classes().into_iter().map(str::to_owned).collect();
        self.fetch(connection, classes, &mut Schemas::default()).await
    }

    /// What the user should know of a graph that has run: (name in the request, name in the graph) for its images.
    pub(super) fn remarks(&self, graph: &Graph, images: &[(String, String)]) -> Vec<String> {
        workflow::remarks(graph, &self.all_known(), images)
    }

    /// Changes the graph's output nodes so that ComfyUI's cache does not answer for them.
    pub(super) fn mark_rerun(&self, graph: &mut Graph) {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        workflow::mark_rerun(graph, &self.all_known(), &nonce);
    }

    /// The output nodes of a graph, as far as their classes are known.
    fn output_nodes(&self, graph: &Graph) -> Vec<String> {
        let known = self.known.lock();
        let is_output = |class: &str| known.classes.get(class).is_some_and(|spec| spec.output_node);
        let outputs = graph.nodes.iter().filter(|(_, node)| is_output(&node.class_type));
        outputs.map(|(id, _)| id.clone()).collect()
    }

    fn all_known(&self) -> Schemas {
        Schemas {
            classes: self.known.lock().classes.clone(),
            ..Schemas::default()
        }
    }

    /// Checks the graph, which then names its images as they were uploaded.
    pub(super) async fn check(
        &self,
        (catalog, finder, patience): (&ModelCatalog, &ClassFinder, Duration),
        connection: &Connection,
        graph: &mut Graph,
        uploads: &Uploads,
    ) -> Result<(), CheckFailure> {
        let mut schemas = self.schemas_of(connection, graph).await?;
        workflow::use_uploaded(graph, &schemas, &uploads.names);
        workflow::expect(graph, &mut schemas, &uploads.expected);
        if workflow::check(graph, &schemas, catalog).is_ok() {
            return Ok(());
        }
        // Files may have come, and nodes may have changed, since the descriptions were fetched. A graph that could run
        // must not be refused for that. What ComfyUI did not know a moment ago it does not know now.
        let known = schemas.classes.keys().cloned().collect();
        self.fetch(connection, known, &mut schemas).await?;
        workflow::expect(graph, &mut schemas, &uploads.expected);
        let absent = workflow::absent_classes(graph, &schemas);
        let looked_up = finder.look_up(&absent, connection.generation());
        // What is not known by then is told without it.
        let looked_up = tokio::time::timeout(patience, looked_up).await;
        schemas.absent = looked_up.unwrap_or_default();
        workflow::check(graph, &schemas, catalog)
    }
}

async fn fetch_one(client: ComfyClient, class: String) -> Result<(String, Option<Arc<ClassSpec>>), JobError> {
    let info = client.object_info(&class).await?;
    let spec = info.map(|info| Arc::new(ClassSpec::parse(&class, &info)));
    Ok((class, spec))
}

impl Executor {
    /// The output nodes of a graph, as far as ComfyUI has told of their classes.
    pub fn output_nodes(&self, graph: &Graph) -> Vec<String> {
        self.schemas.output_nodes(graph)
    }

    /// Whether the graph would run on the ComfyUI that is ready now; [`None`]: none is ready, or it does not tell soon enough.
    /// Models that can be fetched are no problem.
    pub async fn check_now(&self, graph: &Graph) -> Option<Result<(), JobError>> {
        let checked = self.check_with(graph, &[], false);
        tokio::time::timeout(CHECK_TIMEOUT, checked).await.ok().flatten()
    }

    /// The same of a request whose graph names files that it brings. One that has no graph yet is checked in its turn.
    pub async fn check_request(&self, request: &JobRequest) -> Option<Result<(), JobError>> {
        match &request.work {
            Work::Workflow(graph) => {
                let checked = self.check_with(graph, &request.images, true);
                tokio::time::timeout(CHECK_TIMEOUT, checked).await.ok().flatten()
            }
            Work::Template(template) => url_models::check_loras(template, &self.models).err().map(Err),
            Work::Saved(_) => None,
        }
    }

    /// `takes_contents` says that files in the graph itself are taken out of it, as [`Self::take_contents`] does.
    async fn check_with(
        &self,
        graph: &Graph,
        images: &[InputImage],
        takes_contents: bool,
    ) -> Option<Result<(), JobError>> {
        if !matches!(self.comfy.state().await, ComfyState::Ready { .. }) {
            return None;
        }
        let connection = self.comfy.connection().await.ok()?;
        let judges = (self.models.catalog(), &self.finder, FINDERS_PATIENCE_AT_ONCE);
        let (mut graph, mut images) = (graph.clone(), Cow::Borrowed(images));
        if takes_contents && workflow::may_hold_contents(&graph) {
            let schemas = self.schemas.schemas_of(&connection, &graph).await.ok()?;
            if let Err(error) = job::take_contents(&mut graph, Some(&schemas), images.to_mut()) {
                return Some(Err(error));
            }
        }
        let mut uploads = Uploads::expected(&images);
        if workflow::may_address_models(&graph) {
            let schemas = self.schemas.schemas_of(&connection, &graph).await.ok()?;
            let taken = url_models::expect_url_models(&mut graph, &schemas, &self.models, &mut uploads.expected);
            if let Err(error) = taken {
                return Some(Err(error));
            }
        }
        match self.schemas.check(judges, &connection, &mut graph, &uploads).await {
            Err(failure) if self.can_have(&failure.missing) => Some(Ok(())),
            Err(failure) if failure.error.kind == ErrorKind::ComfyUnavailable => None,
            checked => Some(checked.map_err(JobError::from)),
        }
    }

    /// Whether models that a graph names and ComfyUI lacks will be there for it.
    pub(super) fn can_have(&self, missing: &[MissingModel]) -> bool {
        let as_demo = self.settings.demo.is_some() && demo::knows(missing);
        as_demo || self.models.obtainable(missing).is_some()
    }

    /// Writes demo weights for models that a graph names and ComfyUI lacks, where they are in use, as far as there are some.
    async fn write_demo(&self, missing: &[MissingModel]) -> Result<bool, JobError> {
        let Some(root) = self.settings.demo.clone() else {
            return Ok(false);
        };
        let missing = missing.to_vec();
        Ok(blocking(move || demo::provide(&root, &missing)).await?)
    }

    /// Checks the graph; when nothing is wrong with it but missing models that can be had, has them fetched and checks
    /// again. The models that were fetched stay as long as the answer does.
    pub(super) async fn check_or_provide(
        &self,
        connection: &mut Connection,
        graph: &mut Graph,
        uploads: &Uploads,
        sink: &mut ProgressSink<'_>,
    ) -> Result<Held, JobError> {
        let judges = (self.models.catalog(), &self.finder, FINDERS_PATIENCE);
        let Err(mut failure) = self.schemas.check(judges, connection, graph, uploads).await else {
            return Ok(Held::default());
        };
        if self.write_demo(&failure.missing).await? {
            match self.schemas.check(judges, connection, graph, uploads).await {
                Ok(()) => return Ok(Held::default()),
                Err(remaining) => failure = remaining,
            }
        }
        let Some(files) = self.models.obtainable(&failure.missing) else {
            return Err(failure.into());
        };
        let names: Vec<String> = files.iter().map(ModelFile::target).collect();
        tracing::info!("models that the graph needs are fetched: {}", names.join(", "));
        sink.owner.tell(Event::Downloading);
        let provided = self.models.provide(&files, |download| {
            sink.change(|tracker| tracker.download(download));
        });
        let held = provided.await?;
        sink.stage(Stage::Preparing);
        // The download may have taken longer than ComfyUI lived.
        *connection = self.comfy.available(sink.owner.patience).await?;
        self.schemas.check(judges, connection, graph, uploads).await?;
        Ok(held)
    }
}
