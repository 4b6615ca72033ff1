//! What the executor changes in a graph before it is submitted: the names of uploaded files, and the mark that makes
//! ComfyUI run its output nodes again.

use std::borrow::Cow;

use serde_json::Value;
use unicode_normalization::{IsNormalized, UnicodeNormalization as _, is_nfc_quick};

use super::file_input::for_each_name;
use super::graph::Graph;
use super::schema::Schemas;

/// The input that [`mark_rerun`] adds.
const RERUN: &str = "_rerun";

/// How ComfyUI marks a name as one of its input folder, which is where it looks anyway.
pub(crate) const INPUT_MARK: &str = " [input]";

/// Rewrites the inputs that name an uploaded file: (name in the request, name under which ComfyUI finds it, such as
/// `folder/name.png`). `name [input]`, ComfyUI's long form, is rewritten as well. What macOS writes as two characters (`u` and
/// its dots) and others as one (`ü`) is the same name; those of the request are in the second form.
///
/// Only inputs that take files are touched, so a prompt that happens to be a file name stays: those that the schema
/// marks as uploads, and, of classes that are called as loaders are, lists and texts. Of a class that is not known, every
/// text of a `Load…` node counts.
pub fn use_uploaded(graph: &mut Graph, schemas: &Schemas, renames: &[(String, String)]) {
    if renames.is_empty() {
        return;
    }
    for node in graph.nodes.values_mut() {
        let spec = schemas.classes.get(&node.class_type).cloned();
        for_each_name(node, spec.as_deref(), |written| {
            let plain = nfc(written.strip_suffix(INPUT_MARK).unwrap_or(written));
            let found = renames.iter().find(|(requested, _)| *requested == plain);
            if let Some((_, found)) = found {
                *written = found.clone();
            }
        });
    }
}

/// The name in Unicode's composed form.
pub(crate) fn nfc(name: &str) -> Cow<'_, str> {
    match is_nfc_quick(name.chars()) {
        IsNormalized::Yes => Cow::Borrowed(name),
        _ => Cow::Owned(name.nfc().collect()),
    }
}

/// Adds an input that no class has to every output node, so that ComfyUI's cache does not know these nodes and runs
/// them again. What they depend on stays cached. Used when a graph comes back without files because it has run before.
///
/// `nonce` must be another for each run.
pub fn mark_rerun(graph: &mut Graph, schemas: &Schemas, nonce: &str) {
    for node in graph.nodes.values_mut() {
        if schemas
            .classes
            .get(&node.class_type)
            .is_some_and(|spec| spec.output_node)
        {
            node.inputs.insert(RERUN.to_owned(), Value::from(nonce));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workflow::testing;

    #[test]
    fn only_inputs_that_take_files_are_rewritten() {
        let mut graph = Graph::parse(&json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "cat.png [input]"}},
            "3": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
            "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "cat.png", "clip": ["9", 0]}},
            "5": {"class_type": "LoadSomethingUnknown", "inputs": {"path": "cat.png"}},
            "6": {"class_type": "SomethingUnknown", "inputs": {"path": "cat.png"}},
            "7": {"class_type": "LoadVideo", "inputs": {"file": "cat.png", "comment": "cat.png"}},
            "8": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "cat.png"}},
            "9": {"class_type": "LoadImage", "inputs": {"image": "fu\u{308}r [input]"}},
            "10": {"class_type": "VHS_LoadVideo", "inputs": {"video": "cat.png"}},
            "11": {"class_type": "Load3D", "inputs": {"image": {"image": "cat.png", "mask": "cat.png [temp]"}}},
        }))
        .expect("a graph");
        let renames = [
            ("cat.png".to_owned(), "job/cat.png".to_owned()),
            ("für".to_owned(), "job/für".to_owned()),
        ];
        use_uploaded(&mut graph, &testing::schemas(), &renames);
        let input = |id: &str, input: &str| graph.nodes[id].inputs[input].as_str().expect("text");
        assert_eq!(input("1", "image"), "job/cat.png");
        assert_eq!(input("2", "image"), "job/cat.png");
        assert_eq!(input("3", "image"), "example.png");
        assert_eq!(input("4", "text"), "cat.png");
        assert_eq!(input("5", "path"), "job/cat.png");
        assert_eq!(input("6", "path"), "cat.png");
        assert_eq!(input("7", "file"), "job/cat.png");
        assert_eq!(input("7", "comment"), "cat.png");
        assert_eq!(input("8", "filename_prefix"), "cat.png");
        assert_eq!(input("9", "image"), "job/für");
        assert_eq!(input("10", "video"), "job/cat.png");
        let view = &graph.nodes["11"].inputs["image"];
        assert_eq!(*view, json!({"image": "job/cat.png", "mask": "cat.png [temp]"}));
    }

    #[test]
    fn output_nodes_alone_are_marked() {
        let mut graph = testing::changed(|_| ());
        mark_rerun(&mut graph, &testing::schemas(), "x1");
        let marked: Vec<_> = graph
            .nodes
            .iter()
            .filter(|(_, node)| node.inputs.contains_key(RERUN))
            .map(|(id, _)| id.as_str())
            .collect();
        assert_eq!(marked, ["60"]);
    }
}
