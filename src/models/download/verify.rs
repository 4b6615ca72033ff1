//! Whether a file is what it should be: its SHA-256, computed while the file is being filled, and the header of a
//! safetensors file.
//!
//! The format (`safetensors`, section "Format" of its README): eight bytes with the length of the header, little-endian;
//! the header, a JSON object that gives each tensor's place; the tensors, without a gap to the end of the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvError, Sender, TryRecvError};
use std::thread;

use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::error::{FetchError, file};

/// How much is read at once, in bytes.
const BLOCK: usize = 1 << 20;

/// The SHA-256 of a file from its first byte on.
struct Hasher {
    hash: Sha256,
    block: Vec<u8>,
    at: u64,
}

impl Hasher {
    fn new() -> Self {
        Self {
            hash: Sha256::new(),
            block: vec![0; BLOCK],
            at: 0,
        }
    }

    /// Reads on, `most` bytes or fewer. 0: the file is at its end.
    fn read(&mut self, file: &File, most: u64) -> io::Result<usize> {
        let most = usize::try_from(most).unwrap_or(BLOCK).min(BLOCK);
        loop {
            match file.read_at(&mut self.block[..most], self.at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(read) => {
                    self.hash.update(&self.block[..read]);
                    self.at += read as u64;
                    return Ok(read);
                }
            }
        }
    }

    fn finish(self) -> String {
        hex::encode(self.hash.finalize())
    }
}

/// The SHA-256 of a file in lowercase hexadecimal. `progress` hears how many bytes were read so far. Blocks.
pub fn sha256_of(path: &Path, mut progress: impl FnMut(u64)) -> io::Result<String> {
    let file = File::open(path)?;
    let mut hasher = Hasher::new();
    while hasher.read(&file, u64::MAX)? > 0 {
        progress(hasher.at);
    }
    Ok(hasher.finish())
}

/// Follows a file that is being filled, on a thread of its own, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct FrontHash {
    front: Front,
    result: oneshot::Receiver<io::Result<String>>,
}

/// Tells the thread how far it may go, and whether that is the end of the file.
#[derive(Debug, Clone)]
pub(super) struct Front(Sender<(u64, bool)>);

impl Front {
    /// All bytes before `front` are there.
    pub(super) fn reached(&self, front: u64) {
        // The thread has ended where the file could not be read, which is told at the end.
        let _ = self.0.send((front, false));
    }
}

impl FrontHash {
    /// Begins to follow a file.
    pub(super) fn follow(file: Arc<File>) -> io::Result<Self> {
        let (front, told) = mpsc::channel();
        let (tell, result) = oneshot::channel();
        thread::Builder::new().name("model-hash".to_owned()).spawn(move || {
            // Nobody is there to hear it when the download was given up.
            let _ = tell.send(follow(&file, &told));
        })?;
        let front = Front(front);
        Ok(Self { front, result })
    }

    /// The means to tell how far it may go.
    pub(super) fn front(&self) -> Front {
        self.front.clone()
    }

    /// All bytes are there: their hash, in lowercase hexadecimal.
    pub(super) async fn finish(mut self, size: u64) -> io::Result<String> {
        let _ = self.front.0.send((size, true));
        (&mut self.result).await.unwrap_or_else(|_| Err(given_up()))
    }
}

fn given_up() -> io::Error {
    io::Error::other("the hash was given up")
}

fn follow(file: &File, told: &Receiver<(u64, bool)>) -> io::Result<String> {
    let mut hasher = Hasher::new();
    let (mut front, mut ended) = (0, false);
    loop {
        let worth_reading = ended || front >= hasher.at + BLOCK as u64;
        let news = if worth_reading {
            told.try_recv()
        } else {
            told.recv().map_err(|RecvError| TryRecvError::Disconnected)
        };
        match news {
            Ok((reached, end)) => {
                front = front.max(reached);
                ended |= end;
            }
            Err(TryRecvError::Disconnected) => return Err(given_up()),
            Err(TryRecvError::Empty) if hasher.at == front => return Ok(hasher.finish()),
            Err(TryRecvError::Empty) => {
                if hasher.read(file, front - hasher.at)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// The longest header that the format's own reader takes, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Tensor {
    data_offsets: (u64, u64),
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: BTreeMap<String, Tensor>,
}

/// Checks that the header of a safetensors file is whole and fits the file's size. Files of other kinds, by their names,
/// are fine. Blocks.
pub fn check_header(path: &Path) -> Result<(), FetchError> {
    if !is_safetensors(path) {
        return Ok(());
    }
    let file = File::open(path).map_err(file("open", path))?;
    check(&file, path)
}

/// Whether a file is said to be one by its name.
pub(super) fn is_safetensors(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["safetensors", "sft"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

/// Checks an open safetensors file that is, or will be, at `path`. Blocks.
pub(super) fn check(opened: &File, path: &Path) -> Result<(), FetchError> {
    let damaged = |why: String| FetchError::Damaged {
        file: path.to_owned(),
        why,
    };
    let size = opened.metadata().map_err(file("look at", path))?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(damaged(format!("it has {size} bytes")));
    }
    opened.read_exact_at(&mut length, 0).map_err(file("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER || 8 + length > size {
        return Err(damaged(format!(
            "its header would have {length} bytes, and the file has {size}"
        )));
    }
    let mut header = vec![0; usize::try_from(length).unwrap_or_default()];
    opened.read_exact_at(&mut header, 8).map_err(file("read", path))?;
    let header: Header = serde_json::from_slice(&header).map_err(|error| damaged(format!("its header: {error}")))?;
    let end = header
        .tensors
        .values()
        .map(|tensor| tensor.data_offsets.1)
        .max()
        .unwrap_or(0);
    if end != size - 8 - length {
        return Err(damaged(format!(
            "its header speaks of {end} bytes of tensors, and there are {}",
            size - 8 - length
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn follows_the_front() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let expected = hex::encode(Sha256::digest(&bytes));
        let hash = FrontHash::follow(Arc::new(File::open(&path).unwrap())).unwrap();
        for front in [0, 7, 1 << 20, 1_100_000, 2_500_000] {
            hash.front().reached(front);
        }
        assert_eq!(hash.finish(bytes.len() as u64).await.unwrap(), expected);
        let mut last = 0;
        assert_eq!(sha256_of(&path, |read| last = read).unwrap(), expected);
        assert_eq!(last, bytes.len() as u64);
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "abc").unwrap();
        let hash = FrontHash::follow(Arc::new(File::open(&path).unwrap())).unwrap();
        assert!(hash.finish(4).await.is_err());
    }

    fn check_bytes(bytes: &[u8]) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        fs::write(&path, bytes).unwrap();
        check_header(&path).map_err(|error| match error {
            FetchError::Damaged { why, .. } => why,
            other => panic!("{other}"),
        })
    }

    fn with_header(header: &str, tensors: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(vec![0; tensors]);
        bytes
    }

    #[test]
    fn a_header_fits_its_file_or_is_damaged() {
        let header = r#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        check_bytes(&with_header(header, 8)).unwrap();
        check_bytes(&with_header("{}", 0)).unwrap();
        let wrong = [
            with_header(header, 7),
            with_header(header, 9),
            with_header("{", 0),
            with_header("[]", 0),
            b"<!DOCTYPE html><html>".to_vec(),
            b"abc".to_vec(),
        ];
        for bytes in wrong {
            check_bytes(&bytes).unwrap_err();
        }
    }
}
