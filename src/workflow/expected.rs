//! Files that a job brings and that are not there yet, for a check of its graph before that.

use std::sync::Arc;

use super::graph::Graph;
use super::models::model_folder;
use super::schema::{InputKind, Schemas};
use crate::config::model_folder::kind_of;

/// A file that will be there when the graph runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// How the graph calls it.
    pub name: String,
    /// ComfyUI's kind of model; [`None`]: it is a file of the input folder.
    pub model: Option<String>,
}

/// Adds the files to the lists of the inputs that name them, as if ComfyUI listed them already. A model is added where models
/// of its kind are listed, and any other file where files of the input folder are.
pub fn expect(graph: &Graph, schemas: &mut Schemas, files: &[Expected]) {
    if files.is_empty() {
        return;
    }
    for node in graph.nodes.values() {
        for (input, value) in &node.inputs {
            let Some(file) = value
                .as_str()
                .and_then(|text| files.iter().find(|file| file.name == text))
            else {
                continue;
            };
            let Some(spec) = schemas.classes.get_mut(&node.class_type) else {
                continue;
            };
            let is_listed_here = |upload: bool| match &file.model {
                None => upload,
                Some(kind) => {
                    !upload && model_folder(&node.class_type, input).is_none_or(|folder| kind_of(folder) == kind)
                }
            };
            if !spec.inputs.get(input.as_str()).is_some_and(|input| {
                matches!(input.kind, InputKind::Combo(_)) && is_listed_here(input.upload.is_some())
            }) {
                continue;
            }
            let input = Arc::make_mut(spec).inputs.get_mut(input.as_str());
            if let Some(InputKind::Combo(options)) = input.map(|input| &mut input.kind) {
                let mut all = std::mem::take(options).into_vec();
                all.push(file.name.as_str().into());
                *options = all.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workflow::{ModelCatalog, check, testing};

    #[test]
    fn what_a_job_brings_passes_where_it_is_taken() {
        let problems = |model: Option<&str>, class: &str, input: &str, name: &str| {
            let graph = testing::changed(|graph| {
                graph["new"] = json!({"class_type": class, "inputs": {input: name}});
                graph["end"] = json!({"class_type": "PreviewAny", "inputs": {"source": ["new", 0]}});
            });
            let mut schemas = testing::schemas();
            let files = [Expected {
                name: name.to_owned(),
                model: model.map(str::to_owned),
            }];
            expect(&graph, &mut schemas, &files);
            let checked = check(&graph, &schemas, &ModelCatalog::default());
            let problems = checked.map_or_else(|failure| failure.error.problems, |()| Vec::new());
            problems
                .iter()
                .filter(|problem| problem.input.as_deref() == Some(input))
                .count()
        };
        assert_eq!(problems(None, "LoadImage", "image", "graph_1.png"), 0);
        assert_eq!(problems(Some("loras"), "LoadImage", "image", "graph_1.png"), 1);
        assert_eq!(problems(Some("vae"), "VAELoader", "vae_name", "id/x.safetensors"), 0);
        assert_eq!(problems(Some("loras"), "VAELoader", "vae_name", "id/x.safetensors"), 1);
        assert_eq!(problems(None, "VAELoader", "vae_name", "id/x.safetensors"), 1);
    }
}
