//! Is there room?

use std::path::Path;

use super::error::{InstallError, io};

/// What an installation takes with uv, in bytes: 7.4 GB measured on Linux with Python 3.11 (of it NVIDIA's libraries 4.2,
/// torch 1.7), and some air. uv unpacks into its cache and links from there, so that nothing lies there twice.
pub(super) const NEEDED: u64 = 8_000_000_000;

/// Fails unless `dir`, which need not exist yet, is on a disk with `needed` bytes left for us.
pub(super) fn check(dir: &Path, needed: u64) -> Result<(), InstallError> {
    let free = free_bytes(dir)?;
    if free < needed {
        return Err(InstallError::DiskTooSmall {
            dir: dir.to_owned(),
            free,
            needed,
        });
    }
    Ok(())
}

/// The bytes that an ordinary user may still write where `dir` is, or would be.
fn free_bytes(dir: &Path) -> Result<u64, InstallError> {
    let existing = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let stat = nix::sys::statvfs::statvfs(existing)
        .map_err(|errno| io("measure the free space of", existing)(errno.into()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_measured_where_the_folder_would_be() -> Result<(), InstallError> {
        let temp = std::env::temp_dir();
        let dir = temp.join("not/there/yet");
        check(&dir, 1)?;
        let error = check(&dir, u64::MAX).err();
        assert!(
            matches!(&error, Some(InstallError::DiskTooSmall { dir: named, .. }) if *named == dir),
            "{error:?}"
        );
        Ok(())
    }
}
