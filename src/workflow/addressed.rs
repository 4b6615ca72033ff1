//! The inputs of a graph that name models, where an address stands in place of a name.

use serde_json::Value;

use super::graph::{Graph, Link};
use super::model_address::ModelAddress;
use super::models::model_folder;
use super::schema::{InputKind, InputSpec, Schemas};
use crate::config::is_model_file;
use crate::echo::cut;

/// How many nodes are followed to a model.
const MOST_FOLLOWED: usize = 256;
/// The folder of models from which an input of a custom node takes its files, by a word in its name; the first that is there.
const WORDS: [(&str, &str); 14] = [
    ("lora", "loras"),
    ("clip_vision", "clip_vision"),
    ("style_model", "style_models"),
    ("control", "controlnet"),
    ("model_patch", "model_patches"),
    ("audio_encoder", "audio_encoders"),
    ("upscale", "upscale_models"),
    ("vae", "vae"),
    ("unet", "diffusion_models"),
    ("diffusion", "diffusion_models"),
    ("ckpt", "checkpoints"),
    ("checkpoint", "checkpoints"),
    ("clip", "text_encoders"),
    ("text_encoder", "text_encoders"),
];
/// Inputs of ComfyUI's own whose names do not tell.
const BY_CLASS: [(&str, &str, &str); 1] = [("ModelPatchLoader", "name", "model_patches")];

/// An input that names a model by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressedModel {
    /// The node's id in the graph.
    pub node: String,
    /// Its class.
    pub class: String,
    /// The input.
    pub input: String,
    /// ComfyUI's kind of model that the input takes.
    pub folder: &'static str,
    /// The address, as it stands there.
    pub address: String,
}

impl std::fmt::Display for AddressedModel {
    /// `` `lora_name` of node 1 (LoraLoader) ``
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (input, node, class) = (cut(&self.input), cut(&self.node), cut(&self.class));
        write!(f, "`{input}` of node {node} ({class})")
    }
}

/// Whether some text of the graph is meant as an address. Most graphs have none, and need no further look.
pub fn may_address_models(graph: &Graph) -> bool {
    let mut values = graph.nodes.values().flat_map(|node| node.inputs.values());
    values.any(|value| value.as_str().is_some_and(ModelAddress::is_meant))
}

/// The inputs that take a model from ComfyUI's list, and have an address in its place. An address anywhere else is none of
/// ours: it may be a part of a prompt, or what a node fetches by itself.
pub fn addressed_models(graph: &Graph, schemas: &Schemas) -> Vec<AddressedModel> {
    let mut found = Vec::new();
    for (id, node) in &graph.nodes {
        let Some(spec) = schemas.classes.get(&node.class_type) else {
            continue;
        };
        for (input, value) in &node.inputs {
            let Some(text) = value.as_str().filter(|text| ModelAddress::is_meant(text)) else {
                continue;
            };
            let folder = spec
                .inputs
                .get(input.as_str())
                .filter(|spec| lists_models(spec))
                .and_then(|_| folder_of(&node.class_type, input));
            if let Some(folder) = folder {
                found.push(AddressedModel {
                    node: id.clone(),
                    class: node.class_type.clone(),
                    input: input.clone(),
                    folder,
                    address: text.to_owned(),
                });
            }
        }
    }
    found
}

/// Puts the name by which ComfyUI lists the model in the place of its address.
pub fn put_model(graph: &mut Graph, place: &AddressedModel, name: &str) {
    if let Some(node) = graph.get_mut(&place.node) {
        node.inputs.insert(place.input.clone(), Value::from(name));
    }
}

/// The model that a node gets through its input `model`, by the loader at the other end: the folder and the name of its file.
pub fn model_behind<'a>(graph: &'a Graph, node: &str) -> Option<(&'static str, &'a str)> {
    let mut node = graph.get(node)?;
    for _ in 0..MOST_FOLLOWED {
        let link = Link::parse("model", node.inputs.get("model")?)?;
        node = graph.get(link.source)?;
        let named = |input: &str| node.inputs.get(input).and_then(Value::as_str);
        if let Some(name) = named("unet_name") {
            return Some(("diffusion_models", name));
        }
        if let Some(name) = named("ckpt_name") {
            return Some(("checkpoints", name));
        }
    }
    None
}

/// Whether an input takes one of a list of model files. With none installed the list is empty.
fn lists_models(spec: &InputSpec) -> bool {
    let InputKind::Combo(options) = &spec.kind else {
        return false;
    };
    let is_model = |option: &str| is_model_file(option.as_ref());
    spec.upload.is_none() && (options.is_empty() || options.iter().any(|option| is_model(option)))
}

fn folder_of(class: &str, input: &str) -> Option<&'static str> {
    let by_class = || {
        let known = BY_CLASS.iter().find(|(of, name, _)| *of == class && *name == input);
        known.map(|(.., folder)| *folder)
    };
    let by_word = || {
        let name = input.to_ascii_lowercase();
        WORDS
            .iter()
            .find(|(word, _)| name.contains(word))
            .map(|(_, folder)| *folder)
    };
    model_folder(class, input).or_else(by_class).or_else(by_word)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workflow::testing;

    const LORA: &str = "https://huggingface.co/o/n/blob/main/x.safetensors";

    #[test]
    fn addresses_are_found_where_models_are_listed_and_nowhere_else() {
        let graph = testing::changed(|graph| {
            graph["lora"] = json!({"class_type": "LoraLoaderModelOnly", "inputs": {
                "model": ["unet", 0], "lora_name": LORA, "strength_model": 1.0}});
            graph["more"] = json!({"class_type": "LoraLoaderModelOnly", "inputs": {
                "model": ["lora", 0], "lora_name": "civitai:7", "strength_model": 1.0}});
            graph["unet"] = json!({"class_type": "UNETLoader", "inputs": {
                "unet_name": "a.safetensors", "weight_dtype": "default"}});
            graph["text"] = json!({"class_type": "CLIPTextEncode", "inputs": {"text": LORA, "clip": ["clip", 0]}});
            graph["file"] = json!({"class_type": "LoadImage", "inputs": {"image": LORA}});
        });
        assert!(may_address_models(&graph));
        let found = addressed_models(&graph, &testing::schemas());
        let found: Vec<_> = found
            .iter()
            .map(|place| (place.node.as_str(), place.folder, place.address.as_str()))
            .collect();
        assert_eq!(found, [("lora", "loras", LORA), ("more", "loras", "civitai:7")]);
        assert_eq!(
            model_behind(&graph, "more"),
            Some(("diffusion_models", "a.safetensors"))
        );
        assert_eq!(model_behind(&graph, "unet"), None);
        assert_eq!(model_behind(&graph, "nothing"), None);
    }

    #[test]
    fn inputs_of_custom_nodes_tell_their_folder_by_their_names() {
        for (input, folder) in [
            ("lora_01", Some("loras")),
            ("clip_vision_name", Some("clip_vision")),
            ("Checkpoint", Some("checkpoints")),
            ("vae_model", Some("vae")),
            ("something", None),
        ] {
            assert_eq!(folder_of("Custom", input), folder, "{input}");
        }
        assert_eq!(folder_of("ModelPatchLoader", "name"), Some("model_patches"));
    }
}
