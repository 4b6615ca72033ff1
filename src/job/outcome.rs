//! What came of a job.

use bytes::Bytes;
use serde_json::Value;

use crate::config::ImageFormat;

/// The kind of an output file, by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A picture, animated ones included.
    Image,
    /// A video.
    Video,
    /// Sound.
    Audio,
    /// A mesh or a scene.
    #[serde(rename = "3d")]
    Model3d,
    /// Text of any sort.
    Text,
    /// Anything else.
    Other,
}

impl FileKind {
    /// The kind of a file of this name.
    pub fn of(filename: &str) -> Self {
        let ending = filename
            .rsplit_once('.')
            .map_or("", |(_, ending)| ending)
            .to_ascii_lowercase();
        match ending.as_str() {
            "png" | "jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff" | "avif" | "exr" | "svg" | "apng"
            | "jxl" => Self::Image,
            "mp4" | "webm" | "mov" | "mkv" | "avi" | "m4v" => Self::Video,
            "flac" | "mp3" | "wav" | "ogg" | "opus" | "m4a" => Self::Audio,
            "glb" | "gltf" | "obj" | "ply" | "stl" | "fbx" | "usdz" | "splat" => Self::Model3d,
            "txt" | "json" | "csv" | "md" | "srt" | "vtt" => Self::Text,
            _ => Self::Other,
        }
    }
}

/// The media type by which a file of this name is handed out: what a browser may show. Anything that it could run as a page of
/// ours goes as bytes, as ComfyUI does it too.
pub fn shown_as(filename: &str) -> &'static str {
    let ending = filename.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending.to_ascii_lowercase().as_str() {
        "png" | "apng" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "avif" => "image/avif",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "ogg" | "opus" => "audio/ogg",
        "txt" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "glb" => "model/gltf-binary",
        _ => "application/octet-stream",
    }
}

/// Which of ComfyUI's folders a file lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFolder {
    /// Kept.
    Output,
    /// Wiped when ComfyUI starts: previews.
    Temp,
    /// What was uploaded.
    Input,
}

impl OutputFolder {
    /// As ComfyUI's API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Temp => "temp",
            Self::Input => "input",
        }
    }
}

/// How a file was made from the one that its graph wrote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Recoded {
    /// The name that the graph gave it, in the same folder.
    pub original: String,
    /// The format it was made into.
    pub format: ImageFormat,
    /// The quality, 1 to 100, where the format has one.
    pub quality: u8,
}

/// A file that a graph left behind.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OutputFile {
    /// The output node's id.
    pub node_id: String,
    /// What it is.
    pub kind: FileKind,
    /// Its name, without folders. Where it is [`Self::recoded`] the name is ours, and the file is there only where
    /// ComfyUI's folders are on this machine: elsewhere it is made as it is read.
    pub filename: String,
    /// The folder under the output folder; empty for none. Parts are joined by `/`.
    pub subfolder: String,
    /// Which of ComfyUI's folders.
    pub folder: OutputFolder,
    /// Its address in a bucket, where it was uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How it was made, where it is not as the graph wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recoded: Option<Recoded>,
    /// The ComfyUI that has it, where there are several and each has folders of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The content in base64, where the answer is to hold it; never stored.
    #[serde(skip)]
    pub base64: Option<Bytes>,
}

impl OutputFile {
    fn is_kept(&self) -> bool {
        self.folder == OutputFolder::Output
    }

    /// The media type of a picture, by its ending.
    pub fn media_type(&self) -> &'static str {
        let ending = self.filename.rsplit_once('.').map_or("", |(_, ending)| ending);
        match ending.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" => "image/jpeg",
            "webp" => "image/webp",
            "gif" => "image/gif",
            _ => "image/png",
        }
    }

    /// The name that the graph gave it.
    pub fn original(&self) -> &str {
        self.recoded
            .as_ref()
            .map_or(&self.filename, |recoded| &recoded.original)
    }
}

/// Text that a node left behind.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct OutputText {
    /// The output node's id.
    pub node_id: String,
    /// What it says.
    pub text: String,
}

/// What a job made.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Files, in the order of the graph's output nodes.
    pub files: Vec<OutputFile>,
    /// Texts, in the same order.
    pub texts: Vec<OutputText>,
    /// The seed, where we chose it.
    pub seed: Option<u64>,
    /// The template that was filled, where one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The engine elsewhere that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The graph that ran, where it was asked for, with the names of files as its request has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Value>,
    /// What the user should know although the job succeeded.
    pub warnings: Vec<String>,
    /// Whether an answer holds the files themselves, in base64.
    pub inline: bool,
    /// Whether its pictures were judged and found safe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub safety_checked: bool,
    /// Whether its owner reads the address of one picture, and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub picture_url: bool,
    /// The format that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_format: Option<ImageFormat>,
}

impl Outcome {
    /// The files that an answer names. worker-comfyui leaves previews out; where a graph has nothing else, they are
    /// its result.
    pub fn wanted(&self) -> impl Iterator<Item = &OutputFile> {
        let all = self.wants_all();
        self.files.iter().filter(move |file| all || file.is_kept())
    }

    /// [`Self::wanted`], to be changed.
    pub fn wanted_mut(&mut self) -> impl Iterator<Item = &mut OutputFile> {
        let all = self.wants_all();
        self.files.iter_mut().filter(move |file| all || file.is_kept())
    }

    fn wants_all(&self) -> bool {
        !self.files.iter().any(OutputFile::is_kept)
    }
}
