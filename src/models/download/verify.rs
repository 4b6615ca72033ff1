//! The SHA-256 of a file, computed while it is being filled: it follows the bytes that are there without a gap.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::part::hex;

/// How much is read at once, in bytes.
const BLOCK: usize = 1 << 20;

/// Follows a file on a thread of its own, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct FrontHash {
    shared: Arc<Shared>,
    result: oneshot::Receiver<io::Result<String>>,
}

/// Tells the thread how far it may go.
#[derive(Debug, Clone)]
pub(super) struct Front(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that are there without a gap.
    front: u64,
    /// The size, once all are there.
    size: Option<u64>,
    abandoned: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there are bytes after `at`, as many as are worth reading. [`None`]: no more will come.
    fn wait(&self, at: u64) -> Option<u64> {
        let mut state = self.state();
        loop {
            if state.abandoned {
                return None;
            }
            if let Some(size) = state.size {
                return (at < size).then_some(size);
            }
            if state.front >= at + BLOCK as u64 {
                return Some(state.front);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Front {
    /// All bytes before `front` are there.
    pub(super) fn reached(&self, front: u64) {
        let mut state = self.0.state();
        if front > state.front {
            state.front = front;
            self.0.changed.notify_one();
        }
    }
}

impl FrontHash {
    /// Begins to follow a file.
    pub(super) fn follow(file: File) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (tell, result) = oneshot::channel();
        let seen = shared.clone();
        thread::Builder::new().name("model-hash".to_owned()).spawn(move || {
            // Nobody is there to hear it when the download was given up.
            let _ = tell.send(follow(&file, &seen));
        })?;
        Ok(Self { shared, result })
    }

    /// The means to tell how far it may go.
    pub(super) fn front(&self) -> Front {
        Front(self.shared.clone())
    }

    /// All bytes are there: their hash, in lowercase hexadecimal.
    pub(super) async fn finish(mut self, size: u64) -> io::Result<String> {
        self.shared.state().size = Some(size);
        self.shared.changed.notify_one();
        let result = (&mut self.result).await;
        result.unwrap_or_else(|_| Err(io::Error::other("the hash was given up")))
    }
}

impl Drop for FrontHash {
    fn drop(&mut self) {
        self.shared.state().abandoned = true;
        self.shared.changed.notify_one();
    }
}

fn follow(file: &File, shared: &Shared) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while let Some(front) = shared.wait(at) {
        let most = usize::try_from(front - at).unwrap_or(BLOCK).min(BLOCK);
        let read = file.read_at(&mut block[..most], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&block[..read]);
        at += read as u64;
    }
    Ok(hex(&hash.finalize()))
}

/// The SHA-256 of a file in lowercase hexadecimal. `progress` hears how many bytes were read so far. Blocks.
pub fn sha256_of(path: &Path, mut progress: impl FnMut(u64)) -> io::Result<String> {
    let file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        match file.read_at(&mut block, at) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(read) => {
                hash.update(&block[..read]);
                at += read as u64;
                progress(at);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
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
        let expected = hex(&Sha256::digest(&bytes));
        let hash = FrontHash::follow(File::open(&path).unwrap()).unwrap();
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
        let hash = FrontHash::follow(File::open(&path).unwrap()).unwrap();
        assert!(hash.finish(4).await.is_err());
    }
}
