//! A model file: where it can be had, and where it belongs.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use super::model_folder::{kind_of, known_kind};
use crate::display::redacted;

/// Where files of the Hugging Face Hub are fetched from.
pub const HUB: &str = "https://huggingface.co";

/// Host names of the Hugging Face Hub.
const HUB_HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

/// Extensions of model files (`supported_pt_extensions` in `ComfyUI`'s `folder_paths.py`, and GGUF).
pub const MODEL_EXTENSIONS: &[&str] = &[
    ".safetensors",
    ".sft",
    ".gguf",
    ".ckpt",
    ".pt",
    ".pt2",
    ".pth",
    ".bin",
    ".pkl",
];

/// The longest name of a file, in bytes (`NAME_MAX` of Linux).
const LONGEST_NAME: usize = 255;

/// Where a model file can be had. Prints without what may be secret in a URL.
#[derive(Clone, PartialEq, Eq, Hash)]
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
    /// An http or https URL.
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

/// What is wrong with the description of a model file. Says nothing of a source that may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFileError {
    /// The target is no place in the models folder.
    #[error("the target `{target}` {reason}")]
    Target {
        /// The target as it was given.
        target: String,
        /// What is wrong, and what would be right.
        reason: &'static str,
    },
    /// The source is none that a file can be had from.
    #[error("the source {shown} {reason}")]
    Source {
        /// The source, as far as it may be shown.
        shown: String,
        /// What is wrong, and what would be right.
        reason: &'static str,
    },
    /// The checksum is none.
    #[error("the checksum is no SHA-256, which has 64 hexadecimal digits")]
    Sha256,
}

/// Whether a file of this path holds a model, by its ending.
pub fn is_model_file(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    name.is_some_and(|name| MODEL_EXTENSIONS.iter().any(|extension| name.ends_with(extension)))
}

/// A SHA-256 in lowercase hexadecimal; `sha256:` may stand before it.
pub fn parse_sha256(text: &str) -> Result<String, ModelFileError> {
    let digits = text.trim();
    let digits = digits.strip_prefix("sha256:").unwrap_or(digits);
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ModelFileError::Sha256);
    }
    Ok(digits.to_ascii_lowercase())
}

impl Origin {
    /// A file on the Hub: `owner/name`, branch, tag or commit, and the path in the repository.
    pub fn hub(repo: &str, revision: &str, path: &str) -> Result<Self, ModelFileError> {
        let wrong = |reason| ModelFileError::Source {
            shown: format!("hf://{repo}@{revision}/{path}"),
            reason,
        };
        let part = |name: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !name.is_empty() && name.bytes().all(plain) && !matches!(name, "." | "..")
        };
        if !matches!(repo.split_once('/'), Some((owner, name)) if part(owner) && part(name)) {
            return Err(wrong("has no repository of the form owner/name"));
        }
        if !plain_path(revision) {
            return Err(wrong("has a revision that is no branch, tag or commit"));
        }
        if !plain_path(path) {
            return Err(wrong("names no file of the repository; plain names parted by / do"));
        }
        Ok(Self::Hub {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
            path: path.to_owned(),
        })
    }

    /// The address, without what may be secret in it; for a file of the Hub the one on the Hub itself.
    pub fn url(&self) -> String {
        match self {
            Self::Hub { repo, revision, path } => format!("{HUB}/{repo}/resolve/{revision}/{path}"),
            Self::Url(url) => redacted(url),
        }
    }

    /// The name of the file there, if it has the name of a model file.
    fn file_name(&self) -> Option<String> {
        let name = match self {
            Self::Hub { path, .. } => last(path).to_owned(),
            Self::Url(url) => decoded(url.path_segments()?.next_back()?)?,
        };
        is_model_file(Path::new(&name)).then_some(name)
    }

    /// The kind of model by the folder that the file lies in there, as in `split_files/vae/x.safetensors`.
    fn kind(&self) -> Option<&'static str> {
        let path = match self {
            Self::Hub { path, .. } => path,
            Self::Url(url) => url.path(),
        };
        known_kind(path.rsplit('/').nth(1)?)
    }

    /// `org/repo[@revision]/path`, as `huggingface_hub`'s file system writes it.
    fn from_hf(text: &str) -> Result<Self, ModelFileError> {
        let wrong = |reason| ModelFileError::Source {
            shown: format!("hf://{text}"),
            reason,
        };
        if ["datasets/", "spaces/"].iter().any(|kind| text.starts_with(kind)) {
            return Err(wrong("is no repository of models"));
        }
        let form = "is not of the form hf://owner/name/path or hf://owner/name@revision/path";
        let (owner, rest) = text.split_once('/').ok_or_else(|| wrong(form))?;
        let (name, path) = rest.split_once('/').ok_or_else(|| wrong(form))?;
        let Some((name, revision)) = name.split_once('@') else {
            return Self::hub(&format!("{owner}/{name}"), "main", path);
        };
        let revision = decoded(revision).ok_or_else(|| wrong(form))?;
        // Names of pull requests and conversions have slashes: refs/pr/1, refs/convert/fp8.
        let (revision, path) = match path.splitn(3, '/').collect::<Vec<_>>()[..] {
            [kind @ ("pr" | "convert"), number, path] if revision == "refs" => (format!("refs/{kind}/{number}"), path),
            _ => (revision, path),
        };
        Self::hub(&format!("{owner}/{name}"), &revision, path)
    }

    fn from_url(url: Url) -> Result<Self, ModelFileError> {
        let wrong = |reason| ModelFileError::Source {
            shown: redacted(&url),
            reason,
        };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong("is no http, https or hf address"));
        }
        if !url.host_str().is_some_and(|host| HUB_HOSTS.contains(&host)) {
            return Ok(Self::Url(url));
        }
        let parts = url.path().trim_start_matches('/').splitn(5, '/').collect::<Vec<_>>();
        let [owner, name, "resolve" | "blob" | "raw", revision, path] = parts[..] else {
            // Datasets are no models for ComfyUI, but files of theirs can be had.
            if matches!(parts[..], ["datasets" | "spaces", _, _, "resolve", _]) {
                return Ok(Self::Url(url));
            }
            return Err(wrong(
                "is a page of the Hub and no file; a file's address has /resolve/ or /blob/ after the repository",
            ));
        };
        let decoded = |text| decoded(text).ok_or_else(|| wrong("is not in UTF-8"));
        Self::hub(&format!("{owner}/{name}"), &decoded(revision)?, &decoded(path)?)
    }
}

