//! Files in base64, as answers hold them. Who asks for a job's result again and again gets the same text as long as one answer
//! with it is on its way, and only so many bytes are encoded at once.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::disk::blocking;
use crate::encoding::STANDARD;

/// The most that is encoded at once, in units of [`UNIT`] bytes of content.
const AT_ONCE: u32 = 1024;
/// What one file counts at most, so that a few large ones, which may come slowly from an attached ComfyUI, leave room for
/// small ones.
const MOST_OF_ONE: u32 = AT_ONCE / 4;
const UNIT: u64 = 64 * 1024;
/// From here on a text is shared: smaller ones are made as fast as they are found.
const SHARED_FROM: u64 = 256 * 1024;

/// The most of what is at hand that is kept, in units of [`UNIT`] bytes: 16 pictures of 3 MB.
const READY_AT_ONCE: usize = 1024;
/// How long it is kept for the first who wants it.
const READY_FOR: Duration = Duration::from_secs(2);

/// The texts that are in memory now, and the right to make further ones.
#[derive(Debug)]
pub(super) struct Texts {
    turns: Semaphore,
    alive: Mutex<HashMap<Identity, Weak<Whole>>>,
    /// One who makes a text that others may want too; they find it afterwards.
    making: tokio::sync::Mutex<()>,
    /// Those that were there before the file was, for the first who wants them.
    ready: Arc<Ready>,
}

/// Texts that nobody has asked for yet.
#[derive(Debug)]
struct Ready {
    texts: Mutex<HashMap<Identity, (Arc<Whole>, OwnedSemaphorePermit)>>,
    /// The most of them, in units of [`UNIT`] bytes.
    room: Arc<Semaphore>,
}

/// A file as it is: one that was written again is another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
}

impl Identity {
    fn new(path: PathBuf, facts: &Metadata) -> Self {
        Self {
            path,
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.len(),
            written: (facts.mtime(), facts.mtime_nsec()),
        }
    }
}

/// A text that is shared.
#[derive(Debug)]
struct Whole(Bytes);

/// A share of a text: the text is there as long as one of them is.
struct Share(Arc<Whole>);

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE as usize),
            alive: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            ready: Arc::new(Ready {
                texts: Mutex::default(),
                room: Arc::new(Semaphore::new(READY_AT_ONCE)),
            }),
        }
    }
}

impl Texts {
    /// Waits until so many bytes of content may be encoded; they may until the turn is dropped.
    pub(super) async fn turn(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(MOST_OF_ONE);
        // Nobody closes it.
        self.turns.acquire_many(units.min(MOST_OF_ONE)).await.ok()
    }

    /// The text of a file that was written just now is at hand, and will be wanted soon: it need not be made from the file. Kept for
    /// a moment, and only where there is room.
    pub(super) async fn is_at_hand(&self, path: PathBuf, text: Bytes) {
        let Ok(facts) = tokio::fs::metadata(&path).await else {
            return;
        };
        let units = u32::try_from((text.len() as u64).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.ready.room).try_acquire_many_owned(units);
        let (Ok(room), true) = (room, facts.len() >= SHARED_FROM) else {
            return;
        };
        let identity = Identity::new(path, &facts);
        let whole = Arc::new(Whole(text));
        self.ready.texts.lock().insert(identity.clone(), (whole, room));
        let ready = Arc::clone(&self.ready);
        tokio::spawn(async move {
            tokio::time::sleep(READY_FOR).await;
            ready.texts.lock().remove(&identity);
        });
    }

    /// The text of a file: that of an answer that is on its way, or one that is made now.
    pub(super) async fn of_file(&self, path: PathBuf) -> io::Result<Bytes> {
        let facts = tokio::fs::metadata(&path).await?;
        if facts.len() < SHARED_FROM {
            let _turn = self.turn(facts.len()).await;
            return encode_file(path).await;
        }
        let identity = Identity::new(path.clone(), &facts);
        // One large text at a time, so that of ten who ask for the same nine find it made.
        let _making = self.making.lock().await;
        if let Some(text) = self.alive(&identity) {
            return Ok(text);
        }
        let ready = self.ready.texts.lock().remove(&identity);
        let text = if let Some((text, _)) = ready {
            text
        } else {
            let _turn = self.turn(facts.len()).await;
            Arc::new(Whole(encode_file(path).await?))
        };
        let mut alive = self.alive.lock();
        alive.retain(|_, text| text.strong_count() > 0);
        alive.insert(identity, Arc::downgrade(&text));
        Ok(Bytes::from_owner(Share(text)))
    }

