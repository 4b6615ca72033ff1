//! Stage: the graph is checked against what is installed, before ComfyUI sees it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;

use crate::comfy::{ComfyClient, Connection};
use crate::error::JobError;
use crate::workflow::{self, ClassSpec, Graph, ModelCatalog, Schemas};

use super::inputs::Uploads;

/// Descriptions fetched at once.
const FETCHES_AT_ONCE: usize = 8;

/// `/object_info` of the classes that graphs used so far. A class is fetched when a graph first names it, and again
/// when a graph names a file that the description does not list: files come and go while ComfyUI runs.
#[derive(Debug, Default)]
pub struct SchemaCache {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which start of ComfyUI the descriptions are from.
    generation: u64,
    classes: HashMap<String, Arc<ClassSpec>>,
}

/// The descriptions of one graph's classes.
#[derive(Debug, Default)]
struct Snapshot {
    classes: HashMap<String, Arc<ClassSpec>>,
    all_names: Vec<String>,
}

impl Schemas for Snapshot {
    fn class(&self, name: &str) -> Option<Arc<ClassSpec>> {
        self.classes.get(name).cloned()
    }

    fn class_names(&self) -> &[String] {
        &self.all_names
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
        {
            let mut known = self.known();
            if known.generation != connection.generation() {
                *known = Known {
                    generation: connection.generation(),
                    classes: HashMap::new(),
                };
            }
            for class in classes {
                match known.classes.get(class) {
                    Some(spec) => drop(snapshot.classes.insert(class.clone(), Arc::clone(spec))),
                    None => missing.push(class.clone()),
                }
            }
        }
        self.fetch(connection, missing, &mut snapshot).await?;
        if snapshot.classes.len() < classes.len() {
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

    /// Changes the graph's output nodes so that ComfyUI's cache does not answer for them.
    pub(super) fn mark_rerun(&self, graph: &mut Graph) {
        let snapshot = Snapshot {
            classes: self.known().classes.clone(),
            all_names: Vec::new(),
        };
        workflow::mark_rerun(graph, &snapshot, &uuid::Uuid::new_v4().simple().to_string());
    }
}

async fn fetch_one(client: ComfyClient, class: String) -> Result<(String, Option<Arc<ClassSpec>>), JobError> {
    let info = client.object_info(&class).await?;
    let spec = info.map(|info| Arc::new(ClassSpec::parse(&info)));
    Ok((class, spec))
}

pub(super) async fn check(
    cache: &SchemaCache,
    catalog: &ModelCatalog,
    connection: &Connection,
    graph: &mut Graph,
    uploads: &Uploads,
) -> Result<(), JobError> {
    let classes = workflow::classes(graph);
    let mut snapshot = cache.snapshot(connection, &classes).await?;
    workflow::use_uploaded(graph, &snapshot, &uploads.names);
    let Err(findings) = workflow::check(graph, &snapshot, catalog) else {
        return Ok(());
    };
    if !findings.depends_on_files {
        return Err(findings.error);
    }
    // A file may have come since the description was fetched.
    cache
        .fetch(connection, classes.into_iter().collect(), &mut snapshot)
        .await?;
    workflow::check(graph, &snapshot, catalog).map_err(|findings| findings.error)
}
