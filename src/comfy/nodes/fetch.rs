//! Gets one pack: from the Comfy Registry, from a git repository, or from a folder of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use url::Url;

use super::error::Failure;
use super::registry::{Registry, RegistryError, Release};
use crate::comfy::git;
use crate::comfy::install::Runner;
use crate::comfy::unpack::{Archive, Links, UnpackError, unpack};
use crate::config::{NodePack, PackOrigin};
use crate::disk::{blocking, remove};
use crate::display::{error_chain, redacted};

/// The longest silence of a server that a pack comes from.
const SILENCE: Duration = Duration::from_mins(1);

/// The largest archive of a pack, in bytes. Packs have up to some hundred MB, where they bring models.
const LARGEST: u64 = 2_000_000_000;

/// A pack that is there.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    /// Its version or commit known.
    pub(super) pack: NodePack,
    /// Its files, which nobody may change.
    pub(super) tree: PathBuf,
    /// Its folder in the cache; [`None`] for a folder of its owner's.
    pub(super) cached: Option<String>,
}

/// Where one pack comes from.
pub(super) enum Source<'a> {
    /// A repository, and which commit of it.
    Git(&'a str, git::Commit),
    /// A zip file.
    Archive(Url),
    /// It is on this machine.
    Here,
}

/// Where packs come from, and where they are kept.
pub(super) struct Fetcher<'a> {
    pub(super) runner: &'a Runner<'a>,
    pub(super) registry: &'a Registry,
    /// The cache: one folder a pack and version.
    pub(super) cache: &'a Path,
    /// Set once the Registry could not be reached, by its address and with the reason: it is not waited for again.
    silent: OnceLock<(String, String)>,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(runner: &'a Runner<'a>, registry: &'a Registry, cache: &'a Path) -> Self {
        Self {
            runner,
            registry,
            cache,
            silent: OnceLock::new(),
        }
    }

    /// Gets a pack, or finds it in the cache.
    pub(super) async fn fetch(&self, pack: &NodePack) -> Result<Fetched, Failure> {
        if let PackOrigin::Folder(folder) = &pack.origin {
            return found(pack, folder);
        }
        if !pack.is_floating() {
            // What has a commit, or a version of the Registry, never changes.
            let (fetched, is_there) = self.place(pack.clone());
            if is_there {
                return Ok(fetched);
            }
        }
        let (frozen, source) = self.freeze(pack).await?;
        let (fetched, is_there) = self.place(frozen);
        if is_there {
            return Ok(fetched);
        }
        match source {
            Source::Git(repository, commit) => {
                let done = git::checkout(self.runner, repository, &commit, &fetched.tree).await;
                done.map_err(|error| of_git(&error))?;
            }
            Source::Archive(url) => self.download(&url, &fetched.tree).await?,
            Source::Here => {}
        }
        Ok(fetched)
    }

    /// Finds out which commit or version it is at the moment, and where that comes from.
    pub(super) async fn freeze<'p>(&self, pack: &'p NodePack) -> Result<(NodePack, Source<'p>), Failure> {
        let (origin, source) = match &pack.origin {
            PackOrigin::Folder(folder) => (PackOrigin::Folder(folder.clone()), Source::Here),
            PackOrigin::Git { repository, reference } => {
                let commit = git::resolve(self.runner, repository, reference.as_deref()).await;
                let commit = commit.map_err(|error| of_git(&error))?;
                let origin = PackOrigin::Git {
                    repository: repository.clone(),
                    reference: Some(commit.to_string()),
                };
                (origin, Source::Git(repository, commit))
            }
            PackOrigin::Registry { id, version } => {
                let release = self.release(id, version.as_deref()).await.map_err(|error| Failure {
                    reason: error_chain(&error),
                    may_pass: error.may_pass(),
                })?;
                if release.deprecated {
                    let version = &release.version;
                    self.runner
                        .reporter
                        .note(&format!("the publisher of {id} advises against its version {version}"));
                }
                let origin = PackOrigin::Registry {
                    id: id.clone(),
                    version: Some(release.version),
                };
                (origin, Source::Archive(release.download))
            }
        };
        let name = pack.name.clone();
        Ok((NodePack { name, origin }, source))
    }

    /// What the Registry says, unless it could not be reached before.
    async fn release(&self, id: &str, version: Option<&str>) -> Result<Release, RegistryError> {
        if let Some((url, reason)) = self.silent.get().cloned() {
            let id = id.to_owned();
            return Err(RegistryError::Unreachable { id, url, reason });
        }
        let release = self.registry.release(id, version).await;
        if let Err(RegistryError::Unreachable { url, reason, .. }) = &release
            // An answer may be another one for the next pack.
            && !reason.starts_with("it answers")
        {
            let _ = self.silent.set((url.clone(), reason.clone()));
        }
        release
    }

    /// Where a pack of this version is, or is to be, in the cache; and whether it is there.
    fn place(&self, frozen: NodePack) -> (Fetched, bool) {
        // What names it may be long, and hold any letter.
        let digest = hex::encode(&Sha256::digest(format!("{:?}", frozen.origin))[..10]);
        let tree = self.cache.join(&digest);
        let is_there = tree.is_dir();
        let fetched = Fetched {
            pack: frozen,
            tree,
            cached: Some(digest),
        };
        (fetched, is_there)
    }

    /// Fetches an archive of the Registry and unpacks it to `target`, which appears complete or not at all.
    async fn download(&self, url: &Url, target: &Path) -> Result<(), Failure> {
        let archive = self.runner.dir.join("pack.zip");
        download(url, &archive).await?;
        let (work, target) = (self.runner.dir.join("pack"), target.to_owned());
        let unpacked = blocking(move || {
            remove(&work)
                .and_then(|()| fs::create_dir_all(target.parent().unwrap_or(Path::new("."))))
                .map_err(local)?;
            unpack(&archive, Archive::Zip, Path::new(""), &work).map_err(|error| bad(&error))?;
            let _ = fs::remove_file(&archive);
            let top = top(&work);
            // What leads to the archive's root leads out of the one folder in it.
            let links = Links::of(&top).map_err(local)?;
            if let Some((link, reason)) = links.leading_out() {
                return Err(Failure::lasting(format!(
                    "its archive cannot be used: {:?} {reason}. {ASK_THE_PUBLISHER}",
                    link.display()
                )));
            }
            fs::rename(top, &target).map_err(local)
        });
        unpacked.await
    }
}