    fn alive(&self, identity: &Identity) -> Option<Bytes> {
        let alive = self.alive.lock();
        let text = alive.get(identity)?.upgrade()?;
        Some(Bytes::from_owner(Share(text)))
    }
}

/// The most room that is made in advance, in bytes: a length that somebody tells may be wrong.
const MOST_ROOM: usize = 64 * 1024 * 1024;
/// How much of a file is read at once, in bytes: a multiple of three, so that each piece is encoded as it is.
const READ_SIZE: usize = 3 * 128 * 1024;

/// Reads a file and encodes it piece by piece, on a blocking thread: only the text is in memory as a whole.
async fn encode_file(path: PathBuf) -> io::Result<Bytes> {
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
pub(super) async fn encode(content: Bytes) -> Bytes {
    blocking(move || STANDARD.encode(content).into()).await
}

/// Base64 of what comes in pieces.
#[derive(Debug)]
pub(super) struct Text {
    text: Vec<u8>,
    /// What does not yet make three bytes.
    rest: Vec<u8>,
}

impl Text {
    /// An empty text, with room for the base64 of so many bytes.
    pub(super) fn with_room_for(bytes: u64) -> Self {
        let length = usize::try_from(bytes.div_ceil(3) * 4).unwrap_or(0);
        Self {
            text: Vec::with_capacity(length.min(MOST_ROOM)),
            rest: Vec::with_capacity(3),
        }
    }

    /// Adds a piece.
    pub(super) fn push(&mut self, mut piece: &[u8]) {
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
    pub(super) fn end(mut self) -> Bytes {
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

    #[tokio::test]
    async fn those_who_ask_for_the_same_file_share_its_text_and_a_changed_file_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("film.mp4");
        let bytes = usize::try_from(SHARED_FROM).unwrap();
        std::fs::write(&path, vec![7; bytes]).unwrap();
        let texts = Texts::default();
        let (first, second) = tokio::join!(texts.of_file(path.clone()), texts.of_file(path.clone()));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.as_ptr(), second.as_ptr(), "one text in memory");
        assert_eq!(first.len(), bytes.div_ceil(3) * 4);
        std::fs::write(&path, vec![8; bytes + 3]).unwrap();
        let third = texts.of_file(path.clone()).await.unwrap();
        assert_eq!(third.len(), first.len() + 4);
        drop((first, second, third));
        assert!(
            texts.alive.lock().values().all(|text| text.upgrade().is_none()),
            "nothing is kept for nobody"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_that_is_at_hand_is_for_the_first_who_wants_it_and_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let content = vec![7; usize::try_from(SHARED_FROM).unwrap()];
        std::fs::write(&path, &content).unwrap();
        let texts = Texts::default();
        // Nobody looks whether it is that of the file.
        let other = Bytes::from_static(b"at hand");
        texts.is_at_hand(path.clone(), other.clone()).await;
        assert_eq!(texts.of_file(path.clone()).await.unwrap(), other);
        assert_eq!(texts.of_file(path.clone()).await.unwrap(), STANDARD.encode(&content));
        texts.is_at_hand(path.clone(), other).await;
        tokio::time::sleep(READY_FOR * 2).await;
        assert_eq!(texts.of_file(path.clone()).await.unwrap(), STANDARD.encode(&content));
        assert_eq!(texts.ready.room.available_permits(), READY_AT_ONCE);
        // What is too large for the room is not kept.
        let large = Bytes::from(vec![b'A'; (READY_AT_ONCE + 1) * usize::try_from(UNIT).unwrap()]);
        texts.is_at_hand(path.clone(), large).await;
        assert!(texts.ready.texts.lock().is_empty());
    }

    #[tokio::test]
    async fn small_files_do_not_wait_behind_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, "123").unwrap();
        let texts = Texts::default();
        let _making = texts.making.lock().await;
        assert_eq!(texts.of_file(path).await.unwrap(), "MTIz");
    }
}
