//! Sessions of browsers: who has logged in with a key brings a random text instead of it from then on.
//!
//! They outlast the process: what is kept of them in the data folder is a digest of that text, of which nobody can make the
//! text again, and the mark of the key. A session lasts for [`LASTS`] after its last use, and no longer than its key is one
//! of `API_KEY`.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::auth::{Admitted, ApiKeys};
use crate::disk::{blocking, write_atomically};
use crate::error::{ErrorKind, JobError};

/// How long a session lasts after its last use.
pub(super) const LASTS: Duration = Duration::from_hours(7 * 24);
/// Its end is put off once it is that much nearer: each time a file is written.
const RENEWED_AFTER: Duration = Duration::from_hours(24);
/// The most sessions of one key; the one that ends first gives way to a new one.
const MOST_OF_A_KEY: usize = 256;
/// The file, in the data folder.
const FILE: &str = "sessions.json";
/// How many wrong keys are answered at once, each of which takes a moment.
const LOGINS_AT_ONCE: usize = 8;
/// The longest that one waits for its turn.
const TURN_TIME: Duration = Duration::from_secs(5);

/// The sessions of all browsers. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    file: PathBuf,
    open: Mutex<HashMap<[u8; 32], Session>>,
    /// Held while the file is written, so that what is older never replaces what is newer.
    writing: Mutex<()>,
    logins: Semaphore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    key: Admitted,
    /// In seconds since 1970.
    ends: u64,
    secure: bool,
}

/// A session, in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    digest: String,
    key: String,
    ends: u64,
    secure: bool,
}

/// A session that a request has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The key that opened it.
    pub(super) key: Admitted,
    /// Whether its end was put off: the browser must hear of that.
    pub(super) renewed: bool,
    /// Whether its cookie is for https alone.
    pub(super) secure: bool,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sessions", self.0.open.lock().len())
    }
}

impl Sessions {
    /// The sessions that are kept in `folder`, without those that are over or whose key is none of `keys` any more. Blocks.
    pub fn open(folder: &Path, keys: &ApiKeys) -> Self {
        let file = folder.join(FILE);
        let kept = read(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "{FILE} in DATA_DIR cannot be read: who was logged in must log in again");
            Vec::new()
        });
        let (now, all) = (seconds(SystemTime::now()), kept.len());
        let open: HashMap<_, _> = kept
            .into_iter()
            .filter(|kept| kept.ends > now)
            .filter_map(|kept| {
                let digest = <[u8; 32]>::try_from(hex::decode(&kept.digest).ok()?).ok()?;
                let session = Session {
                    key: keys.by_mark(&kept.key)?,
                    // As a clock that was wrong might have had it.
                    ends: kept.ends.min(now + LASTS.as_secs()),
                    secure: kept.secure,
                };
                Some((digest, session))
            })
            .collect();
        let has_lost = open.len() < all;
        let sessions = Self(Arc::new(Inner {
            file,
            open: Mutex::new(open),
            writing: Mutex::new(()),
            logins: Semaphore::new(LOGINS_AT_ONCE),
        }));
        if has_lost {
            sessions.0.write();
        }
        sessions
    }

    /// The turn of a login with a wrong key to be answered. Held until it is.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, JobError> {
        match tokio::time::timeout(TURN_TIME, self.0.logins.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(JobError::new(ErrorKind::Busy, "Too many try to log in at once").hint("Try again in a moment.")),
        }
    }

    /// Begins a session of a key; gives the text that stands for it. When this is done, it outlasts the process.
    pub(super) async fn begin(&self, key: Admitted, secure: bool) -> Result<String, JobError> {
        let mut text = [0; 32];
        getrandom::fill(&mut text)
            .map_err(|error| JobError::internal(format!("the system gives no random bytes: {error}")))?;
        let text = hex::encode(text);
        self.add(&text, key, secure, SystemTime::now());
        self.write().await;
        Ok(text)
    }

    fn add(&self, text: &str, key: Admitted, secure: bool, now: SystemTime) {
        let now = seconds(now);
        let mut open = self.0.open.lock();
        open.retain(|_, session| session.ends > now);
        let of_key = open.iter().filter(|(_, session)| session.key == key);
        if of_key.clone().count() >= MOST_OF_A_KEY
            && let Some(first) = of_key
                .min_by_key(|(_, session)| session.ends)
                .map(|(digest, _)| *digest)
        {
            open.remove(&first);
        }
        let ends = now + LASTS.as_secs();
        open.insert(digest(text), Session { key, ends, secure });
    }

    /// The session of this text, which is used by that.
    pub(super) fn find(&self, text: &str) -> Option<Found> {
        let found = self.find_at(text, SystemTime::now())?;
        if found.renewed {
            let sessions = self.clone();
            // Nobody needs to wait for it: the session is there, and ends a day too early at worst.
            tokio::spawn(async move { sessions.write().await });
        }
        Some(found)
    }

    fn find_at(&self, text: &str, now: SystemTime) -> Option<Found> {
        let now = seconds(now);
        let mut open = self.0.open.lock();
        let session = open.get_mut(&digest(text)).filter(|session| session.ends > now)?;
        let ends = now + LASTS.as_secs();
        let renewed = session.ends + RENEWED_AFTER.as_secs() <= ends;
        if renewed {
            session.ends = ends;
        }
        Some(Found {
            key: session.key,
            renewed,
            secure: session.secure,
        })
    }

    /// Ends the session of this text, if there is one.
    pub(super) async fn end(&self, text: &str) {
        let ended = self.0.open.lock().remove(&digest(text));
        if ended.is_some() {
            self.write().await;
        }
    }

    async fn write(&self) {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.write()).await;
    }
}

