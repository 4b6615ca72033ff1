//! What can go wrong with the store.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;

use crate::display::error_chain;
use crate::error::{ErrorKind, JobError};
use crate::job::{JobId, JobState};

/// Why the store did not do what it was asked for. What was asked has then not happened at all, unless the variant
/// says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room is left. Reading goes on, and writing does again as soon as there is room.
    #[error("the disk of {} is full", folder.display())]
    Full {
        /// `DATA_DIR`.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Another worker has the folder: each would run the other's jobs.
    #[error("another worker uses {}", .0.display())]
    InUse(PathBuf),
    /// A newer version of this program wrote the database.
    #[error("the job database in {} has version {found}; this program knows versions up to {known}", folder.display())]
    Newer {
        /// `DATA_DIR`.
        folder: PathBuf,
        /// The version of the database.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The database is damaged. It has been moved aside, and the next call finds a fresh one.
    #[error("the job database in {} is damaged", folder.display())]
    Damaged {
        /// `DATA_DIR`.
        folder: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// SQLite refuses for another reason.
    #[error("the job database in {} cannot be used", folder.display())]
    Database {
        /// `DATA_DIR`.
        folder: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// The step does not belong to the life of a job.
    #[error("job {id} is {from} and cannot become {to}")]
    IllegalStep {
        /// Which job.
        id: JobId,
        /// What it is.
        from: JobState,
        /// What it should have become.
        to: JobState,
    },
    /// There is no such job, or no more.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// There is a job of this id already.
    #[error("there is a job {0} already")]
    Duplicate(JobId),
    /// The job's request is no longer kept: it cannot be run again.
    #[error("the request of job {0} is no longer kept, so it cannot be run again")]
    NoRequest(JobId),
    /// The key of the request, by which one that comes twice is known, was used before.
    #[error("the key of the request has been used")]
    KeyUsed,
    /// The store was closed, or failed while it worked on this: whether it has happened is unknown.
    #[error("the job store gave no answer")]
    Stopped,
}

impl StoreError {
    /// The next step for the user.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Full { .. } => Some(MAKE_ROOM),
            Self::InUse(_) => Some("Stop the other worker, or give each worker a DATA_DIR of its own."),
            Self::Newer { .. } => Some("Run the newer version again, or set DATA_DIR to another folder."),
            Self::File { .. } => Some("Set DATA_DIR to a folder that can be written to."),
            Self::NoRequest(_) => Some("Send it again."),
            Self::Duplicate(_) => Some("Send it under another id, or under none."),
            Self::KeyUsed => Some("Look for what that request made; send a new one with another Idempotency-Key."),
            Self::Database { .. } => Some("Check the disk of DATA_DIR, and that nobody else has its jobs.db open."),
            _ => None,
        }
    }

    /// What happened, where, why, and the next step: for the log. Users get a [`JobError`], which names no paths.
    pub fn full_text(&self) -> String {
        let text = error_chain(self);
        match self.hint() {
            Some(hint) => format!("{text}. {hint}"),
            None => text,
        }
    }

    /// Whether the same call would fail for ever: it belongs to no step of a job's life.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::IllegalStep { .. } | Self::Unknown(_) | Self::Duplicate(_) | Self::NoRequest(_) | Self::KeyUsed
        )
    }

    /// Whether another program holds the database.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Database { source, .. } if source.sqlite_error_code() == Some(ErrorCode::DatabaseBusy))
    }
}

/// An error of SQLite, with the folder that it is about.
pub(super) fn sql(folder: &Path, error: rusqlite::Error) -> StoreError {
    let folder = folder.to_owned();
    let (is_damaged, is_full, source) = (is_damage(&error), is_full(&error), Arc::new(error));
    match (is_damaged, is_full) {
        (true, _) => StoreError::Damaged { folder, source },
        (false, true) => StoreError::Full { folder, source },
        (false, false) => StoreError::Database { folder, source },
    }
}

/// An error of a file in `folder`.
pub(super) fn io(action: &'static str, path: &Path, folder: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let (path, folder) = (path.to_owned(), folder.to_owned());
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full {
            folder,
            source: Arc::new(source),
        },
        _ => StoreError::File {
            action,
            path,
            source: Arc::new(source),
        },
    }
}

/// Whether the database itself is at fault.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

fn is_full(error: &rusqlite::Error) -> bool {
    let Some(code) = error.sqlite_error() else {
        return false;
    };
    // The index of the log grows by a call that names no reason; a full disk is what makes it fail.
    code.code == ErrorCode::DiskFull || code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
}

/// What users are told while the disk is full.
pub fn full() -> JobError {
    JobError::new(ErrorKind::StoreUnavailable, "The disk of the worker is full").hint(MAKE_ROOM)
}

const MAKE_ROOM: &str = "Make room in DATA_DIR, or set DATA_DIR to a folder on a larger disk.";

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        // Paths are for the operator, in the log; the user gets the variable's name.
        let (kind, message) = match &error {
            StoreError::Unknown(_) => (ErrorKind::NotFound, error.to_string()),
            // Nothing is wrong with the request, and it may be sent again.
            StoreError::Full { .. } => return full(),
            error if error.is_busy() => {
                let message = "Another program holds the worker's job store".to_owned();
                (ErrorKind::StoreUnavailable, message)
            }
            StoreError::IllegalStep { .. }
            | StoreError::NoRequest(_)
            | StoreError::Duplicate(_)
            | StoreError::KeyUsed => (ErrorKind::Conflict, error.to_string()),
            _ => (ErrorKind::Internal, "The worker cannot use its job store".to_owned()),
        };
        Self {
            hint: error.hint().map(Into::into),
            ..Self::new(kind, message)
        }
    }
}

/// Why a piece of work did not do its part.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The database failed. Nothing of the transaction remains.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// The work itself refused, before it changed anything.
    #[error(transparent)]
    Refused(#[from] StoreError),
}
