//! Workflows that ComfyUI writes into its files: the graph that made a picture (`prompt`), and what the page had saved of it
//! (`workflow`).
//!
//! | file | where | who writes it |
//! | --- | --- | --- |
//! | PNG | texts (`tEXt`, `iTXt`, `zTXt`), and `comf` in animated ones | SaveImage, `SaveAnimatedPNG`, Video Helper Suite |
//! | WebP | EXIF, tags of any number: `prompt:{…}` | `SaveAnimatedWEBP` |
//! | MP4, MOV | metadata of the movie, by keys or as a comment | `SaveVideo`; Video Helper Suite's comment holds both |
//! | WebM | simple tags | `SaveWEBM`, Video Helper Suite |
//!
//! What is damaged or cut off is read as far as it goes, and nothing of it makes this fail in another way than by an error.

mod ebml;
mod isobmff;
mod png;
mod reader;
mod webp;

use serde_json::Value;

use super::{Graph, Saved};
use crate::error::JobError;
use crate::json;

/// The most bytes of one text: more than any workflow has that is taken as JSON.
const LONGEST_TEXT: usize = 16 * 1024 * 1024;
/// The most bytes of all texts of one file together: one may stand packed, or be pointed at, a thousand times.
const MOST_BYTES: usize = 4 * LONGEST_TEXT;
/// The most texts of one file that are looked at.
const MOST_TEXTS: usize = 1_000;
/// The names that a text with a workflow may have.
const NAMES: [&str; 3] = ["prompt", "workflow", "comment"];

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedded {
    /// The graph, in API format.
    pub graph: Option<Value>,
    /// The workflow, as the page saves it.
    pub saved: Option<Value>,
}

/// The kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Png,
    Webp,
    Isobmff,
    Ebml,
}

impl Kind {
    /// By the first bytes.
    fn of(content: &[u8]) -> Option<Self> {
        if content.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if content.starts_with(b"RIFF") && content.get(8..12) == Some(b"WEBP") {
            Some(Self::Webp)
        } else if content.get(4..8) == Some(b"ftyp") {
            Some(Self::Isobmff)
        } else if content.starts_with(&[0x1a, 0x45, 0xdf, 0xa3]) {
            Some(Self::Ebml)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Webp => "WebP",
            Self::Isobmff => "MP4",
            Self::Ebml => "WebM",
        }
    }
}

/// Texts with their names, as they come out of a file.
#[derive(Debug)]
struct Texts {
    found: Vec<(&'static str, String)>,
    bytes_left: usize,
}

impl Texts {
    fn new() -> Self {
        Self {
            found: Vec::new(),
            bytes_left: MOST_BYTES,
        }
    }

    /// Which of the names a text has that may be a workflow.
    fn wanted(name: &str) -> Option<&'static str> {
        NAMES
            .into_iter()
            .find(|wanted| wanted.eq_ignore_ascii_case(name.trim()))
    }

    /// How long one more text may be, in bytes.
    fn room(&self) -> usize {
        LONGEST_TEXT.min(self.bytes_left)
    }

    /// Counts bytes that were read.
    fn count(&mut self, bytes: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }

    /// Keeps a text if it may be a workflow.
    fn add(&mut self, name: &str, text: &[u8]) {
        let Some(name) = Self::wanted(name) else { return };
        if self.found.len() < MOST_TEXTS && text.len() <= self.room() {
            self.count(text.len());
            self.found.push((name, decoded(text)));
        }
    }
}

/// A text in UTF-8, or else in Latin-1; what ends it in C is no part of it.
fn decoded(text: &[u8]) -> String {
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = &text[..end];
    match std::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        Err(_) => text.iter().map(|byte| char::from(*byte)).collect(),
    }
}

impl Embedded {
    /// Whether these bytes are a file that may hold a workflow: a PNG, WebP, MP4 or WebM.
    pub fn is_file(content: &[u8]) -> bool {
        Kind::of(content).is_some()
    }

    /// Reads the workflow out of a file. It is an error if there is none.
    pub fn read(content: &[u8]) -> Result<Self, JobError> {
        let Some(kind) = Kind::of(content) else {
            return Err(JobError::invalid("the file is no PNG, WebP, MP4 or WebM"));
        };
        let mut texts = Texts::new();
        // What stops one is the end of what can be read.
        let _ = match kind {
            Kind::Png => png::read(content, &mut texts),
            Kind::Webp => webp::read(content, &mut texts),
            Kind::Isobmff => isobmff::read(content, &mut texts),
            Kind::Ebml => {
                ebml::read(content, &mut texts);
                None
            }
        };
        let mut embedded = Self::default();
        let mut unread = None;
        for (name, text) in &texts.found {
            match json::read(text.as_bytes()) {
                Ok(value) => embedded.take(name, value),
                Err(error) => {
                    unread.get_or_insert(format!("its `{name}` is no JSON: {error}"));
                }
            }
        }
        if embedded.graph.is_some() || embedded.saved.is_some() {
            return Ok(embedded);
        }
        let why = unread.map_or(String::new(), |why| format!(" ({why})"));
        let message = format!("The {} holds no workflow{why}", kind.name());
        Err(JobError::invalid(message).hint(
            "ComfyUI writes one into its files unless it runs with --disable-metadata, as one that the worker starts does for all but ComfyUI's own API; what converts or shrinks a picture takes it out.",
        ))
    }

    /// Takes what a text of this name holds. The first of each counts.
    fn take(&mut self, name: &str, value: Value) {
        match value {
            // Video Helper Suite's: both in one, the graph as a text.
            Value::Object(mut both) if name == "comment" => {
                for name in ["prompt", "workflow"] {
                    if let Some(value) = both.get_mut(name).map(Value::take) {
                        self.take(name, value);
                    }
                }
            }
            Value::String(text) => {
                if let Ok(value @ Value::Object(_)) = json::read(text.as_bytes()) {
                    self.take(name, value);
                }
            }
            value if Saved::is_meant_by(&value) => drop(self.saved.get_or_insert(value)),
            value if name == "prompt" && Graph::is_meant_by(&value) => drop(self.graph.get_or_insert(value)),
            _ => {}
        }
    }

    /// The graph, if there is one, else what the page saved. `has_inputs`: the other way round, since only the latter has inputs
    /// with names.
    pub fn into_workflow(self, has_inputs: bool) -> Value {
        let (first, second) = if has_inputs {
            (self.saved, self.graph)
        } else {
            (self.graph, self.saved)
        };
        first.or(second).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
