//! Files by the hash of their content, each of which lies here once: what clients upload before a job names it.
//!
//! A file is written beside its place, hashed on the way ([`Incoming`]), and gets its name when it is whole. It is not waited
//! for until it is on the disk: after a power cut a file may be shorter than it was, so whoever keeps lengths compares them.

mod incoming;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, blocking};
use crate::job::ContentHash;
use incoming::Writer;

pub use incoming::{Incoming, Received};

/// Where files are while they come.
const INCOMING: &str = "incoming";
/// Where they are afterwards.
const BLOBS: &str = "blobs";
/// How much of a file is copied at once, in bytes.
const CHUNK: usize = 1024 * 1024;

/// The folder of such files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<Path>);

impl Blobs {
    /// Those under the data folder.
    pub fn new(data_dir: &Path) -> Self {
        Self(data_dir.join("assets").into())
    }

    /// Where the file of this content lies, if it is here. Nothing of a user's is in the path.
    pub fn path(&self, hash: ContentHash) -> PathBuf {
        let name = hash.hex();
        self.0.join(BLOBS).join(&name[..2]).join(name)
    }

    /// Makes the folders, removes what was coming when the worker ended, and gives what is here, with its length. What nobody
    /// can have put there is left alone. Blocks.
    pub fn open(&self) -> io::Result<Vec<(ContentHash, u64)>> {
        disk::remove(&self.incoming())?;
        for folder in [self.incoming(), self.0.join(BLOBS)] {
            fs::create_dir_all(folder)?;
        }
        let mut found = Vec::new();
        for folder in fs::read_dir(self.0.join(BLOBS))? {
            let folder = folder?.path();
            if !folder.is_dir() {
                continue;
            }
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let name = entry.file_name();
                let facts = entry.metadata()?;
                let hash = name.to_str().and_then(ContentHash::from_hex);
                if let Some(hash) = hash.filter(|_| facts.is_file()) {
                    found.push((hash, facts.len()));
                }
            }
        }
        Ok(found)
    }

    /// A new file, which is nowhere until it is [kept](Self::keep). Blocks.
    fn begin(&self) -> io::Result<Writer> {
        Writer::new(&self.incoming())
    }

    /// A new file that comes piece by piece.
    pub async fn incoming_file(&self) -> io::Result<Incoming> {
        let blobs = self.clone();
        blocking(move || blobs.begin()).await.map(Incoming::new)
    }

    /// Puts a whole file into its place; false: it was here already. Blocks.
    pub fn keep(&self, received: Received) -> io::Result<bool> {
        let path = self.path(received.hash);
        // One that is shorter was not whole when the power went.
        match fs::metadata(&path) {
            Ok(facts) if facts.len() == received.bytes => return Ok(false),
            Ok(_) => disk::remove(&path)?,
            Err(_) => {}
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match received.part.take()?.persist_noclobber(&path) {
            Ok(()) => Ok(true),
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(failed) => Err(failed.error),
        }
    }

    /// Copies a file in; gives its hash and length. Blocks.
    pub fn copy_in(&self, path: &Path) -> io::Result<Received> {
        let mut file = File::open(path)?;
        let mut writer = self.begin()?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => return Ok(writer.end()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            writer.write(&buffer[..read])?;
        }
    }

    /// Writes bytes that are here. Blocks.
    pub fn write_in(&self, bytes: &[u8]) -> io::Result<Received> {
        let mut writer = self.begin()?;
        writer.write(bytes)?;
        Ok(writer.end())
    }

    /// Removes a file, if it is here. Blocks.
    pub fn remove(&self, hash: ContentHash) -> io::Result<()> {
        disk::remove(&self.path(hash))
    }

    /// The first bytes of a file. Blocks.
    pub fn head(&self, hash: ContentHash) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        let file = File::open(self.path(hash))?;
        file.take(incoming::HEAD as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    fn incoming(&self) -> PathBuf {
        self.0.join(INCOMING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    async fn is_empty_soon(folder: &Path) {
        for _ in 0..500 {
            if entries(folder) == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("something is left in {}", folder.display());
    }

    fn blobs(folder: &Path) -> Blobs {
        let blobs = Blobs::new(folder);
        assert_eq!(blobs.open().unwrap(), []);
        blobs
    }

    #[tokio::test]
    async fn what_comes_in_pieces_is_one_file_by_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = blobs(folder.path());
        let content: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
        for expected in [true, false] {
            let mut incoming = blobs.incoming_file().await.unwrap();
            for piece in content.chunks(33_333) {
                incoming.push(piece).await.unwrap();
            }
            assert_eq!(incoming.bytes(), content.len() as u64);
            let received = incoming.finish().await.unwrap();
            assert_eq!(received.hash, ContentHash::of(&content));
            assert_eq!(received.bytes, content.len() as u64);
            assert_eq!(received.head, content[..incoming::HEAD]);
            assert_eq!(blobs.keep(received).unwrap(), expected);
        }
        assert_eq!(fs::read(blobs.path(ContentHash::of(&content))).unwrap(), content);
        assert_eq!(entries(&blobs.incoming()), 0);
        assert_eq!(
            blobs.open().unwrap(),
            [(ContentHash::of(&content), content.len() as u64)]
        );
    }

    #[tokio::test]
    async fn what_does_not_come_to_its_end_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = blobs(folder.path());
        let mut incoming = blobs.incoming_file().await.unwrap();
        incoming.push(&vec![1; 3_000_000]).await.unwrap();
        assert_eq!(entries(&blobs.incoming()), 1);
        drop(incoming);
        is_empty_soon(&blobs.incoming()).await;
        let received = blobs.write_in(b"x").unwrap();
        drop(received);
        is_empty_soon(&blobs.incoming()).await;
    }

    #[test]
    fn a_file_is_copied_and_one_that_was_coming_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = blobs(folder.path());
        let path = folder.path().join("out.png");
        fs::write(&path, "picture").unwrap();
        let received = blobs.copy_in(&path).unwrap();
        let hash = received.hash;
        assert_eq!((hash, received.bytes), (ContentHash::of(b"picture"), 7));
        assert!(blobs.keep(received).unwrap());
        assert_eq!(blobs.head(hash).unwrap(), b"picture");
        fs::write(blobs.incoming().join("left"), "over").unwrap();
        fs::write(blobs.0.join(BLOBS).join("README"), "not ours").unwrap();
        assert_eq!(blobs.open().unwrap(), [(hash, 7)]);
        assert_eq!(entries(&blobs.incoming()), 0);
        blobs.remove(hash).unwrap();
        blobs.remove(hash).unwrap();
        assert!(!blobs.path(hash).exists());
    }
}
