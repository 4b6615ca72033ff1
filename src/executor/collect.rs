//! Stage: what the graph left behind, found in the history's outputs.

use std::path::Path;

use serde_json::Value;

use crate::comfy::Comfy;
use crate::comfy::client::HistoryEntry;
use crate::job::{FileKind, OutputFile, OutputFolder, OutputText};

/// What a graph left behind.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) files: Vec<OutputFile>,
    pub(super) texts: Vec<OutputText>,
    pub(super) warnings: Vec<String>,
    /// Nothing was left, or a file that the history names is not there.
    pub(super) incomplete: bool,
}

pub(super) async fn collect(comfy: &Comfy, entry: &HistoryEntry) -> Collected {
    let mut collected = from_history(entry);
    if let Some(folders) = comfy.folders() {
        let mut there = Vec::with_capacity(collected.files.len());
        for mut file in collected.files.drain(..) {
            let path = folders.path(file.folder, &file.subfolder, &file.filename);
            if exists(path.as_deref()).await {
                there.push(file);
                continue;
            }
            // Some 3D viewers tell the path of a file in the temp folder.
            let preview = folders.path(OutputFolder::Temp, &file.subfolder, &file.filename);
            if file.kind == FileKind::Model3d && exists(preview.as_deref()).await {
                file.folder = OutputFolder::Temp;
                there.push(file);
                continue;
            }
            collected.incomplete = true;
            let name = display_name(&file);
            collected.warnings.push(if path.is_some() {
                format!("node {} names the file {name}, which is not there", file.node_id)
            } else {
                format!(
                    "node {} names the file {name}, which lies outside ComfyUI's folders and is not returned",
                    file.node_id
                )
            });
        }
        collected.files = there;
    }
    collected.incomplete |= collected.files.is_empty() && collected.texts.is_empty();
    collected
}

async fn exists(path: Option<&Path>) -> bool {
    match path {
        Some(path) => tokio::fs::try_exists(path).await.unwrap_or(false),
        None => false,
    }
}

/// ComfyUI's outputs: `{node: {"images": [{filename, subfolder, type}], "text": ["…"], "animated": [false]}}`. The
/// keys are each node's own affair, so what counts is the shape of the entries.
fn from_history(entry: &HistoryEntry) -> Collected {
    let mut collected = Collected::default();
    for (node_id, output) in &entry.outputs {
        for (key, value) in output.as_object().into_iter().flatten() {
            match whole_text(value) {
                Some(text) => collected.text(node_id, text),
                None => collected.add(node_id, key, value),
            }
        }
    }
    collected
}

/// A text that is no list. ComfyUI joins the lists of a node's outputs (`get_output_data` in its execution.py), and so
/// makes a list of characters of a node's `{"ui": {"text": "hello"}}`.
fn whole_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.len() > 1 => {
            let character = |item: &Value| item.as_str().is_some_and(|text| text.chars().count() == 1);
            let text = items
                .iter()
                .all(character)
                .then(|| items.iter().filter_map(Value::as_str));
            text.map(Iterator::collect)
        }
        _ => None,
    }
}

/// The path of a 3D file, which viewers such as `Preview3D` tell as text (`["mesh/a.glb", camera, background]`), in the
/// output folder as ComfyUI takes it (`normalize_output_item` in its jobs.py).
fn model_path<'a>(key: &str, text: &'a str) -> Option<(&'a str, &'a str)> {
    if matches!(key, "text" | "string") || FileKind::of(text) != FileKind::Model3d || text.contains(['\n', '\\']) {
        return None;
    }
    Some(text.rsplit_once('/').unwrap_or(("", text)))
}

impl Collected {
    fn text(&mut self, node_id: &str, text: String) {
        self.texts.push(OutputText {
            node_id: node_id.to_owned(),
            text,
        });
    }

    fn add(&mut self, node_id: &str, key: &str, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.add(node_id, key, item)),
            Value::String(text) => match model_path(key, text) {
                Some((subfolder, filename)) => self.file(node_id, filename, subfolder, OutputFolder::Output),
                // The background of a 3D viewer, which is a picture that went in.
                None if key == "result" && text.starts_with("temp/") => {}
                None => self.text(node_id, text.clone()),
            },
            Value::Object(item) => {
                let text = |key: &str| item.get(key).and_then(Value::as_str);
                let Some(filename) = text("filename") else { return };
                let folder = match text("type") {
                    Some("temp") => OutputFolder::Temp,
                    Some("input") => OutputFolder::Input,
                    _ => OutputFolder::Output,
                };
                self.file(node_id, filename, text("subfolder").unwrap_or_default(), folder);
            }
            _ => {}
        }
    }

    /// A file that two nodes name, such as one that saves it and one that shows it, is one file.
    fn file(&mut self, node_id: &str, filename: &str, subfolder: &str, folder: OutputFolder) {
        let subfolder = subfolder.replace('\\', "/").trim_matches('/').to_owned();
        let same = |file: &OutputFile| {
            (file.filename.as_str(), &file.subfolder, file.folder) == (filename, &subfolder, folder)
        };
        if self.files.iter().any(same) {
            return;
        }
        self.files.push(OutputFile {
            node_id: node_id.to_owned(),
            kind: FileKind::of(filename),
            filename: filename.to_owned(),
            subfolder,
            folder,
            url: None,
            recoded: None,
            base64: None,
        });
    }
}

