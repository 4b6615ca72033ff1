//! The database file: opening it, working on it, keeping it whole, and what to do when it is not.
//!
//! `journal_mode = WAL` with `synchronous = NORMAL`: a commit is written to the log, which belongs to the kernel from
//! then on, and is not waited for on the disk. So `kill -9` at any moment, a panic or an out-of-memory kill lose
//! nothing that was answered. A power cut, or a crash of the machine, may lose what was answered since the last
//! checkpoint, which comes about every second, and never damages the database: a job taken in during that second is
//! gone, and one that ended in it runs again or is found in ComfyUI's history. Waiting for the disk (`FULL`) would
//! cost each group of steps one to ten milliseconds on usual disks, for a case in which the container that the folder
//! lies in is mostly gone as well.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, ffi};
use tokio::sync::oneshot;

use super::bodies::{self, BodyFiles};
use super::error::{Fault, StoreError, io, sql};
use super::{StoredJob, outbox, rows, schema};

/// The name of the database in `DATA_DIR`.
pub(super) const FILE: &str = "jobs.db";

/// What the log shrinks to after a checkpoint, in bytes.
const LOG_BYTES: i64 = 16 * 1024 * 1024;

/// The room that a disk must have before it counts as full no longer, in bytes: that of an ordinary request with images.
const ROOM: i64 = 4 * 1024 * 1024;

/// More than the statements that there are.
const STATEMENTS: usize = 128;

/// A piece of work and the one who waits for it.
pub(super) trait Task: Send {
    /// Does the work. It may be done again, after a roll-back.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Tells what came of it; an error in `outcome` is why nothing did.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// Work that gives a `T`.
pub(super) struct Work<T, F> {
    run: F,
    done: Result<T, StoreError>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Work<T, F> {
    pub(super) fn new(run: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        let done = Err(StoreError::Stopped);
        (Self { run, done, reply }, answer)
    }
}

impl<T, F> Task for Work<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> Result<T, Fault> + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.done = match (self.run)(connection) {
            Ok(value) => Ok(value),
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Sql(error)) => return Err(error),
        };
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        // Nobody waits when the caller was dropped; the work is done all the same.
        let _ = self.reply.send(outcome.and(self.done));
    }
}

/// The database and the right to use it.
pub(super) struct Database {
    data_dir: PathBuf,
    files: BodyFiles,
    /// How long we wait for another program that has the file locked.
    patience: Duration,
    /// [`None`] while a fresh database cannot be made in place of a damaged one.
    connection: Option<Connection>,
    /// Held as long as the database may be written to.
    lock: File,
}

impl Database {
    /// Opens the database in `data_dir`, makes it if need be, and reads the unfinished jobs.
    pub(super) fn open(data_dir: &Path, patience: Duration) -> Result<(Self, Vec<StoredJob>), StoreError> {
        fs::create_dir_all(data_dir).map_err(io("make the folder", data_dir, data_dir))?;
        let lock = lock(data_dir)?;
        let files = BodyFiles::new(data_dir);
        files.create()?;
        let opened = open_or_replace(data_dir, &files, patience)?;
        files.sweep(&opened.files);
        let database = Self {
            data_dir: data_dir.to_owned(),
            files,
            patience,
            connection: Some(opened.connection),
            lock,
        };
        Ok((database, opened.unfinished))
    }

    /// Runs the tasks in one transaction: all of them or none.
    pub(super) fn transaction(&mut self, tasks: &mut [Box<dyn Task>]) -> Result<(), StoreError> {
        let connection = self.connection()?;
        let run = |tasks: &mut [Box<dyn Task>]| {
            connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
            for task in tasks {
                task.run(connection)?;
            }
            connection.prepare_cached("COMMIT")?.execute(()).map(|_| ())
        };
        let outcome = run(tasks);
        if outcome.is_err() {
            self.roll_back();
        }
        outcome.map_err(|error| sql(&self.data_dir, error))
    }

    /// Runs a task that only reads.
    pub(super) fn read(&mut self, task: &mut dyn Task) -> Result<(), StoreError> {
        let outcome = task.run(self.connection()?);
        outcome.map_err(|error| sql(&self.data_dir, error))
    }

    /// Ends a transaction that SQLite has not ended itself.
    pub(super) fn roll_back(&self) {
        let Some(connection) = self
            .connection
            .as_ref()
            .filter(|connection| !connection.is_autocommit())
        else {
            return;
        };
        if let Err(error) = connection.execute_batch("ROLLBACK") {
            tracing::error!(error = %error, "cannot roll back in the job store");
        }
    }

