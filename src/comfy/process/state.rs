//! What a [`ComfyProcess`](super::ComfyProcess) is doing, and where its ComfyUI is.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::error::{Ending, Exit, ProcessError};
use crate::comfy::client::ComfyClient;
use crate::error::{ErrorKind, JobError};

/// The longest that the end of a process goes unseen, on a busy machine.
const DEATH_SHOWS_AFTER: Duration = Duration::from_secs(2);

/// What the supervisor is doing at the moment.
#[derive(Debug, Clone)]
pub enum State {
    /// A process runs, or is just being spawned, but does not answer yet.
    Starting,
    /// ComfyUI answers here.
    Ready(Connection),
    /// We asked the process to end and wait until it has: it takes no more work.
    Stopping,
    /// The process ended by itself, in this way; the next one is started after a wait.
    BackingOff(Arc<Exit>),
    /// We gave up. [`ComfyProcess::restart`](super::ComfyProcess::restart) tries again.
    Failed(ProcessError),
    /// Stopped for good.
    Stopped,
}

/// A way to speak to one start of ComfyUI. It stays the same process for ever: when that process ends,
/// [`Connection::exited`] says so, even if the next one is up already.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its HTTP API.
    pub client: ComfyClient,
    pub(super) generation: u64,
    pub(super) pid: Option<u32>,
    /// The end of the process, once it is there.
    pub(super) ending: Option<watch::Receiver<Option<Arc<Exit>>>>,
}

impl Connection {
    /// An attached ComfyUI. We never learn that it ended.
    pub fn attached(client: ComfyClient) -> Self {
        Self {
            client,
            generation: 0,
            pid: None,
            ending: None,
        }
    }

    /// One whose process is looked at.
    #[cfg(test)]
    pub(crate) fn of_process(mut self, pid: u32) -> Self {
        self.pid = Some(pid);
        self
    }

    /// Which start of ComfyUI this is, from 1; 0 of an attached one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The process, where it is ours.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether this start of ComfyUI is over; never said of one that we only attach to.
    pub fn is_over(&self) -> bool {
        self.exit().is_some()
    }

    /// Whether this start of ComfyUI is over because we wanted it so.
    pub fn was_replaced(&self) -> bool {
        self.exit().is_some_and(|exit| !exit.is_crash())
    }

    /// The death that is behind `error`, if there is one: a connection breaks a moment before the end of the process is
    /// seen, and what the process said last is the better answer.
    pub async fn death_behind(&self, error: &JobError) -> Option<JobError> {
        if error.kind != ErrorKind::ComfyUnavailable || self.pid.is_none() {
            return None;
        }
        tokio::time::timeout(DEATH_SHOWS_AFTER, self.death()).await.ok()
    }

    /// Resolves when this start of ComfyUI is over, with what its last lines say; of the kind
    /// [`ErrorKind::Interrupted`] when we stopped it for good, and of [`ErrorKind::OutOfMemory`] when the kernel killed it
    /// for want of memory. Never for one that we only attach to.
    pub async fn death(&self) -> JobError {
        let exit = self.exited().await;
        if exit.ending == Ending::Stopped {
            return JobError::new(ErrorKind::Interrupted, "The worker was stopped before the job was done")
                .hint("Send the job again, later or to another worker.");
        }
        let kind = match exit.out_of_memory {
            Some(_) => ErrorKind::OutOfMemory,
            None => ErrorKind::ComfyUnavailable,
        };
        let error = JobError::new(kind, format!("ComfyUI {exit}"));
        match exit.hint() {
            Some(hint) => error.hint(hint),
            None => error.hint("It is started again by itself; send the job again."),
        }
    }

    /// How this process ended; [`None`] while it lives.
    pub fn exit(&self) -> Option<Arc<Exit>> {
        self.ending.as_ref().and_then(|ending| ending.borrow().clone())
    }

    /// Waits until this process has ended, for whatever reason. Never resolves for an attached one.
    pub async fn exited(&self) -> Arc<Exit> {
        let Some(mut ending) = self.ending.clone() else {
            return std::future::pending().await;
        };
        if let Ok(known) = ending.wait_for(Option::is_some).await
            && let Some(known) = known.clone()
        {
            return known;
        }
        // The supervisor itself is gone, without a word: the runtime is being torn down.
        Arc::new(Exit::of(Ending::Unknown))
    }

    /// What the kernel says of this process at this moment. It costs microseconds and asks nothing of ComfyUI, which may
    /// hold its interpreter for half a minute while it loads a model.
    pub fn pulse(&self) -> Pulse {
        let Some(pid) = self.pid else { return Pulse::Alive };
        if self.exit().is_some() {
            return Pulse::Gone;
        }
        match read_stat(pid) {
            Ok(stat) => Pulse::of(&stat),
            Err(error) if error.kind() == io::ErrorKind::NotFound && Path::new("/proc/self").exists() => Pulse::Gone,
            Err(_) => Pulse::Alive,
        }
    }
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It runs, sleeps or waits; or nobody can tell.
    Alive,
    /// Somebody stopped it (SIGSTOP): it does nothing until it is continued.
    Suspended,
    /// It has ended.
    Gone,
}

impl Pulse {
    /// Reads [`read_stat`]. A process that a debugger holds (`t`) counts as alive: profilers do that for a moment.
    fn of(stat: &str) -> Self {
        match stat_fields(stat).next() {
            Some("T") => Self::Suspended,
            Some("Z" | "X" | "x") => Self::Gone,
            _ => Self::Alive,
        }
    }
}

/// What the kernel says of a process, in one line (proc(5)).
pub(crate) fn read_stat(pid: u32) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
}

/// The fields of that line from the third on, which is the state. The second is the program's name in parentheses, and
/// may hold anything.
pub(crate) fn stat_fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_process_is_read_behind_its_name() {
        for (stat, pulse) in [
            ("12 (python) S 1 12 12 0", Pulse::Alive),
            ("12 (python) R 1", Pulse::Alive),
            ("12 (python) D 1", Pulse::Alive),
            ("12 (python) t 1", Pulse::Alive),
            ("12 (python) T 1", Pulse::Suspended),
            ("12 (a) T b) S 1", Pulse::Alive),
            ("12 (a b (c)) Z 1", Pulse::Gone),
            ("12 (python) X 1", Pulse::Gone),
            ("", Pulse::Alive),
        ] {
            assert_eq!(Pulse::of(stat), pulse, "{stat}");
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_gone() {
        let client = ComfyClient::at("http://127.0.0.1:1").unwrap();
        let connection = Connection::attached(client);
        assert_eq!(connection.clone().of_process(std::process::id()).pulse(), Pulse::Alive);
        assert_eq!(connection.clone().of_process(u32::MAX).pulse(), Pulse::Gone);
        assert_eq!(connection.pulse(), Pulse::Alive);
    }
}
