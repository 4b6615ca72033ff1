//! A commit from the archive that its host makes of it, where there is no git program.

use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;
use url::Url;

use super::address::Address;
use super::error::io;
use super::smart_http::Server;
use super::{Commit, GitError, tree};
use crate::comfy::install::Runner;
use crate::comfy::unpack::{Archive, UnpackError, unpack};
use crate::disk::blocking;
use crate::display::Size;
use crate::telemetry::report::Unit;

/// The largest archive that is fetched, in bytes. ComfyUI's has 15 MB.
const LARGEST: u64 = 2_000_000_000;

/// Writes the files of `commit` to a folder in `partial`, which it names.
pub(super) async fn checkout(
    runner: &Runner<'_>,
    address: &Address,
    commit: &Commit,
    partial: &Path,
) -> Result<PathBuf, GitError> {
    let server = Server::new(address)?;
    let expected = server.tree_of(commit).await?;
    let archive = partial.join("archive.tar.gz");
    fetch(runner, &server, address, commit, &archive).await?;

    let (shown, commit, partial) = (address.to_string(), commit.clone(), partial.to_owned());
    blocking(move || {
        let unpacked = partial.join("unpacked");
        unpack(&archive, Archive::TarGz, Path::new(""), &unpacked)?;
        let tree = only_folder(&archive, &unpacked)?;
        let found = tree::hash(&tree).map_err(io("read", &tree))?;
        if found == expected {
            return Ok(tree);
        }
        Err(GitError::HashMismatch {
            repository: shown,
            commit,
            expected,
            found,
            submodules: tree.join(".gitmodules").symlink_metadata().is_ok(),
        })
    })
    .await
}

/// The folder that holds all the rest of an archive, named after the repository.
fn only_folder(archive: &Path, unpacked: &Path) -> Result<PathBuf, GitError> {
    let entries = std::fs::read_dir(unpacked).map_err(io("read", unpacked))?;
    let mut entries: Vec<_> = entries.flatten().collect();
    match entries.pop() {
        Some(folder) if entries.is_empty() && folder.file_type().is_ok_and(|kind| kind.is_dir()) => Ok(folder.path()),
        _ => Err(GitError::Unpack(UnpackError::Archive {
            archive: archive.to_owned(),
            reason: "its files are not in one folder, as hosts write them".to_owned(),
        })),
    }
}

/// Where hosts have the archive of a commit: GitHub, Gitea and Forgejo at the first, GitLab at the second.
fn places(repository: &Url, commit: &Commit) -> Vec<Url> {
    let path = repository.path().trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut places = vec![
        format!("{path}/archive/{commit}.tar.gz"),
        format!("{path}/-/archive/{commit}/{name}-{commit}.tar.gz"),
    ];
    if repository.host_str().is_some_and(|host| host.contains("gitlab")) {
        places.reverse();
    }
    let url = |path: String| {
        let mut url = repository.clone();
        url.set_path(&path);
        url.set_query(None);
        url.set_fragment(None);
        url
    };
    places.into_iter().map(url).collect()
}

/// Fetches the archive to the new file `target`.
async fn fetch(
    runner: &Runner<'_>,
    server: &Server<'_>,
    address: &Address,
    commit: &Commit,
    target: &Path,
) -> Result<(), GitError> {
    let mut found = None;
    for place in places(&address.url, commit) {
        found = server.file(place).await?;
        if found.is_some() {
            break;
        }
    }
    let Some(mut response) = found else {
        return Err(server.needs_git("its host has no archive of the commit where such hosts have it"));
    };
    let title = format!("archive of {}", crate::echo::cut(&address.to_string()));
    let mut meter = runner.reporter.begin(&title, response.content_length(), Unit::Bytes);
    let mut file = tokio::fs::File::create(target).await.map_err(io("create", target))?;
    let mut size = 0;
    while let Some(piece) = response.chunk().await.map_err(|error| server.unreachable(error))? {
        size += piece.len() as u64;
        if size > LARGEST {
            return Err(GitError::Unpack(UnpackError::Archive {
                archive: target.to_owned(),
                reason: format!("it has more than {}", Size(LARGEST)),
            }));
        }
        file.write_all(&piece).await.map_err(io("write", target))?;
        meter.position(size);
    }
    file.flush().await.map_err(io("write", target))?;
    meter.finish("fetched");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_archives_at_their_own_places() {
        let commit: Commit = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let of = |url: &str| -> Vec<String> {
            let url: Url = url.parse().unwrap();
            places(&url, &commit).into_iter().map(String::from).collect()
        };
        assert_eq!(
            of("https://token@github.com/Comfy-Org/ComfyUI.git")[0],
            format!("https://token@github.com/Comfy-Org/ComfyUI/archive/{commit}.tar.gz")
        );
        assert_eq!(
            of("https://gitlab.com/group/sub/pack/")[0],
            format!("https://gitlab.com/group/sub/pack/-/archive/{commit}/pack-{commit}.tar.gz")
        );
    }
}
