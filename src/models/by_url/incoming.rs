//! Files on their way: how they are called, what they must be when they are there, and what is left of those that broke off.
//!
//! ```text
//! 0123…cdef.incoming  ─►  0123…cdef.safetensors
//! ```

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::file_name;
use super::flights::{Arrived, Wish};
use super::header::{self, Header};
use crate::models::cache::{self, InUse};
use crate::models::download::{FetchError, leftovers, sha256_of};
use crate::models::lent::tell_of;

/// What a file ends with that is on its way: ComfyUI lists no such one.
pub(super) const INCOMING: &str = ".incoming";
/// What is left of downloads that broke off goes after so long.
const ABANDONED_AFTER: Duration = Duration::from_hours(1);
/// How many of them are kept at most: who sends requests and calls them off must not fill the disk.
const MOST_ABANDONED: usize = 3;
/// One that is going on is written to at least this often.
const QUIET: Duration = Duration::from_mins(2);

/// Looks at the whole file once more; gives its SHA-256. One that is not what was spoken of is removed. Blocking.
pub(super) fn check(wish: &Wish, expected: &Header, sha256: Option<String>) -> Result<String, FetchError> {
    let incoming = &wish.incoming;
    let checked = || {
        // Where nobody has computed it: the file was complete before its worker was killed.
        let sha256 = sha256.map_or_else(|| sha256_of(incoming, |_| ()).map_err(unread("read", incoming)), Ok)?;
        if let Some(expected) = wish.sha256.as_ref().filter(|expected| **expected != sha256) {
            return Err(FetchError::WrongHash {
                url: wish.label.clone(),
                expected: expected.clone(),
                got: sha256,
            });
        }
        let told = |why: String| Err(FetchError::told(format!("the file {why}"), None));
        match header::of_file(incoming) {
            Ok(header) if header == *expected => Ok(sha256),
            Ok(_) => told("changed while it was being fetched".to_owned()),
            Err(why) => told(why),
        }
    };
    let checked = checked();
    if checked.is_err() {
        let _ = fs::remove_file(incoming);
    }
    checked
}

/// Gives the file its name. It counts for `MODEL_CACHE_GB` from now on, also where that is set later. Blocking.
pub(super) fn publish(incoming: &Path, sha256: &str, in_use: &InUse) -> Result<Arrived, FetchError> {
    let path = incoming.with_file_name(file_name(sha256));
    let held = Arc::new(in_use.hold(vec![path.clone()]));
    fs::rename(incoming, &path).map_err(unread("give its name to", incoming))?;
    cache::mark(&path);
    tell_of(&path);
    Ok(Arrived { path, held })
}

fn unread(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::File { action, path, source }
}

/// Removes what is left of a download, unless somebody has it under way. Blocking.
pub(super) fn remove_leftovers(incoming: &Path) {
    for path in leftovers(incoming) {
        let _ = fs::remove_file(path);
    }
}

/// Removes what downloads have left that broke off: what is old, and all but the last few. Nothing of `own`. Blocking.
pub(super) fn sweep(folder: &Path, own: &Path) {
    let mut written: HashMap<PathBuf, SystemTime> = HashMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((begin, _)) = name.to_str().and_then(|name| name.split_once(INCOMING)) else {
            continue;
        };
        let target = folder.join(format!("{}{INCOMING}", begin.trim_start_matches('.')));
        let Ok(time) = entry.metadata().and_then(|facts| facts.modified()) else {
            continue;
        };
        let last = written.entry(target).or_insert(time);
        *last = time.max(*last);
    }
    written.remove(own);
    let mut written: Vec<_> = written.into_iter().collect();
    written.sort_by_key(|(_, time)| Reverse(*time));
    for (place, (target, time)) in written.iter().enumerate() {
        let age = time.elapsed().unwrap_or_default();
        if age > ABANDONED_AFTER || (place >= MOST_ABANDONED && age > QUIET) {
            remove_leftovers(target);
        }
        if age > ABANDONED_AFTER {
            let _ = fs::remove_file(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::models::by_url::header::testing;
    use crate::models::download::{Located, Source};

    fn wish(folder: &Path, sha256: Option<&str>) -> Wish {
        Wish {
            source: Source {
                origin: Origin::Url("https://models.example.com/x".parse().unwrap()),
                token: None,
            },
            located: Located::nowhere(),
            label: "x".to_owned(),
            incoming: folder.join("a.incoming"),
            sha256: sha256.map(str::to_owned),
            most: 1_000,
        }
    }

    #[test]
    fn only_the_file_that_was_spoken_of_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = testing::file(&[("a.lora_A.weight", "F32", &[2, 2])]);
        let header = header::parse(&bytes, None).unwrap();
        let good = wish(folder.path(), None);
        let put = |bytes: &[u8]| fs::write(&good.incoming, bytes).unwrap();
        put(&bytes);
        let sha256 = check(&good, &header, None).unwrap();
        let wrong = check(&wish(folder.path(), Some("00")), &header, None).unwrap_err();
        assert!(matches!(wrong, FetchError::WrongHash { .. }) && !good.incoming.exists());
        put(&testing::file(&[("b.lora_A.weight", "F32", &[2, 2])]));
        let changed = check(&good, &header, None).unwrap_err().to_string();
        assert!(changed.contains("changed") && !good.incoming.exists(), "{changed}");
        put(&bytes[..bytes.len() - 1]);
        let short = check(&good, &header, Some(sha256.clone())).unwrap_err().to_string();
        assert!(short.contains("lies"), "{short}");
        put(&bytes);
        let in_use = InUse::default();
        let arrived = publish(&good.incoming, &sha256, &in_use).unwrap();
        assert_eq!(fs::read(&arrived.path).unwrap(), bytes);
        // It is counted, stays while somebody has it, and goes after that.
        let models = folder.path().parent().unwrap();
        let gone = |in_use| cache::make_room(folder.path(), 0, 0, in_use).len();
        assert_eq!(gone(&in_use), 0, "{}", models.display());
        drop(arrived);
        assert_eq!(gone(&in_use), 1);
    }

    #[test]
    fn what_broke_off_is_kept_for_a_while_and_not_in_any_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let put = |name: &str, minutes: u64| {
            let file = fs::File::create(path(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_mins(minutes))
                .unwrap();
        };
        let part = |name: &str| format!(".{name}.incoming.0123456789abcdef.part");
        for (name, minutes) in [
            ("a", 3),
            ("b", 4),
            ("c", 5),
            ("d", 6),
            ("old", 61),
            ("own", 90),
            ("now", 0),
        ] {
            put(&part(name), minutes);
        }
        put("0a.safetensors", 100);
        put("done.incoming", 61);
        sweep(folder.path(), &path("own.incoming"));
        let there = |name: &str| path(&part(name)).exists();
        assert!(there("now") && there("a") && there("b") && there("own"));
        assert!(!there("c") && !there("d") && !there("old"));
        assert!(path("0a.safetensors").exists() && !path("done.incoming").exists());
    }
}
