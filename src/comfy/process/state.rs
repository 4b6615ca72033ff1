//! What a [`ComfyProcess`](super::ComfyProcess) is doing, and where its ComfyUI is.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::error::{Ending, Exit, ProcessError};

/// What the supervisor is doing at the moment.
#[derive(Debug, Clone)]
pub enum State {
    /// A process runs, or is just being spawned, but does not answer yet.
    Starting,
    /// ComfyUI answers here.
    Ready(Endpoint),
    /// We asked the process to end and wait until it has: it takes no more work.
    Stopping,
    /// The process ended by itself, so; the next one is started after a wait.
    BackingOff(Arc<Exit>),
    /// We gave up. [`ComfyProcess::restart`](super::ComfyProcess::restart) tries again.
    Failed(ProcessError),
    /// Stopped for good.
    Stopped,
}

/// A ComfyUI that answers: where it is and, when we run it ourselves, which process it is.
///
/// It stays the same process for ever: when that process ends, [`Endpoint::exited`] says so, even if the next one is
/// up already.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub base_url: String,
    /// The number of the process, from 1, which grows with each start; 0 for an attached ComfyUI.
    pub generation: u64,
    /// The process id; [`None`] for an attached ComfyUI.
    pub pid: Option<u32>,
    exit: Option<watch::Receiver<Option<Arc<Exit>>>>,
}

impl Endpoint {
    pub(super) fn supervised(
        base_url: String,
        generation: u64,
        pid: u32,
        exit: watch::Receiver<Option<Arc<Exit>>>,
    ) -> Self {
        Self {
            base_url,
            generation,
            pid: Some(pid),
            exit: Some(exit),
        }
    }

    /// An attached ComfyUI, at `base_url`. We never learn that it ended.
    pub fn attached(base_url: &str) -> Self {
        Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            generation: 0,
            pid: None,
            exit: None,
        }
    }

    /// How this process ended; [`None`] while it lives.
    pub fn exit(&self) -> Option<Arc<Exit>> {
        self.exit.as_ref().and_then(|exit| exit.borrow().clone())
    }

    /// Waits until this process has ended, for whatever reason. Never resolves for an attached one.
    pub async fn exited(&self) -> Arc<Exit> {
        let Some(mut exit) = self.exit.clone() else {
            return std::future::pending().await;
        };
        if let Ok(known) = exit.wait_for(Option::is_some).await
            && let Some(known) = known.clone()
        {
            return known;
        }
        // The supervisor itself is gone, without a word: the runtime is being torn down.
        Arc::new(Exit {
            ending: Ending::Unknown,
            ready_for: None,
            lines: Vec::new(),
        })
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
            Err(error) if error.kind() == ErrorKind::NotFound && Path::new("/proc/self").exists() => Pulse::Gone,
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
        let (_sender, exit) = watch::channel(None);
        let endpoint = |pid| Endpoint::supervised(String::new(), 1, pid, exit.clone());
        assert_eq!(endpoint(std::process::id()).pulse(), Pulse::Alive);
        assert_eq!(endpoint(u32::MAX).pulse(), Pulse::Gone);
        assert_eq!(Endpoint::attached("http://127.0.0.1:1").pulse(), Pulse::Alive);
    }
}
