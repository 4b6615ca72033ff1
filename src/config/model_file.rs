//! A model file: where it can be had, and where it belongs.

use url::Url;

/// Where files of the Hugging Face Hub are fetched from.
pub const HUB: &str = "https://huggingface.co";

/// Where a model file can be had.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The Hugging Face Hub, or a mirror of it.
    Hub {
        /// The repository, `owner/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// The path in the repository.
        path: String,
    },
    /// An https URL.
    Url(Url),
}

/// One model file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelFile {
    /// Where it can be had.
    pub origin: Origin,
    /// `ComfyUI`'s kind of model, which is a folder under its models folder, such as `loras`.
    pub folder: String,
    /// Its path under that folder, which is the name that `ComfyUI` lists; plain names only, parted by `/`.
    pub name: String,
    /// The size in bytes, where it is known.
    pub size: Option<u64>,
    /// The SHA-256 in lowercase hexadecimal, where it is known.
    pub sha256: Option<String>,
}

impl ModelFile {
    /// `folder/name`, as the log and the API call it.
    pub fn label(&self) -> String {
        format!("{}/{}", self.folder, self.name)
    }
}
