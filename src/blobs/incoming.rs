//! A file that comes piece by piece: never held whole, hashed on the way.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use tempfile::{NamedTempFile, TempPath};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::job::ContentHash;

/// How much is gathered before it is written and hashed, in bytes; while that happens as much again is gathered. It stays in
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
    out: Out,
    seen: Box<Seen>,
}

/// The file that is written.
#[derive(Debug)]
struct Out {
    file: File,
    part: Part,
}

/// What is known of what came.
#[derive(Debug, Default)]
struct Seen {
    hasher: blake3::Hasher,
    bytes: u64,
    head: Vec<u8>,
}

impl Seen {
    fn see(&mut self, piece: &[u8]) {
        let rest = HEAD - self.head.len();
        self.head.extend_from_slice(&piece[..piece.len().min(rest)]);
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
    }
}

impl Writer {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let (file, path) = NamedTempFile::new_in(folder)?.into_parts();
        let part = Part(Some(path));
        Ok(Self {
            out: Out { file, part },
            seen: Box::default(),
        })
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.seen.see(piece);
        self.out.file.write_all(piece)
    }

    pub(super) fn end(self) -> Received {
        Received {
            hash: ContentHash::finished(&self.seen.hasher),
            bytes: self.seen.bytes,
            head: self.seen.head,
            part: self.out.part,
        }
    }
}

/// What is done with what came.
#[derive(Debug)]
enum Hand {
    /// Nothing at the moment.
    Free(Writer),
    /// One thread writes it, and another hashes it: either takes about as long as the bytes took to come.
    Busy {
        written: JoinHandle<io::Result<Out>>,
        hashed: JoinHandle<Box<Seen>>,
        buffer: Arc<Vec<u8>>,
    },
    /// It failed before.
    Lost,
}

/// A file that comes. Dropped before its end it leaves nothing.
///
/// What comes is copied into one of two buffers while threads write and hash the other: a piece on its own is too small to be
/// hashed well, and would keep the whole of what it was read into. No thread waits for a client.
#[derive(Debug)]
pub struct Incoming {
    hand: Hand,
    gathered: Vec<u8>,
    bytes: u64,
}

impl Incoming {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            hand: Hand::Free(writer),
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
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    /// Has what was gathered written and hashed, once what was before it is.
    async fn hand_over(&mut self) -> io::Result<()> {
        let (Writer { mut out, mut seen }, empty) = self.free().await?;
        let buffer = Arc::new(std::mem::replace(&mut self.gathered, empty));
        let (to_write, to_hash) = (Arc::clone(&buffer), Arc::clone(&buffer));
        self.hand = Hand::Busy {
            written: spawn_blocking(move || {
                out.file.write_all(&to_write)?;
                Ok(out)
            }),
            hashed: spawn_blocking(move || {
                seen.see(&to_hash);
                seen
            }),
            buffer,
        };
        Ok(())
    }

    /// The writer, once it is free, and an empty buffer.
    async fn free(&mut self) -> io::Result<(Writer, Vec<u8>)> {
        // They are waited for in their place: where we are dropped meanwhile the thread drops the file when it is done.
        let done = match &mut self.hand {
            Hand::Busy { written, hashed, .. } => Some(tokio::join!(written, hashed)),
            Hand::Free(..) | Hand::Lost => None,
        };
        match (std::mem::replace(&mut self.hand, Hand::Lost), done) {
            (Hand::Free(writer), _) => Ok((writer, Vec::new())),
            (Hand::Busy { buffer, .. }, Some((written, hashed))) => {
                let (out, seen) = (written.map_err(io::Error::other)??, hashed.map_err(io::Error::other)?);
                let mut empty = Arc::try_unwrap(buffer).unwrap_or_default();
                empty.clear();
                Ok((Writer { out, seen }, empty))
            }
            (Hand::Busy { .. } | Hand::Lost, _) => Err(io::Error::other("what came before could not be written")),
        }
    }

    /// Writes the rest.
    pub async fn finish(mut self) -> io::Result<Received> {
        if !self.gathered.is_empty() {
            self.hand_over().await?;
        }
        let (writer, _) = self.free().await?;
        Ok(writer.end())
    }
}
