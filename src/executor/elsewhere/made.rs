//! What an engine elsewhere made goes into our output folder, under names that ComfyUI would give, after it was looked at.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Link;
use crate::comfy::Folders;
use crate::disk::blocking;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::executor::Executor;
use crate::job::{FileKind, ImageName, InputImage, Origin, OutputFile, OutputFolder, Takes};
use crate::workflow::Graph;

/// The node of what no node is known of.
const NODE: &str = "0";
/// The longest stem of a name, in bytes.
const LONGEST_STEM: usize = 120;
/// Names that are tried for one file.
const MOST_TAKEN: u32 = 10_000;
/// Names whose last number is remembered.
const MOST_REMEMBERED: usize = 10_000;

/// A file that an engine made.
#[derive(Debug)]
pub struct MadeFile {
    /// Its output node, where the engine tells it.
    pub node_id: Option<String>,
    /// The name that the engine gave it.
    pub filename: String,
    /// The folder under the engine's output folder; empty for none.
    pub subfolder: String,
    /// What is in it.
    pub content: Bytes,
    /// The same in base64 (RFC 4648, section 4, with padding), where it came so.
    pub base64: Option<Bytes>,
}

impl Executor {
    /// Writes the files into our output folder. `is_inline`: the answer is to hold them. Fails where one is not what it is called.
    pub(super) async fn keep(
        &self,
        files: Vec<MadeFile>,
        graph: Option<&Graph>,
        link: &mut Link<'_>,
        (engine, is_inline): (&str, bool),
    ) -> Result<Vec<OutputFile>, JobError> {
        let Some(folders) = self.comfy().folders().cloned() else {
            return Err(JobError::internal("there is no folder for results"));
        };
        for file in &files {
            if let Some(why) = broken(file) {
                // It was made, and paid for.
                let name = cut(&file.filename);
                let message = format!(
                    "the file `{name}` that engine `{engine}` made for the job {} {why}",
                    link.name()
                );
                return Err(JobError::new(ErrorKind::Undeliverable, message));
            }
        }
        link.sink.ledger.submits();
        let usual = graph.and_then(output_node).unwrap_or(NODE).to_owned();
        let mut kept = Vec::with_capacity(files.len());
        for mut file in files {
            let base64 = file.base64.take().filter(|_| is_inline);
            let node_id = file.node_id.clone().unwrap_or_else(|| usual.clone());
            let (folders, ledger, numbers) = (folders.clone(), link.sink.ledger.clone(), self.numbers.clone());
            let written = blocking(move || {
                let written = write(&folders, &numbers, &file);
                if let Ok((subfolder, filename)) = &written {
                    ledger.wrote(OutputFolder::Output, subfolder, filename);
                }
                written
            });
            let (subfolder, filename) = written.await.map_err(|why| {
                JobError::internal(format!("a file that engine `{engine}` made cannot be written: {why}"))
                    .hint("Free some space in DATA_DIR, and send the job again.")
            })?;
            let file = OutputFile {
                node_id,
                kind: FileKind::of(&filename),
                filename,
                subfolder,
                folder: OutputFolder::Output,
                url: None,
                recoded: None,
                engine: None,
                base64: None,
            };
            if let Some(base64) = base64 {
                self.results.is_at_hand(&file, base64).await;
            }
            kept.push(file);
        }
        for (node, output) in in_words_of_comfyui(&kept) {
            link.executed(&node, &output);
        }
        Ok(kept)
    }
}

/// The files by node, as ComfyUI tells them.
fn in_words_of_comfyui(files: &[OutputFile]) -> Vec<(String, Value)> {
    let mut nodes: Vec<(String, Value)> = Vec::new();
    for file in files {
        let entry = json!({"filename": file.filename, "subfolder": file.subfolder, "type": "output"});
        match nodes.iter_mut().find(|(node, _)| *node == file.node_id) {
            Some((_, Value::Object(output))) => {
                if let Some(Value::Array(images)) = output.get_mut("images") {
                    images.push(entry);
                }
            }
            _ => nodes.push((file.node_id.clone(), json!({"images": [entry]}))),
        }
    }
    nodes
}

/// The first node of a graph that keeps pictures, as far as its class tells.
fn output_node(graph: &Graph) -> Option<&str> {
    let named = |prefix: &str| {
        let mut nodes = graph.nodes.iter();
        nodes
            .find(|(_, node)| node.class_type.starts_with(prefix))
            .map(|(id, _)| id.as_str())
    };
    named("Save").or_else(|| named("Preview"))
}

/// Why a file is not what its name says.
fn broken(file: &MadeFile) -> Option<String> {
    if file.content.is_empty() {
        return Some("is empty".to_owned());
    }
    if FileKind::of(&file.filename) != FileKind::Image {
        return None;
    }
    let name = ImageName::parse("result").ok()?;
    // As an image of a request is looked at: its header, and that its end is there. Decoding it would take longer than all else.
    let looked_at = InputImage::looked_at(name, file.content.clone(), Origin::Images, Takes::Media, "");
    looked_at.err().map(|error| format!("is no picture: {}", error.message))
}

