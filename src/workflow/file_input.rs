//! The inputs of a graph that name files of ComfyUI's input folder, and what people write there instead: the file itself, or
//! where it is.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::graph::{Graph, Node};
use super::schema::{ClassSpec, InputKind, InputSpec, Schemas};
use crate::echo;

/// Loaders whose file ComfyUI 0.30 looks for in its input folder, and the input that names it: before it has described its
/// classes, and where its description says nothing of files (`LoadLatent`, and those of `ComfyUI-VideoHelperSuite`, whose
/// buttons for uploads are scripts of its own).
const LOADERS: [(&str, &str); 12] = [
    ("LoadImage", "image"),
    ("LoadImageMask", "image"),
    ("LoadImageOutput", "image"),
    ("LoadAudio", "audio"),
    ("LoadVideo", "file"),
    ("Load3D", "model_file"),
    ("Load3DAdvanced", "model_file"),
    ("LoadLatent", "latent"),
    ("Painter", "mask"),
    ("VHS_LoadVideo", "video"),
    ("VHS_LoadVideoFFmpeg", "video"),
    ("VHS_LoadAudioUpload", "audio"),
];

/// What the page's 3D view leaves in a graph: an object whose texts name pictures that it took.
const VIEWS: [(&str, &str); 1] = [("Load3D", "image")];
const VIEW_TYPE: &str = "LOAD_3D";

/// Texts are longer than this where they are a file in base64, whatever they begin with: no name is as long.
const LONGEST_NAME: usize = 255;
/// The shortest text that is a file in base64 where it begins as one.
const SHORTEST_FILE: usize = 64;
/// How files begin in base64: PNG, JPEG, RIFF (WebP, WAV), GIF, OGG, MP3, FLAC, `WebM`, GLB, PLY.
const BEGINNINGS: [&str; 10] = [
    "iVBORw0KGgo",
    "/9j/",
    "UklGR",
    "R0lGOD",
    "T2dnUw",
    "SUQz",
    "ZkxhQ",
    "GkXfo",
    "Z2xURg",
    "cGx5C",
];

/// An input that names a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInput {
    /// The node's id in the graph.
    pub node: String,
    /// Its class.
    pub class: String,
    /// The input; `image.mask` for a text within the object `image`.
    pub input: String,
}

impl fmt::Display for FileInput {
    /// `` `image` of node 1 (LoadImage) ``
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (input, node, class) = (echo::cut(&self.input), echo::cut(&self.node), echo::cut(&self.class));
        write!(f, "`{input}` of node {node} ({class})")
    }
}

/// What stands in place of a file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    DataUri,
    Address,
    Base64,
}

impl Content {
    /// What a text is if it can be no file's name.
    pub(super) fn of(text: &str) -> Option<Self> {
        let text = text.trim();
        let begin = text.get(..32).unwrap_or(text);
        if begin.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case("data:")) {
            return Some(Self::DataUri);
        }
        if begin.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme)) {
            return Some(Self::Address);
        }
        let begins = || text.len() >= SHORTEST_FILE && BEGINNINGS.iter().any(|begin| text.starts_with(begin));
        ((text.len() > LONGEST_NAME || begins()) && text.bytes().all(is_of_base64)).then_some(Self::Base64)
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Names have points, which base64 has not.
fn is_of_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=-_\r\n".contains(&byte)
}

/// Whether some text of the graph is a file, or where one is, as far as the text says. Most graphs have none, and need no
/// further look.
pub fn may_hold_contents(graph: &Graph) -> bool {
    let values = graph.nodes.values().flat_map(|node| node.inputs.values());
    values.flat_map(texts).any(|text| Content::of(text).is_some())
}

/// The texts of a graph that are a file, or where one is, in inputs that take files: those that ComfyUI's description of the
/// class marks as uploads, and the loaders that are known without one. The texts of other inputs are left alone: an address
/// in a prompt is a part of the prompt.
pub fn contents<'g>(graph: &'g mut Graph, schemas: Option<&Schemas>) -> Vec<(FileInput, &'g mut String)> {
    let mut found = Vec::new();
    for (id, node) in &mut graph.nodes {
        let spec = schemas.and_then(|schemas| schemas.classes.get(&node.class_type));
        let Node {
            class_type: class,
            inputs,
            ..
        } = node;
        for (input, value) in inputs {
            let spec = spec.and_then(|spec| spec.inputs.get(input.as_str()));
            let place = |input: String| FileInput {
                node: id.clone(),
                class: class.clone(),
                input,
            };
            match value {
                Value::String(text) if takes_contents(class, input, spec) && Content::of(text).is_some() => {
                    found.push((place(input.clone()), text));
                }
                Value::Object(view) if is_view(class, input, spec) => {
                    for (part, value) in view {
                        if let Value::String(text) = value
                            && Content::of(text).is_some()
                        {
                            found.push((place(format!("{input}.{part}")), text));
                        }
                    }
                }
                _ => {}
            }
        }
    }
    found
}

/// Calls `each` for the texts of a node that may name a file of the input folder: those of inputs that are marked as
/// uploads, and, of loaders, lists and texts. Of a loader that is not known, every text counts.
pub(super) fn for_each_name(node: &mut Node, spec: Option<&ClassSpec>, mut each: impl FnMut(&mut String)) {
    let Node {
        class_type: class,
        inputs,
        ..
    } = node;
    let loads = is_loader(class);
    for (input, value) in inputs {
        let input_spec = spec.and_then(|spec| spec.inputs.get(input.as_str()));
        let names_files = match (spec, input_spec) {
            (None, _) => loads,
            (Some(_), Some(input)) => may_name(input, loads),
            (Some(_), None) => false,
        };
        match value {
            Value::String(text) if names_files => each(text),
            Value::Object(view) if is_view(class, input, input_spec) => {
                for value in view.values_mut() {
                    if let Value::String(text) = value {
                        each(text);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a class is called as those are that load something: `LoadImage`, `VHS_LoadVideo`.
pub fn is_loader(class: &str) -> bool {
    class
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| word.starts_with("Load"))
}

/// A text, or the texts of an object.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let within = value.as_object().into_iter().flat_map(serde_json::Map::values);
    value.as_str().into_iter().chain(within.filter_map(Value::as_str))
}

fn takes_contents(class: &str, input: &str, spec: Option<&InputSpec>) -> bool {
    LOADERS.contains(&(class, input)) || spec.is_some_and(|spec| spec.upload.is_some())
}

fn is_view(class: &str, input: &str, spec: Option<&InputSpec>) -> bool {
    let has_type = |spec: &InputSpec| matches!(&spec.kind, InputKind::Link(kind) if **kind == *VIEW_TYPE);
    VIEWS.contains(&(class, input)) || spec.is_some_and(has_type)
}

fn may_name(input: &InputSpec, of_loader: bool) -> bool {
    let is_text = matches!(
        input.kind,
        InputKind::Combo(_) | InputKind::String | InputKind::Unchecked
    );
    input.upload.is_some() || (of_loader && is_text)
}

#[cfg(test)]
#[path = "file_input_tests.rs"]
mod tests;