fn display_name(file: &OutputFile) -> String {
    if file.subfolder.is_empty() {
        format!("`{}`", file.filename)
    } else {
        format!("`{}/{}`", file.subfolder, file.filename)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::comfy::client::PromptEnd;

    fn collected(outputs: Value) -> Collected {
        let Value::Object(outputs) = outputs else {
            unreachable!()
        };
        from_history(&HistoryEntry {
            outputs,
            end: PromptEnd::Success,
            cached: Vec::new(),
        })
    }

    fn files(collected: &Collected) -> Vec<(&str, FileKind, OutputFolder, String)> {
        let files = collected.files.iter();
        files
            .map(|file| (file.node_id.as_str(), file.kind, file.folder, display_name(file)))
            .collect()
    }

    fn texts(collected: &Collected) -> Vec<(&str, &str)> {
        let texts = collected.texts.iter();
        texts.map(|text| (text.node_id.as_str(), text.text.as_str())).collect()
    }

    #[test]
    fn every_kind_of_output_is_found() {
        let collected = collected(json!({
            "9": {"images": [{"filename": "a_00001_.png", "subfolder": "x/y", "type": "output"}], "animated": [false]},
            "10": {"gifs": [{"filename": "v.mp4", "subfolder": "", "type": "temp", "format": "video/h264-mp4"}]},
            "11": {"text": ["hello", "world"]},
            "12": {"audio": [{"filename": "s.flac", "subfolder": "audio", "type": "output"}]},
            "13": {"3d": [{"filename": "m.glb", "subfolder": "mesh", "type": "output"}]},
            "14": {"images": [{"filename": "v.webm", "subfolder": "video", "type": "output"}], "animated": [true]},
            "15": {"text": ["{}"], "files": [{"filename": "t.json", "subfolder": "text", "type": "output"}]},
            "16": {"a_images": [{"filename": "c.png", "subfolder": "", "type": "temp"}], "b_images": []},
            "17": {"latents": [{"filename": "l.latent", "subfolder": "latents", "type": "output"}]},
        }));
        let output = OutputFolder::Output;
        assert_eq!(
            files(&collected),
            [
                ("9", FileKind::Image, output, "`x/y/a_00001_.png`".to_owned()),
                ("10", FileKind::Video, OutputFolder::Temp, "`v.mp4`".to_owned()),
                ("12", FileKind::Audio, output, "`audio/s.flac`".to_owned()),
                ("13", FileKind::Model3d, output, "`mesh/m.glb`".to_owned()),
                ("14", FileKind::Video, output, "`video/v.webm`".to_owned()),
                ("15", FileKind::Text, output, "`text/t.json`".to_owned()),
                ("16", FileKind::Image, OutputFolder::Temp, "`c.png`".to_owned()),
                ("17", FileKind::Other, output, "`latents/l.latent`".to_owned()),
            ]
        );
        assert_eq!(texts(&collected), [("11", "hello"), ("11", "world"), ("15", "{}")]);
    }

    #[test]
    fn a_text_that_is_no_list_is_whole() {
        let collected = collected(json!({
            "1": {"text": ["h", "e", "l", "l", "ö"]},
            "2": {"text": "hello"},
            "3": {"text": [["a", "list"], "in a list"]},
            "4": {"text": ["x"]},
            "5": {"dims": [64, 64], "text": []},
        }));
        assert_eq!(
            texts(&collected),
            [
                ("1", "hellö"),
                ("2", "hello"),
                ("3", "a"),
                ("3", "list"),
                ("3", "in a list"),
                ("4", "x")
            ]
        );
    }

    #[test]
    fn a_3d_viewer_names_its_file_by_a_path() {
        let collected = collected(json!({
            "1": {"result": ["mesh/ComfyUI_00001_.glb", {"position": {}}, "temp/bg_1.png"]},
            "2": {"result": ["ComfyUI_00002_.obj", null, null]},
            "3": {"3d": [{"filename": "ComfyUI_00001_.glb", "subfolder": "mesh", "type": "output"}]},
            "4": {"text": ["see mesh.glb"]},
        }));
        assert_eq!(
            files(&collected),
            [
                (
                    "1",
                    FileKind::Model3d,
                    OutputFolder::Output,
                    "`mesh/ComfyUI_00001_.glb`".to_owned()
                ),
                (
                    "2",
                    FileKind::Model3d,
                    OutputFolder::Output,
                    "`ComfyUI_00002_.obj`".to_owned()
                ),
            ],
            "each file once"
        );
        assert_eq!(texts(&collected), [("4", "see mesh.glb")]);
    }
}
