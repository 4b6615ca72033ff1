//! Files as base64 in the answer.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use base64::Engine as _;
use bytes::Bytes;

use crate::encoding::STANDARD;

/// The most room that is made in advance, in bytes: a length that somebody tells may be wrong.
const MOST_ROOM: usize = 64 * 1024 * 1024;
/// How much of a file is read at once, in bytes: a multiple of three, so that each piece is encoded as it is.
const READ_SIZE: usize = 3 * 128 * 1024;

/// Reads a file and encodes it piece by piece, on a blocking thread: only the text is in memory as a whole.
pub async fn encode_file(path: PathBuf) -> std::io::Result<Bytes> {
    blocking(move || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut text = Text::with_room_for(length);
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(text.end());
            }
            text.push(&buffer[..read]);
        }
    })
    .await
}

/// Encodes bytes, on a blocking thread.
pub async fn encode(content: Bytes) -> std::io::Result<Bytes> {
    blocking(move || Ok(STANDARD.encode(content).into())).await
}

/// Base64 of what comes in pieces.
#[derive(Debug)]
pub struct Text {
    text: Vec<u8>,
    /// What does not yet make three bytes.
    rest: Vec<u8>,
}

impl Text {
    /// An empty text, with room for the base64 of so many bytes.
    pub fn with_room_for(bytes: u64) -> Self {
        let length = usize::try_from(bytes.div_ceil(3) * 4).unwrap_or(0);
        Self {
            text: Vec::with_capacity(length.min(MOST_ROOM)),
            rest: Vec::with_capacity(3),
        }
    }

    /// Adds a piece.
    pub fn push(&mut self, mut piece: &[u8]) {
        if !self.rest.is_empty() {
            let (missing, others) = piece.split_at(piece.len().min(3 - self.rest.len()));
            self.rest.extend_from_slice(missing);
            piece = others;
            if self.rest.len() < 3 {
                return;
            }
            append(&mut self.text, &self.rest);
            self.rest.clear();
        }
        let (whole, rest) = piece.split_at(piece.len() / 3 * 3);
        append(&mut self.text, whole);
        self.rest.extend_from_slice(rest);
    }

    /// The text.
    pub fn end(mut self) -> Bytes {
        append(&mut self.text, &self.rest);
        self.text.into()
    }
}

/// Encodes to the end of a text, where it stays.
fn append(text: &mut Vec<u8>, bytes: &[u8]) {
    let begin = text.len();
    text.resize(begin + bytes.len().div_ceil(3) * 4, 0);
    // It fails only where there is no room.
    let written = STANDARD.encode_slice(bytes, &mut text[begin..]).unwrap_or(0);
    text.truncate(begin + written);
}

async fn blocking(work: impl FnOnce() -> std::io::Result<Bytes> + Send + 'static) -> std::io::Result<Bytes> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_text_of_the_whole() {
        let content: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for size in [1, 2, 3, 4, 5, 7, 64, 999, 1000, 2000] {
            let mut text = Text::with_room_for(10);
            for piece in content.chunks(size) {
                text.push(piece);
            }
            assert_eq!(text.end(), STANDARD.encode(&content), "{size}");
        }
        assert_eq!(Text::with_room_for(0).end(), "");
    }

    #[tokio::test]
    async fn a_file_is_encoded_whole() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(READ_SIZE * 2 + 1).collect();
        let path = folder.path().join("a.png");
        std::fs::write(&path, &content).unwrap();
        assert_eq!(encode_file(path).await.unwrap(), STANDARD.encode(&content));
        assert!(encode_file(folder.path().join("none")).await.is_err());
    }
}