impl Inner {
    /// Keeps the sessions as they are now. Where that fails they last as long as the process. Blocks.
    fn write(&self) {
        let _turn = self.writing.lock();
        let kept: Vec<Kept> = self
            .open
            .lock()
            .iter()
            .map(|(digest, session)| Kept {
                digest: hex::encode(digest),
                key: session.key.mark(),
                ends: session.ends,
                secure: session.secure,
            })
            .collect();
        let written = serde_json::to_vec(&kept).map_err(io::Error::from).and_then(|text| {
            write_atomically(&self.file, |file| {
                file.write_all(&text)?;
                file.sync_all()
            })
        });
        if let Err(error) = written {
            tracing::warn!(%error, "{FILE} in DATA_DIR cannot be written: after a restart, who is logged in must log in again");
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<Kept>> {
    match std::fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Nothing is learnt of a digest by how long it takes to look one up: who could choose one would have to know its text.
fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn keys(keys: &[&str]) -> ApiKeys {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new(*key)).collect();
        ApiKeys::new(&keys)
    }

    fn admitted(key: &str) -> Admitted {
        keys(&[key]).find(key.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_session_is_its_keys_and_outlasts_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let both = keys(&["one", "two"]);
        let sessions = Sessions::open(folder.path(), &both);
        let one = sessions.begin(admitted("one"), true).await.unwrap();
        let two = sessions.begin(admitted("two"), false).await.unwrap();
        assert_eq!((one.len(), one == two), (64, false));
        let found = |sessions: &Sessions, text: &str| sessions.find(text).map(|found| (found.key, found.secure));
        let again = Sessions::open(folder.path(), &both);
        for sessions in [&sessions, &again] {
            assert_eq!(found(sessions, &one), Some((admitted("one"), true)));
            assert_eq!(found(sessions, &two), Some((admitted("two"), false)));
            for wrong in ["", "one", &one[1..], &hex::encode(digest(&one))] {
                assert_eq!(found(sessions, wrong), None);
            }
        }
        let file = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(!file.contains(&one) && !file.contains(&two));
        assert_eq!(format!("{again:?}"), "2 sessions");

        // It ends with its key, for good.
        let without = Sessions::open(folder.path(), &keys(&["two"]));
        assert_eq!(found(&without, &one), None);
        assert_eq!(found(&without, &two), Some((admitted("two"), false)));
        assert_eq!(found(&Sessions::open(folder.path(), &both), &one), None);
        drop(Sessions::open(folder.path(), &keys(&[])));
        assert_eq!(found(&Sessions::open(folder.path(), &both), &two), None);
    }

    #[tokio::test]
    async fn a_session_that_was_ended_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let keys = keys(&["one"]);
        let sessions = Sessions::open(folder.path(), &keys);
        let text = sessions.begin(admitted("one"), false).await.unwrap();
        sessions.end("another").await;
        assert!(sessions.find(&text).is_some());
        sessions.end(&text).await;
        for sessions in [sessions, Sessions::open(folder.path(), &keys)] {
            assert_eq!(sessions.find(&text), None);
        }
    }

    #[test]
    fn a_session_lasts_as_long_as_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(folder.path(), &keys(&["one"]));
        let (begun, hour) = (SystemTime::now(), Duration::from_hours(1));
        sessions.add("text", admitted("one"), true, begun);
        let renewed = |after: u32| {
            let found = sessions.find_at("text", begun + hour * after);
            found.map(|found| found.renewed)
        };
        assert_eq!(renewed(0), Some(false));
        assert_eq!(renewed(23), Some(false));
        assert_eq!(renewed(24), Some(true));
        assert_eq!(renewed(25), Some(false));
        // Seven days after that it still works, but for the last second.
        assert_eq!(renewed(24 + 7 * 24 - 1), Some(true));
        assert_eq!(renewed(24 + 14 * 24 - 1), None);
        assert_eq!(renewed(24 + 14 * 24), None);
    }

    #[test]
    fn a_key_takes_no_room_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(folder.path(), &keys(&["one", "two"]));
        let begun = SystemTime::now();
        sessions.add("other", admitted("two"), false, begun);
        for number in 0..=MOST_OF_A_KEY {
            let later = begun + Duration::from_secs(number as u64);
            sessions.add(&number.to_string(), admitted("one"), false, later);
        }
        let is_there = |text: &str| sessions.find_at(text, begun).is_some();
        assert!(!is_there("0") && is_there("1") && is_there("256") && is_there("other"));
        // What is over makes room by itself.
        sessions.add("new", admitted("two"), false, begun + LASTS * 2);
        assert_eq!(format!("{sessions:?}"), "1 sessions");
    }

    #[tokio::test]
    async fn a_file_that_is_none_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        for wrong in [
            "",
            "[{}]",
            r#"[{"digest": "zz", "key": "", "ends": 99999999999, "secure": true}]"#,
        ] {
            std::fs::write(&file, wrong).unwrap();
            let sessions = Sessions::open(folder.path(), &keys(&["one"]));
            let text = sessions.begin(admitted("one"), false).await.unwrap();
            assert!(Sessions::open(folder.path(), &keys(&["one"])).find(&text).is_some());
        }
        // Where nothing can be written, it lasts as long as the process.
        let sessions = Sessions::open(&folder.path().join("none"), &keys(&["one"]));
        let text = sessions.begin(admitted("one"), false).await.unwrap();
        assert!(sessions.find(&text).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_judged_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(folder.path(), &keys(&["one"]));
        let mut turns = Vec::new();
        for _ in 0..LOGINS_AT_ONCE {
            turns.push(sessions.turn().await.unwrap());
        }
        assert_eq!(sessions.turn().await.unwrap_err().kind, ErrorKind::Busy);
        turns.pop();
        assert!(sessions.turn().await.is_ok());
    }
}
