//! The durable side of the queue: what is in here outlives `kill -9`.
//!
//! ```text
//!  Store ──┐  commands   ┌────────────┐  one transaction a group  ┌──────────────────────┐
//!  Store ──┼───────────► │ one thread │ ────────────────────────► │ DATA_DIR/jobs.db     │
//!  Store ──┘ ◄────────── │            │                           │ DATA_DIR/jobs/*.json │
//!            answers     └────────────┘                           └──────────────────────┘
//! ```
//!
//! The queue, in memory, owns the order of jobs; the store remembers them. Each step is durable when its call returns:
//! what that means, and why, is said in `database.rs`. Payloads and results are bytes here; who writes them
//! reads them. Small ones lie in the database, large ones in files, which the caller's side reads and writes, so
//! that the thread never waits for them.
//!
//! When `finish` says yes, the job has ended, for good and once: its state, result, files and webhook are one
//! transaction. A full disk refuses writes alone ([`StoreError::Full`]) and ends by itself. A damaged database is moved
//! aside, and a fresh one takes its place: then jobs that are live in the queue are [`StoreError::Unknown`] here.

mod assets;
mod bodies;
mod database;
mod error;
mod expiry;
mod history;
mod keys;
mod lists;
mod outbox;
mod outputs;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod thread;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::disk::blocking;
use crate::job::{JobId, Policy};
use bodies::{Body, BodyFiles, Kind, NewBody};
use database::{Database, Work};
use error::Fault;
use thread::Command;

pub use assets::{Asset, Need};
pub use error::{StoreError, full};
pub use expiry::Expired;
pub use history::{Shown, ShownBy, ShownJob, ShownPart};
pub use keys::{Operation, REMEMBERED};
pub use lists::JobsOfV2;
pub use outbox::WebhookRow;
pub use rows::{Claims, Finished, NewJob, StoredJob};

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bodies of more bytes than this lie in files of their own: rows stay small, and so does what a commit writes.
    pub inline_bytes: usize,
    /// How long the store waits for another program that has its database locked.
    pub patience: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            inline_bytes: 64 * 1024,
            patience: Duration::from_secs(5),
        }
    }
}

/// A handle on the store. Cheap to clone; the store is closed when the last one is dropped, or by [`Store::close`].
#[derive(Debug, Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    files: BodyFiles,
    inline_bytes: usize,
    full: Arc<AtomicBool>,
}

impl Store {
    /// Opens the store in `folder` (`DATA_DIR`), and makes it if need be. Gives the jobs that have not ended: those that
    /// were running first, then by priority, then by age.
    ///
    /// Refused with [`StoreError::InUse`] while another process has it open.
    pub async fn open(folder: &Path, options: StoreOptions) -> Result<(Self, Vec<StoredJob>), StoreError> {
        let (commands, received) = mpsc::channel();
        let (opened, answer) = oneshot::channel();
        let data_dir = folder.to_owned();
        let full = Arc::new(AtomicBool::new(false));
        let is_full = Arc::clone(&full);
        std::thread::Builder::new()
            .name("job-store".to_owned())
            .spawn(move || match Database::open(&data_dir, options.patience) {
                Ok((database, unfinished)) => {
                    let _ = opened.send(Ok(unfinished));
                    thread::serve(database, &received, &is_full);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            })
            .map_err(error::io("start the thread for", folder, folder))?;
        let unfinished = answer.await.map_err(|_| StoreError::Stopped)??;
        let store = Self {
            commands,
            files: BodyFiles::new(folder),
            inline_bytes: options.inline_bytes,
            full,
        };
        Ok((store, unfinished))
    }

    /// By what this store is known from any other: 32 hexadecimal digits, chosen when it was made.
    pub async fn name(&self) -> Result<String, StoreError> {
        self.read(|connection| Ok(connection.query_row("SELECT name FROM store", (), |row| row.get(0))?))
            .await
    }

    /// Remembers a new job, as queued.
    pub async fn insert(&self, mut job: NewJob) -> Result<(), StoreError> {
        let policy = self.written(&job.policy)?;
        let payload = self
            .keep(&job.id, Kind::Payload, std::mem::take(&mut job.payload))
            .await?;
        let file = payload.file();
        let inserted = self.write(move |connection| rows::insert(connection, &job, &policy, &payload));
        let inserted = inserted.await;
        self.drop_unless_kept(&inserted, file).await;
        inserted
    }

    /// A policy as its column has it.
    fn written(&self, policy: &Policy) -> Result<String, StoreError> {
        serde_json::to_string(policy).map_err(|error| {
            let error = rusqlite::Error::ToSqlConversionFailure(error.into());
            error::sql(self.files.data_dir(), error)
        })
    }

    /// A queued job was taken from the queue, for the `attempt`th time.
    pub async fn started(&self, id: &JobId, attempt: u32) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(move |connection| rows::started(connection, &id, attempt))
            .await
    }

    /// The ComfyUI of this engine has a job under this prompt id, whether it has begun with it or not.
    pub async fn submitted(&self, id: &JobId, prompt_id: &str, engine: &str) -> Result<(), StoreError> {
        let (id, prompt_id, engine) = (id.clone(), prompt_id.to_owned(), engine.to_owned());
        self.write(move |connection| rows::submitted(connection, &id, &prompt_id, &engine))
            .await
    }

