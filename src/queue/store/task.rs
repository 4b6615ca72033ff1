//! Pieces of work, as closures and as what the thread that owns the database can be given.

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::error::{Fault, StoreError};

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
