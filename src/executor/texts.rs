//! Files in base64, as answers hold them. Who asks for a job's result again and again gets the same text as long as one answer
//! with it is on its way, and only so many bytes are encoded at once.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::delivery::inline;

/// The most that is encoded at once, in units of [`UNIT`] bytes of content.
const AT_ONCE: u32 = 1024;
/// What one file counts at most, so that a few large ones, which may come slowly from a ComfyUI elsewhere, leave room for
/// small ones.
const MOST_OF_ONE: u32 = AT_ONCE / 4;
const UNIT: u64 = 64 * 1024;
/// From here on a text is shared: smaller ones are made as fast as they are found.
const SHARED_FROM: u64 = 256 * 1024;

/// The texts that are in memory now, and the right to make further ones.
#[derive(Debug)]
pub(super) struct Texts {
    turns: Semaphore,
    alive: Mutex<HashMap<Identity, Weak<Text>>>,
    /// One who makes a text that others may want too; they find it afterwards.
    making: tokio::sync::Mutex<()>,
}

/// A file as it is: one that was written anew is another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
}

#[derive(Debug)]
struct Text(Bytes);

/// A share of a text: the text is there as long as one of them is.
struct Share(Arc<Text>);

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

    /// The text of a file: that of an answer that is on its way, or one that is made now.
    pub(super) async fn of_file(&self, path: PathBuf) -> io::Result<Bytes> {
        let facts = tokio::fs::metadata(&path).await?;
        if facts.len() < SHARED_FROM {
            let _turn = self.turn(facts.len()).await;
            return inline::encode_file(path).await;
        }
        let identity = Identity {
            path: path.clone(),
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.len(),
            written: (facts.mtime(), facts.mtime_nsec()),
        };
        // One large text at a time, so that of ten who ask for the same nine find it made.
        let _making = self.making.lock().await;
        if let Some(text) = self.alive(&identity) {
            return Ok(text);
        }
        let turn = self.turn(facts.len()).await;
        let text = Arc::new(Text(inline::encode_file(path).await?));
        drop(turn);
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|_, text| text.strong_count() > 0);
        alive.insert(identity, Arc::downgrade(&text));
        Ok(Bytes::from_owner(Share(text)))
    }

    fn alive(&self, identity: &Identity) -> Option<Bytes> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let text = alive.get(identity)?.upgrade()?;
        Some(Bytes::from_owner(Share(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            texts
                .alive
                .lock()
                .unwrap()
                .values()
                .all(|text| text.upgrade().is_none()),
            "nothing is kept for nobody"
        );
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
