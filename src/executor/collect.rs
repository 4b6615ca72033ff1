//! Stage: what the graph left behind, found in the history's outputs.

use indexmap::IndexSet;
use serde_json::{Map, Value};

use super::ledger::Ledger;
use crate::comfy::client::HistoryEntry;
use crate::comfy::{Comfy, ComfyClient, Folders, plain_names};
use crate::echo;
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

pub(super) async fn collect(comfy: &Comfy, entry: &HistoryEntry, ledger: &Ledger) -> Collected {
    let mut collected = from_history(&entry.outputs);
    let named = std::mem::take(&mut collected.files);
    match comfy.folders() {
        Some(folders) => {
            collected.take_from_disk(folders.clone(), named, ledger.clone()).await;
            // Each has previews of its own.
            for file in collected
                .files
                .iter_mut()
                .filter(|file| file.folder == OutputFolder::Temp)
            {
                file.engine = comfy.name_among_others().map(str::to_owned);
            }
        }
        None => collected.files = from_afar(comfy, named).await,
    }
    collected.incomplete |= collected.files.is_empty() && collected.texts.is_empty();
    collected
}

/// The files that nodes name in their outputs.
pub(super) fn named_files<'a>(outputs: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Vec<OutputFile> {
    from_history(outputs).files
}

/// Why a file that a node names is not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is not there.
    Gone,
    /// It lies where a graph's files do not lie.
    Outside,
}

/// The file by its plain names, if it is there. Blocks.
pub(super) fn found(folders: &Folders, file: OutputFile) -> Result<OutputFile, Missing> {
    let mut missing = Missing::Outside;
    for (subfolder, filename) in spellings(&file) {
        let Some((subfolder, filename)) = folders.plain_names(file.folder, &subfolder, &filename) else {
            continue;
        };
        missing = Missing::Gone;
        // Some 3D viewers tell the path of a file in the temp folder.
        let temp = (file.kind == FileKind::Model3d).then_some(OutputFolder::Temp);
        for folder in [file.folder].into_iter().chain(temp) {
            let path = folders.path(folder, &subfolder, &filename);
            if path.is_some_and(|path| path.is_file()) {
                return Ok(OutputFile {
                    filename,
                    subfolder,
                    folder,
                    ..file
                });
            }
        }
    }
    Err(missing)
}

/// The ways in which a node may have meant its subfolder and filename: as they stand, with a separator at the begin that
/// means nothing, and with the separators of another system.
fn spellings(file: &OutputFile) -> Vec<(String, String)> {
    let (subfolder, filename) = (&file.subfolder, &file.filename);
    let relative = subfolder.trim_matches('/');
    let all = IndexSet::from([
        (subfolder.clone(), filename.clone()),
        (relative.to_owned(), filename.clone()),
        (
            relative.replace('\\', "/").trim_matches('/').to_owned(),
            filename.clone(),
        ),
        (relative.replace('\\', "/"), filename.replace('\\', "/")),
    ]);
    all.into_iter().collect()
}

/// The files by names that an attached ComfyUI serves. It is asked where they could be meant in several ways.
async fn from_afar(comfy: &Comfy, named: Vec<OutputFile>) -> Vec<OutputFile> {
    let mut files: Vec<OutputFile> = Vec::with_capacity(named.len());
    for file in named {
        let mut spellings: Vec<_> = spellings(&file).into_iter().map(afar).collect();
        spellings.dedup();
        let (subfolder, filename) = if spellings.len() > 1
            && let Ok(connection) = comfy.connection().await
        {
            served(&connection.client, file.folder, spellings).await
        } else {
            spellings.swap_remove(0)
        };
        let file = OutputFile {
            filename,
            subfolder,
            engine: comfy.name_among_others().map(str::to_owned),
            ..file
        };
        if !files.iter().any(|other| is_same(other, &file)) {
            files.push(file);
        }
    }
    files
}

/// Names without `.` and `..`; an absolute folder stays one, as where the output folder is there is not known here.
fn afar((subfolder, filename): (String, String)) -> (String, String) {
    let plain = plain_names(&std::path::Path::new(&subfolder).join(&filename));
    plain.unwrap_or((subfolder, filename))
}

