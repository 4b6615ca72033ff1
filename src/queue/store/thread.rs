//! The thread that owns the database.
//!
//! It takes all commands that wait, runs the writes among them in one transaction, commits once, and only then answers:
//! while it commits, the next group gathers. A commit waits for no disk and still takes as long as the insert of a job, so a
//! group of eight costs half as much as eight groups.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::database::{Database, Task};
use super::error::StoreError;

/// The most commands in a group, so that the first does not wait long for the last.
const GROUP: usize = 256;

/// The longest time for which a step lies in the log alone; see [`super::database`] for what that means.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// Time between two looks whether a full disk has room again.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
pub(super) enum Command {
    /// Something that changes nothing. It sees committed rows alone.
    Read(Box<dyn Task>),
    /// Something that changes rows.
    Write(Box<dyn Task>),
    /// The disk is full: look for room until there is some.
    Full,
    /// Close the database and end. Answered when another process may open it.
    Close(oneshot::Sender<()>),
}

/// Serves commands until the last handle is dropped or one asks to close. `full` says whether the disk is; it is unset
/// here.
pub(super) fn serve(mut database: Database, commands: &Receiver<Command>, full: &AtomicBool) {
    let (mut checkpointed, mut looked) = (Instant::now(), Instant::now());
    let mut dirty = false;
    loop {
        let is_full = full.load(Ordering::Acquire);
        let checkpoint = dirty.then(|| checkpointed + CHECKPOINT);
        let look = is_full.then(|| looked + LOOK_FOR_ROOM);
        let first = match checkpoint.into_iter().chain(look).min() {
            Some(due) => match commands.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            },
            None => match commands.recv() {
                Ok(first) => Some(first),
                Err(_) => return,
            },
        };
        let is_idle = first.is_none();
        let group = first.into_iter().chain(commands.try_iter()).take(GROUP);
        let (mut reads, mut writes, mut close) = (Vec::new(), Vec::new(), None);
        for command in group {
            match command {
                Command::Read(task) => reads.push(task),
                Command::Write(task) => writes.push(task),
                Command::Full => {}
                Command::Close(reply) => {
                    close = Some(reply);
                    break;
                }
            }
        }
        dirty |= !writes.is_empty();
        // A panic drops the group, so its callers get an error; the next group finds everything in order.
        let served = catch_unwind(AssertUnwindSafe(|| {
            write_group(&mut database, writes);
            for task in reads {
                read(&mut database, task);
            }
        }));
        if served.is_err() {
            tracing::error!("the job store panicked; the steps it had are answered with an error");
            database.roll_back();
        }
        if let Some(reply) = close {
            drop(database);
            let _ = reply.send(());
            return;
        }
        if is_full && looked.elapsed() >= LOOK_FOR_ROOM {
            if database.has_room() {
                full.store(false, Ordering::Release);
                tracing::info!("the disk of the job store has room again");
            }
            looked = Instant::now();
        }
        if dirty && checkpointed.elapsed() >= CHECKPOINT {
            database.checkpoint(is_idle);
            checkpointed = Instant::now();
            dirty = !is_idle;
        }
    }
}

/// Runs the writes of a group in one transaction. When that fails, each gets a transaction of its own, so that one that
/// is too large for what is left of the disk does not take the others with it.
fn write_group(database: &mut Database, mut writes: Vec<Box<dyn Task>>) {
    if writes.len() > 1 {
        let outcome = database.transaction(&mut writes);
        // Each would wait as long again for whoever holds the database.
        let hopeless = outcome.as_ref().is_err_and(StoreError::is_busy);
        if outcome.is_ok() || hopeless {
            for task in writes {
                task.answer(outcome.clone());
            }
            return;
        }
    }
    for mut task in writes {
        let alone = std::slice::from_mut(&mut task);
        let mut outcome = database.transaction(alone);
        if matches!(outcome, Err(StoreError::Damaged { .. })) && database.replace() {
            outcome = database.transaction(alone);
        }
        task.answer(outcome);
    }
}

fn read(database: &mut Database, mut task: Box<dyn Task>) {
    let mut outcome = database.read(&mut *task);
    if matches!(outcome, Err(StoreError::Damaged { .. })) && database.replace() {
        outcome = database.read(&mut *task);
    }
    task.answer(outcome);
}
