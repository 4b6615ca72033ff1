//! Files that other tools have fetched from the Hub already.
//!
//! ```text
//! CACHE/models--OWNER--NAME/refs/REVISION         holds the commit       huggingface_hub's cache, and RunPod's
//! CACHE/models--OWNER--NAME/snapshots/COMMIT/PATH a link to ../../blobs/HASH
//! /runpod/cache/OWNER/NAME/REVISION/PATH          RunPod's Python SDK (utils/rp_model_cache.py)
//! ```

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Where a cache of the Hub lies, below the root of a volume (docs.runpod.io/serverless/endpoints/model-caching).
pub(super) const ON_VOLUME: &str = "huggingface-cache/hub";

/// Where RunPod's Python SDK says that cached models lie.
pub(super) const RUNPOD: &str = "/runpod/cache";

/// How files are named that are not complete yet.
const INCOMPLETE: &str = ".incomplete";

/// The longest name of a commit that is read, in bytes.
const LONGEST_COMMIT: u64 = 128;

/// How many repositories a description names.
const NAMED: usize = 8;

/// A file in a cache of the Hub's tools, complete and of the content wanted as far as its name tells.
pub(super) fn in_hub_cache(
    cache: &Path,
    (repo, revision, path): (&str, &str, &str),
    sha256: Option<&str>,
) -> Option<PathBuf> {
    let repo = cache.join(format!("models--{}", repo.replace('/', "--")));
    let snapshots = repo.join("snapshots");
    // A commit is its own name; a branch or a tag is a file with the commit in it.
    let of_commit = snapshots.join(revision);
    let of_revision = || Some(snapshots.join(commit(&repo.join("refs").join(revision))?));
    let snapshot = if of_commit.is_dir() { of_commit } else { of_revision()? };
    let file = snapshot.join(path);
    // Dangling links end here.
    let blob = file.canonicalize().ok().filter(|blob| blob.is_file())?;
    let name = blob.file_name()?.to_str()?;
    // Large files are named by their SHA-256 there, small ones by something shorter.
    let other = sha256.is_some_and(|sha256| {
        name.len() == sha256.len() && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && name != sha256
    });
    (!other && !name.ends_with(INCOMPLETE)).then_some(file)
}

/// A file in the folder of RunPod's Python SDK.
pub(super) fn in_runpod_cache(cache: &Path, (repo, revision, path): (&str, &str, &str)) -> Option<PathBuf> {
    let file = cache.join(repo).join(revision).join(path);
    file.is_file().then_some(file)
}

/// The commit that a file holds; [`None`] for anything that is no single name.
fn commit(file: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(file)
        .ok()?
        .take(LONGEST_COMMIT)
        .read_to_string(&mut text)
        .ok()?;
    let commit = text.trim();
    let plain = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| commit.to_owned())
}

/// What a cache of the Hub's tools holds, in words.
pub(super) fn described(cache: &Path) -> String {
    let Ok(entries) = fs::read_dir(cache) else {
        return "not there".to_owned();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut repos: Vec<String> = names
        .filter_map(|name| Some(name.strip_prefix("models--")?.replacen("--", "/", 1)))
        .collect();
    repos.sort();
    let more = repos.len().saturating_sub(NAMED);
    repos.truncate(NAMED);
    match (repos.len(), more) {
        (0, _) => "no models".to_owned(),
        (_, 0) => repos.join(", "),
        _ => format!("{} and {more} more", repos.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const COMMIT: &str = "93a2f1f1d6f1d6a1e3b0a7e9b0d1c2e3f4a5b6c7";

    /// A cache as `huggingface_hub` leaves it.
    fn cache() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let repo = root.path().join("models--o--r");
        for folder in ["blobs", "refs/refs/pr", &format!("snapshots/{COMMIT}/sub")] {
            fs::create_dir_all(repo.join(folder)).unwrap();
        }
        fs::write(repo.join("refs/main"), COMMIT).unwrap();
        fs::write(repo.join("refs/refs/pr/1"), format!("{COMMIT}\n")).unwrap();
        fs::write(repo.join("refs/evil"), "../../../models--o--r").unwrap();
        fs::write(repo.join("blobs").join(SHA), "content").unwrap();
        fs::write(repo.join("blobs/x.incomplete"), "con").unwrap();
        let snapshot = repo.join("snapshots").join(COMMIT);
        let blobs = Path::new("../../../blobs");
        symlink(blobs.join(SHA), snapshot.join("sub/x.pt")).unwrap();
        symlink(blobs.join("gone"), snapshot.join("sub/gone.pt")).unwrap();
        symlink(blobs.join("x.incomplete"), snapshot.join("sub/half.pt")).unwrap();
        root
    }

    fn found(cache: &Path, revision: &str, path: &str, sha256: Option<&str>) -> bool {
        let file = in_hub_cache(cache, ("o/r", revision, path), sha256);
        file.is_some_and(|file| file.ends_with(format!("snapshots/{COMMIT}/{path}")))
    }

    #[test]
    fn a_file_is_found_by_branch_request_and_commit() {
        let cache = cache();
        for revision in ["main", "refs/pr/1", COMMIT] {
            assert!(found(cache.path(), revision, "sub/x.pt", None), "{revision}");
        }
        for (revision, path) in [
            ("dev", "sub/x.pt"),
            ("evil", "sub/x.pt"),
            ("main", "x.pt"),
            ("main", "sub"),
            ("main", "sub/gone.pt"),
            ("main", "sub/half.pt"),
        ] {
            assert!(!found(cache.path(), revision, path, None), "{revision} {path}");
        }
    }

    #[test]
    fn a_file_of_other_content_is_another_file() {
        let cache = cache();
        assert!(found(cache.path(), "main", "sub/x.pt", Some(SHA)));
        assert!(!found(cache.path(), "main", "sub/x.pt", Some(&SHA.replace('0', "1"))));
    }

    #[test]
    fn the_folder_of_runpods_sdk_has_plain_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("o/r/main");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("x.pt"), "").unwrap();
        let found = |path| in_runpod_cache(root.path(), ("o/r", "main", path));
        assert_eq!(found("x.pt"), Some(folder.join("x.pt")));
        assert_eq!(found("y.pt"), None);
    }

    #[test]
    fn a_cache_is_described_by_its_repositories() {
        let cache = cache();
        assert_eq!(described(cache.path()), "o/r");
        for number in 0..10 {
            fs::create_dir(cache.path().join(format!("models--p--q{number}--s"))).unwrap();
        }
        assert!(described(cache.path()).starts_with("o/r, p/q0--s, "));
        assert!(described(cache.path()).ends_with(" and 3 more"));
        assert_eq!(described(Path::new("/nowhere")), "not there");
    }
}