    /// A job goes back to the queue whose worker or ComfyUI went away, as it came.
    pub async fn requeued(&self, id: &JobId) -> Result<(), StoreError> {
        let id = id.clone();
        let freed = self.write(move |connection| rows::requeued(connection, &id)).await?;
        self.remove_files(freed).await;
        Ok(())
    }

    /// Jobs that were cancelled, or took too long, since then while an engine elsewhere had them: its name, and what was put down
    /// of each.
    pub async fn left_elsewhere(&self, since: SystemTime) -> Result<Vec<(Option<String>, String)>, StoreError> {
        self.read(move |connection| rows::left_elsewhere(connection, since))
            .await
    }

    /// An engine elsewhere took a job that had been cancelled meanwhile, as this ticket says.
    pub async fn taken_late(&self, id: &JobId, ticket: &str) -> Result<(), StoreError> {
        let (id, ticket) = (id.clone(), ticket.to_owned());
        self.write(move |connection| rows::taken_late(connection, &id, &ticket))
            .await
    }

    /// No engine has a job any more that had not ended: it waits, as it came.
    pub async fn given_back(&self, id: &JobId) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(move |connection| rows::given_back(connection, &id)).await
    }

    /// A job that had ended goes back to the queue, since its owner wants it again: it comes `at` this time, to be handled
    /// by this policy. It loses its
    /// result, and a webhook that was not yet delivered is withdrawn: it would tell an end that is none any more, perhaps
    /// after the next one. Its files stay in the list of what is removed with the job. [`StoreError::NoRequest`] where its
    /// payload was not kept.
    pub async fn retried(&self, id: &JobId, at: SystemTime, policy: &Policy) -> Result<(), StoreError> {
        let id = id.clone();
        let policy = self.written(policy)?;
        let freed = self
            .write(move |connection| rows::retried(connection, &id, at, &policy))
            .await?;
        self.remove_files(freed).await;
        Ok(())
    }

    /// A job ended. State, result, files and webhook are one transaction, in which a payload that is no longer needed
    /// goes. That it began need not have been stored. False, and nothing changed, when the job had ended already.
    pub async fn finish(&self, id: &JobId, mut end: Finished) -> Result<bool, StoreError> {
        let result = self.keep(id, Kind::Result, std::mem::take(&mut end.result)).await?;
        let file = result.file();
        let id = id.clone();
        let finished = self.write(move |connection| rows::finish(connection, &id, &end, &result));
        let finished = finished.await;
        self.drop_unless_kept(&finished, file.clone()).await;
        let freed = finished?;
        let is_end = freed.is_some();
        self.remove_files(freed.unwrap_or_else(|| file.into_iter().collect()))
            .await;
        Ok(is_end)
    }

    /// Whether a write found the disk full, and there has been no room since. The store looks for room by itself.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Ends what was asked for before, closes the database, and gives the folder free. Later calls on any handle are
    /// answered with [`StoreError::Stopped`].
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).is_ok() {
            // An error means that the thread has ended already.
            let _ = closed.await;
        }
    }

    async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let (work, answer) = Work::new(work);
        let written = self.ask(Command::Write(Box::new(work)), answer).await;
        written.inspect_err(|error| self.heed(error))
    }

    /// A full disk is looked after until it has room again.
    fn heed(&self, error: &StoreError) {
        if matches!(error, StoreError::Full { .. }) && !self.full.swap(true, Ordering::AcqRel) {
            tracing::error!("jobs cannot be stored: {}", error.full_text());
            // An error means that the thread has ended.
            let _ = self.commands.send(Command::Full);
        }
    }

    async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let (work, answer) = Work::new(work);
        self.ask(Command::Read(Box::new(work)), answer).await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.commands.send(command).map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Puts a body of this job where it belongs: a large one into a file, of a new name each time, so that two ends of
    /// the same job that meet do not meet there.
    async fn keep(&self, job: &JobId, kind: Kind, bytes: Bytes) -> Result<NewBody, StoreError> {
        let size = bytes.len();
        if size <= self.inline_bytes {
            let place = Body::Row(bytes);
            return Ok(NewBody { place, size });
        }
        let files = self.files.clone();
        let name = format!("{job}.{}-{}.json", kind.as_str(), Uuid::now_v7().simple());
        let written = blocking(move || files.write(&name, &bytes).map(|()| Body::File(name))).await;
        let place = written.inspect_err(|error| self.heed(error))?;
        Ok(NewBody { place, size })
    }

    async fn load(&self, body: Option<Body>) -> Result<Option<Bytes>, StoreError> {
        match body {
            None => Ok(None),
            Some(Body::Row(bytes)) => Ok(Some(bytes)),
            Some(Body::File(name)) => {
                let files = self.files.clone();
                blocking(move || files.read(&name)).await
            }
        }
    }

    /// Removes a file that was written for a row that was then refused. Where it is not known whether it was, the file stays:
    /// the next start knows.
    async fn drop_unless_kept<T>(&self, outcome: &Result<T, StoreError>, file: Option<String>) {
        if matches!(outcome, Err(error) if !matches!(error, StoreError::Stopped)) {
            self.remove_files(file.into_iter().collect()).await;
        }
    }

    async fn remove_files(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let files = self.files.clone();
        // What stays is swept after the next start.
        blocking(move || files.remove(&names)).await;
    }
}
