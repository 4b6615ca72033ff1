//! Which models a job needs in the memory of its engine.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};

use crate::job::{JobRequest, Work};
use crate::workflow::Graph;

/// Two jobs of the same signature run one after the other without any model being loaded in between, as far as a request
/// tells. It is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature(u64);

impl Signature {
    /// That of a request; [`None`] where it does not tell, or no model is loaded.
    pub fn of(request: &JobRequest) -> Option<Self> {
        match &request.work {
            Work::Workflow(graph) => Self::of_graph(graph),
            // It is converted by its engine.
            Work::Saved(_) => None,
            Work::Template(template) => {
                // A request that names none gets one by whether it brings images.
                let chosen = match &template.template {
                    Some(name) => (Some(name.as_str()), false),
                    None => (None, request.images.is_empty()),
                };
                let loras = template.loras.iter().map(|lora| &lora.name).collect::<Vec<_>>();
                Some(Self::hashed((chosen, loras)))
            }
        }
    }

    /// Each loader with the files that it names.
    fn of_graph(graph: &Graph) -> Option<Self> {
        let mut loaded: Vec<(&str, Vec<&str>)> = graph
            .nodes
            .values()
            .filter_map(|node| {
                let files: Vec<_> = node.model_names().collect();
                (!files.is_empty()).then_some((node.class_type.as_str(), files))
            })
            .collect();
        // Where a node stands in the graph says nothing.
        loaded.sort_unstable();
        (!loaded.is_empty()).then(|| Self::hashed(loaded))
    }

    fn hashed(what: impl Hash) -> Self {
        Self(BuildHasherDefault::<DefaultHasher>::default().hash_one(what))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::{Delivery, TemplateRequest};
    use crate::workflow::Lora;

    fn request(work: Work) -> JobRequest {
        JobRequest {
            work,
            images: Vec::new(),
            delivery: Delivery::default(),
            org_api_key: None,
            extra_data: serde_json::Map::new(),
            warnings: Vec::new(),
        }
    }

    fn graph(loader: &str, file: &str, first: &str, prompt: &str) -> Option<Signature> {
        let graph = json!({
            first: {"class_type": loader, "inputs": {"ckpt_name": file}},
            "5": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt, "clip": [first, 1]}},
        });
        Signature::of(&request(Work::Workflow(Graph::parse(&graph).unwrap())))
    }

    #[test]
    fn loaders_and_their_files_count_and_nothing_else() {
        let one = graph("CheckpointLoaderSimple", "a.safetensors", "1", "a cat");
        assert!(one.is_some());
        assert_eq!(one, graph("CheckpointLoaderSimple", "a.safetensors", "9", "a dog"));
        assert_ne!(one, graph("CheckpointLoaderSimple", "b.safetensors", "1", "a cat"));
        assert_ne!(one, graph("UNETLoader", "a.safetensors", "1", "a cat"));
        assert_eq!(graph("EmptyImage", "none", "1", "a cat"), None);
    }

    #[test]
    fn a_templates_name_and_its_loras_count() {
        let of = |template: Option<&str>, prompt: &str, lora: Option<&str>| {
            Signature::of(&request(Work::Template(TemplateRequest {
                template: template.map(str::to_owned),
                prompt: prompt.to_owned(),
                loras: lora
                    .into_iter()
                    .map(|name| Lora {
                        name: name.to_owned(),
                        strength: 1.0,
                    })
                    .collect(),
                ..TemplateRequest::default()
            })))
        };
        let one = of(Some("qwen-image"), "a cat", None);
        assert_eq!(one, of(Some("qwen-image"), "a dog", None));
        assert_ne!(one, of(Some("flux-dev"), "a cat", None));
        assert_ne!(one, of(Some("qwen-image"), "a cat", Some("x.safetensors")));
        assert_eq!(of(None, "a", None), of(None, "b", None));
    }
}
