//! Stage: files become what the answer holds.

use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::comfy::Comfy;
use crate::config::{BucketConfig, ImageFormat, ReturnImagesAs};
use crate::delivery::inline;
use crate::delivery::s3::Bucket;
use crate::error::{ErrorKind, JobError};
use crate::job::OutputFile;
use crate::net::guard::AddressGuard;

/// How results go back, unless their request says otherwise.
#[derive(Debug, Clone)]
pub struct DeliverySettings {
    /// Their form. Never [`ReturnImagesAs::Auto`].
    pub form: ReturnImagesAs,
    /// The format of their images; [`None`]: as the graph wrote them.
    pub output_format: Option<ImageFormat>,
    /// The quality of JPEG and WebP, 1 to 100.
    pub quality: u8,
    /// The most bytes of an answer that holds its files.
    pub max_bytes: Option<u64>,
    /// The configured bucket, and how it is configured.
    pub bucket: Option<(Bucket, BucketConfig)>,
    /// Judges the endpoints of requests.
    pub guard: AddressGuard,
}

pub(super) async fn deliver(comfy: &Comfy, files: Vec<OutputFile>) -> Result<Vec<OutputFile>, JobError> {
    try_join_all(files.into_iter().map(|file| inlined(comfy, file))).await
}

async fn inlined(comfy: &Comfy, mut file: OutputFile) -> Result<OutputFile, JobError> {
    let encoded = read_and_encode(comfy, &file).await?;
    file.base64 = Some(encoded.map_err(|error| {
        JobError::internal(format!(
            "the output file `{}` could not be read: {error}",
            file.filename
        ))
        .hint("Look at the disk, and try again.")
    })?);
    Ok(file)
}

/// Reads the file once and encodes it once.
async fn read_and_encode(comfy: &Comfy, file: &OutputFile) -> Result<std::io::Result<Bytes>, JobError> {
    let OutputFile {
        filename,
        subfolder,
        folder,
        ..
    } = file;
    if let Some(folders) = comfy.folders() {
        let path = folders.path(*folder, subfolder, filename);
        let outside = || JobError::internal(format!("the file `{filename}` lies outside ComfyUI's folders"));
        return Ok(inline::encode_file(path.ok_or_else(outside)?).await);
    }
    let client = comfy.connection().await?.client;
    let response = client.view(filename, subfolder, folder.as_str()).await?;
    let content = response.bytes().await.map_err(|error| {
        let message = format!("the file `{filename}` could not be fetched: {}", error.without_url());
        JobError::new(ErrorKind::ComfyUnavailable, message)
    })?;
    Ok(inline::encode(content).await)
}
