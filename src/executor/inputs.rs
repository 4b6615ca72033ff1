//! Stage: the request's images go into ComfyUI's input folder, each execution's into a folder of its own.

use std::path::PathBuf;

use crate::comfy::{Comfy, Connection};
use crate::error::JobError;
use crate::job::{ImageContent, ImageHeader, ImageName, InputImage, audio_or_video};

/// The folder in ComfyUI's input folder that holds one folder an execution.
const FOLDER: &str = "qwen-image-worker";

/// What was uploaded. Dropping it removes the execution's folder, where it is on this machine.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// The name in the request, and the name by which LoadImage finds the file.
    pub(super) names: Vec<(String, String)>,
    folder: Option<PathBuf>,
}

impl Drop for Uploads {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let remove = move || {
            if let Err(error) = std::fs::remove_dir_all(&folder)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "a job's input images could not be removed from {}", folder.display());
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The name by which LoadImage will find an image of this execution.
pub(super) fn name_in_comfy(folder: &str, name: &ImageName) -> String {
    format!("{FOLDER}/{folder}/{name}")
}

/// The name in the request of an image that LoadImage finds by `name`; [`None`] for a file that came with no request.
pub(super) fn name_in_request(name: &str) -> Option<&str> {
    let within = name.strip_prefix(FOLDER)?.strip_prefix('/')?;
    within.split_once('/').map(|(_, name)| name)
}

pub(super) async fn upload(
    comfy: &Comfy,
    connection: &Connection,
    folder: &str,
    images: Vec<InputImage>,
) -> Result<Uploads, JobError> {
    if images.is_empty() {
        return Ok(Uploads::default());
    }
    let path = comfy.folders().map(|folders| folders.input.join(FOLDER).join(folder));
    // It is there from now on, so that the folder goes away also when an upload fails half-way.
    let mut uploads = Uploads {
        names: Vec::with_capacity(images.len()),
        folder: path,
    };
    for image in images {
        let InputImage { name, content } = image;
        let ImageContent::Here(content) = content else {
            return Err(JobError::internal(format!("the image `{name}` was not fetched")));
        };
        let media_type = match (audio_or_video(&content), ImageHeader::read(&content)) {
            (Some((_, media_type)), _) => media_type,
            (None, Ok(header)) => header.media_type,
            (None, Err(_)) => "application/octet-stream",
        };
        let subfolder = match name.folder() {
            "" => format!("{FOLDER}/{folder}"),
            inner => format!("{FOLDER}/{folder}/{inner}"),
        };
        let stored = connection
            .client
            .upload(name.file_name(), &subfolder, media_type, content)
            .await?;
        uploads.names.push((name.as_str().to_owned(), stored));
    }
    Ok(uploads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_the_request_is_found_again() {
        let name = ImageName::parse("people/anna.png").unwrap();
        assert_eq!(name_in_request(&name_in_comfy("job-1", &name)), Some("people/anna.png"));
        for other in [
            "example.png",
            "qwen-image-worker/a.png",
            "qwen-image-worker-2/job-1/a.png",
        ] {
            assert_eq!(name_in_request(other), None, "{other}");
        }
    }
}
