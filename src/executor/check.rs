//! Stage: the graph is checked against what is installed, before ComfyUI sees it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;

use crate::comfy::{ComfyClient, Connection};
use crate::error::JobError;
use crate::workflow::{self, CheckFailure, ClassSpec, Graph, ModelCatalog, Schemas};

use super::inputs::Uploads;

/// Descriptions fetched at once.
const FETCHES_AT_ONCE: usize = 8;
/// With more classes than this to fetch, the names of all are fetched first: a graph of thousands of classes that do
/// not exist must not cost thousands of requests.
const MANY: usize = 64;

/// `/object_info` of the classes that graphs used so far. A class is fetched when a graph first names it, and again
/// when a graph does not pass: files come and go while ComfyUI runs.
#[derive(Debug, Default)]
pub struct SchemaCache {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which start of ComfyUI the descriptions are from.
    generation: u64,
    classes: HashMap<String, Arc<ClassSpec>>,
    /// Classes that ComfyUI replaces by others; fetched once for each start.
    replaced: Option<Arc<HashSet<String>>>,
}

/// The descriptions of one graph's classes.
#[derive(Debug, Default)]
struct Snapshot {
    classes: HashMap<String, Arc<ClassSpec>>,
    all_names: Vec<String>,
    replaced: Arc<HashSet<String>>,
}

impl Schemas for Snapshot {
    fn class(&self, name: &str) -> Option<Arc<ClassSpec>> {
        self.classes.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.all_names.clone()
    }

    fn is_replaced(&self, name: &str) -> bool {
        self.replaced.contains(name)
    }
}

impl SchemaCache {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // A panic elsewhere leaves a map that is whole: each change is one insertion.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptions of `classes`, fetched where they are not known yet.
    async fn snapshot(&self, connection: &Connection, classes: &BTreeSet<String>) -> Result<Snapshot, JobError> {
        let mut snapshot = Snapshot::default();
        let mut missing = Vec::new();
        let replaced = {
            let mut known = self.known();
            if known.generation != connection.generation() {
                *known = Known::default();
                known.generation = connection.generation();
            }
            for class in classes {
                match known.classes.get(class) {
                    Some(spec) => drop(snapshot.classes.insert(class.clone(), Arc::clone(spec))),
                    None => missing.push(class.clone()),
                }
            }
            known.replaced.clone()
        };
        snapshot.replaced = if let Some(replaced) = replaced {
            replaced
        } else {
            let replaced = Arc::new(connection.client.replaced_classes().await?);
            self.known().replaced = Some(Arc::clone(&replaced));
            replaced
        };
        if missing.len() > MANY {
            snapshot.all_names = connection.client.class_names().await?;
            let names: HashSet<&str> = snapshot.all_names.iter().map(String::as_str).collect();
            missing.retain(|class| names.contains(class.as_str()));
        }
        self.fetch(connection, missing, &mut snapshot).await?;
        if snapshot.classes.len() < classes.len() && snapshot.all_names.is_empty() {
            snapshot.all_names = connection.client.class_names().await?;
        }
        Ok(snapshot)
    }

    async fn fetch(
        &self,
        connection: &Connection,
        classes: Vec<String>,
        snapshot: &mut Snapshot,
    ) -> Result<(), JobError> {
        let fetch = |class: String| fetch_one(connection.client.clone(), class);
        let mut fetches = futures_util::stream::iter(classes)
            .map(fetch)
            .buffer_unordered(FETCHES_AT_ONCE);
        while let Some(fetched) = fetches.next().await {
            if let (class, Some(spec)) = fetched? {
                self.known().classes.insert(class.clone(), Arc::clone(&spec));
                snapshot.classes.insert(class, spec);
            }
        }
        Ok(())
    }

    /// Has the graph's classes described anew: one of them has turned out to be another by now.
    pub(super) async fn renew(&self, connection: &Connection, graph: &Graph) -> Result<(), JobError> {
        let classes = graph.classes().into_iter().map(str::to_owned).collect();
        self.fetch(connection, classes, &mut Snapshot::default()).await
    }

    /// What the user should know of a graph that has run: (name in the request, name in the graph) for its images.
    pub(super) fn remarks(&self, graph: &Graph, images: &[(String, String)]) -> Vec<String> {
        let mut snapshot = Snapshot::default();
        {
            let known = self.known();
            for class in graph.classes() {
                if let Some(spec) = known.classes.get(class) {
                    snapshot.classes.insert(class.to_owned(), Arc::clone(spec));
                }
            }
        }
        workflow::remarks(graph, &snapshot, images)
    }

    /// Changes the graph's output nodes so that ComfyUI's cache does not answer for them.
    pub(super) fn mark_rerun(&self, graph: &mut Graph) {
        let snapshot = Snapshot {
            classes: self.known().classes.clone(),
            ..Snapshot::default()
        };
        workflow::mark_rerun(graph, &snapshot, &uuid::Uuid::new_v4().simple().to_string());
    }
}

async fn fetch_one(client: ComfyClient, class: String) -> Result<(String, Option<Arc<ClassSpec>>), JobError> {
    let info = client.object_info(&class).await?;
    let spec = info.map(|info| Arc::new(ClassSpec::parse(&class, &info)));
    Ok((class, spec))
}

pub(super) async fn check(
    cache: &SchemaCache,
    catalog: &ModelCatalog,
    connection: &Connection,
    graph: &mut Graph,
    uploads: &Uploads,
) -> Result<(), CheckFailure> {
    let classes: BTreeSet<String> = graph.classes().into_iter().map(str::to_owned).collect();
    let mut snapshot = cache.snapshot(connection, &classes).await?;
    workflow::use_uploaded(graph, &snapshot, &uploads.names);
    if workflow::check(graph, &snapshot, catalog).is_ok() {
        return Ok(());
    }
    // Files may have come, and nodes may have changed, since the descriptions were fetched. A graph that could run
    // must not be refused for that. What ComfyUI did not know a moment ago it does not know now.
    let known = snapshot.classes.keys().cloned().collect();
    cache.fetch(connection, known, &mut snapshot).await?;
    workflow::check(graph, &snapshot, catalog)
}