impl FromStr for Origin {
    type Err = ModelFileError;

    /// `hf://owner/name[@revision]/path` or an http or https URL. That of a file's page on the Hub is taken as the file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("hf://") {
            return Self::from_hf(rest);
        }
        match Url::parse(text) {
            Ok(url) => Self::from_url(url),
            Err(_) => Err(ModelFileError::Source {
                // What is no URL cannot be told apart from a secret.
                shown: "given".to_owned(),
                reason: "is no address; write it as hf://owner/name/path or https://…",
            }),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repo, revision, path } => write!(f, "hf://{repo}@{revision}/{path}"),
            Self::Url(url) => f.write_str(&redacted(url)),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ModelFile {
    /// A file for a target: a folder of `ComfyUI`'s models folder, in which it keeps its name, or a path under one.
    pub fn new(origin: Origin, target: &str) -> Result<Self, ModelFileError> {
        let (folder, name) = place(target, origin.file_name())?;
        Ok(Self {
            origin,
            folder,
            name,
            size: None,
            sha256: None,
        })
    }

    /// The folder and the name that a target with a name says, such as `loras/x.safetensors`.
    pub fn folder_and_name(target: &str) -> Result<(String, String), ModelFileError> {
        place(target, None)
    }

    /// The address, without what may be secret in it.
    pub fn url(&self) -> String {
        self.origin.url()
    }

    /// Its name without the folders that it lies in.
    pub fn file_name(&self) -> &str {
        last(&self.name)
    }

    /// Where it belongs, below `ComfyUI`'s models folder: `loras/x.safetensors`.
    pub fn target(&self) -> String {
        format!("{}/{}", self.folder, self.name)
    }
}

impl FromStr for ModelFile {
    type Err = ModelFileError;

    /// `TARGET=SOURCE`, or a source alone that lies in a folder whose name tells the kind of model.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A URL may have equals signs of its own.
        let parts = text.split_once('=').filter(|(target, _)| !target.contains("://"));
        if let Some((target, source)) = parts {
            return Self::new(source.trim().parse()?, target.trim());
        }
        let origin: Origin = text.trim().parse()?;
        let folder = origin.kind().ok_or_else(|| ModelFileError::Source {
            shown: origin.to_string(),
            reason: "does not tell which kind of model it is; write loras/NAME.safetensors=… with the folder that it \
                     belongs in",
        })?;
        Self::new(origin, folder)
    }
}

/// The kind of model and the name under it that a target says. `source` is the file's name where it comes from.
fn place(target: &str, source: Option<String>) -> Result<(String, String), ModelFileError> {
    let wrong = |reason| ModelFileError::Target {
        // Control characters would be at home in no log.
        target: target.escape_debug().to_string(),
        reason,
    };
    if target.starts_with('/') || target.contains('\\') {
        return Err(wrong(
            "is no path under ComfyUI's models folder, such as loras/x.safetensors",
        ));
    }
    let path = target.strip_suffix('/').unwrap_or(target);
    if !plain_path(path) {
        return Err(wrong(
            "may leave ComfyUI's models folder; it takes plain names parted by /, none of them hidden, such as \
             loras/x.safetensors",
        ));
    }
    let (folder, rest) = path.split_once('/').unwrap_or((path, ""));
    if folder == "models" {
        return Err(wrong(
            "begins with models; name the folder in it, such as loras/x.safetensors",
        ));
    }
    if is_model_file(Path::new(path)) && !target.ends_with('/') {
        if rest.is_empty() {
            return Err(wrong(
                "has no folder; name the kind of model, such as loras/x.safetensors",
            ));
        }
        return Ok((kind_of(folder).to_owned(), rest.to_owned()));
    }
    if last(path).contains('.') && !target.ends_with('/') {
        return Err(wrong(
            "is no model file; one ends in .safetensors, .sft, .gguf, .ckpt, .pt, .pt2, .pth, .bin or .pkl",
        ));
    }
    let Some(name) = source else {
        return Err(wrong(
            "is a folder, and the source does not tell a file's name; add one, such as /x.safetensors",
        ));
    };
    if !plain_path(&name) {
        return Err(wrong(
            "is a folder, and the source's name may leave it; add a name, such as /x.safetensors",
        ));
    }
    let name = if rest.is_empty() {
        name
    } else {
        format!("{rest}/{name}")
    };
    Ok((kind_of(folder).to_owned(), name))
}

/// Whether a path has plain names only: none empty, hidden, too long for a file system, or with control characters.
fn plain_path(path: &str) -> bool {
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= LONGEST_NAME
            && !name.starts_with('.')
            && name.trim() == name
            && !name.contains(|letter: char| letter.is_control() || letter == '\\')
    };
    path.split('/').all(plain)
}

/// The last name of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
#[path = "model_file_tests.rs"]
mod tests;