/// Writes a file under the next number of its name; gives subfolder and name. Blocks.
fn write(folders: &Folders, numbers: &Numbers, file: &MadeFile) -> Result<(String, String), String> {
    let name = file.filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, "bin"));
    let (stem, ending) = (plain(without_number(stem)), plain(ending));
    let stem = if stem.is_empty() { "ComfyUI".to_owned() } else { stem };
    let parts = file
        .subfolder
        .split('/')
        .map(plain)
        .filter(|part| !part.is_empty() && !part.starts_with('.'));
    let subfolder = parts.collect::<Vec<_>>().join("/");
    let path = |filename: &str| folders.path(OutputFolder::Output, &subfolder, filename);
    let first = path("x").ok_or("its names lead out of the folder")?;
    let folder = first.parent().ok_or("its names lead out of the folder")?;
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let key = folder.join(&stem);
    // Looked for once; from then on remembered.
    let mut number = numbers
        .0
        .lock()
        .get(&key)
        .copied()
        .unwrap_or_else(|| last_number(folder, &stem));
    for _ in 0..MOST_TAKEN {
        number = number.saturating_add(1);
        let filename = format!("{stem}_{number:05}_.{ending}");
        let path = path(&filename).ok_or("its names lead out of the folder")?;
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut created) => {
                numbers.remember(key, number);
                let written = created.write_all(&file.content);
                return written.map(|()| (subfolder, filename)).map_err(|error| {
                    // Half of a picture is none.
                    let _ = std::fs::remove_file(&path);
                    error.to_string()
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("the next {MOST_TAKEN} names are taken"))
}

/// The last numbers that files got, by folder and stem. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::executor) struct Numbers(Arc<Mutex<HashMap<PathBuf, u64>>>);

impl Numbers {
    fn remember(&self, key: PathBuf, number: u64) {
        let mut known = self.0.lock();
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        // Another file may have got a later one meanwhile.
        let last = known.entry(key).or_default();
        *last = number.max(*last);
    }
}

/// The highest number that a file of this name has in a folder, as ComfyUI counts (`get_save_image_path` in `folder_paths.py`).
fn last_number(folder: &Path, stem: &str) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| {
        let name = entry.file_name();
        let (name, _) = name.to_str()?.rsplit_once('.')?;
        // Of this stem alone, and not of one that is longer.
        let number = name.strip_prefix(stem)?.strip_prefix('_')?.strip_suffix('_')?;
        number.parse().ok()
    });
    numbers.max().unwrap_or_default()
}

/// A stem without the number that ComfyUI gave it: `fox` of `fox_00007_`.
fn without_number(stem: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let inner = stem.strip_suffix('_').and_then(|stem| stem.rsplit_once('_'));
    inner
        .filter(|(_, number)| digits(number))
        .map_or(stem, |(name, _)| name)
}

/// A part of a name that leads nowhere and that every file system takes.
fn plain(text: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || "-_. ()+=".contains(c);
    let mut name: String = text.chars().map(|c| if kept(c) { c } else { '_' }).collect();
    while name.len() > LONGEST_STEM {
        name.pop();
    }
    name.trim_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(filename: &str, subfolder: &str, content: &'static [u8]) -> MadeFile {
        MadeFile {
            node_id: None,
            filename: filename.to_owned(),
            subfolder: subfolder.to_owned(),
            content: Bytes::from_static(content),
            base64: None,
        }
    }

    #[test]
    fn files_are_counted_as_comfyui_counts() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders {
            output: root.path().join("output"),
            ..Folders::default()
        };
        let numbers = Numbers::default();
        let names =
            |filename: &str, subfolder: &str| write(&folders, &numbers, &made(filename, subfolder, b"x")).unwrap();
        let pair = |subfolder: &str, name: &str| (subfolder.to_owned(), name.to_owned());
        assert_eq!(names("fox_00007_.png", ""), pair("", "fox_00001_.png"));
        assert_eq!(names("fox_00007_.png", ""), pair("", "fox_00002_.png"));
        assert_eq!(names("fox.png", "a/b"), pair("a/b", "fox_00001_.png"));
        assert_eq!(names("../../etc/passwd", "../x"), pair("x", "passwd_00001_.bin"));
        assert_eq!(names("", ""), pair("", "ComfyUI_00001_.bin"));
        assert!(root.path().join("output/a/b/fox_00001_.png").is_file());
        // A stem that looks like a number of another one counts for itself alone, and so does a huge number.
        let huge = u64::MAX.to_string();
        for name in ["cat_1000000.png", "cat_00007_.png", &format!("cat_{huge}.png")] {
            names(name, "c");
        }
        let counted = write(&folders, &Numbers::default(), &made("cat.png", "c", b"x")).unwrap();
        assert_eq!(counted, pair("c", "cat_00002_.png"));
        // One that went away while its number was remembered is not given twice.
        std::fs::remove_file(root.path().join("output/fox_00002_.png")).unwrap();
        assert_eq!(names("fox_00007_.png", ""), pair("", "fox_00003_.png"));
    }

    #[test]
    fn what_is_no_picture_is_seen() {
        assert!(
            broken(&made("a.png", "", b"<html>no</html>"))
                .unwrap()
                .contains("is no picture")
        );
        assert_eq!(broken(&made("a.png", "", b"")).unwrap(), "is empty");
        assert_eq!(broken(&made("a.txt", "", b"hello")), None);
    }
}
