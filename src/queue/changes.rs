//! What happens to jobs, for those who tell others of it.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Queue;
use crate::job::{JobId, JobView};

/// What happened to a job.
#[derive(Debug, Clone)]
pub enum Change {
    /// It was taken in, or queued again.
    Came(JobId),
    /// ComfyUI has begun with it.
    Began(JobId),
    /// It has ended: that is stored, as far as it can be, and shown.
    Ended(Box<JobView>),
}

/// Who hears what happens to jobs.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<Vec<mpsc::UnboundedSender<Change>>>);

impl Changes {
    /// Tells all who listen; the change is made where somebody does.
    pub(super) fn tell(&self, change: impl Fn() -> Change) {
        self.0.lock().retain(|listener| listener.send(change()).is_ok());
    }
}

impl Queue {
    /// What happens to jobs from now on. It is kept for whoever holds the receiver until it is read.
    pub fn changes(&self) -> mpsc::UnboundedReceiver<Change> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.changes.0.lock().push(sender);
        receiver
    }
}
