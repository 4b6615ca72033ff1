//! A file that comes piece by piece: never held whole, hashed on the way.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};
use tokio::task::JoinHandle;

use crate::disk::blocking;
use crate::job::ContentHash;

/// How much is gathered before it is hashed and written, in bytes; while that happens as much again is gathered. It stays in
/// a processor's cache, and is enough for hashing at full width.
const GATHERED: usize = 256 * 1024;
/// How many of the first bytes are kept: they tell of what kind a file is.
pub(super) const HEAD: usize = 16;

/// A whole file, which is removed where it is not [kept](super::Blobs::keep).
#[derive(Debug)]
pub struct Received {
    /// What is in it.
    pub hash: ContentHash,
    /// Its length.
    pub bytes: u64,
    /// Its first bytes, 16 of them where there are so many.
    pub head: Vec<u8>,
    pub(super) part: Part,
}

/// A file that is removed where nobody keeps it, by a thread that may wait: for a large one that takes a while.
#[derive(Debug)]
pub(super) struct Part(Option<TempPath>);

impl Part {
    /// The file, which whoever takes it may keep.
    pub(super) fn take(mut self) -> io::Result<TempPath> {
        self.0.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn_blocking(move || drop(path)));
        }
    }
}

/// Writes and hashes. All of it blocks.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    part: Part,
    hasher: Box<blake3::Hasher>,
    bytes: u64,
    head: Vec<u8>,
}

impl Writer {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let (file, path) = NamedTempFile::new_in(folder)?.into_parts();
        Ok(Self {
            file,
            part: Part(Some(path)),
            hasher: Box::default(),
            bytes: 0,
            head: Vec::with_capacity(HEAD),
        })
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let rest = HEAD - self.head.len();
        self.head.extend_from_slice(&piece[..piece.len().min(rest)]);
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        self.file.write_all(piece)
    }

    pub(super) fn end(self) -> Received {
        Received {
            hash: ContentHash::finished(&self.hasher),
            bytes: self.bytes,
            head: self.head,
            part: self.part,
        }
    }
}

/// Where the writer is.
#[derive(Debug)]
enum Hand {
    /// Nothing is written at the moment.
    Free(Box<Writer>),
    /// A thread writes, and gives its buffer back.
    Writing(JoinHandle<io::Result<(Box<Writer>, Vec<u8>)>>),
    /// It failed before.
    Lost,
}

/// A file that comes. Dropped before its end it leaves nothing.
///
/// What comes is copied into one of two buffers while a thread writes the other: a piece on its own is too small to be hashed
/// well, and would keep the whole of what it was read into. No thread waits for a client.
#[derive(Debug)]
pub struct Incoming {
    hand: Hand,
    gathered: Vec<u8>,
    bytes: u64,
}

impl Incoming {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            hand: Hand::Free(Box::new(writer)),
            gathered: Vec::new(),
            bytes: 0,
        }
    }

    /// How much came so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next piece. Waits where the disk is slower than what comes.
    pub async fn push(&mut self, mut piece: &[u8]) -> io::Result<()> {
        self.bytes += piece.len() as u64;
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(GATHERED - self.gathered.len()));
            self.gathered.extend_from_slice(now);
            piece = later;
            if self.gathered.len() == GATHERED {
                self.write().await?;
            }
        }
        Ok(())
    }

    /// Has what was gathered written, once what was before it is.
    async fn write(&mut self) -> io::Result<()> {
        let (mut writer, buffer) = self.writer().await?;
        let full = std::mem::replace(&mut self.gathered, buffer);
        self.hand = Hand::Writing(tokio::task::spawn_blocking(move || {
            writer.write(&full)?;
            let mut empty = full;
            empty.clear();
            Ok((writer, empty))
        }));
        Ok(())
    }

    /// The writer, once it is free, and an empty buffer.
    async fn writer(&mut self) -> io::Result<(Box<Writer>, Vec<u8>)> {
        // It is waited for in its place: where we are dropped meanwhile the thread drops the file when it is done.
        if let Hand::Writing(thread) = &mut self.hand {
            let written = thread.await;
            self.hand = Hand::Lost;
            return written.map_err(io::Error::other)?;
        }
        match std::mem::replace(&mut self.hand, Hand::Lost) {
            Hand::Free(writer) => Ok((writer, Vec::new())),
            Hand::Writing(_) | Hand::Lost => Err(io::Error::other("what came before could not be written")),
        }
    }

    /// Writes the rest.
    pub async fn finish(mut self) -> io::Result<Received> {
        let (mut writer, _) = self.writer().await?;
        let rest = std::mem::take(&mut self.gathered);
        blocking(move || {
            writer.write(&rest)?;
            Ok(writer.end())
        })
        .await
    }
}
