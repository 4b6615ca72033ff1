//! Part of the stage `inputs`: files that were uploaded before the request that names them. They lie on this machine's disk,
//! and may be larger than its memory.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use crate::blobs::Blobs;
use crate::comfy::client::ClientError;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::job::{AssetContent, ImageContent, ImageName, InputImage, Medium, Origin, Takes};
use crate::workflow::Graph;

/// ComfyUI's own loaders of pictures, which fail at a broken one in words that say little.
const PICTURE_LOADERS: [&str; 3] = ["LoadImage", "LoadImageMask", "LoadImageOutput"];
/// The largest picture that is looked at, in bytes. Larger ones are ComfyUI's to judge.
const MOST_LOOKED_AT: u64 = 64 * 1024 * 1024;
/// As much of a file as tells what it is.
const HEAD: u64 = 64 * 1024;

/// The names of those files of the graph that ComfyUI's own loaders of pictures load. Other nodes may take files of any kind.
pub(super) fn loaded_as_pictures(graph: &Graph) -> HashSet<String> {
    let loaders = graph.nodes.values();
    let loaders = loaders.filter(|node| PICTURE_LOADERS.contains(&node.class_type.as_str()));
    let names = loaders.filter_map(|node| node.inputs.get("image").and_then(Value::as_str));
    names.map(str::to_owned).collect()
}

/// A file that goes to ComfyUI.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) content: Content,
    /// What it is, as far as its name does not say it.
    pub(super) medium: Option<Medium>,
}

/// What is in it.
#[derive(Debug)]
pub(super) enum Content {
    /// As it was uploaded.
    File(File),
    /// Made of it, since ComfyUI's loader would fail at the other.
    Made(Bytes),
}

/// The file of an asset and where it lies. Whoever has it open keeps it, even if the asset is deleted. Blocking.
pub(super) fn open(blobs: &Blobs, asset: &AssetContent, name: &ImageName) -> Result<(File, PathBuf), JobError> {
    let path = blobs.path(asset.hash);
    let gone = |why: &str| {
        let (id, file_name) = (cut(&asset.id), cut(name.file_name()));
        JobError::invalid(format!("the file of the asset {id} (`{file_name}`) {why}"))
            .hint("Upload it again, and name the new asset's id in the graph.")
            .at("workflow")
    };
    let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened {
        Ok((bytes, file)) if bytes == asset.bytes => Ok((file, path)),
        Ok((bytes, _)) => {
            tracing::error!(
                bytes,
                expected = asset.bytes,
                "the file {} is not what was uploaded",
                path.display()
            );
            Err(gone("is damaged on the worker's disk"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone("is no longer there")),
        Err(error) => {
            tracing::error!(%error, "the file {} cannot be read", path.display());
            Err(gone("cannot be read on the worker's disk"))
        }
    }
}

/// Looks at a file; `is_picture` says that a loader of pictures gets it. Blocking.
pub(super) fn look(
    mut file: File,
    asset: &AssetContent,
    name: &ImageName,
    origin: Origin,
    is_picture: bool,
) -> Result<Opened, JobError> {
    let unread =
        |error: io::Error| JobError::internal(format!("the file of the asset {} cannot be read: {error}", asset.id));
    if is_picture && asset.bytes <= MOST_LOOKED_AT {
        let content = read(&mut file, asset.bytes).map_err(unread)?;
        let medium = Medium::of(&content);
        let looked_at = InputImage::looked_at(name.clone(), content.clone(), origin, Takes::Media, "")?;
        let content = match looked_at.content {
            ImageContent::Here(made) if made != content => Content::Made(made),
            _ => Content::File(file),
        };
        return Ok(Opened { content, medium });
    }
    // What its name says is not looked for in it.
    let medium = match Path::new(name.file_name()).extension() {
        Some(_) => None,
        None => Medium::of(&read(&mut file, HEAD).map_err(unread)?),
    };
    Ok(Opened {
        content: Content::File(file),
        medium,
    })
}

/// So many bytes of the file, which is at its begin afterwards.
fn read(file: &mut File, bytes: u64) -> io::Result<Bytes> {
    let mut content = Vec::new();
    (&*file).take(bytes).read_to_end(&mut content)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(content.into())
}

/// Writes a file that a node may change without harm: it shares nothing with the one that was uploaded, but what the file
/// system shares by itself. Blocking.
pub(super) fn write(mut content: Content, path: &Path) -> Result<(), JobError> {
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
        let mut file = File::create(path)?;
        match &mut content {
            // The kernel copies it, or lets both share it until one is written to.
            Content::File(source) => io::copy(source, &mut file).map(drop),
            Content::Made(bytes) => file.write_all(bytes),
        }
    });
    written.map_err(|error| {
        tracing::error!(%error, "an uploaded file cannot be copied to {}", path.display());
        JobError::internal(format!(
            "an uploaded file cannot be put into ComfyUI's input folder: {error}"
        ))
        .hint("See that there is room on the worker's disk, and send the job again.")
    })
}

/// What ComfyUI says to a file that it does not take for its size.
pub(super) fn not_taken(error: ClientError, asset: &AssetContent, name: &ImageName) -> JobError {
    if !matches!(error, ClientError::Status { status: 413, .. }) {
        return error.into();
    }
    let message = format!(
        "ComfyUI does not take the asset {} (`{}`): it has {} bytes",
        cut(&asset.id),
        cut(name.file_name()),
        asset.bytes
    );
    JobError::new(ErrorKind::TooLarge, message)
        .hint("Send a smaller file, or start that ComfyUI with a larger --max-upload-size (in megabytes).")
}

#[cfg(test)]
#[path = "assets_tests.rs"]
mod tests;
