//! Links to files that this worker serves itself: whoever has one may fetch that one file, for a time.
//!
//! `BASE/files/JOB/INDEX/NAME?expires=SECONDS&signature=HEX`, and `BASE/api/v2/assets/ID/content?…` for what Comfy API v2
//! calls an asset; the signature is HMAC-SHA256 over the rest, by a key that
//! only this worker has.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tempfile::NamedTempFile;
use url::Url;

use crate::net::segment;

/// The file of the key, in the data folder.
const KEY_FILE: &str = "files.key";
/// The length of the key, in bytes: that of a block of the hash, which takes it as it is (RFC 2104, section 2).
const KEY_LENGTH: usize = 64;

/// Where the assets of Comfy API v2 are.
const ASSETS: &str = "/api/v2/assets";

/// Makes links to files, and knows them again. Cheap to clone.
#[derive(Clone)]
pub struct FileLinks {
    key: [u8; KEY_LENGTH],
    kept: Duration,
}

impl std::fmt::Debug for FileLinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileLinks")
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

/// Why a link leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    /// It is none of ours, or was changed.
    #[error("the link is not complete, or is none of this worker's")]
    Wrong,
    /// Its time is over.
    #[error("the link has expired")]
    Expired,
}

impl FileLinks {
    /// Reads the key from `folder`, or makes one there. `kept`: how long files are kept after their job's end; no link
    /// promises more. Blocks.
    pub fn open(folder: &Path, kept: Duration) -> io::Result<Self> {
        let path = folder.join(KEY_FILE);
        let key = match fs::read(&path) {
            Ok(key) => key,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(folder, &path)?,
            Err(error) => return Err(error),
        };
        let key = key.try_into().map_err(|_| {
            let message = format!("{} is damaged; remove it, and a new one is made", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        Ok(Self { key, kept })
    }

    /// The address of a job's file under `base`, which works for `lifetime` from the job's `end`, as long as the file is
    /// kept.
    pub fn url(&self, base: &Url, job: &str, index: usize, name: &str, end: SystemTime, lifetime: Duration) -> Url {
        let until = end + lifetime.min(self.kept);
        let expires = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut url = base.clone();
        let folder = base.path().trim_end_matches('/');
        url.set_path(&format!("{folder}/files/{job}/{index}/{}", segment(name)));
        let signature = hex::encode(self.mac(job, index, name, expires).finalize().into_bytes());
        url.set_query(Some(&format!("expires={expires}&signature={signature}")));
        url
    }

    /// Whether a link is ours and its time is not over.
    pub fn check(
        &self,
        job: &str,
        index: usize,
        name: &str,
        expires: u64,
        signature: &str,
        now: SystemTime,
    ) -> Result<(), BadLink> {
        let signature = hex::decode(signature).map_err(|_| BadLink::Wrong)?;
        let mac = self.mac(job, index, name, expires);
        // In constant time.
        mac.verify_slice(&signature).map_err(|_| BadLink::Wrong)?;
        if UNIX_EPOCH + Duration::from_secs(expires) < now {
            return Err(BadLink::Expired);
        }
        Ok(())
    }

    /// The address of the content of an asset under `base`, which works until this time; in whole seconds, as is told too.
    pub fn asset_url(&self, base: &Url, id: &str, until: SystemTime) -> (Url, SystemTime) {
        let expires = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut url = base.clone();
        let folder = base.path().trim_end_matches('/');
        url.set_path(&format!("{folder}{ASSETS}/{}/content", segment(id)));
        let signature = hex::encode(self.asset_mac(id, expires).finalize().into_bytes());
        url.set_query(Some(&format!("expires={expires}&signature={signature}")));
        (url, UNIX_EPOCH + Duration::from_secs(expires))
    }

    /// Whether a link to an asset is ours and its time is not over.
    pub fn check_asset(&self, id: &str, expires: u64, signature: &str, now: SystemTime) -> Result<(), BadLink> {
        let signature = hex::decode(signature).map_err(|_| BadLink::Wrong)?;
        // In constant time.
        let mac = self.asset_mac(id, expires);
        mac.verify_slice(&signature).map_err(|_| BadLink::Wrong)?;
        if UNIX_EPOCH + Duration::from_secs(expires) < now {
            return Err(BadLink::Expired);
        }
        Ok(())
    }

    fn asset_mac(&self, id: &str, expires: u64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        // No link to a file of a job is signed with a word in the place of a number.
        mac.update(format!("asset/{expires}/{id}").as_bytes());
        mac
    }

    fn mac(&self, job: &str, index: usize, name: &str, expires: u64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        // The name is last: it alone may hold a slash.
        mac.update(format!("{expires}/{job}/{index}/{name}").as_bytes());
        mac
    }
}

/// Makes a key that only our user can read. Of several workers that do so at once, one wins.
fn make_key(folder: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let mut key = [0; KEY_LENGTH];
    getrandom::fill(&mut key)
        .map_err(|error| io::Error::other(format!("the system gives no random bytes: {error}")))?;
    fs::create_dir_all(folder)?;
    // For our user alone until it is there under its name; unlike a rename this does not replace a key that is there.
    let mut part = NamedTempFile::new_in(folder)?;
    part.write_all(&key)?;
    part.as_file().sync_all()?;
    match part.persist_noclobber(path) {
        Err(failed) if failed.error.kind() != io::ErrorKind::AlreadyExists => Err(failed.error),
        _ => fs::read(path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn links(folder: &Path) -> FileLinks {
        FileLinks::open(folder, 14 * DAY).unwrap()
    }

    /// What a route sees of a link.
    fn check(links: &FileLinks, url: &Url, now: SystemTime) -> Result<(), BadLink> {
        let parts: Vec<_> = url.path_segments().unwrap().collect();
        let [.., job, index, name] = parts[..] else {
            panic!("{url}")
        };
        let name = name.replace("%20", " ");
        let query: std::collections::HashMap<_, _> = url.query_pairs().into_owned().collect();
        let expires = query["expires"].parse().unwrap();
        links.check(job, index.parse().unwrap(), &name, expires, &query["signature"], now)
    }

    #[test]
    fn a_link_works_until_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let links = links(folder.path());
        let base = "https://worker.example.com/images/".parse().unwrap();
        let end = SystemTime::now();
        let url = links.url(&base, "job", 0, "a b.png", end, 7 * DAY);
        assert!(
            url.as_str()
                .starts_with("https://worker.example.com/images/files/job/0/a%20b.png?expires=")
        );
        assert_eq!(check(&links, &url, end), Ok(()));
        assert_eq!(check(&links, &url, end + 6 * DAY), Ok(()));
        assert_eq!(check(&links, &url, end + 8 * DAY), Err(BadLink::Expired));
        let longer = links.url(&base, "job", 0, "a b.png", end, 30 * DAY);
        assert_eq!(
            check(&links, &longer, end + 15 * DAY),
            Err(BadLink::Expired),
            "it is no longer kept"
        );
    }

    #[test]
    fn a_changed_link_is_none_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let links = links(folder.path());
        let (base, end) = ("http://127.0.0.1:8188".parse().unwrap(), SystemTime::now());
        let url = links.url(&base, "job", 0, "a.png", end, DAY);
        for (from, to) in [
            ("/job/", "/jab/"),
            ("/0/", "/1/"),
            ("a.png", "b.png"),
            ("expires=", "expires=9"),
            ("signature=", "signature=00"),
            ("signature=", "signature=x"),
        ] {
            let changed = url.as_str().replace(from, to).parse().unwrap();
            assert_eq!(check(&links, &changed, end), Err(BadLink::Wrong), "{changed}");
        }
        let other = tempfile::tempdir().unwrap();
        let another = FileLinks::open(other.path(), DAY).unwrap();
        assert_eq!(check(&another, &url, end), Err(BadLink::Wrong));
    }

    #[test]
    fn a_link_to_an_asset_is_for_that_alone() {
        let folder = tempfile::tempdir().unwrap();
        let links = links(folder.path());
        let base = "https://worker.example.com/images/".parse().unwrap();
        let now = SystemTime::now();
        let (url, until) = links.asset_url(&base, "a-b", now + DAY);
        assert!(
            url.as_str()
                .starts_with("https://worker.example.com/images/api/v2/assets/a-b/content?expires="),
            "{url}"
        );
        let query: std::collections::HashMap<_, _> = url.query_pairs().into_owned().collect();
        let (expires, signature) = (query["expires"].parse().unwrap(), query["signature"].as_str());
        assert_eq!(UNIX_EPOCH + Duration::from_secs(expires), until);
        assert_eq!(links.check_asset("a-b", expires, signature, now), Ok(()));
        assert_eq!(
            links.check_asset("a-b", expires, signature, until + DAY),
            Err(BadLink::Expired)
        );
        for (id, expires, signature) in [
            ("a-c", expires, signature),
            ("a-b", expires + 1, signature),
            ("a-b", expires, &signature[2..]),
            ("a-b", expires, ""),
            ("a-b", u64::MAX, signature),
        ] {
            assert_eq!(
                links.check_asset(id, expires, signature, now),
                Err(BadLink::Wrong),
                "{id} {expires} {signature}"
            );
        }
        let file = links.url(&base, "asset", 0, "a", now, DAY);
        let of_file = file.query_pairs().find(|(name, _)| name == "signature").unwrap().1;
        assert_eq!(links.check_asset("0/a", expires, &of_file, now), Err(BadLink::Wrong));
    }

    #[test]
    fn the_key_stays_and_is_nobodys_else() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (links(folder.path()), links(folder.path()));
        assert_eq!(first.key, second.key);
        let path = folder.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert!(!format!("{first:?}").contains("key"));
        fs::write(&path, "short").unwrap();
        assert!(
            FileLinks::open(folder.path(), DAY)
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
    }
}
