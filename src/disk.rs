//! Work that waits for the disk, or takes long by itself.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Runs what blocks on a thread for that. A panic goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down; nobody waits for this any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Bytes that are worked on without a thread for that: handing them on would take as long.
const FEW: usize = 64 * 1024;

/// Runs work on so many bytes, such as parsing them, where it keeps nobody else waiting.
pub(crate) async fn apart<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= FEW { work() } else { blocking(work).await }
}

/// Writes a file that appears complete or not at all; one of that name is replaced. Until then it is `.NAME.….part` in the
/// same folder, for our user alone (mode 0600). What must outlast a power cut is synced by `write`. Blocks.
pub(crate) fn write_atomically(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut part = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".part")
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    write(part.as_file_mut())?;
    part.persist(path).map(|_| ()).map_err(|failed| failed.error)
}

/// Removes a file, a link, or a folder with all that is in it, if it is there. Blocks.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The room on a disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    /// What an ordinary user may still write.
    pub(crate) free: u64,
    /// Some network file systems have none.
    pub(crate) total: u64,
}

/// The room on the disk where `folder` is, or would be. Blocks.
pub(crate) fn space(folder: &Path) -> io::Result<Space> {
    let stat = statvfs(nearest(folder))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Space {
        free: bytes(stat.blocks_available()),
        total: bytes(stat.blocks()),
    })
}

/// The path itself, or what there is of those above it.
pub(crate) fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let broken = write_atomically(&path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is left of it");
        for text in ["one", "two"] {
            write_atomically(&path, |file| file.write_all(text.as_bytes())).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }
}