    /// Brings the log into the database and both to the disk; empties the log too when there is time for it, so that
    /// what was deleted is not there either.
    pub(super) fn checkpoint(&self, has_time: bool) {
        let Some(connection) = &self.connection else {
            return;
        };
        let checkpoint = || {
            if !has_time {
                return connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()));
            }
            // Nobody who reads is waited for: then the log is emptied another time.
            connection.busy_timeout(Duration::ZERO)?;
            let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
            connection.busy_timeout(self.patience)?;
            emptied
        };
        if let Err(error) = checkpoint() {
            // A full disk, mostly: the log keeps everything, and the next checkpoint tries again.
            tracing::warn!(error = %error, "cannot bring the log of the job store into its database");
        }
    }

    /// Whether a disk that was full has room again.
    pub(super) fn has_room(&mut self) -> bool {
        if !self.files.has_room(ROOM) {
            return false;
        }
        // What a kill leaves of it is replaced by the next look, and belongs to no job.
        let write = "INSERT OR REPLACE INTO bodies (owner, kind, bytes) VALUES ('room', 'room', zeroblob(65536))";
        let clean = "DELETE FROM bodies WHERE owner = 'room' AND kind = 'room'";
        let written = self.connection().map(|connection| {
            connection
                .execute(write, ())
                .and_then(|_| connection.execute(clean, ()))
        });
        matches!(written, Ok(Ok(_)))
    }

    /// Puts a fresh database in the place of a damaged one. False: that cannot be done now; the next call tries again.
    pub(super) fn replace(&mut self) -> bool {
        self.connection = None;
        self.connection().is_ok()
    }

    fn connection(&mut self) -> Result<&Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(open_or_replace(&self.data_dir, &self.files, self.patience)?.connection);
        }
        self.connection.as_ref().ok_or(StoreError::Stopped)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.connection = None;
        // By closing alone the lock would outlive us in a child that is between its fork and its exec.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(error = %error, "cannot give the lock on the job store back");
        }
    }
}

/// A database that was found in order, and what was read from it.
struct Opened {
    connection: Connection,
    unfinished: Vec<StoredJob>,
    files: HashSet<String>,
}

impl Opened {
    fn open(data_dir: &Path, files: &BodyFiles, patience: Duration) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        private_file(&path).map_err(io("open", &path, data_dir))?;
        let connection = connect(&path, patience).map_err(|error| sql(data_dir, error))?;
        let found = schema::version(&connection).map_err(|error| sql(data_dir, error))?;
        if found > schema::VERSION {
            return Err(StoreError::Newer {
                folder: data_dir.to_owned(),
                found,
                known: schema::VERSION,
            });
        }
        let read = || {
            schema::migrate(&connection)?;
            outbox::name_hosts(&connection)?;
            bodies::measure(&connection, files)?;
            Ok((rows::unfinished(&connection)?, bodies::named_files(&connection)?))
        };
        let (unfinished, files) = read().map_err(|error| sql(data_dir, error))?;
        Ok(Self {
            connection,
            unfinished,
            files,
        })
    }
}

fn open_or_replace(data_dir: &Path, files: &BodyFiles, patience: Duration) -> Result<Opened, StoreError> {
    match Opened::open(data_dir, files, patience) {
        Err(StoreError::Damaged { source, .. }) => {
            move_aside(data_dir, files, &*source)?;
            Opened::open(data_dir, files, patience)
        }
        opened => opened,
    }
}

fn connect(path: &Path, patience: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(patience)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Requests hold keys, and signatures of URLs: what is deleted is overwritten.
    connection.pragma_update(None, "secure_delete", true)?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    if check != "ok" {
        let corrupt = ffi::Error::new(ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(corrupt, Some(check)));
    }
    Ok(connection)
}

/// Makes the file, or makes it private: requests may hold keys. SQLite gives its other files the same mode.
fn private_file(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Takes the right to use the folder. The file is closed in our children, so a ComfyUI that outlives us does not keep it.
fn lock(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join("jobs.lock");
    let file = private_file(&path).map_err(io("open", &path, data_dir))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io("lock", &path, data_dir)(error)),
    }
}

/// Moves a damaged database and the bodies that belong to it out of the way; nothing is deleted, so that somebody can
/// look for what is left.
fn move_aside(data_dir: &Path, files: &BodyFiles, reason: &dyn std::error::Error) -> Result<(), StoreError> {
    let stamp = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let aside = format!("{FILE}.damaged-{stamp}");
    tracing::error!(
        error = %reason,
        file.path = %data_dir.join(&aside).display(),
        "the job database is damaged; it was moved aside and a fresh one is in use: jobs and results from before are no longer known",
    );
    // The log first: one that stayed behind alone would be played into the fresh database.
    for ending in ["-wal", "-shm", ""] {
        let from = data_dir.join(format!("{FILE}{ending}"));
        match fs::rename(&from, data_dir.join(format!("{aside}{ending}"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("move", &from, data_dir)(error));
            }
            _ => {}
        }
    }
    let folder = data_dir.join(format!("jobs.damaged-{stamp}"));
    fs::rename(files.folder(), folder).map_err(io("move", files.folder(), data_dir))?;
    files.create()
}
