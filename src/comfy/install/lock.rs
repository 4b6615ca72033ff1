//! One installation at a time.
//!
//! The lock belongs to an open file, and each program that the installer runs inherits that file as its standard input
//! (it is empty). So when an installer is killed, the lock is free only once the last of its programs has ended too, and
//! the next installer never works beside the rest of a dead one.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::error::{InstallError, io};
use crate::telemetry::report::Reporter;

/// How often a waiter looks whether the lock has become free.
const POLL: Duration = Duration::from_millis(200);

/// Waits for the lock on the file `path`, which it creates. Dropping the file gives the lock back.
pub(super) async fn acquire(path: &Path, reporter: &dyn Reporter) -> Result<File, InstallError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(io("open", path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(io("lock", path)(source)),
        }
        if !told {
            told = true;
            reporter.note(&format!(
                "another process is installing ComfyUI, or the rest of a killed one is (it holds {}); waiting for it to finish",
                path.display()
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}
