//! Stage: what the graph left behind, found in the history's outputs.

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
        for file in collected.files.drain(..) {
            let path = folders.path(file.folder, &file.subfolder, &file.filename);
            let found = match &path {
                Some(path) => tokio::fs::try_exists(path).await.unwrap_or(false),
                None => false,
            };
            if found {
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

/// ComfyUI's outputs: `{node: {"images": [{filename, subfolder, type}], "text": ["…"], "animated": [false]}}`. The
/// keys are each node's own affair, so what counts is the shape of the entries.
fn from_history(entry: &HistoryEntry) -> Collected {
    let mut collected = Collected::default();
    for (node_id, output) in &entry.outputs {
        let lists = output.as_object().into_iter().flat_map(|output| output.values());
        for item in lists.filter_map(Value::as_array).flatten() {
            if let Value::String(text) = item {
                collected.texts.push(OutputText {
                    node_id: node_id.clone(),
                    text: text.clone(),
                });
                continue;
            }
            let Some(filename) = item.get("filename").and_then(Value::as_str) else {
                continue;
            };
            let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
            let folder = match text("type") {
                "temp" => OutputFolder::Temp,
                "input" => OutputFolder::Input,
                _ => OutputFolder::Output,
            };
            collected.files.push(OutputFile {
                node_id: node_id.clone(),
                kind: FileKind::of(filename),
                filename: filename.to_owned(),
                subfolder: text("subfolder").replace('\\', "/").trim_matches('/').to_owned(),
                folder,
                url: None,
                base64: None,
            });
        }
    }
    collected
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

    #[test]
    fn every_kind_of_output_is_found() {
        let outputs = json!({
            "9": {"images": [{"filename": "a_00001_.png", "subfolder": "x/y", "type": "output"}], "animated": [false]},
            "10": {"gifs": [{"filename": "v.mp4", "subfolder": "", "type": "temp", "format": "video/h264-mp4"}]},
            "11": {"text": ["hello", "world"]},
            "12": {"audio": [{"filename": "s.flac", "subfolder": "audio", "type": "output"}]},
        });
        let Value::Object(outputs) = outputs else {
            unreachable!()
        };
        let collected = from_history(&HistoryEntry {
            outputs,
            end: PromptEnd::Success,
            cached: Vec::new(),
        });
        let files: Vec<_> = collected
            .files
            .iter()
            .map(|f| (f.node_id.as_str(), f.kind, f.folder, display_name(f)))
            .collect();
        assert_eq!(
            files,
            [
                (
                    "9",
                    FileKind::Image,
                    OutputFolder::Output,
                    "`x/y/a_00001_.png`".to_owned()
                ),
                ("10", FileKind::Video, OutputFolder::Temp, "`v.mp4`".to_owned()),
                ("12", FileKind::Audio, OutputFolder::Output, "`audio/s.flac`".to_owned()),
            ]
        );
        assert_eq!(collected.texts.len(), 2);
    }
}
