//! Stage: files become what the answer holds.

use futures_util::future::try_join_all;

use crate::comfy::Comfy;
use crate::config::ReturnImagesAs;
use crate::delivery::inline;
use crate::error::{ErrorKind, JobError};
use crate::job::OutputFile;

pub(super) async fn deliver(
    comfy: &Comfy,
    files: Vec<OutputFile>,
    form: ReturnImagesAs,
) -> Result<Vec<OutputFile>, JobError> {
    match form {
        ReturnImagesAs::Auto | ReturnImagesAs::Metadata => Ok(files),
        ReturnImagesAs::Base64 => try_join_all(files.into_iter().map(|file| inlined(comfy, file))).await,
    }
}

/// Reads the file once and encodes it once.
async fn inlined(comfy: &Comfy, mut file: OutputFile) -> Result<OutputFile, JobError> {
    let encoded = match comfy.folders() {
        Some(folders) => {
            let path = folders.path(file.folder, &file.subfolder, &file.filename);
            let path = path.ok_or_else(|| {
                JobError::internal(format!("the file `{}` lies outside ComfyUI's folders", file.filename))
            })?;
            inline::encode_file(path).await
        }
        None => {
            let client = comfy.connection().await?.client;
            let response = client
                .view(&file.filename, &file.subfolder, file.folder.as_str())
                .await?;
            let content = response.bytes().await.map_err(|error| {
                JobError::new(
                    ErrorKind::ComfyUnavailable,
                    format!(
                        "the file `{}` could not be fetched: {}",
                        file.filename,
                        error.without_url()
                    ),
                )
            })?;
            inline::encode(content).await
        }
    };
    let encoded = encoded.map_err(|error| {
        JobError::internal(format!(
            "the output file `{}` could not be read: {error}",
            file.filename
        ))
        .hint("Look at the disk, and try again.")
    })?;
    file.base64 = Some(encoded);
    Ok(file)
}
