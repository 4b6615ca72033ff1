//! Outputs that have ids of their own, as Comfy API v2 tells of them: they can be asked for, and named by later jobs, as what was
//! uploaded.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::content_hash::ContentHash;
use super::outcome::{FileKind, OutputFile, OutputFolder, OutputText};

/// An output of a job, under its own id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Its id: a UUID.
    pub id: String,
    /// The output node's id.
    pub node_id: String,
    /// Its name, without folders.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// What is in it; [`None`] where it lies with an attached ComfyUI, and is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ContentHash>,
    /// When it was there, in microseconds since 1970.
    pub at: u64,
    /// What it is.
    pub source: Source,
}

/// Where the content of an output is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file in one of ComfyUI's folders, of the output's name.
    File {
        /// Which of ComfyUI's folders.
        folder: OutputFolder,
        /// The folder under it; empty for none.
        subfolder: String,
        /// The ComfyUI that has it, where there are several and each has folders of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        engine: Option<String>,
    },
    /// This text.
    Text(Arc<str>),
}

impl Committed {
    /// An output that is this file.
    pub fn file(file: &OutputFile, bytes: u64, hash: Option<ContentHash>, at: u64) -> Self {
        Self {
            id: new_id(),
            node_id: file.node_id.clone(),
            name: file.filename.clone(),
            bytes,
            hash,
            at,
            source: Source::File {
                folder: file.folder,
                subfolder: file.subfolder.clone(),
                engine: file.engine.clone(),
            },
        }
    }

    /// An output that is this text; `name` is what it would be called as a file.
    pub fn text(text: &OutputText, name: String, at: u64) -> Self {
        Self {
            id: new_id(),
            node_id: text.node_id.clone(),
            name,
            bytes: text.text.len() as u64,
            hash: Some(ContentHash::of(text.text.as_bytes())),
            at,
            source: Source::Text(text.text.as_str().into()),
        }
    }

    /// The file that it is.
    pub fn as_file(&self) -> Option<OutputFile> {
        let Source::File {
            folder,
            subfolder,
            engine,
        } = &self.source
        else {
            return None;
        };
        Some(OutputFile {
            node_id: self.node_id.clone(),
            kind: self.kind(),
            filename: self.name.clone(),
            subfolder: subfolder.clone(),
            folder: *folder,
            url: None,
            recoded: None,
            engine: engine.clone(),
            base64: None,
        })
    }

    /// Its kind.
    pub fn kind(&self) -> FileKind {
        match self.source {
            Source::File { .. } => FileKind::of(&self.name),
            Source::Text(_) => FileKind::Text,
        }
    }
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
