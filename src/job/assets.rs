//! Files that were uploaded before the request that names them, as a job knows them: what they are called in its graph, which
//! of them are models, and how the graph is shown to its owner.

use std::path::Path;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::content_hash::ContentHash;
use super::image_header::ImageHeader;
use super::images::{ImageContent, ImageName, InputImage, Origin};
use super::medium::Medium;
use crate::config::model_folder::kind_of;
use crate::echo::cut;
use crate::encoding::STANDARD;
use crate::net::unescaped;
use crate::workflow::{reference, replace_in_json};

/// The longest name of a file in bytes: a name in a request has room for a folder besides.
const LONGEST_NAME: usize = 120;
/// What a file is called that has no name.
const NAMELESS: &str = "asset";
/// How paths of models begin.
const MODELS: &str = "models/";
/// The formats of models that run no code of their own when they are loaded.
const SAFE_ENDINGS: [&str; 2] = ["safetensors", "gguf"];

/// A file that was uploaded before the request that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetContent {
    /// The id by which the request names it.
    pub id: String,
    /// What is in it, by which it is found on the disk.
    pub hash: ContentHash,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its media type, as whoever uploaded it said.
    pub content_type: String,
    /// Its name, or its path, as whoever uploaded it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_path: Option<String>,
    /// Where it goes among ComfyUI's models, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelPlace>,
}

/// Where a model goes that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPlace {
    /// ComfyUI's kind of model: `loras`.
    pub folder: String,
    /// The name of its file.
    pub name: String,
}

impl AssetContent {
    /// How the graph of a job calls the file: `ID/photo.png`. The name is the last part of its path, without what could lead
    /// elsewhere, and with the ending that nodes go by.
    pub fn name(&self) -> Result<ImageName, String> {
        let name = file_name(self.file_path.as_deref().unwrap_or_default(), &self.content_type);
        ImageName::parse(&format!("{}/{name}", self.id))
    }

    /// The reference to it, as a graph has it.
    fn reference(&self) -> Value {
        reference(&self.id, &self.hash.to_string(), self.file_path.as_deref())
    }
}

impl ModelPlace {
    /// Reads the path of an uploaded file: [`None`] if it does not begin with `models/`, and so is no model; the error says
    /// why it cannot be one. The formats are those that hold numbers alone: others run what is in them when they are loaded.
    pub fn of(file_path: &str) -> Option<Result<Self, String>> {
        let path = file_path.strip_prefix(MODELS)?;
        let refused = |why: &str| {
            let path = cut(file_path);
            Some(Err(format!(
                "the path `{path}` {why}; a model's path is models/FOLDER/NAME.safetensors, such as models/loras/style.safetensors"
            )))
        };
        let mut parts = path.split('/');
        let (Some(folder), Some(name), None) = (parts.next(), parts.next(), parts.next()) else {
            return refused("does not have three parts");
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if folder.is_empty() || !folder.chars().all(is_plain) {
            return refused("names no folder of models");
        }
        if name.len() > LONGEST_NAME || safe(name) != name || name.starts_with('.') {
            return refused("has no plain name of a file at its end");
        }
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        if !ending.is_some_and(|ending| SAFE_ENDINGS.contains(&ending)) {
            return refused("is of no format that is taken: .safetensors or .gguf");
        }
        Some(Ok(Self {
            folder: kind_of(folder).to_owned(),
            name: name.to_owned(),
        }))
    }
}

/// Writes the JSON of a job's graph as its owner sent it: references in the places of the names of uploaded files, and an
/// address, or the file itself as a data URI, where the graph had one in place of a name.
pub fn put_references(graph: &mut Value, images: &[InputImage]) {
    replace_in_json(graph, |text| {
        let image = images.iter().find(|image| image.name.as_str() == text)?;
        match &image.content {
            ImageContent::Asset(asset) => Some(asset.reference()),
            content if matches!(image.origin, Origin::Graph(_)) => Some(Value::from(written(content))),
            _ => None,
        }
    });
}

/// What a request writes in place of a file's name.
fn written(content: &ImageContent) -> String {
    match content {
        ImageContent::At(url) => address(url),
        ImageContent::Here(content) => {
            let media_type = match Medium::of(content) {
                Some(medium) => medium.media_type,
                None => ImageHeader::read(content).map_or("application/octet-stream", |header| header.media_type),
            };
            format!("data:{media_type};base64,{}", STANDARD.encode(content))
        }
        ImageContent::Asset(asset) => asset.id.clone(),
    }
}

/// An address as people write it: a key in a bucket stands as it is.
fn address(url: &Url) -> String {
    match url.scheme() {
        "s3" => format!(
            "s3://{}/{}",
            url.host_str().unwrap_or_default(),
            unescaped(url.path().trim_start_matches('/'))
        ),
        _ => url.to_string(),
    }
}

/// The name of a file that was uploaded under this path: safe to stand in a path of ours, and never empty.
fn file_name(file_path: &str, content_type: &str) -> String {
    let last = file_path.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name = safe(last);
    if name.is_empty() || name.starts_with('.') {
        name.insert_str(0, NAMELESS);
    }
    let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
    match (ending, ending_of(content_type)) {
        (None, "") => short(&name, ""),
        (None, ending) => short(&name, &format!(".{ending}")),
        (Some(ending), _) => {
            let ending = format!(".{ending}");
            short(name.strip_suffix(&ending).unwrap_or(&name), &ending)
        }
    }
}

/// The name with its ending, as long as it may be.
fn short(stem: &str, ending: &str) -> String {
    let (stem, ending) = match LONGEST_NAME.checked_sub(ending.len()) {
        Some(room) if room > NAMELESS.len() => (&stem[..stem.floor_char_boundary(room)], ending),
        _ => (&stem[..stem.floor_char_boundary(LONGEST_NAME)], ""),
    };
    format!("{stem}{ending}")
}

/// The name without what paths, systems and ComfyUI read otherwise.
fn safe(name: &str) -> String {
    let plain = |c: char| {
        // ComfyUI marks files of its other folders with brackets at the end.
        let is_read_otherwise = c.is_control() || "\\/:*?\"<>|[]".contains(c);
        if is_read_otherwise { '_' } else { c }
    };
    let name: String = name.chars().map(plain).collect();
    name.trim_matches([' ', '\u{a0}'])
        .trim_end_matches(['.', ' '])
        .to_owned()
}

/// The ending of the files of a media type; empty for those that are not known.
fn ending_of(content_type: &str) -> &'static str {
    let media_type = content_type.split(';').next().unwrap_or_default();
    match media_type.trim().to_ascii_lowercase().as_str() {
        "image/png" => "png",
        "image/jpeg" | "image/jpg" => "jpg",
        "image/webp" => "webp",
        "image/gif" => "gif",
        "image/bmp" => "bmp",
        "image/tiff" => "tiff",
        "image/avif" => "avif",
        "audio/mpeg" | "audio/mp3" => "mp3",
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "wav",
        "audio/flac" | "audio/x-flac" => "flac",
        "audio/ogg" => "ogg",
        "audio/mp4" | "audio/x-m4a" => "m4a",
        "audio/aac" => "aac",
        "video/mp4" => "mp4",
        "video/webm" => "webm",
        "video/quicktime" => "mov",
        "video/x-matroska" => "mkv",
        "video/x-msvideo" => "avi",
        "model/gltf-binary" => "glb",
        "model/gltf+json" => "gltf",
        "model/obj" => "obj",
        "model/stl" => "stl",
        "text/plain" => "txt",
        "application/json" => "json",
        _ => "",
    }
}

#[cfg(test)]
#[path = "assets_tests.rs"]
mod tests;