/// The first spelling that ComfyUI serves, or the first.
async fn served(client: &ComfyClient, folder: OutputFolder, mut spellings: Vec<(String, String)>) -> (String, String) {
    for (index, (subfolder, filename)) in spellings.iter().enumerate() {
        if client.view_length(filename, subfolder, folder.as_str()).await.is_ok() {
            return spellings.swap_remove(index);
        }
    }
    spellings.swap_remove(0)
}

fn is_same(one: &OutputFile, other: &OutputFile) -> bool {
    (&one.filename, &one.subfolder, one.folder) == (&other.filename, &other.subfolder, other.folder)
}

/// ComfyUI's outputs: `{node: {"images": [{filename, subfolder, type}], "text": ["…"], "animated": [false]}}`. The
/// keys are each node's own affair, so what counts is the shape of the entries. A node may leave a list of such objects too, or
/// of files at once, and nothing at all (null).
pub(super) fn from_history<'a>(outputs: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Collected {
    let mut collected = Collected::default();
    for (node_id, output) in outputs {
        let all = match output {
            Value::Array(all) => all.as_slice(),
            one => std::slice::from_ref(one),
        };
        for output in all.iter().filter_map(Value::as_object) {
            if is_file(output) {
                collected.object(node_id, output);
                continue;
            }
            for (key, value) in output {
                match whole_text(value) {
                    Some(text) => collected.text(node_id, text),
                    None => collected.add(node_id, key, value),
                }
            }
        }
    }
    collected
}

/// Whether an object names a file as ComfyUI does.
fn is_file(object: &Map<String, Value>) -> bool {
    object.get("filename").is_some_and(Value::is_string)
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
    /// Takes those of the files that are there, and takes them down in the ledger.
    async fn take_from_disk(&mut self, folders: Folders, named: Vec<OutputFile>, ledger: Ledger) {
        let looked = tokio::task::spawn_blocking(move || {
            let mut files: Vec<OutputFile> = Vec::with_capacity(named.len());
            let mut missing = Vec::new();
            for file in named {
                let name = (file.node_id.clone(), display_name(&file));
                match found(&folders, file) {
                    Ok(file) if files.iter().any(|other| is_same(other, &file)) => {}
                    Ok(file) => files.push(file),
                    Err(why) => missing.push((name, why)),
                }
            }
            ledger.files(&files);
            (files, missing)
        });
        // A panic in it is logged.
        let (files, missing) = looked.await.unwrap_or_default();
        self.files = files;
        for ((node_id, name), why) in missing {
            self.incomplete = true;
            let node = echo::cut(&node_id);
            self.warnings.push(match why {
                Missing::Gone => format!("node {node} names the file {name}, which is not there"),
                Missing::Outside => format!(
                    "node {node} names the file {name}, which lies outside ComfyUI's folders and is not returned"
                ),
            });
        }
    }

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
            Value::Object(item) => self.object(node_id, item),
            _ => {}
        }
    }

    /// A file, or what may hold files one level below: `{"mesh": {"filename": …}}`.
    fn object(&mut self, node_id: &str, item: &Map<String, Value>) {
        let text = |key: &str| item.get(key).and_then(Value::as_str);
        let Some(filename) = text("filename") else {
            let inner = item.values().filter_map(Value::as_object);
            for inner in inner.filter(|inner| is_file(inner) && inner.contains_key("type")) {
                self.object(node_id, inner);
            }
            return;
        };
        let folder = match text("type") {
            Some("temp") => OutputFolder::Temp,
            Some("input") => OutputFolder::Input,
            _ => OutputFolder::Output,
        };
        self.file(node_id, filename, text("subfolder").unwrap_or_default(), folder);
    }

    /// A file that two nodes name, such as one that saves it and one that shows it, is one file.
    fn file(&mut self, node_id: &str, filename: &str, subfolder: &str, folder: OutputFolder) {
        let file = OutputFile {
            node_id: node_id.to_owned(),
            kind: FileKind::of(filename),
            filename: filename.to_owned(),
            subfolder: subfolder.to_owned(),
            folder,
            url: None,
            recoded: None,
            engine: None,
            base64: None,
        };
        if !self.files.iter().any(|other| is_same(other, &file)) {
            self.files.push(file);
        }
    }
}

fn display_name(file: &OutputFile) -> String {
    if file.subfolder.is_empty() {
        format!("`{}`", echo::cut(&file.filename))
    } else {
        format!("`{}`", echo::cut(&format!("{}/{}", file.subfolder, file.filename)))
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
