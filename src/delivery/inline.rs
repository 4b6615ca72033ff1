//! Files as base64 in the answer.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Reads a file and encodes it, on a blocking thread.
pub async fn encode_file(path: PathBuf) -> std::io::Result<Bytes> {
    blocking(move || Ok(encode_now(&std::fs::read(path)?))).await
}

/// Encodes bytes, on a blocking thread.
pub async fn encode(content: Bytes) -> std::io::Result<Bytes> {
    blocking(move || Ok(encode_now(&content))).await
}

fn encode_now(content: &[u8]) -> Bytes {
    STANDARD.encode(content).into()
}

async fn blocking(work: impl FnOnce() -> std::io::Result<Bytes> + Send + 'static) -> std::io::Result<Bytes> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