/// What is to become the pack's folder: the archive's root, or the one folder that is all of it.
fn top(unpacked: &Path) -> PathBuf {
    let mut entries = fs::read_dir(unpacked).into_iter().flatten().flatten();
    match (entries.next(), entries.next()) {
        (Some(only), None) if only.path().is_dir() => only.path(),
        _ => unpacked.to_owned(),
    }
}

const ASK_THE_PUBLISHER: &str = "Tell its publisher; another version may do";

fn bad(error: &UnpackError) -> Failure {
    match error {
        UnpackError::Io { .. } => Failure::passing(format!("{}. {LOOK_AT_THE_DISK}", error_chain(error))),
        _ => Failure::lasting(format!("{}. {ASK_THE_PUBLISHER}", error_chain(error))),
    }
}

const LOOK_AT_THE_DISK: &str = "See that CUSTOM_NODES_DIR has room and may be written to";

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn local(error: std::io::Error) -> Failure {
    Failure::passing(format!("a file of it cannot be written: {error}. {LOOK_AT_THE_DISK}"))
}

fn of_git(error: &git::GitError) -> Failure {
    Failure {
        reason: format!("{}. {}", error_chain(error).trim_end_matches('.'), error.hint()),
        may_pass: error.may_pass(),
    }
}

/// A folder of this machine, used where it is.
fn found(pack: &NodePack, folder: &Path) -> Result<Fetched, Failure> {
    let tree = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    if !tree.is_dir() {
        // It costs nothing to look again.
        return Err(Failure::passing(format!(
            "there is no folder {}. Name the one that holds its __init__.py",
            tree.display()
        )));
    }
    Ok(Fetched {
        pack: NodePack {
            name: pack.name.clone(),
            origin: PackOrigin::Folder(tree.clone()),
        },
        tree,
        cached: None,
    })
}

/// Writes what `url` answers to the file `target`.
async fn download(url: &Url, target: &Path) -> Result<(), Failure> {
    let shown = redacted(url);
    let failed = |error: &dyn std::fmt::Display| {
        Failure::passing(format!(
            "{shown} cannot be fetched: {error}. Check the connection (HTTPS_PROXY)"
        ))
    };
    let of_http = |error: reqwest::Error| failed(&error_chain(&error.without_url()));
    let client = reqwest::Client::builder()
        .connect_timeout(SILENCE / 2)
        .read_timeout(SILENCE);
    let client = client.build().map_err(of_http)?;
    let response = client.get(url.clone()).send().await.map_err(of_http)?;
    let status = response.status();
    if !status.is_success() {
        let may_pass = status.is_server_error() || [408, 429].contains(&status.as_u16());
        return Err(Failure {
            reason: format!("{shown} answers {status}. Another version of the pack may be there"),
            may_pass,
        });
    }
    let mut file = tokio::fs::File::create(target).await.map_err(local)?;
    let mut chunks = response.bytes_stream();
    let mut size = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(of_http)?;
        size += chunk.len() as u64;
        if size > LARGEST {
            return Err(Failure::lasting(format!(
                "{shown} has more than {LARGEST} bytes. {ASK_THE_PUBLISHER}"
            )));
        }
        file.write_all(&chunk).await.map_err(local)?;
    }
    file.flush().await.map_err(local)
}
