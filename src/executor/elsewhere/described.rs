//! What an engine elsewhere tells of its ComfyUI's node classes, and what a graph would be told there.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Mutex;
use serde_json::value::RawValue;

use crate::error::{ErrorKind, JobError};
use crate::executor::Executor;
use crate::executor::check::FINDERS_PATIENCE_AT_ONCE;
use crate::job::{self, JobRequest, Work};
use crate::json::lenient;
use crate::workflow::{self, ClassSpec, Graph, InputKind, Schemas};

/// `/object_info` of a ComfyUI elsewhere, and the classes that it replaces by others.
#[derive(Debug, Default)]
pub struct Described {
    classes: IndexMap<String, Box<RawValue>>,
    replaced: Arc<HashSet<String>>,
    /// Those that graphs named so far.
    read: Mutex<HashMap<String, Arc<ClassSpec>>>,
}

impl Described {
    /// Reads the answers of `/object_info` and of `/node_replacements`, where there is one. [`None`]: they tell nothing. May take
    /// some milliseconds.
    pub fn read(object_info: &[u8], replacements: Option<&[u8]>) -> Option<Self> {
        let classes: IndexMap<String, Box<RawValue>> = lenient(object_info).ok()?;
        let are_classes = !classes.is_empty() && classes.values().all(|class| class.get().starts_with('{'));
        let replaced: Option<IndexMap<String, serde::de::IgnoredAny>> =
            replacements.and_then(|replacements| lenient(replacements).ok());
        are_classes.then(|| Self {
            classes,
            replaced: Arc::new(replaced.unwrap_or_default().into_keys().collect()),
            read: Mutex::default(),
        })
    }

    /// Its classes by name, as ComfyUI describes them.
    pub fn classes(&self) -> &IndexMap<String, Box<RawValue>> {
        &self.classes
    }

    fn schemas_of(&self, graph: &Graph) -> Schemas {
        let mut schemas = Schemas {
            replaced: Arc::clone(&self.replaced),
            ..Schemas::default()
        };
        let mut read = self.read.lock();
        for class in graph.classes() {
            let Some(text) = self.classes.get(class) else { continue };
            let spec = read.entry(class.to_owned()).or_insert_with(|| {
                let info = serde_json::from_str(text.get()).unwrap_or_default();
                let mut spec = ClassSpec::parse(class, &info);
                for input in spec.inputs.values_mut().filter(|input| input.upload.is_some()) {
                    // Such files go there with the job.
                    input.kind = InputKind::Unchecked;
                }
                Arc::new(spec)
            });
            schemas.classes.insert(class.to_owned(), Arc::clone(spec));
        }
        if schemas.classes.len() < graph.classes().len() {
            schemas.names = self.classes.keys().cloned().collect();
        }
        schemas
    }
}

impl Executor {
    /// What the graph of a request would be told by a worker whose ComfyUI is described so; [`None`]: nothing, or it is only the
    /// worker that knows. It may have the models that are missing fetched.
    pub async fn refused_by(&self, described: &Described, request: &JobRequest) -> Option<JobError> {
        let Work::Workflow(graph) = &request.work else {
            return None;
        };
        if workflow::may_address_models(graph) {
            return None;
        }
        let mut schemas = described.schemas_of(graph);
        let mut graph = Cow::Borrowed(graph);
        if workflow::may_hold_contents(&graph) {
            let mut images = request.images.clone();
            if let Err(error) = job::take_contents(graph.to_mut(), Some(&schemas), &mut images) {
                return Some(error);
            }
        }
        let catalog = self.models.catalog();
        let failure = workflow::check(&graph, &schemas, catalog).err()?;
        if !failure.missing.is_empty() || failure.error.kind != ErrorKind::InvalidWorkflow {
            return None;
        }
        let absent = workflow::absent_classes(&graph, &schemas);
        if absent.is_empty() {
            return Some(*failure.error);
        }
        // As a worker's own check tells it.
        let looked_up = tokio::time::timeout(FINDERS_PATIENCE_AT_ONCE, self.finder.look_up(&absent, 0));
        schemas.absent = looked_up.await.unwrap_or_default();
        let failure = workflow::check(&graph, &schemas, catalog).err()?;
        Some(*failure.error)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_list_of_classes_tells_nothing() {
        for text in ["", "{}", "[]", "<html>", r#"{"error": "not found"}"#] {
            assert!(Described::read(text.as_bytes(), None).is_none(), "{text}");
        }
    }

    #[test]
    fn files_that_travel_with_a_job_are_left_to_the_worker() {
        // As ComfyUI writes numbers that are none.
        let text = r#"{"LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": true}]}}, "output": ["IMAGE"],
            "python_module": "nodes"}, "B": {"input": {"required": {"x": ["FLOAT", {"max": Infinity}]}}, "output_node": true}}"#;
        let described = Described::read(text.as_bytes(), Some(br#"{"Old": {}}"#)).unwrap();
        let graph = json!({"1": {"class_type": "LoadImage", "inputs": {"image": "b.png"}}});
        let schemas = described.schemas_of(&Graph::parse(&graph).unwrap());
        let image = &schemas.classes["LoadImage"].inputs["image"];
        assert_eq!((&image.kind, image.upload.is_some()), (&InputKind::Unchecked, true));
        assert!(schemas.names.is_empty() && schemas.replaced.contains("Old"));
        let graph = json!({"1": {"class_type": "C", "inputs": {}}});
        let schemas = described.schemas_of(&Graph::parse(&graph).unwrap());
        assert_eq!(schemas.names, ["LoadImage", "B"]);
    }
}
