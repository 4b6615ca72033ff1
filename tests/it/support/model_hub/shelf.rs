//! What the servers have, and whom they give it to.

use std::collections::BTreeMap;

use super::content::{Content, hex};
use sha2::{Digest as _, Sha256};

/// Who may have a repository's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Access {
    /// Everybody.
    #[default]
    Public,
    /// Those who accepted the licence: [`super::TOKEN`] has.
    Gated,
    /// Its owner, who has [`super::TOKEN`].
    Private,
}

/// A file of a commit.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) content: Content,
    /// Kept as a large file: its `ETag` is its SHA-256, and it comes from the CDN.
    pub(super) large: bool,
    /// SHA-256 of the content; for a file that is not large, something that looks like git's hash of it.
    pub(super) etag: String,
}

impl Entry {
    pub(super) fn new(content: Content, large: bool) -> Self {
        let sha256 = content.sha256();
        Self {
            etag: if large { sha256 } else { sha256[..40].to_owned() },
            content,
            large,
        }
    }
}

/// The files of a commit by their paths.
pub(super) type Commit = BTreeMap<String, Entry>;

/// A branch: the commit it names, and after how many answers it names the next one.
#[derive(Debug, Clone, Default)]
pub(super) struct Branch {
    pub(super) commit: String,
    pub(super) then: Option<(usize, String)>,
}

/// A repository.
#[derive(Debug, Clone, Default)]
pub(super) struct Repo {
    pub(super) access: Access,
    pub(super) commits: BTreeMap<String, Commit>,
    pub(super) branches: BTreeMap<String, Branch>,
    /// The name it has now.
    pub(super) renamed: Option<String>,
}

impl Repo {
    /// Adds a commit; gives its name.
    pub(super) fn commit(&mut self, files: Commit) -> String {
        let mut hash = Sha256::new();
        hash.update(self.commits.len().to_le_bytes());
        for (path, entry) in &files {
            hash.update(path);
            hash.update(&entry.etag);
        }
        let name = hex(&hash.finalize())[..40].to_owned();
        self.commits.insert(name.clone(), files);
        name
    }

    /// The commit that a revision names at this moment.
    pub(super) fn resolve(&mut self, revision: &str) -> Option<String> {
        if self.commits.contains_key(revision) {
            return Some(revision.to_owned());
        }
        let branch = self.branches.get_mut(revision)?;
        match &mut branch.then {
            Some((0, next)) => {
                branch.commit = std::mem::take(next);
                branch.then = None;
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        Some(branch.commit.clone())
    }
}

/// A file of the server that is no Hub.
#[derive(Debug, Clone)]
pub(crate) struct Plain {
    pub(crate) content: Content,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    /// Sends to a signed URL of the CDN.
    pub(crate) redirects: bool,
    /// The bearer token that it wants.
    pub(crate) token: Option<String>,
}

impl Plain {
    /// A file for everybody, with a strong `ETag`.
    pub(crate) fn new(content: Content) -> Self {
        Self {
            etag: Some(format!("\"{}\"", &content.sha256()[..32])),
            content,
            last_modified: None,
            redirects: false,
            token: None,
        }
    }
}
