//! Files out of git repositories: a reference becomes a commit, and a commit becomes a folder.
//!
//! ```text
//! reference ─► resolve ─► Commit ─► checkout ─► target (complete, or not there; without .git)
//!                │                     │
//!                │                     ├─ git there:  fetch --depth 1, checkout       (program)
//!                │                     └─ no git:     the host's archive (host), whose tree (tree) must have
//!                │                                    the hash that the commit itself names (smart_http, pack)
//!                ├─ git there:  ls-remote           (program)
//!                └─ no git:     info/refs over HTTP (smart_http)
//! ```
//!
//! A commit's name is a hash over all that is in it, so who names a commit gets its files or an error, whatever server,
//! mirror or proxy is between. Nothing of the repository runs: no hooks, no filters, no submodules.

mod address;
mod error;
mod host;
mod pack;
mod pkt_line;
mod program;
mod refs;
mod smart_http;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod words;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::error::GitError;

use self::address::Address;
use self::error::io;
use self::program::Git;
use self::refs::Refs;
use self::smart_http::Server;
use crate::comfy::install::Runner;
use crate::comfy::unpack::Links;
use crate::disk::blocking;

/// The name of a commit, in full: 40 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Commit(String);

impl Commit {
    /// Its 40 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Commit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if crate::config::is_commit(text) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!("{text:?} is no commit: 40 hexadecimal digits"))
        }
    }
}

impl TryFrom<String> for Commit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The commit that `reference` names: a tag (`0.46.0` finds `v0.46.0` too), else a branch, else a commit in full, which
/// is taken as it is; without one, the default branch's. Nothing but the server's list of references is fetched.
pub(in crate::comfy) async fn resolve(
    runner: &Runner<'_>,
    repository: &str,
    reference: Option<&str>,
) -> Result<Commit, GitError> {
    let address = Address::parse(repository)?;
    if let Some(commit) = reference.and_then(|reference| reference.parse().ok()) {
        return Ok(commit);
    }
    let refs = refs(runner, &address, reference).await?;
    match reference {
        Some(reference) => refs.find(&address, reference),
        None => refs.default_branch(&address),
    }
}

/// The names of the repository's tags.
pub(in crate::comfy) async fn tags(runner: &Runner<'_>, repository: &str) -> Result<Vec<String>, GitError> {
    let address = Address::parse(repository)?;
    let refs = refs(runner, &address, None).await?;
    Ok(refs.tags().map(str::to_owned).collect())
}

async fn refs(runner: &Runner<'_>, address: &Address, wanted: Option<&str>) -> Result<Refs, GitError> {
    match Git::find(runner).await {
        Some(git) => git.refs(address, wanted).await,
        None => Server::new(address)?.refs().await,
    }
}

/// Writes the files of `commit` to the new folder `target`, which appears complete or not at all. What a killed process
/// left of an earlier try is removed first; two tries for one target at once are the caller's to prevent.
pub(in crate::comfy) async fn checkout(
    runner: &Runner<'_>,
    repository: &str,
    commit: &Commit,
    target: &Path,
) -> Result<(), GitError> {
    let address = Address::parse(repository)?;
    let place = target.to_owned();
    let partial = blocking(move || begin(&place)).await?;
    let made = match Git::find(runner).await {
        Some(git) => git.checkout(&address, commit, partial.path()).await,
        None => host::checkout(runner, &address, commit, partial.path()).await,
    };
    let (shown, commit, target) = (address.to_string(), commit.clone(), target.to_owned());
    let left_out = blocking(move || {
        let finished = made.and_then(|tree| finish(&shown, &commit, &tree, &target));
        drop(partial);
        finished
    })
    .await?;
    for line in left_out {
        runner.reporter.note(&format!("{address}: {line}"));
    }
    Ok(())
}

/// What the name of an unfinished folder ends with.
const PARTIAL: &str = ".part";

/// A new folder beside `target` for what is not finished; those of earlier tries are removed.
fn begin(target: &Path) -> Result<tempfile::TempDir, GitError> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(io("create", target)(std::io::ErrorKind::InvalidInput.into()));
    };
    if target.symlink_metadata().is_ok() {
        return Err(io("create", target)(std::io::ErrorKind::AlreadyExists.into()));
    }
    std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    let prefix = format!(".{}.", name.to_string_lossy());
    for entry in std::fs::read_dir(parent).map_err(io("read", parent))?.flatten() {
        if is_partial(&entry.file_name(), &prefix) {
            std::fs::remove_dir_all(entry.path()).map_err(io("remove", &entry.path()))?;
        }
    }
    let mut builder = tempfile::Builder::new();
    let partial = builder.prefix(&prefix).suffix(PARTIAL).tempdir_in(parent);
    partial.map_err(io("create a folder in", parent))
}

/// Whether `name` is one that [`begin`] gives: what the crate puts between holds no dot.
fn is_partial(name: &OsStr, prefix: &str) -> bool {
    let name = name.to_string_lossy();
    let random = name.strip_prefix(prefix).and_then(|name| name.strip_suffix(PARTIAL));
    random.is_some_and(|random| !random.is_empty() && !random.contains('.'))
}

/// Looks at the finished `tree` and gives it its name. Answers what there is to say about it.
fn finish(repository: &str, commit: &Commit, tree: &Path, target: &Path) -> Result<Vec<String>, GitError> {
    let unusable = |path: &Path, reason: &str| GitError::Unusable {
        repository: repository.to_owned(),
        commit: commit.clone(),
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let links = Links::of(tree).map_err(io("read", tree))?;
    if let Some((path, reason)) = links.leading_out() {
        return Err(unusable(path, reason));
    }
    if tree.join(".git").symlink_metadata().is_ok() {
        // git itself takes no such commit; an archive can hold it.
        return Err(unusable(Path::new(".git"), "has the name of git's own folder"));
    }
    let said = left_out(tree);
    std::fs::rename(tree, target).map_err(io("create", target))?;
    Ok(said)
}

/// What belongs to the commit and is not in its tree: one line each.
fn left_out(tree: &Path) -> Vec<String> {
    let mut said = Vec::new();
    // Not through a link: it is the repository's.
    let text = |name: &str| -> Option<String> {
        let path: PathBuf = tree.join(name);
        let is_file = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        is_file.then(|| std::fs::read_to_string(path).ok()).flatten()
    };
    if let Some(modules) = text(".gitmodules") {
        let paths = modules.lines().filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "path").then(|| value.trim())
        });
        let paths: Vec<&str> = paths.collect();
        said.push(format!("its submodules are left out: {}", paths.join(", ")));
    }
    if text(".gitattributes").is_some_and(|attributes| attributes.contains("filter=lfs")) {
        said.push("its large files (git LFS) are left out: there are small text files in their place".to_owned());
    }
    said
}
